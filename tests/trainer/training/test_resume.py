"""Losses, weights, moments and token hash of a trajectory do not depend on restarts or on the attempts that train it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load
from trainer.context import Context, Outcome, Stopped
from trainer.data.sources import open_mixture
from trainer.training import metrics_recorder
from trainer.training import run as training_run

from orchestrator.contract.events import Placement
from orchestrator.contract.identity import NUMERICS, digest_of
from orchestrator.contract.tasks import FromInitialisation, FromState, Optimizer, Schedule, Shape, TrainTask, Trajectory, digest_of_task
from orchestrator.errors import KeyMissing, LeaseLost, StoreUnavailable, TaskRefused
from orchestrator.store import Store, addresses, artifacts, checkpoints, leases, metrics
from orchestrator.store.leases import Holder, Lease
from orchestrator.store.memory import Fault, InMemoryObjects, When, in_memory_store
from tests.trainer.prepared import publish

VOCABULARY, LENGTH, BATCH = 64, 16, 4
STEP = LENGTH * BATCH
SHAPE = Shape(width=16, layers=2, heads=2, feed_forward=32, vocabulary=VOCABULARY, tied=False, rope_theta=10_000, norm_eps="1e-5")
ADAMW = Optimizer("0.9", "0.95", "1e-8", "0.1", "0", "1", "1e-4")
NEVER = 10**6

# The first ten steps of `Desk.trajectory` on one thread of an Intel Xeon (Sapphire Rapids, AVX-512), torch 2.13.0+cpu. Another processor
# or torch adds in another order: 1e-4 forgives that. Who changes them for another reason changes results, and raises NUMERICS.
GOLDEN_LOSSES = [
    4.1709794998168945, 4.135709285736084, 4.108738422393799, 4.043852806091309, 4.0554399490356445,
    3.945424795150757, 3.898242712020874, 3.8396401405334473, 3.7272021770477295, 3.703320264816284,
]  # fmt: skip
GOLDEN_TOKEN_HASH = "dadb48169cfd2fd7f3e3aba06440eef84c249da88f36d1897e92c722c3f4e53c"


class Killed(BaseException):
    """The process is gone: nothing after this runs."""


@pytest.fixture(scope="module")
def prepared() -> tuple[Store, str]:
    """A store that holds one source: a walk over the ids in which a small model finds something to learn."""
    store = in_memory_store()
    draw = np.random.default_rng(1)
    tokens = np.cumsum(draw.integers(1, 4, 40_000)) % (VOCABULARY - 1) + 1
    digest = publish(store, 1, [int(token) for token in tokens], vocabulary=VOCABULARY, shard_tokens=15_000)
    return store, digest


@pytest.fixture
def desk(prepared: tuple[Store, str], tmp_path: Path) -> "Desk":
    return new_desk(prepared, tmp_path)


def new_desk(prepared: tuple[Store, str], cache: Path) -> "Desk":
    store, original = in_memory_store(), prepared[0].objects
    for stat in original.list(""):
        store.objects.put(stat.key, original.get(stat.key))
    return Desk(store, prepared[1], cache)


@dataclass(frozen=True)
class Desk:
    """A store with a prepared source, and attempts at tasks on it."""

    store: Store
    source: str
    cache: Path

    def trajectory(self, **changes: Any) -> Trajectory:
        stable = Trajectory(
            start=FromInitialisation(SHAPE, 1, "0.06"), shares=((self.source, 1),), already_read=(), data_seed=1, sequence_length=LENGTH,
            batch=BATCH, optimizer=ADAMW, schedule=Schedule("constant", 4 * STEP, "0.01"), precision="fp32", numerics=NUMERICS,
        )  # fmt: skip
        return replace(stable, **changes)

    def task(self, steps: int, **changes: Any) -> TrainTask:
        return TrainTask(self.trajectory(**changes), steps * STEP)

    def attempt(self, task: TrainTask, stop: Callable[[], bool] = lambda: False, **placement: Any) -> Outcome:
        """As `trainer.attempt.perform` does it, without record and exit code."""
        lease = leases.acquire(self.store, root(task), digest_of_task(task), Holder())
        try:
            return training_run.run(self.context(task, lease, stop, **placement))
        finally:
            lease.end("whatever", 0)

    def context(self, task: TrainTask, lease: Lease, stop: Callable[[], bool] = lambda: False, **placement: Any) -> Context:
        """`stop` is asked after steps alone, not while shards are fetched."""
        settings = Placement(**{"checkpoint_seconds": NEVER, **placement})
        return Context(self.store, digest_of_task(task), task, lease, settings, self.cache, stop=lambda: lease.body.took_up and stop())

    def line(self, task: TrainTask) -> list[tuple[int, int, str, float]]:
        """All metrics that count and do not go by the clock."""
        rows = metrics.series(self.store, root(task), task.tokens).to_pylist()
        return [tuple(row.values()) for row in rows if row["name"] != "tokens_per_second"]

    def losses(self, task: TrainTask) -> list[float]:
        return [value for _, _, name, value in self.line(task) if name == "loss"]

    def updates(self, outcome: Outcome) -> int:
        """How many the optimizer has counted."""
        moments = load(artifacts.read_bytes(self.store, outcome.artifacts["optimizer.safetensors"]))
        return int(moments["norm.step"].item())


def root(task: TrainTask) -> str:
    return addresses.work_root("train", digest_of(task.trajectory.identity()))


def after(steps: int, what: bool | type[BaseException] = True) -> Callable[[], bool]:
    """Asked to stop, or killed, at the end of the attempt's step number `steps`."""
    made = count(1)

    def stop() -> bool:
        if next(made) < steps:
            return False
        if isinstance(what, bool):
            return what
        raise what

    return stop


def hashes(outcome: Outcome) -> dict[str, str]:
    return {name: artifact.sha256 for name, artifact in outcome.artifacts.items()}


@pytest.fixture(scope="module")
def uninterrupted(prepared: tuple[Store, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, list[Any]]:
    """Twenty steps at one go."""
    desk = new_desk(prepared, tmp_path_factory.mktemp("uninterrupted"))
    task = desk.task(20)
    return desk.attempt(task), desk.line(task)


def assert_same(desk: Desk, task: TrainTask, outcome: Outcome, expected: tuple[Outcome, list[Any]]) -> None:
    """Bit for bit: floats as they are, files by hash."""
    assert outcome.results == expected[0].results
    assert hashes(outcome) == hashes(expected[0])
    assert desk.line(task) == expected[1]


@pytest.mark.parametrize("stops", [(1,), (7,), (19,), (1, 1, 5)], ids=str)
def test_a_stopped_and_resumed_run_equals_an_uninterrupted_one(
    desk: Desk, stops: tuple[int, ...], uninterrupted: tuple[Outcome, list[Any]]
) -> None:
    task = desk.task(20)
    for steps in stops:
        with pytest.raises(Stopped, match=rf"saved at \d+ of {task.tokens} tokens"):
            desk.attempt(task, after(steps))
    outcome = desk.attempt(task)
    assert (outcome.from_tokens, outcome.tokens_lost) == (sum(stops) * STEP, 0)
    assert_same(desk, task, outcome, uninterrupted)


@pytest.mark.parametrize("checkpoint_seconds", [0, NEVER])
@pytest.mark.parametrize("kills", [(1,), (13,), (3, 9, 2)], ids=str)
def test_a_killed_and_resumed_run_equals_an_uninterrupted_one(
    desk: Desk, kills: tuple[int, ...], checkpoint_seconds: int, uninterrupted: tuple[Outcome, list[Any]]
) -> None:
    task = desk.task(20)
    for steps in kills:
        with pytest.raises(Killed):
            desk.attempt(task, after(steps, Killed), checkpoint_seconds=checkpoint_seconds)
    outcome = desk.attempt(task, checkpoint_seconds=checkpoint_seconds)
    assert outcome.from_tokens == (sum(kills) - len(kills)) * STEP * (checkpoint_seconds == 0)
    assert_same(desk, task, outcome, uninterrupted)


def test_asked_to_stop_in_its_last_step_a_task_ends(desk: Desk) -> None:
    assert desk.attempt(desk.task(3), after(3)).results["steps"] == 3


def test_a_longer_horizon_trains_only_what_is_new(desk: Desk, uninterrupted: tuple[Outcome, list[Any]]) -> None:
    shorter, longer = desk.task(12), desk.task(20)
    assert root(shorter) == root(longer)
    desk.attempt(shorter)
    outcome = desk.attempt(longer)
    assert (outcome.from_tokens, outcome.tokens_lost) == (12 * STEP, 0)
    assert_same(desk, longer, outcome, uninterrupted)
    assert checkpoints.list_checkpoints(desk.store, root(longer)) == [12 * STEP, 20 * STEP]


def test_a_shorter_horizon_is_not_taken_from_a_checkpoint_past_its_end(desk: Desk) -> None:
    desk.attempt(desk.task(8))
    outcome = desk.attempt(desk.task(5))
    assert (outcome.from_tokens, outcome.results["tokens"]) == (0, 5 * STEP)


def test_trained_horizon_is_only_checked(desk: Desk) -> None:
    task = desk.task(6)
    first, again = desk.attempt(task), desk.attempt(task)
    assert again == replace(first, from_tokens=6 * STEP)
    objects = desk.store.objects
    assert not list(objects.list(addresses.attempt_key(root(task), 2)))


def test_a_branch_that_changes_nothing_is_the_trunk(desk: Desk) -> None:
    """A kept optimizer keeps weights, moments and update count, and the data continues where the trunk stopped."""
    trunk = desk.attempt(desk.task(12))
    desk.attempt(desk.task(8))
    stable = desk.trajectory()
    start = FromState(digest_of(stable.identity()), 8 * STEP, keep_optimizer=True)
    branch = desk.task(4, start=start, already_read=((desk.source, 8 * BATCH),), schedule=Schedule("constant", 0, "0.01"))
    outcome = desk.attempt(branch)
    assert hashes(outcome) == hashes(trunk)
    assert desk.losses(branch) == desk.losses(desk.task(12))[8:]


def test_a_fresh_optimizer_counts_from_nothing(desk: Desk) -> None:
    parent = desk.attempt(desk.task(8))
    fresh, kept = (
        desk.attempt(desk.task(2, start=FromState(digest_of(desk.trajectory().identity()), 8 * STEP, keep_optimizer=keep)))
        for keep in (False, True)
    )
    assert [desk.updates(outcome) for outcome in (parent, fresh, kept)] == [8, 2, 10]
    assert hashes(fresh)["model.safetensors"] != hashes(kept)["model.safetensors"]


@pytest.mark.parametrize("keep", [False, True])
def test_moments_are_fetched_where_they_are_taken_up_and_nowhere_else(desk: Desk, keep: bool) -> None:
    """Neither the export check nor a start with a fresh optimizer reads the moments."""
    desk.attempt(desk.task(2))
    assert fetched(desk, "optimizer.safetensors") == []
    desk.attempt(desk.task(2, start=FromState(digest_of(desk.trajectory().identity()), 2 * STEP, keep_optimizer=keep)))
    assert len(fetched(desk, "optimizer.safetensors")) == keep


def fetched(desk: Desk, name: str) -> list[str]:
    assert isinstance(desk.store.objects, InMemoryObjects)
    return [key for operation, key in desk.store.objects.log if operation == "fetch" and key.endswith(name)]


def test_cooldown_ends_at_the_final_rate(desk: Desk) -> None:
    desk.attempt(desk.task(8))
    start = FromState(digest_of(desk.trajectory().identity()), 8 * STEP, keep_optimizer=True)
    leaf = desk.task(4, start=start, schedule=Schedule("linear", 0, "0.01", "0", 4 * STEP))
    desk.attempt(leaf)
    rates = [value for _, _, name, value in desk.line(leaf) if name == "learning_rate"]
    assert rates == pytest.approx([0.01, 0.0075, 0.005, 0.0025])


def test_untrained_start_raises_key_missing(desk: Desk) -> None:
    with pytest.raises(KeyMissing, match=f"trajectories/{'a' * 64}/checkpoints/{STEP}"):
        desk.attempt(desk.task(4, start=FromState("a" * 64, STEP, keep_optimizer=True)))


def test_losses_are_those_of_the_recorded_trajectory(desk: Desk) -> None:
    task = desk.task(10)
    outcome = desk.attempt(task)
    assert desk.losses(task) == pytest.approx(GOLDEN_LOSSES, rel=1e-4)
    assert outcome.results["loss"] == pytest.approx(sum(GOLDEN_LOSSES) / 10, rel=1e-4)
    assert outcome.results["token_hash"] == GOLDEN_TOKEN_HASH, "no tolerance here: the order of the data is exact on every machine"


def test_losses_of_bf16_are_near_those_of_float32_and_not_the_same(desk: Desk) -> None:
    exact, rounded = desk.task(6), desk.task(6, precision="bf16")
    one, other = desk.attempt(exact), desk.attempt(rounded)
    assert desk.losses(rounded) == pytest.approx(desk.losses(exact), rel=0.02)
    assert desk.losses(rounded) != desk.losses(exact)
    assert one.results["token_hash"] == other.results["token_hash"]


def test_micro_batches_change_no_result_beyond_rounding(desk: Desk, uninterrupted: tuple[Outcome, list[Any]]) -> None:
    task = desk.task(20)
    outcome = desk.attempt(task, micro_batch=1)
    assert desk.losses(task) == pytest.approx([value for _, _, name, value in uninterrupted[1] if name == "loss"], rel=1e-4)
    assert outcome.results["token_hash"] == uninterrupted[0].results["token_hash"]


def test_the_process_has_its_threads_back_after_a_task(desk: Desk) -> None:
    before, during = torch.get_num_threads(), set[int]()

    def stop() -> bool:
        during.add(torch.get_num_threads())
        return False

    desk.attempt(desk.task(2), stop, threads=before + 1)
    assert during == {before + 1}
    assert torch.get_num_threads() == before


def test_progress_has_the_loss_and_is_reported_at_the_end(desk: Desk) -> None:
    task, heard = desk.task(5), list[tuple[int, int, str, float | None]]()
    lease = leases.acquire(desk.store, root(task), digest_of_task(task), Holder())
    training_run.run(replace(desk.context(task, lease), listen=lambda *event: heard.append(event)))
    assert heard[0][:3] == (STEP, 5 * STEP, "tokens")
    assert heard[-1] == (5 * STEP, 5 * STEP, "tokens", desk.losses(task)[-1])


@pytest.mark.parametrize("when", ["before", "after"])
def test_store_outage_loses_no_metrics(
    desk: Desk, when: When, uninterrupted: tuple[Outcome, list[Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each row is stored exactly once, whether the failed write had taken effect or not."""
    monkeypatch.setattr(metrics_recorder, "_FLUSH_MAX_SECONDS", 0.0)
    assert isinstance(desk.store.objects, InMemoryObjects)
    desk.store.objects.faults += [Fault("put", "*/metrics/*", when, times=3), Fault("put", "*/metrics/*", when, times=2, skip=9)]
    task = desk.task(20)
    outcome = desk.attempt(task)
    assert_same(desk, task, outcome, uninterrupted)
    assert capsys.readouterr().err.count("could not write metrics, will retry") == 2


def test_metrics_are_written_before_their_checkpoint(desk: Desk) -> None:
    assert isinstance(desk.store.objects, InMemoryObjects)
    desk.store.objects.faults.append(Fault("put", "*/metrics/*", "before", times=1000))
    with pytest.raises(StoreUnavailable):
        desk.attempt(desk.task(2))
    assert checkpoints.list_checkpoints(desk.store, root(desk.task(2))) == []


def test_overtaken_attempt_publishes_no_checkpoint(desk: Desk) -> None:
    task = desk.task(5)
    slow = leases.acquire(desk.store, root(task), digest_of_task(task), Holder(workflow_node="node(0)"))

    def overtaken() -> bool:
        if len(leases.history(desk.store, root(task))) == 1:
            leases.acquire(desk.store, root(task), digest_of_task(task), Holder(workflow_node="node(1)"))
        return False

    with pytest.raises(LeaseLost):
        training_run.run(desk.context(task, slow, overtaken))
    assert checkpoints.list_checkpoints(desk.store, root(task)) == []


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        ([], (0, 0)),
        ([(2, Stopped)], (2, 0)),
        ([(2, Stopped), (5, Killed)], (2, 5)),
        ([(5, Killed), (2, Stopped)], (2, 0)),  # what the first one lost, the second one has trained again
        ([(12, None)], (0, 9)),  # a longer horizon, of which no checkpoint is early enough
    ],
    ids=str,
)
def test_tokens_that_were_trained_twice_are_counted_once(desk: Desk, before: list[tuple[int, Any]], expected: tuple[int, int]) -> None:
    """The clock advances by ten seconds per call, so that every step renews the lease."""
    ticks = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=10 * tick) for tick in count())
    leaping = replace(desk, store=replace(desk.store, clock=lambda: next(ticks)))
    for steps, end in before:
        if end is None:
            leaping.attempt(desk.task(steps))
            continue
        with pytest.raises(end):
            leaping.attempt(desk.task(9), after(steps, True if end is Stopped else Killed))
    outcome = leaping.attempt(desk.task(9))
    assert (outcome.from_tokens, outcome.tokens_lost) == (expected[0] * STEP, expected[1] * STEP)


def test_the_lease_is_renewed_with_every_shard_that_comes(desk: Desk) -> None:
    """The clock advances by ten seconds per call, so that every renewal is due: fetching may outlast a lease."""
    ticks = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=10 * tick) for tick in count())
    leaping = replace(desk, store=replace(desk.store, clock=lambda: next(ticks)))
    lease = leases.acquire(leaping.store, root(desk.task(1)), digest_of_task(desk.task(1)), Holder())
    renewed: list[datetime] = []

    def stop() -> bool:
        renewed.append(lease.body.renewed)
        return lease.body.took_up

    task = desk.task(1)
    training_run.run(replace(leaping.context(task, lease), stop=stop))
    shards = 3
    assert len(set(renewed[: shards + 1])) == shards + 1
    assert leases.history(leaping.store, root(task))[0].checkpoint == STEP, "the lease has the checkpoint before its export is checked"


def test_asked_to_stop_while_it_fetches_it_makes_no_step_and_fetches_no_more(desk: Desk) -> None:
    task = desk.task(2)
    lease = leases.acquire(desk.store, root(task), digest_of_task(task), Holder())
    with pytest.raises(Stopped, match="while it fetched"):
        training_run.run(replace(desk.context(task, lease), stop=lambda: True))
    assert not lease.body.took_up


REFUSED = {
    "other numerics": ({"numerics": NUMERICS + 1}, f"requires NUMERICS {NUMERICS + 1}; this trainer implements {NUMERICS}"),
    "unknown precision": ({"precision": "fp8"}, "unknown precision 'fp8'; this trainer supports fp32, bf16"),
    "half a step": ({"batch": 3}, rf"{2 * STEP} tokens are not a whole number of steps of {3 * LENGTH} tokens"),
    "too small a vocabulary": (
        {"start": FromInitialisation(replace(SHAPE, vocabulary=63), 1, "0.06")}, "the mixture's tokenizer has 64 ids, but the model has 63",
    ),
    "windows longer than the source": ({"sequence_length": 64_000, "batch": 1}, "tokens"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_invalid_tasks_are_refused(desk: Desk, changes: dict[str, Any], message: str) -> None:
    tokens = changes.get("sequence_length", 2 * STEP)
    with pytest.raises(TaskRefused, match=message):
        desk.attempt(TrainTask(desk.trajectory(**changes), tokens))


def test_the_hash_of_the_tokens_is_a_chain_over_the_ids_of_every_step(desk: Desk) -> None:
    task = desk.task(3)
    mixture = open_mixture(desk.store, task.trajectory, desk.cache)
    chained = bytes(32)
    for number in range(3):
        chained = sha256(chained + mixture.batch(number).ids.astype("<i8").tobytes()).digest()
    assert desk.attempt(task).results["token_hash"] == chained.hex()


def test_only_prepared_tokens_use_the_shared_folder(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> None:
    shared = tmp_path_factory.mktemp("shared")
    outcome = desk.attempt(desk.task(2), shards=str(shared))
    fetched = {path.name for path in shared.rglob("*") if path.is_file()}
    assert fetched
    assert not fetched & {artifact.sha256 for artifact in outcome.artifacts.values()}
    assert not fetched & {path.name for path in desk.cache.rglob("*") if path.is_file()}
