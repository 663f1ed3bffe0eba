"""A study's object -> an accepted study with a frozen plan, or what it still waits for.

`passes` calls it at every look; what it has found is kept as long as the object's spec stays the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from orchestrator.contract.plan import Plan
from orchestrator.errors import KeyMissing, PlanRefused, StudyMistakes
from orchestrator.planning import plan_study
from orchestrator.reconcile.policy import Policy, broken_rules
from orchestrator.spec import Study, read_object
from orchestrator.store import Store
from orchestrator.store.addresses import work_root
from orchestrator.store.plans import freeze, read_plan, versions
from orchestrator.study.fingerprints import Found, Wanted, key_of, read_found, wanted
from orchestrator.study.opening import frozen_plan
from orchestrator.workflow import Unit, units

Document: TypeAlias = dict[str, Any]

# metav1.Condition's own bound is 32768; a screen of mistakes is what a person reads
LONGEST_MESSAGE: Final = 8000


@dataclass(frozen=True, slots=True)
class Planned:
    """A study that can run. `roots`: the work of this and of every earlier version of its plan, which all count as spent."""

    study: Study
    digest: str
    version: int
    plan: Plan
    units: tuple[Unit, ...]
    roots: frozenset[str]


@dataclass(frozen=True, slots=True)
class Unplanned:
    """Why there is no plan: a condition that is False. `files`: what a pod must look at before there can be one, under `key`."""

    condition: str
    reason: str
    message: str
    study: Study | None = None
    files: Wanted | None = None
    key: str = ""

    @property
    def phase(self) -> str:
        return "Planning" if self.files is not None else "Refused"


def accept(body: Document) -> Study | Unplanned:
    """The study in an object, or all its mistakes, in the words of the command line."""
    try:
        return read_object(body)
    except StudyMistakes as problem:
        return Unplanned("Accepted", "Invalid", str(problem)[:LONGEST_MESSAGE])


def allow(study: Study, policy: Policy) -> Unplanned | None:
    """What the namespace does not allow of it, named after the first rule."""
    broken = broken_rules(study, policy)
    if not broken:
        return None
    return Unplanned("Accepted", broken[0].rule, "\n".join(rule.message for rule in broken)[:LONGEST_MESSAGE], study)


def plan(study: Study, uid: str, store: Store) -> Planned | Unplanned:
    """The frozen plan that the study has, or a new one, frozen. Raises StoreError."""
    frozen = frozen_plan(store, study)
    if frozen is not None:
        return _planned(study, store, *frozen)
    files = wanted(study)
    key = key_of(uid, files)
    found = Found() if files.is_nothing else read_found(store, key)
    if found is None:
        return Unplanned("Planned", "Fingerprinting", "a pod reads the files that have no `fingerprint:`", study, files, key)
    if found.unreachable:
        told = "\n".join(f"{name}: {why}" for name, why in found.unreachable.items())
        return Unplanned("Planned", "SourceUnreachable", told[:LONGEST_MESSAGE], study, files, key)
    try:
        fresh = plan_study(study, found.fingerprints, found.tokenizer)
    except PlanRefused as problem:
        return Unplanned("Planned", "Impossible", str(problem)[:LONGEST_MESSAGE], study)
    digest, _ = freeze(store, fresh, dict(study.document))
    return _planned(study, store, digest, fresh)


def _planned(study: Study, store: Store, digest: str, found: Plan) -> Planned:
    numbered = versions(store, study.name)
    roots = _roots(found)
    for earlier in set(numbered.values()) - {digest}:
        roots |= _roots_of_earlier(store, earlier)
    return Planned(study, digest, max(numbered), found, units(found), frozenset(roots))


def _roots(found: Plan) -> set[str]:
    return {work_root(task.kind, task.work) for task in found.tasks.values()}


def _roots_of_earlier(store: Store, digest: str) -> set[str]:
    """An earlier plan that somebody has cleared away costs only the account of what it alone has spent."""
    try:
        return _roots(read_plan(store, digest))
    except KeyMissing:
        return set()


def run_number(status: Mapping[str, Any], asked: str, is_paused: bool, earlier: int = 0) -> int:
    """The number of the run: what the status says, one more after a pause, at least what a person's `retry` asked for.

    `earlier`: the last run of a study of this name that was deleted. What failed for good then is tried again now.
    """
    before = int(status.get("runNumber") or earlier + 1)
    resumed = not is_paused and status.get("phase") in ("Paused", "Stopping")
    return max(before + resumed, int(asked) if asked.isdecimal() else 1)
