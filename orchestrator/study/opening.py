"""A study file and the store it names, made ready: read, fingerprint, plan, freeze.

Every command that needs a plan begins here, so that `plan`, `run`, `status` and `report` speak of the same tasks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from orchestrator.contract.plan import Plan
from orchestrator.contract.tasks import TrainTask
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.errors import PlanRefused
from orchestrator.planning import UNKNOWN, is_runnable, plan_study
from orchestrator.planning.repetition import SourceTokens
from orchestrator.spec import Study, TokenizerFile, read_study
from orchestrator.store import Store, open_store, store_exists
from orchestrator.store.plans import current, current_spec, freeze, planned_part
from orchestrator.store.records import read_record
from orchestrator.study.fingerprints import look_at, wanted

# A guess for byte-level BPE on English and code, used only until `prepare` has counted
BYTES_A_TOKEN: Final = 4


@dataclass(frozen=True, slots=True)
class Opened:
    """A study with its plan.

    `is_frozen`: the plan is the store's. `bytes_of`: source name -> bytes of its files, where they were reached. `unreachable`: source
    name, or `tokenizer`, -> why its content is not known; a plan with such sources cannot run.
    """

    study: Study
    store: Store
    plan: Plan
    is_frozen: bool
    bytes_of: Mapping[str, int]
    unreachable: Mapping[str, str]


def preview_study(file: Path, store_url: str | None = None) -> Opened:
    """The study in `file` and a new plan of it. The store is named and not asked. Raises InvalidStudy, PlanRefused.

    A folder that is not there is not made: who only looks finds an empty store under its name.
    """
    study = read_study(file)
    found = look_at(wanted(study), Path(study.path).resolve().parent)
    plan = plan_study(study, found.fingerprints, found.tokenizer)
    return Opened(study, _to_read(store_address(study, store_url)), plan, False, found.bytes_of, found.unreachable)


def _to_read(address: str) -> Store:
    return open_store(address) if store_exists(address) else replace(open_store("memory://"), url=address)


def open_study(file: Path, store_url: str | None = None, *, replan: bool = False, only_looks: bool = False) -> Opened:
    """The study in `file` and its plan: the frozen one if the store has it and the file asks for the same, else a new one.

    Nothing is written; `keep` does that. `only_looks`: nor is the store's folder made. Raises InvalidStudy, PlanRefused (also when the
    files of a source have changed under a frozen plan and `replan` is not given), StoreError.
    """
    fresh = preview_study(file, store_url)
    study, store = fresh.study, fresh.store if only_looks else open_store(store_address(fresh.study, store_url))
    newest = None if replan else current(store, study.name)
    if newest is not None:
        _refuse_changed_files(newest[1], fresh.plan)
    frozen = None if replan else frozen_plan(store, study)
    return replace(fresh, store=store) if frozen is None else replace(fresh, store=store, plan=frozen[1], is_frozen=True)


def frozen_plan(store: Store, study: Study) -> tuple[str, Plan] | None:
    """Digest and plan that the study has in the store, unless it now asks for another: then, or without one, None. Raises StoreError."""
    if planned_part(current_spec(store, study.name) or {}) != planned_part(study.document):
        return None
    return current(store, study.name)


def keep(opened: Opened) -> str:
    """Freeze the plan in the store; its digest. Raises PlanRefused for a plan that cannot run, StoreError."""
    refuse_unknown(opened)
    return freeze(opened.store, opened.plan, dict(opened.study.document))[0]


def refuse_unknown(opened: Opened) -> None:
    """Raises PlanRefused for a plan that cannot run, since not all that it reads is known."""
    if not is_runnable(opened.plan):
        reasons = "\n    ".join(f"{name}: {why}" for name, why in opened.unreachable.items())
        raise PlanRefused(
            f"this plan cannot run, since the content of some of what it reads is not known:\n    {reasons}\n"
            "    Make the files reachable from here, or write `fingerprint:` (64 hex digits) at the source"
        )


def store_address(study: Study, given: str | None) -> str:
    """Where the store is: as given on the command line, else as the file says, a folder relative to the file."""
    if given is not None:
        return given
    written = study.spec.store
    return written if "://" in written else str((Path(study.path).parent / written).resolve())


def inputs(study: Study, plan: Plan) -> dict[str, list[str]]:
    """Where the files of each fingerprint are, for placement. Relative paths start at the study file."""
    base = Path(study.path).resolve().parent
    found: dict[str, list[str]] = {}
    for source in plan.sources:
        found.setdefault(source.fingerprint, []).append(_absolute(source.path, base))
    tokenizer = study.spec.data.tokenizer
    if isinstance(tokenizer, TokenizerFile):
        found[plan.tokenizer] = [_absolute(tokenizer.file, base)]
    return found


def known_tokens(opened: Opened, finished: set[str]) -> dict[str, SourceTokens]:
    """Prepare digest -> how many tokens it has: counted where `prepare` is done, else declared, else guessed from bytes."""
    known: dict[str, SourceTokens] = {}
    declared = {source.name: source.tokens for source in opened.study.spec.data.sources}
    limits = {source.name: source.limit for source in opened.study.spec.data.sources}
    for source in opened.plan.sources:
        record = read_record(opened.store, source.digest) if source.digest in finished else None
        guess = _at_most(limits[source.name], declared[source.name] or opened.bytes_of.get(source.name, 0) // BYTES_A_TOKEN)
        if record is not None:
            known[source.digest] = SourceTokens(int(record.results["tokens"]), exact=True)
        elif guess:
            known[source.digest] = SourceTokens(guess, exact=False)
    return known


def _at_most(limit: int | None, guess: int) -> int:
    """What a source's `limit` leaves of it; all of the limit where nobody knows how much there is."""
    return guess if limit is None else min(limit, guess or limit)


def gpu_seconds_a_token(opened: Opened, finished: set[str]) -> dict[str, float]:
    """GPU-seconds a token by size, from the latest finished train task of each size that ran on GPUs."""
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


def _refuse_changed_files(frozen: Plan, fresh: Plan) -> None:
    """Also after an edit: cells that the edit does not touch would else be trained again without a word. Another path is another matter."""
    now = {(source.name, source.path): source.fingerprint for source in fresh.sources}
    before = {(source.name, source.path): source.fingerprint for source in frozen.sources}
    changed = [name for name, path in before if not _is_same(before[name, path], now.get((name, path), UNKNOWN))]
    if changed:
        raise PlanRefused(
            f"the files of {', '.join(changed)} have changed since {frozen.study} was planned, and its plan is frozen.\n"
            "    Put the old files back, or make a new plan from the new ones with --replan; what is done stays in the store"
        )


def _is_same(before: str, now: str) -> bool:
    """Whether a content is known to have stayed, or not known at all."""
    return UNKNOWN in (before[: len(UNKNOWN)], now[: len(UNKNOWN)]) or before == now


def _absolute(path: str, base: Path) -> str:
    return path if "://" in path else str(base / path)
