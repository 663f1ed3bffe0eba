"""Progress, metrics, checkpoints and lease of a run, also while the store fails."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest
from trainer.context import Outcome, Stopped
from trainer.training import metrics_recorder
from trainer.training import run as training_run

from orchestrator.contract.tasks import digest_of_task
from orchestrator.errors import LeaseLost, StoreUnavailable
from orchestrator.store import checkpoints, leases
from orchestrator.store.leases import Holder
from orchestrator.store.memory import Fault, InMemoryObjects, When
from tests.trainer.training.training_runs import STEP, TrainingRuns, assert_same, root


def test_progress_has_the_loss_and_is_reported_at_the_end(runs: TrainingRuns) -> None:
    task, progress = runs.task(5), list[tuple[int, int, str, float | None]]()
    lease = leases.acquire(runs.store, root(task), digest_of_task(task), Holder())
    training_run.run(replace(runs.context(task, lease), listen=lambda *event: progress.append(event)))
    assert progress[0][:3] == (STEP, 5 * STEP, "tokens")
    assert progress[-1] == (5 * STEP, 5 * STEP, "tokens", runs.losses(task)[-1])


@pytest.mark.parametrize("when", ["before", "after"])
def test_store_outage_loses_no_metrics(
    runs: TrainingRuns,
    when: When,
    uninterrupted: tuple[Outcome, list[Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each row is stored exactly once, whether the failed write had taken effect or not."""
    monkeypatch.setattr(metrics_recorder, "_FLUSH_MAX_SECONDS", 0.0)
    assert isinstance(runs.store.objects, InMemoryObjects)
    runs.store.objects.faults += [Fault("put", "*/metrics/*", when, times=3), Fault("put", "*/metrics/*", when, times=2, skip=9)]
    task = runs.task(20)
    outcome = runs.attempt(task)
    assert_same(runs, task, outcome, uninterrupted)
    assert capsys.readouterr().err.count("could not write metrics, will retry") == 2


def test_metrics_are_written_before_their_checkpoint(runs: TrainingRuns) -> None:
    assert isinstance(runs.store.objects, InMemoryObjects)
    runs.store.objects.faults.append(Fault("put", "*/metrics/*", "before", times=1000))
    with pytest.raises(StoreUnavailable):
        runs.attempt(runs.task(2))
    assert checkpoints.list_checkpoints(runs.store, root(runs.task(2))) == []


def test_overtaken_attempt_publishes_no_checkpoint(runs: TrainingRuns) -> None:
    task = runs.task(5)
    slow = leases.acquire(runs.store, root(task), digest_of_task(task), Holder(workflow_node="node(0)"))

    def overtaken() -> bool:
        if len(leases.history(runs.store, root(task))) == 1:
            leases.acquire(runs.store, root(task), digest_of_task(task), Holder(workflow_node="node(1)"))
        return False

    with pytest.raises(LeaseLost):
        training_run.run(runs.context(task, slow, overtaken))
    assert checkpoints.list_checkpoints(runs.store, root(task)) == []


def test_lease_is_renewed_after_every_fetched_shard(runs: TrainingRuns) -> None:
    """The clock advances by ten seconds per call, so that every renewal is due: fetching can take longer than a lease."""
    ticks = (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=10 * tick) for tick in count())
    slow_runs = replace(runs, store=replace(runs.store, clock=lambda: next(ticks)))
    lease = leases.acquire(slow_runs.store, root(runs.task(1)), digest_of_task(runs.task(1)), Holder())
    renewed: list[datetime] = []

    def stop() -> bool:
        renewed.append(lease.body.renewed)
        return lease.body.took_up

    task = runs.task(1)
    training_run.run(replace(slow_runs.context(task, lease), stop=stop))
    shards = 3
    assert len(set(renewed[: shards + 1])) == shards + 1
    assert leases.history(slow_runs.store, root(task))[0].checkpoint == STEP, "the lease has the checkpoint before its export is checked"


def test_stop_request_while_fetching_ends_the_attempt_before_its_first_step(runs: TrainingRuns) -> None:
    task = runs.task(2)
    lease = leases.acquire(runs.store, root(task), digest_of_task(task), Holder())
    with pytest.raises(Stopped, match="while it fetched"):
        training_run.run(replace(runs.context(task, lease), stop=lambda: True))
    assert not lease.body.took_up
