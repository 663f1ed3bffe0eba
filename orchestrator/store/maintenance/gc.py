"""Removes checkpoints that no frozen plan's state, no record and no lease needs.

What is kept of a trajectory: every state that a plan or a record names, the highest checkpoint below the end of each task that is not done
(it is taken up there), what a live lease has taken up, and the highest of all while somebody works. So a trainer that starts
while this runs finds what it looks for.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from orchestrator.contract.identity import digest_of
from orchestrator.contract.tasks import EvaluateTask, FromState, Task, TrainTask, digest_of_task
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.errors import ContractError, Damaged, KeyMissing
from orchestrator.store.addresses import RECORDS, TRAJECTORIES, attempt_key, lease_number, pointer_tokens, work_root
from orchestrator.store.checkpoints import find
from orchestrator.store.leases import LeaseBody, history, is_live
from orchestrator.store.objects import Stat, Store
from orchestrator.store.plans import plans
from orchestrator.store.pointers import read_pointer
from orchestrator.store.records import done, find_record
from orchestrator.store.tasks import read_task

# obstore (object_store's LocalFileSystem) writes NAME#1 and renames it; a day is longer than any upload
_STAGED: Final = re.compile(r"#\d+$")
_STAGED_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True)
class Removal:
    """An object that nobody needs."""

    key: str
    bytes: int
    why: str


@dataclass
class Needs:
    """What is needed of one trajectory: states at exactly `states`, and for tasks still to be done the highest below each of `ends`."""

    states: set[int] = field(default_factory=set)
    ends: set[int] = field(default_factory=set)

    def tokens(self, kept: Iterable[int]) -> set[int]:
        """Which of the checkpoints that are there."""
        there = sorted(kept)
        resumed = {max((tokens for tokens in there if tokens <= end), default=-1) for end in self.ends}
        return {tokens for tokens in there if tokens in self.states or tokens in resumed}


def needs_of(tasks: Iterable[Task], is_done: set[str]) -> dict[str, Needs]:
    """What these tasks need, by trajectory."""
    needs: dict[str, Needs] = defaultdict(Needs)
    for task in tasks:
        if isinstance(task, EvaluateTask):
            needs[task.trajectory].states.add(task.tokens)
        elif isinstance(task, TrainTask):
            own = needs[digest_of(task.trajectory.identity())]
            own.states.add(task.tokens)
            if digest_of_task(task) not in is_done:
                own.ends.add(task.tokens)
            if isinstance(task.trajectory.start, FromState):
                needs[task.trajectory.start.trajectory].states.add(task.trajectory.start.tokens)
    return needs


def gc(store: Store, dry_run: bool) -> list[Removal]:
    """Every object that can go; unless `dry_run`, it is gone. Raises Damaged for a plan that cannot be read: its needs are not known."""
    removals = _unneeded(store)
    staged = list(_staging(store))
    if not dry_run:
        for removal in removals:
            store.objects.delete(removal.key)
        for path, _ in staged:
            path.unlink(missing_ok=True)
    return removals + [removal for _, removal in staged]


def _unneeded(store: Store) -> list[Removal]:
    is_done, now = done(store), store.clock()
    planned = {digest: task.task for _, plan in plans(store) for digest, task in plan.tasks.items()}
    folders = [_folder(store, root, stats, now) for root, stats in sorted(_trajectories(store).items())]
    worked_on = {body.digest for folder in folders for body in folder.bodies} - set(planned)
    live = {folder.live.digest for folder in folders if folder.live is not None} | _live_on_tasks(store, planned, is_done, now)
    needs = needs_of([*planned.values(), *_unplanned(store, live - set(planned), worked_on, is_done)], is_done)
    return [
        removal for folder in folders for removal in _removals(store, folder, needs.get(folder.root.rpartition("/")[2], Needs()), is_done)
    ]


def _folder(store: Store, root: str, stats: list[Stat], now: datetime) -> "_Folder":
    bodies = history(store, root)
    live = bodies[-1] if bodies and is_live(bodies[-1], now) else None
    return _Folder(root, stats, bodies, live)


def _trajectories(store: Store) -> dict[str, list[Stat]]:
    folders: dict[str, list[Stat]] = defaultdict(list)
    for stat in store.objects.list(TRAJECTORIES):
        folders["/".join(stat.key.split("/")[:2])].append(stat)
    return folders


def _unplanned(store: Store, live: set[str], worked_on: set[str], is_done: set[str]) -> list[Task]:
    """Tasks of no plan that count all the same: somebody works on them, or they left a record, which promises their state."""
    return [task for digest in ((worked_on & is_done) | live) - {""} if (task := _task(store, digest)) is not None]


def _live_on_tasks(store: Store, planned: Iterable[str], is_done: set[str], now: datetime) -> set[str]:
    """Tasks of no plan, other than training, that somebody works on: an evaluation needs a state."""
    worked_on = {stat.key.split("/")[1] for stat in store.objects.list(RECORDS) if lease_number(stat.key) is not None}
    return {
        digest
        for digest in worked_on - set(planned) - is_done
        if any(is_live(body, now) for body in history(store, work_root(TaskKind.EVALUATE, digest)))
    }


def _task(store: Store, digest: str) -> Task | None:
    try:
        return read_task(store, digest)
    except (KeyMissing, Damaged, ContractError):
        return None


@dataclass(frozen=True)
class _Folder:
    """One trajectory as it stands: what lies there and who works on it."""

    root: str
    stats: list[Stat]
    bodies: list[LeaseBody]
    live: LeaseBody | None

    def pointers(self) -> dict[int, Stat]:
        return {tokens: stat for stat in self.stats if (tokens := pointer_tokens(stat.key)) is not None}


def _removals(store: Store, folder: _Folder, needs: Needs, is_done: set[str]) -> list[Removal]:
    """Pointers first: whoever is killed while removing leaves files that nothing points to, and no pointer to files that are gone."""
    pointers = folder.pointers()
    needed = needs.tokens(pointers)
    if folder.live is not None and pointers:
        needed |= {folder.live.from_tokens, max(pointers)} & set(pointers)
    try:
        promised = _promised(store, folder, needed, is_done)
        dropped = {_checkpoint_folder(store, folder.root, tokens): tokens for tokens in set(pointers) - needed}
    except Damaged:
        return []  # `verify` has to speak first
    unneeded = [
        Removal(pointers[tokens].key, pointers[tokens].size, "no plan's state and no lease needs it") for tokens in sorted(dropped.values())
    ]
    return unneeded + [
        Removal(stat.key, stat.size, "belongs to it" if _within(stat.key, dropped) else "no manifest that counts points to it")
        for stat in folder.stats
        if _is_checkpoint_file(folder, stat.key, dropped) and stat.key not in promised
    ]


def _promised(store: Store, folder: _Folder, needed: set[int], is_done: set[str]) -> set[str]:
    """Keys that a needed checkpoint or a record of this trajectory points to."""
    keys = set()
    for tokens in needed:
        pointer = read_pointer(store, folder.root, tokens)
        keys |= {pointer.manifest.key, *(artifact.key for artifact in find(store, folder.root, tokens).files.values())}
    for digest in {body.digest for body in folder.bodies} & is_done:
        record = find_record(store, digest)
        keys |= {artifact.key for artifact in record.artifacts.values()} if record else set()
    return keys


def _checkpoint_folder(store: Store, root: str, tokens: int) -> str:
    return attempt_key(root, read_pointer(store, root, tokens).attempt, "checkpoints", str(tokens))


def _is_checkpoint_file(folder: _Folder, key: str, dropped: Iterable[str]) -> bool:
    """Whether the key lies in a checkpoint of an attempt; what a live attempt is about to publish does not count."""
    parts = key.removeprefix(f"{folder.root}/").split("/")
    if len(parts) < 4 or parts[0] != "attempts" or parts[2] != "checkpoints":
        return False
    return folder.live is None or int(parts[1]) != folder.live.number or _within(key, dropped)


def _within(key: str, folders: Iterable[str]) -> bool:
    return any(key.startswith(f"{folder}/") for folder in folders)


def _staging(store: Store) -> Iterator[tuple[Path, Removal]]:
    """Files that a killed process left half-written in a folder store; nothing ever lists them."""
    root = store.objects.local_path("")
    if root is None:
        return
    for path in root.rglob("*#*"):
        age = store.clock().timestamp() - path.stat().st_mtime
        if _STAGED.search(path.name) and age > _STAGED_SECONDS:
            yield path, Removal(str(path.relative_to(root)), path.stat().st_size, "left half-written by a killed process")
