"""Frozen plans, and the numbered versions of studies that refer to them.

The command line and the controller freeze plans; run, status, tracking and report read them. A plan is named by its digest.
"""

import json
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final

from orchestrator.contract.identity import digest_of_text, dumps
from orchestrator.contract.plan import Plan, from_document, to_document
from orchestrator.errors import Damaged, KeyMissing
from orchestrator.store.addresses import PLANS, STUDIES, plan_key, study_key, study_prefix
from orchestrator.store.objects import Store, create_once

# Fields of a spec that do not affect the plan
NOT_PLANNED: Final = ("paused", "budget", "execution")


def planned_part(spec_document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a spec that determines its plan."""
    return {key: value for key, value in spec_document.items() if key not in NOT_PLANNED}


def freeze(store: Store, plan: Plan, spec_document: Mapping[str, Any]) -> tuple[str, int]:
    """Freeze the plan as the newest version of its study, and return the plan's digest and the version number.

    Writes nothing if the newest version already has this plan and the same planned part of the spec.
    """
    text = dumps(to_document(plan))
    digest = digest_of_text(text)
    _write_plan(store, digest, text.encode())
    nonce = uuid.uuid4().hex
    body = json.dumps({"plan": digest, "spec": spec_document, "at": store.clock().isoformat(), "nonce": nonce}, indent=1).encode()
    while True:
        number = _newest(store, plan.study)
        newest: dict[str, Any] = _version(store, plan.study, number) if number else {"plan": "", "spec": {}}
        if newest["plan"] == digest and planned_part(newest["spec"]) == planned_part(spec_document):
            return digest, number
        if create_once(store.objects, study_key(plan.study, number + 1), body) == body:
            return digest, number + 1


def _write_plan(store: Store, digest: str, body: bytes) -> None:
    """Write a plan. Not create-only, since a plan may be large; all writers write the same bytes."""
    try:
        if store.objects.get(plan_key(digest)) == body:
            return
    except KeyMissing:
        pass
    store.objects.put(plan_key(digest), body)


def current(store: Store, study: str) -> tuple[str, Plan] | None:
    """Return the digest and plan of the study's newest version, None for an unknown study. Raises Damaged."""
    number = _newest(store, study)
    if not number:
        return None
    digest = _version(store, study, number)["plan"]
    return digest, read_plan(store, digest)


def current_spec(store: Store, study: str) -> dict[str, Any] | None:
    """Return the spec that the newest version was frozen with, None for an unknown study. Raises Damaged."""
    number = _newest(store, study)
    spec: dict[str, Any] | None = _version(store, study, number)["spec"] if number else None
    return spec


def versions(store: Store, study: str) -> dict[int, str]:
    """Return the plan digests of all versions of the study, by ascending number. Deleted versions are missing."""
    return {number: _version(store, study, number)["plan"] for number in _numbers(store, study)}


def read_plan(store: Store, digest: str) -> Plan:
    """Return a frozen plan, checked against its digest. Raises KeyMissing, Damaged."""
    key = plan_key(digest)
    body = store.objects.get(key)
    if digest_of_text(body.decode(errors="replace")) != digest:
        raise Damaged(
            f"{key} does not match its digest. `scaling-study run FILE --replan` writes it again. For a study on a cluster,"
            f" delete the newest file under {STUDIES}/ that refers to it and restart the controller"
        )
    return from_document(json.loads(body))


def plans(store: Store) -> Iterator[tuple[str, Plan]]:
    """Yield every frozen plan with its digest. Raises Damaged."""
    for stat in store.objects.list(PLANS):
        digest = stat.key.rpartition("/")[2].removesuffix(".json")
        yield digest, read_plan(store, digest)


def _newest(store: Store, study: str) -> int:
    return max(_numbers(store, study), default=0)


def _numbers(store: Store, study: str) -> list[int]:
    names = [stat.key.rpartition("/")[2].removesuffix(".json") for stat in store.objects.list(study_prefix(study))]
    return sorted(int(name) for name in names if name.isdecimal())


def _version(store: Store, study: str, number: int) -> dict[str, Any]:
    key = study_key(study, number)
    try:
        body: dict[str, Any] = json.loads(store.objects.get(key))
        _ = body["plan"], body["spec"]
    except (ValueError, KeyError, TypeError) as problem:
        raise Damaged(
            f"{key} is not a version of a study; delete it."
            " If it was the newest, `scaling-study run FILE` or the controller freezes it again"
        ) from problem
    return body
