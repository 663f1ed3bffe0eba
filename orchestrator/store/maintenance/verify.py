"""Verify a store: plans, task identities, records and their artifacts, markers, checkpoints, metrics tables.

Called by `scaling-study store verify`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from orchestrator.contract.record import Artifact
from orchestrator.contract.tasks import Task
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.errors import ContractError, Damaged, KeyMissing, LeaseHeld, MissingExtra
from orchestrator.store import artifacts
from orchestrator.store.addresses import DONE, PLANS, RECORDS, TRAJECTORIES, checkpoint_pointer_key, done_key, pointer_tokens, record_key
from orchestrator.store.addresses import work_root as root_of
from orchestrator.store.checkpoints import find
from orchestrator.store.leases import Holder, history
from orchestrator.store.maintenance.repair import quarantine_with_lease
from orchestrator.store.metrics import read_table
from orchestrator.store.objects import Store
from orchestrator.store.plans import read_plan
from orchestrator.store.quarantine import copy_to_quarantine
from orchestrator.store.records import find_record, mark_done
from orchestrator.store.tasks import read_task

_HOLDER = Holder(study="store verify", lease_seconds=60)


@dataclass(frozen=True, slots=True)
class Finding:
    """A damaged object. `repaired`: fixed, or quarantined so that the next run makes it again. `advice`: what else to do."""

    key: str
    problem: str
    repaired: bool = False
    advice: str = ""


def verify(store: Store, repair: bool) -> list[Finding]:
    """Read and hash every referenced object. With `repair`, quarantine damaged ones under their lease, and fix markers."""
    with TemporaryDirectory(prefix="scaling-study-verify-") as scratch:
        check = _Check(store, repair, Path(scratch))
        return [*check.plans(), *check.tasks(), *check.records(), *check.markers(), *check.checkpoints(), *check.metrics()]


class _Check:
    """One verification of a store. An artifact with several references is hashed once."""

    def __init__(self, store: Store, repair: bool, scratch: Path) -> None:
        self._store = store
        self._repair = repair
        self._scratch = scratch
        self._problems: dict[Artifact, str] = {}

    def plans(self) -> Iterator[Finding]:
        for key in self._keys(PLANS):
            try:
                read_plan(self._store, _name(key))
            except (Damaged, ContractError) as problem:
                yield Finding(key, str(problem))

    def tasks(self) -> Iterator[Finding]:
        for key in self._keys(RECORDS, "/task.json"):
            try:
                read_task(self._store, key.split("/")[1])
            except (Damaged, ContractError) as problem:
                yield Finding(key, str(problem), advice="run or apply the study again to write the same identity again")

    def records(self) -> Iterator[Finding]:
        for key in self._keys(RECORDS, "/record.json"):
            digest = key.split("/")[1]
            problem = self._problem_of_record(digest)
            if problem:
                yield self._quarantine_record(Finding(key, problem), digest)

    def _problem_of_record(self, digest: str) -> str:
        try:
            record = find_record(self._store, digest)
        except Damaged as problem:
            return str(problem)
        return self._first_problem(record.artifacts.values()) if record else ""

    def _quarantine_record(self, finding: Finding, digest: str) -> Finding:
        root = self._work_root(digest)
        if root is None:
            return replace(finding, advice="its task.json is damaged too; run or apply the study again, then verify again")
        return self._quarantine(finding, root, digest=digest)

    def markers(self) -> Iterator[Finding]:
        marked = {_name(key) for key in self._keys(DONE)}
        recorded = {key.split("/")[1] for key in self._keys(RECORDS, "/record.json")}
        for digest in sorted(recorded - marked):
            if self._repair:
                mark_done(self._store, digest)
            yield Finding(record_key(digest), "has no marker in done/", self._repair)
        for digest in sorted(marked - recorded):
            if self._repair:
                self._store.objects.delete(done_key(digest))
            yield Finding(done_key(digest), "marks a task without a record as done", self._repair)

    def checkpoints(self) -> Iterator[Finding]:
        for key in self._keys(TRAJECTORIES):
            tokens = pointer_tokens(key)
            if tokens is None or key.count("/") != 3:
                continue
            root = "/".join(key.split("/")[:2])
            problem = self._problem_of_checkpoint(root, tokens)
            if problem:
                yield self._quarantine(Finding(checkpoint_pointer_key(root, tokens), problem), root, tokens=tokens)

    def _problem_of_checkpoint(self, root: str, tokens: int) -> str:
        try:
            return self._first_problem(find(self._store, root, tokens).files.values())
        except KeyMissing:
            return ""
        except Damaged as problem:
            return str(problem)

    def metrics(self) -> Iterator[Finding]:
        for key in self._keys("", ".parquet"):
            if "/metrics/" not in key or key.startswith("damaged/"):
                continue
            try:
                read_table(self._store, key)
            except MissingExtra as problem:
                yield Finding("metrics", f"not checked: {problem}")
                return
            except Damaged as problem:
                if self._repair:
                    copy_to_quarantine(self._store, key, str(problem))
                    self._store.objects.delete(key)
                yield Finding(key, str(problem), self._repair, "its rows are lost; results are not affected")

    def _keys(self, prefix: str, suffix: str = "") -> list[str]:
        return sorted(stat.key for stat in self._store.objects.list(prefix) if stat.key.endswith(suffix))

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
            return replace(finding, advice="verify with --repair quarantines it, and the next run makes it again")
        try:
            quarantine_with_lease(self._store, root, finding.problem, _HOLDER, digest=digest, tokens=tokens)
        except LeaseHeld as held:
            return replace(finding, advice=f"not quarantined: {held}")
        return replace(finding, repaired=True, advice="the next run makes it again")

    def _work_root(self, digest: str) -> str | None:
        """Return the task's work root: from its identity in task.json or, without one, from its own leases; None if unknown."""
        task = self._task(digest)
        if task is not None:
            return root_of(task.kind, task.work_digest(digest))
        own = root_of(TaskKind.EVALUATE, digest)
        return own if history(self._store, own) else None

    def _task(self, digest: str) -> Task | None:
        try:
            return read_task(self._store, digest)
        except (KeyMissing, Damaged, ContractError):
            return None


def _name(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(".json")
