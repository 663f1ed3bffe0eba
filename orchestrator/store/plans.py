"""Frozen plans, and the numbered versions of studies that refer to them.

The command line and the controller freeze plans; run, status, tracking and report read them. A plan is named by its digest.
"""

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field

from orchestrator.contract.identity import digest_of_text, dumps
from orchestrator.contract.plan import Plan, from_document, to_document
from orchestrator.errors import Damaged, KeyMissing
from orchestrator.store.addresses import PLANS, plan_key, study_key, study_prefix
from orchestrator.store.documents import parse_model, parse_object
from orchestrator.store.objects import Store, create_once
from orchestrator.store.quarantine import copy_to_quarantine

# Fields of a spec that do not affect the plan
NOT_PLANNED: Final = ("paused", "budget", "execution")

REPLAN: Final = (
    "`scaling-study run FILE` writes it again; if the files of a source have changed since, `scaling-study run FILE --replan`."
    " On a cluster, run `scaling-study store verify STORE --repair`: the controller then plans the study again"
)
_VERSION: Final = re.compile(r"/(\d+)\.json$")


class StudyVersion(BaseModel):
    """One version of a study. `plan`: digest of its plan. `spec`: that the plan was made from. `at`: ISO 8601 in UTC."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    plan: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    spec: dict[str, Any]
    at: str = ""


def planned_part(spec_document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a spec that determines its plan."""
    return {key: value for key, value in spec_document.items() if key not in NOT_PLANNED}


def freeze(store: Store, plan: Plan, spec_document: Mapping[str, Any]) -> tuple[str, int]:
    """Freeze the plan as the newest version of its study, and return the plan's digest and the version number.

    Writes nothing if the newest version already has this plan and the same planned part of the spec. Replaces a damaged plan, and moves a
    damaged newest version to damaged/: a caller that must not plan again reads both before it calls this.
    """
    text = dumps(to_document(plan))
    digest = digest_of_text(text)
    _write_plan(store, digest, text.encode())
    nonce = uuid.uuid4().hex
    body = json.dumps({"plan": digest, "spec": spec_document, "at": store.clock().isoformat(), "nonce": nonce}, indent=1).encode()
    while True:
        number = _newest(store, plan.study)
        try:
            newest = read_version(store, plan.study, number) if number else None
        except (Damaged, KeyMissing) as problem:
            copy_to_quarantine(store, study_key(plan.study, number), str(problem))
            store.objects.delete(study_key(plan.study, number))
            continue
        if newest and newest.plan == digest and planned_part(newest.spec) == planned_part(spec_document):
            return digest, number
        if create_once(store.objects, study_key(plan.study, number + 1), body) == body:
            return digest, number + 1


def _write_plan(store: Store, digest: str, body: bytes) -> None:
    """Write a plan. Not create-only, since a plan may be large; all writers write the same bytes."""
    try:
        if store.objects.get(plan_key(digest)) == body:
            return
    except (KeyMissing, Damaged):
        pass
    store.objects.put(plan_key(digest), body)


def current(store: Store, study: str) -> tuple[str, Plan] | None:
    """Return the digest and plan of the study's newest version, None for an unknown study. Raises Damaged."""
    number = _newest(store, study)
    if not number:
        return None
    digest = read_version(store, study, number).plan
    try:
        return digest, read_plan(store, digest)
    except KeyMissing as problem:
        raise Damaged(f"{plan_key(digest)} is missing, although {study_key(study, number)} refers to it. {REPLAN}") from problem


def current_spec(store: Store, study: str) -> dict[str, Any] | None:
    """Return the spec that the newest version was frozen with, None for an unknown study. Raises Damaged."""
    newest = newest_version(store, study)
    return newest.spec if newest else None


def newest_version(store: Store, study: str) -> StudyVersion | None:
    """Return the newest version of a study, None for an unknown study. Raises Damaged."""
    number = _newest(store, study)
    return read_version(store, study, number) if number else None


def versions(store: Store, study: str) -> dict[int, str]:
    """Return the plan digests of all versions of the study, by ascending number. Deleted versions are missing."""
    return {number: read_version(store, study, number).plan for number in _numbers(store, study)}


def read_plan(store: Store, digest: str) -> Plan:
    """Return a frozen plan, checked against its digest. Raises KeyMissing, Damaged."""
    key = plan_key(digest)
    try:
        body = store.objects.get(key)
    except Damaged as problem:
        raise Damaged(f"{problem}. {REPLAN}") from problem
    if digest_of_text(body.decode(errors="replace")) != digest:
        raise Damaged(f"{key} does not match its digest. {REPLAN}")
    return from_document(parse_object(body, key, "a plan"))


def plans(store: Store) -> Iterator[tuple[str, Plan]]:
    """Yield every frozen plan with its digest. Raises Damaged."""
    for stat in store.objects.list(PLANS):
        digest = stat.key.rpartition("/")[2].removesuffix(".json")
        yield digest, read_plan(store, digest)


def _newest(store: Store, study: str) -> int:
    return max(_numbers(store, study), default=0)


def _numbers(store: Store, study: str) -> list[int]:
    found = (_VERSION.search(stat.key) for stat in store.objects.list(study_prefix(study)))
    return sorted(int(match[1]) for match in found if match)


def read_version(store: Store, study: str, number: int) -> StudyVersion:
    """Return a version of a study. Raises KeyMissing, Damaged."""
    key = study_key(study, number)
    try:
        return parse_model(StudyVersion, store.objects.get(key), key, "a version of a study")
    except Damaged as problem:
        raise Damaged(f"{problem}. {REPLAN}") from problem
