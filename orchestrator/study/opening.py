"""Open a study file and its store: read, fingerprint, plan, freeze.

Every command that needs a plan starts here, so that `plan`, `run`, `status` and `report` refer to the same tasks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from orchestrator.contract.plan import Plan, digest_of_plan
from orchestrator.contract.tasks import TrainTask
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.errors import Damaged, KeyMissing, PlanRefused, StoreError
from orchestrator.planning import UNKNOWN, is_runnable, plan_study
from orchestrator.planning.repetition import SourceTokens
from orchestrator.spec import Study, TokenizerFile, read_study
from orchestrator.store import Store, open_store, store_exists
from orchestrator.store.plans import current, current_spec, freeze, newest_version, planned_part, read_plan
from orchestrator.store.records import read_record
from orchestrator.study.fingerprints import fingerprint_paths, fingerprint_request

# Estimate for byte-level BPE on English and code, used until `prepare` has counted the tokens
BYTES_PER_TOKEN: Final = 4


@dataclass(frozen=True, slots=True)
class OpenedStudy:
    """A study with its plan.

    `is_frozen`: the plan comes from the store. `bytes_of`: source name -> bytes of its files, for reachable sources. `unreachable`: source
    name, or `tokenizer`, -> why its content is unknown; such a plan cannot run.
    """

    study: Study
    store: Store
    plan: Plan
    is_frozen: bool
    bytes_of: Mapping[str, int]
    unreachable: Mapping[str, str]


def preview_study(file: Path, store_url: str | None = None) -> OpenedStudy:
    """Return the study in `file` with a new plan, without reading the store. Raises InvalidStudy, PlanRefused.

    A missing store folder is not created; an empty in-memory store takes its place.
    """
    study = read_study(file)
    found = fingerprint_paths(fingerprint_request(study), Path(study.path).resolve().parent)
    plan = plan_study(study, found.fingerprints, found.tokenizer)
    return OpenedStudy(study, _open_for_reading(store_address(study, store_url)), plan, False, found.bytes_of, found.unreachable)


def _open_for_reading(address: str) -> Store:
    return open_store(address) if store_exists(address) else replace(open_store("memory://"), url=address)


def open_study(file: Path, store_url: str | None = None, *, replan: bool = False, read_only: bool = False) -> OpenedStudy:
    """Return the study in `file` and its plan: the frozen plan if it matches the file, else a new one.

    Nothing is written; `freeze_plan` freezes the plan. `read_only`: do not create the store's folder either. Raises InvalidStudy,
    PlanRefused (also if the files of a source changed since the plan was frozen and `replan` is false), StoreError.
    """
    fresh = preview_study(file, store_url)
    study, store = fresh.study, fresh.store if read_only else open_store(store_address(fresh.study, store_url))
    if replan:
        return replace(fresh, store=store)
    try:
        newest = current(store, study.name)
    except Damaged:
        if _is_frozen(store, fresh.plan):
            return replace(fresh, store=store)
        raise
    if newest is not None:
        _check_files_unchanged(newest[1], fresh.plan)
    frozen = frozen_plan(store, study)
    return replace(fresh, store=store) if frozen is None else replace(fresh, store=store, plan=frozen[1], is_frozen=True)


def _is_frozen(store: Store, fresh: Plan) -> bool:
    """Return whether `fresh` is the plan that was frozen, although the newest version or its plan is damaged.

    A plan is named by its digest, so freezing it only restores the damaged object.
    """
    digest = digest_of_plan(fresh)
    try:
        newest = newest_version(store, fresh.study)
        return newest is not None and newest.plan == digest
    except Damaged:
        return _has_plan(store, digest)


def _has_plan(store: Store, digest: str) -> bool:
    try:
        read_plan(store, digest)
    except (Damaged, KeyMissing):
        return False
    return True


def frozen_plan(store: Store, study: Study) -> tuple[str, Plan] | None:
    """Return digest and plan of the study in the store; None if there is none or it does not match the study. Raises StoreError."""
    if planned_part(current_spec(store, study.name) or {}) != planned_part(study.document):
        return None
    return current(store, study.name)


def freeze_plan(opened: OpenedStudy) -> str:
    """Freeze the plan in the store and return its digest. Raises PlanRefused for a plan that cannot run, StoreError."""
    check_runnable(opened)
    return freeze(opened.store, opened.plan, dict(opened.study.document))[0]


def check_runnable(opened: OpenedStudy) -> None:
    """Raise PlanRefused if the content of a source or the tokenizer is unknown."""
    if not is_runnable(opened.plan):
        reasons = "\n    ".join(f"{name}: {why}" for name, why in opened.unreachable.items())
        raise PlanRefused(
            f"this plan cannot run, because the content of these sources is unknown:\n    {reasons}\n"
            "    Make the files reachable from here, or write `fingerprint:` (64 hex digits) at the source"
        )


def store_address(study: Study, given: str | None) -> str:
    """Return the address of the store: the given one, else the study file's; a relative folder starts at the file."""
    if given is not None:
        return given
    address = study.spec.store
    if "://" in address:
        return address
    try:
        return str((Path(study.path).parent / address).resolve())
    except (OSError, RuntimeError, ValueError) as problem:  # RuntimeError: a cycle of symbolic links
        raise StoreError(f"{study.path}: spec.store: {address!r} is not the path of a folder: {problem}") from problem


def paths_by_fingerprint(study: Study, plan: Plan) -> dict[str, list[str]]:
    """Return the paths by fingerprint, to locate the files. Relative paths start at the study file."""
    base = Path(study.path).resolve().parent
    found: dict[str, list[str]] = {}
    for source in plan.sources:
        found.setdefault(source.fingerprint, []).append(_absolute(source.path, base))
    tokenizer = study.spec.data.tokenizer
    if isinstance(tokenizer, TokenizerFile):
        found[plan.tokenizer] = [_absolute(tokenizer.file, base)]
    return found


def known_tokens(opened: OpenedStudy, finished: set[str]) -> dict[str, SourceTokens]:
    """Return prepare digest -> tokens: counted by `prepare` if it is done, else declared, else estimated from bytes."""
    known: dict[str, SourceTokens] = {}
    declared = {source.name: source.tokens for source in opened.study.spec.data.sources}
    limits = {source.name: source.limit for source in opened.study.spec.data.sources}
    for source in opened.plan.sources:
        record = read_record(opened.store, source.digest) if source.digest in finished else None
        guess = _apply_limit(limits[source.name], declared[source.name] or opened.bytes_of.get(source.name, 0) // BYTES_PER_TOKEN)
        if record is not None:
            known[source.digest] = SourceTokens(int(record.results.get("tokens", guess)), exact=True)
        elif guess:
            known[source.digest] = SourceTokens(guess, exact=False)
    return known


def _apply_limit(limit: int | None, guess: int) -> int:
    """Apply a source's `limit` to a number of tokens. If the number is 0 (unknown), return the limit."""
    return guess if limit is None else min(limit, guess or limit)


def gpu_seconds_per_token(opened: OpenedStudy, finished: set[str]) -> dict[str, float]:
    """Return GPU-seconds per token by size, from the latest finished train task of each size that ran on GPUs."""
    latest = {
        planned.size: digest for digest, planned in opened.plan.tasks.items() if digest in finished and planned.kind == TaskKind.TRAIN
    }
    measured: dict[str, float] = {}
    for size, digest in latest.items():
        planned, record = opened.plan.tasks[digest], read_record(opened.store, digest)
        assert isinstance(planned.task, TrainTask)
        seconds = sum(attempt.gpu_seconds for attempt in record.attempts) if record else 0.0
        if seconds > 0:
            measured[size] = seconds / (planned.task.tokens - planned.from_tokens)
    return measured


def _check_files_unchanged(frozen: Plan, fresh: Plan) -> None:
    """Raise PlanRefused if the files of a source changed since the plan was frozen.

    This applies after an edit of the study too: otherwise unchanged cells would be trained again unnoticed. Sources with a new path are not
    compared.
    """
    now = {(source.name, source.path): source.fingerprint for source in fresh.sources}
    before = {(source.name, source.path): source.fingerprint for source in frozen.sources}
    changed = [name for name, path in before if not _is_same(before[name, path], now.get((name, path), UNKNOWN))]
    if changed:
        raise PlanRefused(
            f"the files of {', '.join(changed)} have changed since {frozen.study} was planned, and its plan is frozen.\n"
            "    Restore the old files, or plan again from the new ones with --replan; completed tasks stay in the store"
        )


def _is_same(before: str, now: str) -> bool:
    """Return whether two fingerprints are equal, or at least one is unknown."""
    return UNKNOWN in (before[: len(UNKNOWN)], now[: len(UNKNOWN)]) or before == now


def _absolute(path: str, base: Path) -> str:
    return path if "://" in path else str(base / path)
