"""Turn a study's object into an accepted study with a frozen plan, or into the reason why it has none.

`study_reconciler` calls it at every reconcile and caches the result until the object's spec changes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from orchestrator.cluster.study_object import RUN_NUMBER
from orchestrator.contract.plan import Plan
from orchestrator.contract.vocabulary import ANNOTATION_RETRY
from orchestrator.errors import InvalidStudy, KeyMissing, PlanRefused
from orchestrator.planning import plan_study
from orchestrator.reconcile.policy import Policy, policy_violations
from orchestrator.spec import Study, read_object
from orchestrator.store import Store
from orchestrator.store.addresses import work_root
from orchestrator.store.plans import freeze, read_plan, versions
from orchestrator.study.fingerprints import FingerprintRequest, FingerprintResult, fingerprint_request, read_result, result_key
from orchestrator.study.opening import frozen_plan
from orchestrator.workflow import Unit, units

Document: TypeAlias = dict[str, Any]

# metav1.Condition allows 32768; a shorter message is still readable on one screen
MAX_MESSAGE_LENGTH: Final = 8000


@dataclass(frozen=True, slots=True)
class Planned:
    """A study that can run. `roots`: work roots of this and all earlier versions of its plan, whose costs all count as spent."""

    study: Study
    digest: str
    version: int
    plan: Plan
    units: tuple[Unit, ...]
    roots: frozenset[str]


@dataclass(frozen=True, slots=True)
class Unplanned:
    """The reason for a missing plan, as a condition with status False.

    `files`: the files that a pod must fingerprint first; their fingerprints are stored under `key`.
    """

    condition: str
    reason: str
    message: str
    study: Study | None = None
    files: FingerprintRequest | None = None
    key: str = ""

    @property
    def phase(self) -> str:
        return "Planning" if self.files is not None else "Refused"


def accept(body: Document) -> Study | Unplanned:
    """Return the study in an object, or all its mistakes, with the messages of the command line."""
    try:
        return read_object(body)
    except InvalidStudy as problem:
        return Unplanned("Accepted", "Invalid", str(problem)[:MAX_MESSAGE_LENGTH])


def allow(study: Study, policy: Policy) -> Unplanned | None:
    """Return the policy violations of a study, named after the first violated rule, or None."""
    violations = policy_violations(study, policy)
    if not violations:
        return None
    return Unplanned("Accepted", violations[0].rule, "\n".join(rule.message for rule in violations)[:MAX_MESSAGE_LENGTH], study)


def plan(study: Study, uid: str, store: Store) -> Planned | Unplanned:
    """Return the frozen plan of the study; make and freeze one if there is none. Raises StoreError."""
    frozen = frozen_plan(store, study)
    if frozen is not None:
        return _planned(study, store, *frozen)
    files = fingerprint_request(study)
    key = result_key(uid, files)
    found = FingerprintResult() if files.is_empty else read_result(store, key)
    if found is None:
        return Unplanned("Planned", "Fingerprinting", "a pod reads the files that have no `fingerprint:`", study, files, key)
    if found.unreachable:
        message = "\n".join(f"{name}: {why}" for name, why in found.unreachable.items())
        return Unplanned("Planned", "SourceUnreachable", message[:MAX_MESSAGE_LENGTH], study, files, key)
    try:
        new_plan = plan_study(study, found.fingerprints, found.tokenizer)
    except PlanRefused as problem:
        return Unplanned("Planned", "Impossible", str(problem)[:MAX_MESSAGE_LENGTH], study)
    digest, _ = freeze(store, new_plan, dict(study.document))
    return _planned(study, store, digest, new_plan)


def _planned(study: Study, store: Store, digest: str, found: Plan) -> Planned:
    numbered = versions(store, study.name)
    roots = _roots(found)
    for earlier in set(numbered.values()) - {digest}:
        roots |= _roots_of_earlier(store, earlier)
    return Planned(study, digest, max(numbered), found, units(found), frozenset(roots))


def _roots(found: Plan) -> set[str]:
    return {work_root(task.kind, task.work) for task in found.tasks.values()}


def roots_of_all_versions(store: Store, study: str) -> set[str]:
    """Return the work roots of every version of a study's plan. Raises StoreError."""
    return set().union(*(_roots_of_earlier(store, digest) for digest in set(versions(store, study).values())))


def _roots_of_earlier(store: Store, digest: str) -> set[str]:
    """Return the work roots of an earlier plan. If the plan was removed, the costs of tasks that only it had are not counted."""
    try:
        return _roots(read_plan(store, digest))
    except KeyMissing:
        return set()


def refuse_retry(requested: str) -> Unplanned | None:
    """Return why the run number requested by the `retry` annotation is invalid, or None."""
    if not requested or RUN_NUMBER.fullmatch(requested):
        return None
    given = requested if len(requested) <= 40 else f"{requested[:40]}... ({len(requested)} characters)"
    problem = f"{given!r} is not a run number: a whole number of at most 15 digits. Correct it with `scaling-study retry NAME`"
    return Unplanned("Accepted", "InvalidRetry", f"metadata.annotations[{ANNOTATION_RETRY}]: {problem}")


def run_number(status: Mapping[str, Any], requested: str, is_paused: bool, earlier: int = 0) -> int:
    """Return the run number: that of the status, plus one after a pause, and at least the number requested by `retry`.

    `earlier`: the last run number of a deleted study of this name. A new run number retries the tasks that failed permanently before.
    """
    before = int(status.get("runNumber") or earlier + 1)
    resumed = not is_paused and status.get("phase") in ("Paused", "Stopping")
    return max(before + resumed, int(requested) if RUN_NUMBER.fullmatch(requested) else 1)
