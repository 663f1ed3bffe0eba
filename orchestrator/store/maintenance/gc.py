"""Remove checkpoints that no frozen plan, record or lease needs.

Of each trajectory, these checkpoints are kept: every state that a plan or record names, the highest checkpoint at or below the end of
each unfinished task (it resumes there), the one that a live attempt resumed from, and the highest of all while an attempt runs. A trainer
that starts during the garbage collection therefore finds its checkpoint.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from orchestrator.contract.tasks import Task, digest_of_task
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

# obstore (object_store's LocalFileSystem) writes NAME#1 and renames it; no upload takes a day
_STAGED: Final = re.compile(r"#\d+$")
_STAGED_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True)
class Removal:
    """An unneeded object. `why`: the reason, for the user."""

    key: str
    bytes: int
    why: str


@dataclass
class Needs:
    """Needed states of one trajectory, in tokens: all of `states`, and for unfinished tasks the highest at or below each of `ends`."""

    states: set[int] = field(default_factory=set)
    ends: set[int] = field(default_factory=set)

    def tokens(self, checkpoints: Iterable[int]) -> set[int]:
        """Return the needed ones of the existing checkpoints."""
        existing = sorted(checkpoints)
        resumed = {max((tokens for tokens in existing if tokens <= end), default=-1) for end in self.ends}
        return {tokens for tokens in existing if tokens in self.states or tokens in resumed}


def needs_of(tasks: Iterable[Task], is_done: set[str]) -> dict[str, Needs]:
    """Return the states that these tasks need, by trajectory digest."""
    needs: dict[str, Needs] = defaultdict(Needs)
    for task in tasks:
        for need in task.needs():
            if need.tokens is not None:
                needs[need.digest].states.add(need.tokens)
        made = task.result()
        if made is not None and made.tokens is not None:
            needs[made.digest].states.add(made.tokens)
            if digest_of_task(task) not in is_done:
                needs[made.digest].ends.add(made.tokens)
    return needs


def gc(store: Store, dry_run: bool) -> list[Removal]:
    """Return every unneeded object, and delete them unless `dry_run`.

    Raises Damaged if a plan is unreadable, since its needs are unknown.
    """
    removals = _unneeded(store)
    staged = list(_staging(store))
    if not dry_run:
        for removal in removals:
            store.objects.delete(removal.key)
        for path, _ in staged:
            path.unlink(missing_ok=True)
    return removals + [removal for _, removal in staged]


def _unneeded(store: Store) -> list[Removal]:
    is_done = done(store)
    planned = {digest: task.task for _, plan in plans(store) for digest, task in plan.tasks.items()}
    folders, needs = _folders_and_needs(store, planned, is_done)
    return [removal for folder in folders for removal in _removals(store, folder, needs[folder.root], is_done)]


def _folders_and_needs(store: Store, planned: Mapping[str, Task], is_done: set[str]) -> tuple[list["_Folder"], dict[str, Needs]]:
    """Return the trajectories of the store, and the needs of each by its work root."""
    now = store.clock()
    folders = [_folder(store, root, stats, now) for root, stats in sorted(_trajectories(store).items())]
    attempted = {body.digest for folder in folders for body in folder.bodies} - set(planned)
    live = {folder.live.digest for folder in folders if folder.live is not None} | _live_on_tasks(store, planned, is_done, now)
    needs = needs_of([*planned.values(), *_unplanned(store, live - set(planned), attempted, is_done)], is_done)
    return folders, {folder.root: needs.get(folder.root.rpartition("/")[2], Needs()) for folder in folders}


def needed_checkpoints(store: Store, planned: Mapping[str, Task]) -> dict[str, set[int]]:
    """Return the tokens of the checkpoints that a plan, record or lease needs, by work root. `planned`: the tasks of all plans."""
    folders, needs = _folders_and_needs(store, planned, done(store))
    return {folder.root: _needed(folder, needs[folder.root]) for folder in folders}


def _needed(folder: "_Folder", needs: Needs) -> set[int]:
    pointers = folder.pointers()
    live = {folder.live.from_tokens, max(pointers)} & set(pointers) if folder.live is not None and pointers else set()
    return needs.tokens(pointers) | live


def _folder(store: Store, root: str, stats: list[Stat], now: datetime) -> "_Folder":
    bodies = history(store, root)
    live = bodies[-1] if bodies and is_live(bodies[-1], now) else None
    return _Folder(root, stats, bodies, live)


def _trajectories(store: Store) -> dict[str, list[Stat]]:
    folders: dict[str, list[Stat]] = defaultdict(list)
    for stat in store.objects.list(TRAJECTORIES):
        folders["/".join(stat.key.split("/")[:2])].append(stat)
    return folders


def _unplanned(store: Store, live: set[str], attempted: set[str], is_done: set[str]) -> list[Task]:
    """Return tasks without a plan that still need their state: they are running, or have a record that refers to it."""
    return [task for digest in ((attempted & is_done) | live) - {""} if (task := _task(store, digest)) is not None]


def _live_on_tasks(store: Store, planned: Iterable[str], is_done: set[str], now: datetime) -> set[str]:
    """Return running tasks without a plan, other than training: an evaluation needs a state."""
    attempted = {stat.key.split("/")[1] for stat in store.objects.list(RECORDS) if lease_number(stat.key) is not None}
    return {
        digest
        for digest in attempted - set(planned) - is_done
        if any(is_live(body, now) for body in history(store, work_root(TaskKind.EVALUATE, digest)))
    }


def _task(store: Store, digest: str) -> Task | None:
    try:
        return read_task(store, digest)
    except (KeyMissing, Damaged, ContractError):
        return None


@dataclass(frozen=True)
class _Folder:
    """One trajectory: its objects, its leases, and the live lease if any."""

    root: str
    stats: list[Stat]
    bodies: list[LeaseBody]
    live: LeaseBody | None

    def pointers(self) -> dict[int, Stat]:
        return {tokens: stat for stat in self.stats if (tokens := pointer_tokens(stat.key)) is not None}


def _removals(store: Store, folder: _Folder, needs: Needs, is_done: set[str]) -> list[Removal]:
    """Return the removals of a trajectory, pointers first: an interrupted removal must not leave pointers to deleted files."""
    pointers = folder.pointers()
    needed = _needed(folder, needs)
    try:
        referenced = _referenced(store, folder, needed, is_done)
        dropped = {_checkpoint_folder(store, folder.root, tokens): tokens for tokens in set(pointers) - needed}
    except Damaged:
        return []  # `verify` must run first
    unneeded = [
        Removal(pointers[tokens].key, pointers[tokens].size, "not needed by any plan or lease") for tokens in sorted(dropped.values())
    ]
    return unneeded + [
        Removal(stat.key, stat.size, "part of an unneeded checkpoint" if _within(stat.key, dropped) else "not referenced by any manifest")
        for stat in folder.stats
        if _is_checkpoint_file(folder, stat.key, dropped) and stat.key not in referenced
    ]


def _referenced(store: Store, folder: _Folder, needed: set[int], is_done: set[str]) -> set[str]:
    """Return the keys that a needed checkpoint or a record of this trajectory refers to."""
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
    """Return whether the key is a checkpoint file of an attempt, except files that a live attempt has not published yet."""
    parts = key.removeprefix(f"{folder.root}/").split("/")
    if len(parts) < 4 or parts[0] != "attempts" or parts[2] != "checkpoints":
        return False
    return folder.live is None or int(parts[1]) != folder.live.number or _within(key, dropped)


def _within(key: str, folders: Iterable[str]) -> bool:
    return any(key.startswith(f"{folder}/") for folder in folders)


def _staging(store: Store) -> Iterator[tuple[Path, Removal]]:
    """Yield incomplete writes of killed processes in a folder store; listings exclude them."""
    root = store.objects.local_path("")
    if root is None:
        return
    for path in root.rglob("*#*"):
        age = store.clock().timestamp() - path.stat().st_mtime
        if _STAGED.search(path.name) and age > _STAGED_SECONDS:
            yield path, Removal(str(path.relative_to(root)), path.stat().st_size, "incomplete write of a killed process")
