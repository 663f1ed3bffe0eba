import io
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.contract.events import Progress
from orchestrator.contract.formatting import format_count, format_duration
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.monitor.progress import (
    Meter,
    PlainLines,
    RunningTask,
    Snapshot,
    incomplete_cells,
    names,
    render,
    running_line,
    summary,
)
from tests.analysis.synthetic_study import SyntheticRecipe, SyntheticStage, SyntheticStudy

QUIET = Snapshot(
    total=96, done=12, skipped=3, waiting=82, failed=0, held_back=0, running=(), tokens=0, tokens_per_second=0.0, elapsed=42.0, eta=None
)  # fmt: skip
BUSY = replace(
    QUIET,
    running=(
        RunningTask("from-scratch-60M pretrain", TaskKind.TRAIN, 204_800, 524_288, "tokens", 3.1, 51_200.0),
        RunningTask("tokenizer", TaskKind.PREPARE),
    ),
    tokens=1_234_567,
    tokens_per_second=51_200.0,
    eta=200.0,
)


@pytest.mark.parametrize(
    ("snapshot", "line"),
    [
        (QUIET, "12/96 tasks done, 0 running, 82 waiting, 42 s elapsed"),
        (
            BUSY,
            "12/96 tasks done, 2 running, 82 waiting, 1.23M tokens at 51.2k/s, loss 3.100, 42 s elapsed, about 3 min 20 s left",
        ),
        (replace(QUIET, failed=1, held_back=4), "12/96 tasks done, 0 running, 82 waiting, 1 failed, 4 blocked, 42 s elapsed"),
    ],
)
def test_summary_line_has_counts_speed_loss_and_times(snapshot: Snapshot, line: str) -> None:
    assert summary(snapshot) == line


def test_progress_line_has_tokens_speed_and_loss() -> None:
    assert [running_line(task) for task in BUSY.running] == ["205k/524k tokens  51.2k/s  loss 3.100", "starting"]


def test_live_view_shows_summary_and_running_tasks() -> None:
    from rich.console import Console

    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(render(BUSY))
    shown = console.export_text()
    assert summary(BUSY) in shown
    assert all(task.label in shown and running_line(task) in shown for task in BUSY.running)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (950, "950"),
        (1000, "1k"),
        (12_345, "12.3k"),
        (999_999, "1M"),
        (4_100_000, "4.1M"),
        (2e11, "200B"),
        (1.5e12, "1.5T"),
        (2e15, "2000T"),
    ],
)
def test_counts_have_three_significant_digits(number: float, text: str) -> None:
    assert format_count(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3_599, "59 min 59 s"),
        (18_120, "5 h 02 min"),
        (270_000, "3 d 3 h"),
    ],
)
def test_durations_have_at_most_two_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_long_lists_of_names_are_truncated() -> None:
    assert names(["a", "b"], 2) == "a, b"
    assert names("abcd", 2) == "a, b and 2 more"


# --- plain lines and the meter ----------------------------------------------------------------------------------------------------------


def test_plain_lines_limit_summaries_but_not_notes() -> None:
    out, times = io.StringIO(), iter([0.0, 1.0, 9.0, 10.0, 11.0, 20.0])
    with PlainLines(out, clock=lambda: next(times), interval=10) as view:
        for _ in range(5):
            view.show(QUIET)
        view.note("done    train a")
    assert out.getvalue().splitlines() == [summary(QUIET), summary(QUIET), "done    train a"]


def measured(small_plan: Any) -> tuple[Meter, dict[str, Any]]:
    """Return a meter and three tasks of cost 100 and 512 tokens each."""
    plan = small_plan({"a": [], "b": [], "c": []})
    return Meter(0.0, 300.0), {planned.label: planned for planned in plan.tasks.values()}


def test_eta_uses_the_measured_cost_per_second(small_plan: Any) -> None:
    meter, tasks = measured(small_plan)
    assert meter.eta(5.0) is None, "nothing measured yet"
    meter.given(tasks["a"], 100.0, now=10.0)
    meter.started(tasks["a"].digest, 0)
    meter.progressed(Progress(tasks["a"].digest, 128, 512, "tokens", 3.0), now=15.0)
    assert meter.eta(20.0) == pytest.approx(275 / 25 * 10), "25 of 300 in 10 s"
    meter.progressed(Progress(tasks["a"].digest, 512, 512, "tokens", 2.0), now=30.0)
    meter.ended(tasks["a"].digest, True)
    assert meter.eta(30.0) == pytest.approx(200 / 100 * 20)
    assert meter.tokens() == 512


def test_resumed_task_counts_only_newly_trained_tokens(small_plan: Any) -> None:
    meter, tasks = measured(small_plan)
    meter.given(tasks["a"], 100.0, now=0.0)
    meter.started(tasks["a"].digest, 256)
    meter.progressed(Progress(tasks["a"].digest, 384, 512, "tokens", 3.0), now=10.0)
    assert meter.tokens() == 128
    assert meter.eta(10.0) == pytest.approx(225 / 25 * 10), "a quarter was measured, three quarters are done"


def test_task_that_was_already_done_is_not_measured(small_plan: Any) -> None:
    meter, tasks = measured(small_plan)
    meter.given(tasks["a"], 100.0, now=0.0)
    meter.ended(tasks["a"].digest, True)
    assert meter.eta(10.0) is None
    assert meter.open_cost == 200.0


def test_rate_spans_the_first_to_the_last_progress_report(small_plan: Any) -> None:
    meter, tasks = measured(small_plan)
    meter.given(tasks["a"], 100.0, now=0.0)
    meter.started(tasks["a"].digest, 0)
    for now, done in ((8.0, 128), (9.0, 256), (10.0, 384)):
        meter.progressed(Progress(tasks["a"].digest, done, 512, "tokens", 3.0), now)
    (running,) = meter.running()
    assert (running.per_second, running.loss, running.done) == (128.0, 3.0, 384)


# --- incomplete cells ------------------------------------------------------------------------------------------------


def test_incomplete_cells_name_cell_stage_and_failed_task() -> None:
    stages = (SyntheticStage("pretrain", "pretrain", 100), SyntheticStage("cooldown", "cooldown", 20, "20"))
    plan = SyntheticStudy(
        sizes=("0.03M",), code_percents=("0", "50"), seeds=(1,), suites=("bpb",), recipes=(SyntheticRecipe("r", stages),)
    ).plan()
    whole, broken = plan.cells
    trunk = broken.stages[0].trains[0]
    below = {digest for digest in plan.tasks if _needs(plan, digest, trunk)}
    assert incomplete_cells(plan, {}, ()) == []
    (line,) = incomplete_cells(plan, {trunk: "NaN in 3 steps\nof many"}, below)
    assert line.startswith(f"{broken.name}: no pretrain, cooldown; ")
    assert line.endswith(f"[{trunk[:12]}]: NaN in 3 steps")
    score = whole.stages[1].evaluations[0]
    (line,) = incomplete_cells(plan, {score.digest: "no such document"}, ())
    assert line.startswith(f"{whole.name}: no cooldown's bpb {score.source}; ")


def _needs(plan: Any, digest: str, other: str) -> bool:
    return any(need == other or _needs(plan, need, other) for need in plan.tasks[digest].needs)
