"""Attempts at a small task with scripted work, and their traces in the store."""

from collections.abc import Callable
from typing import Any

from trainer.attempt.perform import run_task
from trainer.context import Context, Outcome

from orchestrator.contract.events import Event, Placement
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.identity import NUMERICS
from orchestrator.contract.tasks import FromInitialisation, Optimizer, Schedule, Shape, TokenizerTask, Trajectory
from orchestrator.contract.tasks import digest_of_task as digest_of
from orchestrator.store import Store, addresses, artifacts, leases, records

TASK = TokenizerTask(vocabulary=300, byte_count=1000, held_out_one_in=10, sources=())
DIGEST = digest_of(TASK)
SHAPE = Shape(width=8, layers=1, heads=1, feed_forward=8, vocabulary=300, tied=True, rope_theta=10000, norm_eps="1e-5")
TRAJECTORY = Trajectory(
    start=FromInitialisation(SHAPE, 1, "0.02"),
    shares=((DIGEST, 1),),
    already_read=(),
    data_seed=1,
    sequence_length=8,
    batch=1,
    optimizer=Optimizer("0.9", "0.99", "1e-8", "0.1", "0", "1", "1e-5"),
    schedule=Schedule("constant", 8, "0.001"),
    precision="fp32",
    numerics=NUMERICS,
)


def finish(context: Context) -> Outcome:
    """Publish a tokenizer, as the work of a task that succeeds."""
    made = artifacts.write_bytes(context.store, context.lease.key("tokenizer.json"), b"{}")
    return Outcome({"vocabulary": 300}, {"tokenizer": made}, from_tokens=0, tokens_lost=7)


def failing_with(problem: BaseException) -> Callable[[Context], Outcome]:
    """Return the work of a task that raises `problem`."""

    def work(_: Context) -> Outcome:
        raise problem

    return work


def attempt(
    store: Store, placement: Placement, work: Callable[[Context], Outcome] = finish, digest: str = DIGEST, stop: bool = False
) -> tuple[ExitCode, list[Event]]:
    """Run one attempt at a task; return its exit code and events. `stop`: a stop was requested before the start."""
    events: list[Event] = []
    return run_task(store, digest, placement, events.append, lambda: stop, work), events


def history(store: Store) -> list[leases.LeaseBody]:
    """Return the leases of all attempts at `TASK`."""
    return leases.history(store, addresses.work_root("prepare", DIGEST))


def failure(store: Store, number: int) -> dict[str, Any] | None:
    """Return the failure.json of an attempt at `TASK`."""
    return records.read_failure(store, addresses.attempt_key(addresses.work_root("prepare", DIGEST), number, "failure.json"))
