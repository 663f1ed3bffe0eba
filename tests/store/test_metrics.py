"""Of all attempts, one line of metrics counts, whatever happened to them."""

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
from orchestrator.store.checkpoints import kept, latest, publish
from orchestrator.store.leases import Holder, LeaseBody, take
from orchestrator.store.lineage import Piece, line_that_counts
from orchestrator.store.memory import in_memory_store
from orchestrator.store.metrics import append, series
from tests.store.samples import ROOT, T0, overwrite

STEP = 10


def rows(store: Store, at_most: int | None = None) -> list[tuple[int, float]]:
    """(tokens, value) of the line that counts."""
    table = series(store, ROOT, at_most)
    return list(zip(table["tokens"].to_pylist(), table["value"].to_pylist(), strict=True))


def attempt(store: Store, start: int, end: int, *checkpoints: int) -> int:
    """Train from `start` to `end`, a row a step whose value is the attempt's number; its number."""
    lease = take(store, ROOT, "d", Holder())
    lease.start_from(start)
    steps = range(start + STEP, end + STEP, STEP)
    for half in (steps[: len(steps) // 2], steps[len(steps) // 2 :]):
        append(store, lease, [(tokens // STEP, tokens, "loss", float(lease.number)) for tokens in half])
    for tokens in checkpoints:
        publish(store, lease, tokens, {}, {})
    lease.end("stopped", 75)
    return lease.number


def line(*parts: tuple[int, int, int]) -> list[tuple[int, float]]:
    """Rows of parts (attempt, after, until)."""
    return [(tokens, float(number)) for number, after, until in parts for tokens in range(after + STEP, until + STEP, STEP)]


def test_nothing_gives_an_empty_table_with_columns(store: Store) -> None:
    table = series(store, ROOT)
    assert (table.num_rows, table.column_names) == (0, ["step", "tokens", "name", "value"])


def test_rows_come_back_in_the_order_they_were_written(store: Store) -> None:
    lease = take(store, ROOT, "d", Holder())
    append(store, lease, [(1, 10, "loss", 2.5), (1, 10, "grad_norm", float("nan"))])
    append(store, lease, [])
    append(store, lease, [(2, 20, "loss", 2.25)])
    table = series(store, ROOT)
    assert table["name"].to_pylist() == ["loss", "grad_norm", "loss"]
    assert table["step"].to_pylist() == [1, 1, 2]
    assert table["value"].to_pylist()[::2] == [2.5, 2.25]


def test_a_row_at_no_tokens_counts_too(store: Store) -> None:
    append(store, take(store, ROOT, "d", Holder()), [(0, 0, "bits_per_byte", 8.0)])
    assert rows(store) == [(0, 8.0)]


def test_what_lies_after_the_take_up_belongs_to_the_attempt_that_went_on(store: Store) -> None:
    attempt(store, 0, 100, 50)
    attempt(store, 50, 80)
    assert rows(store) == line((1, 0, 50), (2, 50, 80))


def test_an_attempt_that_has_not_started_yet_hides_nothing(store: Store) -> None:
    attempt(store, 0, 100, 50)
    take(store, ROOT, "d", Holder())
    assert rows(store) == line((1, 0, 100))


def test_an_attempt_that_took_up_without_a_step_cuts_what_was_lost(store: Store) -> None:
    attempt(store, 0, 100, 50)
    attempt(store, 50, 50)
    assert rows(store) == line((1, 0, 50))


def test_a_run_to_a_shorter_horizon_does_not_cut_the_longer_one(store: Store) -> None:
    attempt(store, 0, 100, 30, 100)
    attempt(store, 30, 60, 60)
    assert rows(store) == line((1, 0, 100))
    assert rows(store, 60) == line((1, 0, 30), (2, 30, 60))
    assert rows(store, 80) == line((1, 0, 80))


def test_a_longer_horizon_goes_on_where_the_shorter_ended(store: Store) -> None:
    attempt(store, 0, 100, 100)
    attempt(store, 100, 200, 200)
    assert rows(store) == line((1, 0, 100), (2, 100, 200))
    assert rows(store, 100) == line((1, 0, 100))


def test_a_damaged_checkpoint_sends_the_line_back_to_the_one_below(store: Store, cache: Path) -> None:
    attempt(store, 0, 100, 40, 80)
    overwrite(store, checkpoint_pointer_key(ROOT, 80), "cut")
    found = latest(store, ROOT, 200, cache)
    assert found is not None
    attempt(store, found[0].tokens, 60)
    assert rows(store) == line((1, 0, 40), (2, 40, 60))


def test_an_attempt_whose_start_it_wrote_itself_does_not_lead_in_circles() -> None:
    """As after a checkpoint that could not be read at the take-up, was moved aside, and was written again."""
    assert line_that_counts([_lease(1, 50, None)], {50: 1}, None) == [Piece(1, 50, None)]


@pytest.mark.parametrize("change", ["flip", "cut", "empty"])
def test_a_damaged_table_is_told(store: Store, change: str) -> None:
    attempt(store, 0, 1000)
    overwrite(store, next(stat.key for stat in store.objects.list(f"{ROOT}/attempts/000001/metrics")), change)
    with pytest.raises(Damaged, match=r"/00000[12]-[0-9a-f]+\.parquet is cut or has changed since it was written.*verify --repair"):
        rows(store)


@dataclass
class Trajectory:
    """What really happened, told by one who saw it: for each kept checkpoint, the line of attempts that led to it."""

    pointers: dict[int, int] = field(default_factory=dict)
    lines: dict[int, dict[int, int]] = field(default_factory=dict)
    leases: list[LeaseBody] = field(default_factory=list)
    last_line: dict[int, int] = field(default_factory=dict)
    wrote: dict[int, list[int]] = field(default_factory=dict)

    def run(self, horizon: int, dies_after: int, checkpoint_every: int, damaged: int) -> None:
        """One attempt: takes up the highest checkpoint below the horizon that loads, trains, dies or reaches the horizon."""
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
        """(tokens, attempt) of the rows that count, by the code under test."""
        pieces = line_that_counts(self.leases, self.pointers, at_most)
        return [(tokens, piece.attempt) for piece in pieces for tokens in self.wrote[piece.attempt] if _inside(piece, tokens)]


def _inside(piece: Piece, tokens: int) -> bool:
    return tokens > piece.after and (piece.until is None or tokens <= piece.until)


def _lease(number: int, start: int, behind: int | None) -> LeaseBody:
    return LeaseBody(
        number=number, digest="d", study="", run_number=1, workflow_node="", host="", boot="", pid=1, pid_started=1, gpus=0,
        lease_seconds=600, start=T0, renewed=T0, from_tokens=start, from_attempt=behind, took_up=True, nonce="",
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
def test_the_line_to_a_kept_state_is_the_one_that_led_to_it(attempts: list[dict[str, Any]]) -> None:
    trajectory = Trajectory()
    for one in attempts:
        trajectory.run(**one)
        for tokens, led_here in trajectory.lines.items():
            assert trajectory.resolved(tokens) == sorted(led_here.items())


@given(ATTEMPTS, st.none() | st.integers(1, 30).map(lambda steps: steps * STEP))
def test_a_line_has_every_step_once_and_in_order(attempts: list[dict[str, Any]], at_most: int | None) -> None:
    trajectory = Trajectory()
    for one in attempts:
        trajectory.run(**one)
    tokens = [tokens for tokens, _ in trajectory.resolved(at_most)]
    assert tokens == list(range(STEP, len(tokens) * STEP + STEP, STEP))
    assert at_most is None or all(step <= at_most for step in tokens)


@given(ATTEMPTS)
def test_the_whole_line_reaches_the_highest_kept_state_and_beyond_it_the_latest_attempt(attempts: list[dict[str, Any]]) -> None:
    trajectory = Trajectory()
    for one in attempts:
        trajectory.run(**one)
    highest = max(trajectory.pointers, default=0)
    resolved = trajectory.resolved(None)
    assert resolved[: highest // STEP] == sorted(trajectory.lines.get(highest, {}).items())
    if trajectory.leases[-1].from_tokens >= highest:
        assert resolved == sorted(trajectory.last_line.items())


def test_a_random_life_gives_the_same_line_through_the_store() -> None:
    """The pure model above and the tables agree, through real leases, pointers and Parquet."""
    draw = random.Random(7)
    store, trajectory = in_memory_store(), Trajectory()
    for _ in range(12):
        horizon = draw.randint(1, 30) * STEP
        trajectory.run(horizon, draw.randint(0, 12), draw.randint(2, 5), 0)
        number = len(trajectory.leases)
        new = [tokens for tokens, behind in trajectory.pointers.items() if behind == number]
        start, end = trajectory.leases[-1].from_tokens, max(trajectory.wrote[number], default=trajectory.leases[-1].from_tokens)
        assert attempt(store, start, end, *new) == number
        for at_most in (None, horizon, *kept(store, ROOT)):
            assert rows(store, at_most) == [(tokens, float(behind)) for tokens, behind in trajectory.resolved(at_most)]
