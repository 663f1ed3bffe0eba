"""Local runs: the schedule as tables and by random exit codes, and whole runs with a fake worker."""

import io
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.contract.events import Placement
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.plan import Plan
from orchestrator.errors import PlanRefused, ScalingStudyError
from orchestrator.local import RunResult, StopRequest, in_order, run_plan, wanted_tasks
from orchestrator.local.schedule import MAX_BACKOFF, MAX_UNRECORDED_FAILURES, Outcome, Schedule, State
from orchestrator.local.workers import MAX_STARTUP_FAILURES, share_gpus
from orchestrator.monitor.progress import PLAIN_INTERVAL, PlainLines, Snapshot
from orchestrator.store import open_store

CHAIN: dict[str, list[str]] = {"p": [], "a": ["p"], "b": ["a"], "c": ["b"]}


def digest(plan: Plan, label: str) -> str:
    return next(planned.digest for planned in plan.tasks.values() if planned.label == label)


def labels(plan: Plan, digests: Sequence[str]) -> list[str]:
    return [plan.tasks[each].label for each in digests]


def run(fake_trainer: Any, plan: Plan, workers: int = 2, **more: Any) -> tuple[RunResult, str]:
    out = io.StringIO()
    store = open_store(str(fake_trainer.folder))
    more = {"command": fake_trainer.command, "listener": PlainLines(out, interval=3600), "logs": fake_trainer.folder / "logs", **more}
    return run_plan(store, plan, Placement(study="small"), workers=workers, **more), out.getvalue()


# --- schedule


def test_prepare_comes_first_then_the_longest_remaining_path(small_plan: Any) -> None:
    plan = small_plan({"short:512": [], "long:512": [], "tail:4096": ["long:512"], "p1": [], "p2": ["p1"]})
    assert [planned.label for planned in in_order(plan, plan.tasks, ())] == ["p1", "p2", "long:512", "tail:4096", "short:512"]


def test_done_tasks_are_skipped_and_counted(small_plan: Any) -> None:
    plan = small_plan(CHAIN)
    schedule = Schedule(plan, plan.tasks, {digest(plan, "p"), digest(plan, "a"), "of another study"})
    assert schedule.skipped == 2
    assert [planned.label for planned in in_order(plan, plan.tasks, {digest(plan, "p"), digest(plan, "a")})] == ["b", "c"]


def test_two_tasks_with_the_same_work_never_run_at_once(small_plan: Any) -> None:
    plan = small_plan({"a": [], "b": [], "c": []}, works={"a": "trajectory", "b": "trajectory"})
    schedule = Schedule(plan, plan.tasks, ())
    running = [schedule.next(0.0), schedule.next(0.0), schedule.next(0.0)]
    first, second = (planned for planned in running if planned is not None)
    assert running[2] is None
    assert {first.work, second.work} == {"trajectory", digest(plan, "c")}
    of_the_trajectory = first if first.work == "trajectory" else second
    schedule.ended(of_the_trajectory.digest, ExitCode.DONE, 0.0)
    other = schedule.next(0.0)
    assert other is not None
    assert other.work == "trajectory"


@pytest.mark.parametrize(
    ("code", "outcome", "state", "delays"),
    [
        (0, Outcome.DONE, State.DONE, [0]),
        (69, Outcome.HELD, State.WAITING, [2, 4, 8, 16, 30, 30]),
        (75, Outcome.STOPPED, State.WAITING, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (78, Outcome.FAILED, State.FAILED, [0]),
        (1, Outcome.AGAIN, State.WAITING, [1, 2, 4, 8, 16, 32, MAX_BACKOFF]),
        (137, Outcome.AGAIN, State.WAITING, [1, 2, 4]),
        (143, Outcome.AGAIN, State.WAITING, [1, 2, 4]),
    ],
)
def test_exit_code_determines_outcome(small_plan: Any, code: int, outcome: Outcome, state: State, delays: list[float]) -> None:
    plan = small_plan({"a": []})
    schedule = Schedule(plan, plan.tasks, ())
    now = 100.0
    for delay in delays:
        planned = schedule.next(now)
        assert planned is not None
        ended = schedule.ended(planned.digest, code, now)
        assert (ended.outcome, ended.delay, schedule.state[planned.digest]) == (outcome, delay, state)
        assert delay == 0 or schedule.next(now + delay - 0.01) is None, "the task is retried before its delay has passed"
        now += delay


def test_unrecorded_failures_are_limited_unless_checkpoints_advance(small_plan: Any) -> None:
    plan = small_plan({"a": []})
    task = digest(plan, "a")

    def outcomes(reached: Sequence[int]) -> list[Outcome]:
        schedule, now, seen = Schedule(plan, plan.tasks, ()), 0.0, []
        for tokens in reached:
            now += MAX_BACKOFF
            assert schedule.next(now) is not None
            schedule.started(task, tokens)
            seen.append(schedule.ended(task, 137, now).outcome)
        return seen

    assert outcomes([0] * MAX_UNRECORDED_FAILURES) == [Outcome.AGAIN] * (MAX_UNRECORDED_FAILURES - 1) + [Outcome.FAILED]
    assert set(outcomes(range(128, 128 * 30, 128))) == {Outcome.AGAIN}


def test_failed_task_holds_back_only_its_dependents(small_plan: Any) -> None:
    plan = small_plan({"p": [], "a": ["p"], "b": ["p"], "a2": ["a"], "a3": ["a2", "b"], "b2": ["b"]})
    schedule = Schedule(plan, plan.tasks, ())
    while (planned := schedule.next(0.0)) is not None:
        schedule.ended(planned.digest, ExitCode.REFUSED if planned.label == "a" else ExitCode.DONE, 0.0)
    assert schedule.is_over()
    assert labels(plan, schedule.failed()) == ["a"]
    assert sorted(labels(plan, sorted(schedule.held_back()))) == ["a2", "a3"]


def test_only_selects_the_named_cells_and_the_tasks_they_need(small_plan: Any) -> None:
    cells = {"r-60M-c0-s1": ["b"], "r-60M-c50-s1": ["c"], "r-150M-c0-s1": ["d"]}
    plan = small_plan({"p": [], "a": ["p"], "b": ["a"], "c": ["a"], "d": ["p"]}, cells=cells)
    for only, expected in [
        ([], "pabcd"),
        (["r-60M-c0-s1"], "pab"),
        (["r-60M-*"], "pabc"),
        (["r-150M-c0-s1", "r-60M-c50-s1"], "pacd"),
    ]:
        assert set(labels(plan, sorted(wanted_tasks(plan, only)))) == set(expected)
    with pytest.raises(PlanRefused, match=r"--only r-60M-c5-s1: no cell of small matches\. Similar names: r-60M-c50-s1"):
        wanted_tasks(plan, ["r-60M-c5-s1"])


graphs = st.integers(1, 9).flatmap(
    lambda n: st.tuples(*[st.sets(st.integers(0, number - 1), max_size=3) if number else st.just(set()) for number in range(n)])
)


@given(graphs, st.data())
def test_every_task_ends_done_failed_or_held_back(small_plan: Any, needs: tuple[set[int], ...], data: st.DataObject) -> None:
    plan = small_plan({f"t{number}": [f"t{need}" for need in of_it] for number, of_it in enumerate(needs)})
    schedule, now = Schedule(plan, plan.tasks, ()), 0.0
    running: list[str] = []
    finished: set[str] = set()
    while not schedule.is_over():
        while len(running) < 2 and (planned := schedule.next(now)) is not None:
            assert set(planned.needs) <= finished, "a task starts after all it needs"
            running.append(planned.digest)
        if not running:
            due = schedule.due()
            assert due is not None, "the schedule is stuck: not over, but no task is running or delayed"
            now = due
            continue
        ended = running.pop(data.draw(st.integers(0, len(running) - 1)))
        code = data.draw(st.sampled_from([0, 0, 1, 69, 75, 78, 137]))
        schedule.ended(ended, code, now)
        if code == 0:
            finished.add(ended)
        now += 1
    failed, held_back = set(schedule.failed()), schedule.held_back()
    assert finished | failed | held_back == set(plan.tasks)
    assert not finished & (failed | held_back)
    assert all(set(plan.tasks[each].needs) & (failed | held_back) for each in held_back)


# --- runs with a fake worker


def test_each_task_runs_once_after_the_tasks_it_needs(small_plan: Any, fake_trainer: Any) -> None:
    plan = small_plan({"p": [], "a": ["p"], "b": ["p"], "c": ["a", "b"]})
    result, output = run(fake_trainer, plan)
    assert result.is_complete
    assert result.done == set(plan.tasks)
    started = labels(plan, fake_trainer.started())
    assert sorted(started) == ["a", "b", "c", "p"]
    assert (started[0], started[-1]) == ("p", "c")
    assert output.count("done ") == 4


def test_workers_are_reused_and_started_on_demand(small_plan: Any, fake_trainer: Any) -> None:
    result, _ = run(fake_trainer, small_plan(CHAIN), workers=5)
    assert result.is_complete
    assert len({pid for _, _, pid in fake_trainer.seen()}) == 1, "a chain needs only one worker"


def test_run_again_skips_what_is_done(small_plan: Any, fake_trainer: Any) -> None:
    plan = small_plan(CHAIN)
    fake_trainer.script({digest(plan, "b"): [{"code": 78, "message": "bad hash"}]})
    first, output = run(fake_trainer, plan)
    assert (labels(plan, list(first.failed)), labels(plan, list(first.held_back))) == (["b"], ["c"])
    assert first.failed[digest(plan, "b")] == "bad hash"
    assert not first.is_complete
    assert "permanently: bad hash" in output
    second, _ = run(fake_trainer, plan)
    assert second.is_complete
    assert (second.skipped, labels(plan, fake_trainer.started()[3:])) == (2, ["b", "c"])


def test_killed_worker_is_replaced_and_its_task_retried(small_plan: Any, fake_trainer: Any) -> None:
    plan = small_plan(CHAIN)
    fake_trainer.script({digest(plan, "a"): [{"kill": True}]})
    result, output = run(fake_trainer, plan)
    assert result.is_complete
    assert labels(plan, fake_trainer.started()) == ["p", "a", "a", "b", "c"]
    assert len({pid for _, _, pid in fake_trainer.seen()}) == 2
    assert "its worker died with exit code 137" in output
    assert "about to be killed" in output, "the end of its log is quoted"


@pytest.mark.parametrize("code", [1, 69, 75])
def test_retryable_exit_codes_are_retried(small_plan: Any, fake_trainer: Any, code: int) -> None:
    plan = small_plan({"a": []})
    fake_trainer.script({digest(plan, "a"): [{"code": code, "message": "worker 9 holds the lease"}]})
    result, _ = run(fake_trainer, plan)
    assert result.is_complete
    assert len(fake_trainer.started()) == 2


def test_quarantined_input_is_produced_again_before_its_reader_is_retried(small_plan: Any, fake_trainer: Any) -> None:
    plan = small_plan({"p": [], "a": ["p"]})
    fake_trainer.script({digest(plan, "a"): [{"delete_markers": [digest(plan, "p")], "code": 1, "message": "shard 3 is damaged"}]})
    result, output = run(fake_trainer, plan)
    assert result.is_complete
    assert labels(plan, fake_trainer.started()) == ["p", "a", "p", "a"]
    assert "is no longer in the store and is run again" in output


def test_exception_of_prepared_ends_the_run(small_plan: Any, fake_trainer: Any) -> None:
    plan = small_plan({"p": [], "a": ["p"]})

    def refuse() -> None:
        raise PlanRefused("source web would be read 7 times")

    with pytest.raises(PlanRefused, match="7 times"):
        run(fake_trainer, plan, prepared=refuse)
    assert labels(plan, fake_trainer.started()) == ["p"]


class StopsWhenRunning(PlainLines):
    """Requests a stop `times` times once `tasks` tasks are running."""

    def __init__(self, stop: StopRequest, tasks: int, times: int) -> None:
        super().__init__(io.StringIO(), interval=3600)
        self.stop, self.tasks, self.times = stop, tasks, times

    def show(self, snapshot: Snapshot) -> None:
        if self.stop.times < self.times and sum(task.total > 0 for task in snapshot.running) >= self.tasks:
            self.stop.ask()


def test_first_stop_request_checkpoints_and_the_run_can_be_resumed(small_plan: Any, fake_trainer: Any) -> None:
    plan = small_plan({"a": [], "b": [], "c": ["a", "b"]})
    fake_trainer.script({digest(plan, name): [{"steps": 1, "wait": True}] for name in "ab"})
    stop = StopRequest()
    result, _ = run(fake_trainer, plan, stop=stop, listener=StopsWhenRunning(stop, tasks=2, times=1))
    assert (result.was_stopped, result.done, result.failed) == (True, frozenset(), {})
    assert [what for what, _, _ in fake_trainer.seen()] == ["start", "start", "end", "end"], "both ended, no other task started"
    again, _ = run(fake_trainer, plan)
    assert again.is_complete


class SlowClock(PlainLines):
    """Plain lines whose clock advances by half an interval per snapshot. Requests a stop after `lines` summaries."""

    def __init__(self, stop: StopRequest, lines: int) -> None:
        self.out, self.now = io.StringIO(), 0.0
        super().__init__(self.out, clock=self.clock)
        self.stop, self.lines = stop, lines

    def clock(self) -> float:
        return self.now

    def summaries(self) -> list[str]:
        return [line for line in self.out.getvalue().splitlines() if "tasks done" in line]

    def show(self, snapshot: Snapshot) -> None:
        if snapshot.running and snapshot.running[0].total and not self.stop.times:
            self.now += PLAIN_INTERVAL / 2
            super().show(snapshot)
            if len(self.summaries()) == self.lines:
                self.stop.ask()


def test_plain_output_has_a_summary_per_interval_while_no_task_ends(small_plan: Any, fake_trainer: Any) -> None:
    plan = small_plan({"a": []})
    fake_trainer.script({digest(plan, "a"): [{"steps": 2, "wait": True}]})
    stop = StopRequest()
    with SlowClock(stop, lines=2) as view:
        result, _ = run(fake_trainer, plan, stop=stop, listener=view, clock=view.clock)
    assert result.was_stopped
    assert len(view.summaries()) == 2
    assert all(line.startswith("0/1 tasks done, 1 running") for line in view.summaries())
    assert view.now == 2 * PLAIN_INTERVAL, "one summary per interval"
    assert "left" in view.summaries()[-1], "the ETA is shown once progress was measured"


def test_second_stop_request_kills_the_workers(small_plan: Any, fake_trainer: Any) -> None:
    plan = small_plan({"a": []})
    fake_trainer.script({digest(plan, "a"): [{"steps": 1, "ignore_stop": True}]})
    stop = StopRequest()
    result, _ = run(fake_trainer, plan, stop=stop, listener=StopsWhenRunning(stop, tasks=1, times=2))
    assert result.was_stopped
    assert [what for what, _, _ in fake_trainer.seen()] == ["start"]


def test_run_fails_with_the_log_of_workers_that_cannot_start(small_plan: Any, fake_trainer: Any) -> None:
    broken = ["python3", "-c", "raise SystemExit('no module named trainer')"]
    with pytest.raises(ScalingStudyError, match="no module named trainer") as problem:
        run(fake_trainer, small_plan(CHAIN), command=broken)
    assert f"{MAX_STARTUP_FAILURES} consecutive workers" in str(problem.value)


def test_unexpected_output_of_a_worker_is_shown(small_plan: Any, fake_trainer: Any) -> None:
    plan = small_plan({"a": []})
    fake_trainer.script({digest(plan, "a"): [{"print": "downloading weights"}]})
    result, output = run(fake_trainer, plan)
    assert result.is_complete
    assert "worker 1: downloading weights" in output


def test_no_thread_or_process_outlives_a_run(small_plan: Any, fake_trainer: Any) -> None:
    result, _ = run(fake_trainer, small_plan(CHAIN))
    assert result.is_complete
    for thread in threading.enumerate():
        if thread.name.startswith("worker-"):
            thread.join(timeout=60)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("worker-")]


def test_worker_environment_limits_threads(small_plan: Any, fake_trainer: Any, tmp_path: Path) -> None:
    plan = small_plan({"a": []})
    wrapper = tmp_path / "worker.sh"
    wrapper.write_text(f"#!/bin/sh\nenv > {tmp_path}/env\nexec {' '.join(fake_trainer.command)}\n")
    wrapper.chmod(0o755)
    run(fake_trainer, plan, command=[str(wrapper)])
    given: Mapping[str, str] = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines() if "=" in line)
    assert (given["OMP_NUM_THREADS"], given["TOKENIZERS_PARALLELISM"]) == ("1", "true")
    assert json.loads(given["RAYON_NUM_THREADS"]) >= 1


def test_each_worker_has_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2,GPU-5ac")
    assert share_gpus(1, 0) == [("0",), ("2",), ("GPU-5ac",)]
    assert share_gpus(1, 2) == [("0",), ("2",)]
    with pytest.raises(PlanRefused, match="4 workers with one GPU each need 4 GPUs; 3 are visible"):
        share_gpus(1, 4)
    with pytest.raises(PlanRefused, match="Use --gpus 1"):
        share_gpus(2, 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(PlanRefused, match="0 are visible"):
        share_gpus(1, 0)


def test_replacement_worker_gets_the_gpu_of_the_killed_one(small_plan: Any, fake_trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    plan = small_plan({"a": [], "b": [], "c": ["a", "b"]})
    fake_trainer.script({digest(plan, "a"): [{"kill": True}]})
    wrapper = fake_trainer.folder / "worker.sh"
    wrapper.write_text(f'#!/bin/sh\necho "$CUDA_VISIBLE_DEVICES" >> {fake_trainer.folder}/gpus\nexec {" ".join(fake_trainer.command)}\n')
    wrapper.chmod(0o755)
    store, out, logs = open_store(str(fake_trainer.folder)), io.StringIO(), fake_trainer.folder / "logs"
    result = run_plan(store, plan, Placement(gpus=1), workers=0, listener=PlainLines(out), logs=logs, command=[str(wrapper)])
    assert result.is_complete
    assert set((fake_trainer.folder / "gpus").read_text().split()) <= {"0", "1"}
