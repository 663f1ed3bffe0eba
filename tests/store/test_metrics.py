"""Exactly one lineage of attempts provides the metrics of a trajectory."""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import Damaged
from orchestrator.store import Store
from orchestrator.store.addresses import checkpoint_pointer_key
from orchestrator.store.checkpoints import list_checkpoints, load_latest, publish
from orchestrator.store.leases import Holder, LeaseBody, acquire
from orchestrator.store.lineage import Segment, effective_lineage
from orchestrator.store.memory import in_memory_store
from orchestrator.store.metrics import append, series
from tests.store.samples import ROOT, T0, overwrite

STEP = 10


def rows(store: Store, at_most: int | None = None) -> list[tuple[int, float]]:
    """Return (tokens, value) of the effective rows."""
    table = series(store, ROOT, at_most)
    return list(zip(table["tokens"].to_pylist(), table["value"].to_pylist(), strict=True))


def attempt(store: Store, start: int, end: int, *checkpoints: int) -> int:
    """Train from `start` to `end`, with one row per step whose value is the attempt's number, and return that number."""
    lease = acquire(store, ROOT, "d", Holder())
    lease.start_from(start)
    steps = range(start + STEP, end + STEP, STEP)
    for half in (steps[: len(steps) // 2], steps[len(steps) // 2 :]):
        append(store, lease, [(tokens // STEP, tokens, "loss", float(lease.number)) for tokens in half])
    for tokens in checkpoints:
        publish(store, lease, tokens, {}, {})
    lease.end("stopped", 75)
    return lease.number


def expected(*parts: tuple[int, int, int]) -> list[tuple[int, float]]:
    """Return the rows of segments (attempt, after, until)."""
    return [(tokens, float(number)) for number, after, until in parts for tokens in range(after + STEP, until + STEP, STEP)]


def test_empty_store_has_an_empty_table_with_columns(store: Store) -> None:
    table = series(store, ROOT)
    assert (table.num_rows, table.column_names) == (0, ["step", "tokens", "name", "value"])


def test_rows_keep_their_writing_order(store: Store) -> None:
    lease = acquire(store, ROOT, "d", Holder())
    append(store, lease, [(1, 10, "loss", 2.5), (1, 10, "grad_norm", float("nan"))])
    append(store, lease, [])
    append(store, lease, [(2, 20, "loss", 2.25)])
    table = series(store, ROOT)
    assert table["name"].to_pylist() == ["loss", "grad_norm", "loss"]
    assert table["step"].to_pylist() == [1, 1, 2]
    assert table["value"].to_pylist()[::2] == [2.5, 2.25]


def test_row_at_zero_tokens_is_included(store: Store) -> None:
    append(store, acquire(store, ROOT, "d", Holder()), [(0, 0, "bits_per_byte", 8.0)])
    assert rows(store) == [(0, 8.0)]


def test_rows_after_the_resume_come_from_the_resumed_attempt(store: Store) -> None:
    attempt(store, 0, 100, 50)
    attempt(store, 50, 80)
    assert rows(store) == expected((1, 0, 50), (2, 50, 80))


def test_attempt_that_has_not_started_hides_no_rows(store: Store) -> None:
    attempt(store, 0, 100, 50)
    acquire(store, ROOT, "d", Holder())
    assert rows(store) == expected((1, 0, 100))


def test_resumed_attempt_without_a_step_drops_lost_rows(store: Store) -> None:
    attempt(store, 0, 100, 50)
    attempt(store, 50, 50)
    assert rows(store) == expected((1, 0, 50))


def test_shorter_horizon_does_not_truncate_a_longer_one(store: Store) -> None:
    attempt(store, 0, 100, 30, 100)
    attempt(store, 30, 60, 60)
    assert rows(store) == expected((1, 0, 100))
    assert rows(store, 60) == expected((1, 0, 30), (2, 30, 60))
    assert rows(store, 80) == expected((1, 0, 80))


def test_longer_horizon_continues_the_shorter_one(store: Store) -> None:
    attempt(store, 0, 100, 100)
    attempt(store, 100, 200, 200)
    assert rows(store) == expected((1, 0, 100), (2, 100, 200))
    assert rows(store, 100) == expected((1, 0, 100))


def test_lineage_resumes_below_a_damaged_checkpoint(store: Store, cache: Path) -> None:
    attempt(store, 0, 100, 40, 80)
    overwrite(store, checkpoint_pointer_key(ROOT, 80), "cut")
    found = load_latest(store, ROOT, 200, cache)
    assert found is not None
    attempt(store, found[0].tokens, 60)
    assert rows(store) == expected((1, 0, 40), (2, 40, 60))


def test_attempt_that_wrote_its_own_start_makes_no_cycle() -> None:
    """As if a checkpoint was unreadable on resume, was quarantined, and was written again."""
    assert effective_lineage([_lease(1, 50, None)], {50: 1}, None) == [Segment(1, 50, None)]


@pytest.mark.parametrize("change", ["flip", "cut", "empty"])
def test_damaged_table_is_reported(store: Store, change: str) -> None:
    attempt(store, 0, 1000)
    overwrite(store, next(stat.key for stat in store.objects.list(f"{ROOT}/attempts/000001/metrics")), change)
    with pytest.raises(Damaged, match=r"/00000[12]-[0-9a-f]+\.parquet is truncated or has changed since it was written.*verify --repair"):
        rows(store)


@dataclass
class Trajectory:
    """The true history: for each published checkpoint, the lineage of attempts that led to it."""

    pointers: dict[int, int] = field(default_factory=dict)
    lines: dict[int, dict[int, int]] = field(default_factory=dict)
    leases: list[LeaseBody] = field(default_factory=list)
    last_line: dict[int, int] = field(default_factory=dict)
    wrote: dict[int, list[int]] = field(default_factory=dict)

    def run(self, horizon: int, dies_after: int, checkpoint_every: int, damaged: int) -> None:
        """Run one attempt: resume from the highest intact checkpoint below the horizon, then train until death or the horizon."""
        for tokens in sorted((tokens for tokens in self.pointers if tokens <= horizon), reverse=True)[:damaged]:
            del self.pointers[tokens], self.lines[tokens]
        start = max((tokens for tokens in self.pointers if tokens <= horizon), default=0)
        number = len(self.leases) + 1
        self.leases.append(_lease(number, start, self.pointers.get(start)))
        self.last_line = dict(self.lines.get(start, {}))
        end = min(horizon, start + dies_after * STEP)
        self.wrote[number] = list(range(start + STEP, end + STEP, STEP))
        for tokens in self.wrote[number]:
            self.last_line[tokens] = number
            if (tokens // STEP) % checkpoint_every == 0 or tokens == horizon:
                if tokens not in self.pointers:
                    self.lines[tokens] = dict(self.last_line)
                self.pointers.setdefault(tokens, number)

    def resolved(self, at_most: int | None) -> list[tuple[int, int]]:
        """Return (tokens, attempt) of the effective rows, by the code under test."""
        segments = effective_lineage(self.leases, self.pointers, at_most)
        return [(tokens, segment.attempt) for segment in segments for tokens in self.wrote[segment.attempt] if _inside(segment, tokens)]


def _inside(segment: Segment, tokens: int) -> bool:
    return tokens > segment.after and (segment.until is None or tokens <= segment.until)


def _lease(number: int, start: int, source: int | None) -> LeaseBody:
    return LeaseBody(
        number=number, digest="d", study="", run_number=1, workflow_node="", host="", boot="", pid=1, pid_started=1, gpus=0,
        lease_seconds=600, start=T0, renewed=T0, from_tokens=start, from_attempt=source, took_up=True, nonce="",
    )  # fmt: skip


ATTEMPTS = st.lists(
    st.fixed_dictionaries({
        "horizon": st.integers(1, 30).map(lambda steps: steps * STEP),
        "dies_after": st.integers(0, 30),
        "checkpoint_every": st.integers(1, 9),
        "damaged": st.sampled_from([0, 0, 0, 1, 2]),
    }),
    min_size=1, max_size=12,
)  # fmt: skip


@given(ATTEMPTS)
def test_lineage_of_a_checkpoint_is_the_true_one(attempts: list[dict[str, Any]]) -> None:
    trajectory = Trajectory()
    for one in attempts:
        trajectory.run(**one)
        for tokens, led_here in trajectory.lines.items():
            assert trajectory.resolved(tokens) == sorted(led_here.items())


@given(ATTEMPTS, st.none() | st.integers(1, 30).map(lambda steps: steps * STEP))
def test_lineage_has_every_step_once_in_order(attempts: list[dict[str, Any]], at_most: int | None) -> None:
    trajectory = Trajectory()
    for one in attempts:
        trajectory.run(**one)
    tokens = [tokens for tokens, _ in trajectory.resolved(at_most)]
    assert tokens == list(range(STEP, len(tokens) * STEP + STEP, STEP))
    assert at_most is None or all(step <= at_most for step in tokens)


@given(ATTEMPTS)
def test_full_lineage_ends_with_the_latest_attempt(attempts: list[dict[str, Any]]) -> None:
    trajectory = Trajectory()
    for one in attempts:
        trajectory.run(**one)
    highest = max(trajectory.pointers, default=0)
    resolved = trajectory.resolved(None)
    assert resolved[: highest // STEP] == sorted(trajectory.lines.get(highest, {}).items())
    if trajectory.leases[-1].from_tokens >= highest:
        assert resolved == sorted(trajectory.last_line.items())


def test_random_history_gives_the_same_series_through_the_store() -> None:
    """The model above and the tables agree, with real leases, pointers and Parquet."""
    draw = random.Random(7)
    store, trajectory = in_memory_store(), Trajectory()
    for _ in range(12):
        horizon = draw.randint(1, 30) * STEP
        trajectory.run(horizon, draw.randint(0, 12), draw.randint(2, 5), 0)
        number = len(trajectory.leases)
        new = [tokens for tokens, source in trajectory.pointers.items() if source == number]
        start, end = trajectory.leases[-1].from_tokens, max(trajectory.wrote[number], default=trajectory.leases[-1].from_tokens)
        assert attempt(store, start, end, *new) == number
        for at_most in (None, horizon, *list_checkpoints(store, ROOT)):
            assert rows(store, at_most) == [(tokens, float(source)) for tokens, source in trajectory.resolved(at_most)]
