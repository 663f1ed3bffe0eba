"""Verify a store: read every object that something refers to, and check it against its hash.

Called by `scaling-study store verify`. Damage counts if it affects a result or stops a run: damage to plans, versions of studies, records
and their artifacts, needed checkpoints, and metrics in the report. Damage to an object that is no longer needed is reported as a note.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from orchestrator.contract.plan import Plan
from orchestrator.contract.record import Artifact, Record
from orchestrator.contract.tasks import Task, TrainTask, read_identity
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.errors import ContractError, Damaged, KeyMissing, LeaseHeld, MissingExtra
from orchestrator.store import artifacts
from orchestrator.store.addresses import (
    DONE,
    FINGERPRINTS,
    PLANS,
    STUDIES,
    checkpoint_pointer_key,
    done_key,
    plan_key,
    pointer_tokens,
    record_key,
    study_key,
)
from orchestrator.store.addresses import work_root as root_of
from orchestrator.store.checkpoints import find
from orchestrator.store.leases import Holder, history
from orchestrator.store.maintenance.gc import needed_checkpoints
from orchestrator.store.maintenance.notes import ATTEMPT_FILE, Finding, notes
from orchestrator.store.maintenance.repair import lost_pointer, quarantine_object, quarantine_with_lease, restore_pointer
from orchestrator.store.metrics import effective_attempts, read_table
from orchestrator.store.objects import Store
from orchestrator.store.plans import REPLAN, StudyVersion, read_plan, read_version
from orchestrator.store.records import create_task, find_record, is_marker, mark_done, read_marker
from orchestrator.store.tasks import read_task

_HOLDER: Final = Holder(study="store verify", lease_seconds=60)
_REPAIR: Final = "verify with --repair quarantines it, and the next run makes it again"
_UNNEEDED: Final = "nothing needs it any more"
_VERSION: Final = re.compile(rf"{STUDIES}/(.+)/(\d+)\.json")


def verify(store: Store, repair: bool) -> list[Finding]:
    """Read and hash every object that counts. With `repair`, quarantine damaged ones under their lease, and restore what can be derived."""
    with TemporaryDirectory(prefix="scaling-study-verify-") as scratch:
        check = _Check(store, repair, Path(scratch))
        return [
            *check.plans(), *check.studies(), *check.records(), *check.tasks(), *check.markers(), *check.checkpoints(),
            *check.metrics(), *check.notes(),
        ]  # fmt: skip


class _Check:
    """One verification of a store. An artifact with several references is hashed once."""

    def __init__(self, store: Store, repair: bool, scratch: Path) -> None:
        self._store = store
        self._repair = repair
        self._scratch = scratch
        self._problems: dict[Artifact, str] = {}
        self._modified = {stat.key: stat.modified for stat in store.objects.list("") if not stat.key.startswith("damaged/")}
        self._keys = sorted(self._modified)
        self._plans: dict[str, Plan] = {}
        self._bad_plans: set[str] = set()
        self._bad_versions: dict[tuple[str, int], str] = {}
        self._records: dict[str, Record] = {}

    # Plans and studies

    def plans(self) -> Iterator[Finding]:
        for key in self._under(PLANS):
            try:
                self._plans[_name(key)] = read_plan(self._store, _name(key))
            except (Damaged, ContractError) as problem:
                self._bad_plans.add(_name(key))
                users = self._versions_of_plan(_name(key))
                finding = Finding(key, str(problem), counts=any(self._is_newest(*user) for user in users))
                if isinstance(problem, ContractError):  # of a newer version of the contract
                    yield finding
                else:
                    yield self._quarantine_objects(finding, [key, *(study_key(*user) for user in users)])
            except KeyMissing:  # deleted since the listing
                continue

    def studies(self) -> Iterator[Finding]:
        for name, numbers in sorted(self._numbers.items()):
            for number in numbers:
                yield from self._version(name, number)
            for number in sorted(set(range(1, max(numbers))) - set(numbers)):
                yield Finding(study_key(name, number), "was deleted", advice="later versions of the study are not affected", counts=False)
        yield from self._unnamed_plans()

    def _version(self, name: str, number: int) -> Iterator[Finding]:
        key, version = study_key(name, number), self._versions.get((name, number))
        if version is None:
            yield self._quarantine_objects(Finding(key, self._bad_versions[name, number], counts=self._is_newest(name, number)), [key])
        elif version.plan not in self._plans and version.plan not in self._bad_plans:
            finding = Finding(plan_key(version.plan), f"is missing, although {key} refers to it. {REPLAN}")
            yield self._quarantine_objects(replace(finding, counts=self._is_newest(name, number)), [key])

    def _unnamed_plans(self) -> Iterator[Finding]:
        """Yield plans that no version refers to: the newest version was deleted, or a run was killed before it wrote the version."""
        named = {version.plan for version in self._versions.values()}
        for digest, plan in sorted(self._plans.items()):
            numbers = self._numbers.get(plan.study, [])
            if digest in named or set(numbers) - {number for name, number in self._versions if name == plan.study}:
                continue
            newest = self._versions[plan.study, numbers[-1]].at if numbers else ""
            counts = self._modified[plan_key(digest)].isoformat() > newest
            advice = f"`scaling-study run FILE` or the controller writes {STUDIES}/{plan.study}/ again" if counts else _UNNEEDED
            yield Finding(plan_key(digest), f"no version of study {plan.study} refers to it", advice=advice, counts=counts)

    @cached_property
    def _numbers(self) -> dict[str, list[int]]:
        """Return the version numbers of each study, ascending."""
        numbers: dict[str, list[int]] = {}
        for key in self._under(STUDIES):
            if match := _VERSION.fullmatch(key):
                numbers.setdefault(match[1], []).append(int(match[2]))
        return {name: sorted(found) for name, found in numbers.items()}

    @cached_property
    def _versions(self) -> dict[tuple[str, int], StudyVersion]:
        """Return the readable versions by study and number."""
        found = {}
        for name, numbers in self._numbers.items():
            for number in numbers:
                try:
                    found[name, number] = read_version(self._store, name, number)
                except (Damaged, KeyMissing) as problem:
                    self._bad_versions[name, number] = str(problem)
        return found

    def _versions_of_plan(self, digest: str) -> list[tuple[str, int]]:
        return [at for at, version in self._versions.items() if version.plan == digest]

    def _is_newest(self, name: str, number: int) -> bool:
        return number == self._numbers[name][-1]

    # Tasks, records and markers

    @cached_property
    def _planned(self) -> dict[str, Task]:
        return {digest: task.task for plan in self._plans.values() for digest, task in plan.tasks.items()}

    def records(self) -> Iterator[Finding]:
        for key in self._under("tasks", "/record.json"):
            digest = key.split("/")[1]
            try:
                record = find_record(self._store, digest)
            except Damaged as problem:
                yield self._quarantine_record(Finding(key, str(problem)), digest)
                continue
            if record is None:
                continue
            if problem_of_files := self._first_problem(record.artifacts.values()):
                yield self._quarantine_record(Finding(key, problem_of_files), digest)
                continue
            self._records[digest] = record
            yield from self._pointer_of(digest, record)

    def _quarantine_record(self, finding: Finding, digest: str) -> Finding:
        root = self._work_root(digest)
        if root is None:
            return replace(finding, advice="its task.json is damaged too; run or apply the study again, then verify again")
        return self._quarantine(finding, root, digest=digest)

    def _pointer_of(self, digest: str, record: Record) -> Iterator[Finding]:
        """Check the pointer to the final state of a recorded train task, which evaluations and later stages read."""
        task = _task_of(record)
        if not isinstance(task, TrainTask) or not record.artifacts:
            return
        root = root_of(TaskKind.TRAIN, task.work_digest(digest))
        key = checkpoint_pointer_key(root, task.tokens)
        if key in self._modified:
            return
        finding = Finding(key, f"is missing, although {record_key(digest)} is the record of a training that ended there")
        pointer = lost_pointer(self._store, root, task.tokens, record)
        if pointer is None:
            del self._records[digest]
            yield self._quarantine(finding, root, digest=digest)
        elif not self._repair:
            yield replace(finding, advice="verify with --repair restores it from the manifest of the checkpoint")
        else:
            restore_pointer(self._store, root, pointer)
            yield replace(finding, repaired=True, advice="restored from the manifest of the checkpoint")

    def tasks(self) -> Iterator[Finding]:
        for key in self._under("tasks", "/task.json"):
            digest = key.split("/")[1]
            try:
                read_task(self._store, digest)
            except Damaged as problem:
                yield self._restore_task(Finding(key, str(problem)), digest)
            except ContractError as problem:
                yield Finding(key, str(problem), advice="a newer version of this tool wrote it")
            except KeyMissing:
                continue

    def _restore_task(self, finding: Finding, digest: str) -> Finding:
        """Restore a task.json from the plan or the record, which contain the identity too. It is not needed once the task is done."""
        record = self._records.get(digest)
        known = self._planned.get(digest) or (_task_of(record) if record else None)
        finding = replace(finding, counts=record is None and (digest in self._planned or not self._plans))
        if known is None:
            return replace(finding, advice="run or apply the study again to write the same identity again")
        if not self._repair:
            return replace(finding, advice="the next run writes it again if it needs it; verify with --repair writes it now")
        create_task(self._store, known)
        return replace(finding, repaired=True, advice="written again")

    def markers(self) -> Iterator[Finding]:
        marked = {_name(key) for key in self._under(DONE) if key.count("/") == 1}
        recorded = {key.split("/")[1] for key in self._under("tasks", "/record.json")}
        for digest in sorted(recorded | marked):
            if digest not in recorded:
                yield from self._superfluous_marker(digest)
            elif digest in self._records and not is_marker(marker := read_marker(self._store, digest)):
                if self._repair:
                    mark_done(self._store, digest, self._store.objects.get(record_key(digest)))
                if marker is None:
                    yield Finding(record_key(digest), "has no marker in done/", self._repair)
                else:
                    yield Finding(done_key(digest), "is not the marker of a finished task: it holds no SHA-256", self._repair)

    def _superfluous_marker(self, digest: str) -> Iterator[Finding]:
        try:
            if find_record(self._store, digest) is not None:  # published since the listing
                return
        except Damaged:
            return
        if self._repair:
            self._store.objects.delete(done_key(digest))
        finding = Finding(done_key(digest), "marks a task without a record as done", self._repair, counts=digest in self._planned)
        yield replace(finding, advice="the next run makes the record again") if finding.counts else finding

    # Trajectories

    def checkpoints(self) -> Iterator[Finding]:
        for key in self._keys:
            tokens = pointer_tokens(key)
            if tokens is None or key.count("/") != 3:
                continue
            root = "/".join(key.split("/")[:2])
            problem = self._problem_of_checkpoint(root, tokens)
            if problem:
                finding = Finding(checkpoint_pointer_key(root, tokens), problem, counts=self._is_needed(root, tokens))
                yield self._quarantine(finding, root, tokens=tokens)

    def _problem_of_checkpoint(self, root: str, tokens: int) -> str:
        try:
            return self._first_problem(find(self._store, root, tokens).files.values())
        except KeyMissing:
            return ""
        except Damaged as problem:
            return str(problem)

    def _is_needed(self, root: str, tokens: int) -> bool:
        """Return whether a plan, record or lease needs a checkpoint. While a plan is damaged, every checkpoint counts as needed."""
        return bool(self._bad_plans) or tokens in self._needed.get(root, set())

    @cached_property
    def _needed(self) -> dict[str, set[int]]:
        return needed_checkpoints(self._store, self._planned)

    def metrics(self) -> Iterator[Finding]:
        for key in self._keys:
            match = ATTEMPT_FILE.fullmatch(key)
            if match is None or not re.fullmatch(r"metrics/[^/]+\.parquet", match[3]):
                continue
            try:
                read_table(self._store, key)
            except MissingExtra as problem:
                yield Finding("metrics", f"not checked: {problem}")
                return
            except KeyMissing:
                continue
            except Damaged as problem:
                counts = self._is_effective(match[1], int(match[2]))
                if self._repair:
                    quarantine_object(self._store, key, str(problem))
                yield Finding(key, str(problem), self._repair, "its rows are lost; results are not affected", counts)

    def _is_effective(self, root: str, attempt: int) -> bool:
        """Return whether the report shows the metrics of an attempt."""
        try:
            return attempt in effective_attempts(self._store, root)
        except Damaged:
            return True

    # Objects that nothing refers to

    def notes(self) -> Iterator[Finding]:
        for finding in notes(self._store, self._keys):
            is_result = finding.key.startswith(f"{FINGERPRINTS}/")  # the controller waits for it
            yield self._quarantine_objects(replace(finding, counts=True), [finding.key]) if is_result else finding

    # Common parts

    def _under(self, prefix: str, suffix: str = "") -> list[str]:
        return [key for key in self._keys if key.startswith(f"{prefix}/") and key.endswith(suffix)]

    def _first_problem(self, referenced: Iterable[Artifact]) -> str:
        return next((problem for artifact in referenced if (problem := self._problem(artifact))), "")

    def _problem(self, artifact: Artifact) -> str:
        if artifact not in self._problems:
            try:
                artifacts.check(self._store, artifact, self._scratch)
                self._problems[artifact] = ""
            except KeyMissing:
                self._problems[artifact] = f"{artifact.key} is missing"
            except Damaged as problem:
                self._problems[artifact] = str(problem)
        return self._problems[artifact]

    def _quarantine(self, finding: Finding, root: str, *, digest: str = "", tokens: int | None = None) -> Finding:
        if not self._repair:
            return replace(finding, advice=_REPAIR if finding.counts else f"{_UNNEEDED}; {_REPAIR}")
        try:
            quarantine_with_lease(self._store, root, finding.problem, _HOLDER, digest=digest, tokens=tokens)
        except LeaseHeld as held:
            return replace(finding, advice=f"not quarantined: {held}")
        return replace(finding, repaired=True, advice="the next run makes it again if it needs it")

    def _quarantine_objects(self, finding: Finding, keys: list[str]) -> Finding:
        """Quarantine objects that no lease protects: a damaged plan together with the versions of studies that refer to it."""
        if not self._repair:
            return finding if finding.counts else replace(finding, advice=_UNNEEDED)
        for key in keys:
            quarantine_object(self._store, key, finding.problem)
        return replace(finding, repaired=True, advice="`scaling-study run FILE` or the controller writes it again if it needs it")

    def _work_root(self, digest: str) -> str | None:
        """Return the task's work root: from its identity in a plan or task.json or, without one, from its own leases; None if unknown."""
        task = self._planned.get(digest) or self._task(digest)
        if task is not None:
            return root_of(task.kind, task.work_digest(digest))
        own = root_of(TaskKind.EVALUATE, digest)
        return own if history(self._store, own) else None

    def _task(self, digest: str) -> Task | None:
        try:
            return read_task(self._store, digest)
        except (KeyMissing, Damaged, ContractError):
            return None


def _task_of(record: Record) -> Task | None:
    try:
        return read_identity(record.identity)
    except ContractError:  # of a newer version of the contract
        return None


def _name(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(".json")
