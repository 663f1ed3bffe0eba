"""Brings a trajectory to the number of tokens that a task asks for.

`attempt` calls `run` for train tasks. A step is a pure function of the state and of the step's number, so an attempt may begin at any
checkpoint of the trajectory and gives, on one CPU and with one number of threads, the same bits.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Final

import torch

from orchestrator.contract.events import Placement
from orchestrator.contract.identity import NUMERICS
from orchestrator.contract.tasks import FromInitialisation, Shape, TrainTask, Trajectory
from orchestrator.contract.vocabulary import LOSS, TaskKind
from orchestrator.errors import TaskRefused
from orchestrator.store import Store, addresses, checkpoints, leases
from orchestrator.store.checkpoints import Checkpoint
from orchestrator.store.leases import Lease
from orchestrator.store.records import read_task
from trainer.checkpoints import export
from trainer.checkpoints import state as checkpoint
from trainer.checkpoints.state import Position, State, Use
from trainer.context import STOPPED_FETCHING, Context, Outcome, Stopped
from trainer.data.sources import Fetching, Mixture, open_mixture
from trainer.model.transformer import Model, initialised
from trainer.training.journal import Curve, Unheard
from trainer.training.optimizer import adamw, moments
from trainer.training.ranks import Group, join
from trainer.training.step import DTYPES, step

_EXPORT_TOKENS: Final = 512
"""How much of a window the exported model is checked on: enough positions to tell, few enough for a CPU."""


def run(context: Context) -> Outcome:
    """Do the train task of `context`. Raises TaskRefused, Stopped, LeaseLost, and what the store raises.

    Stopped comes before the first step or after a checkpoint.
    """
    task = context.task
    assert isinstance(task, TrainTask)
    _refuse_what_no_retry_mends(task)
    with _processor(context.placement):
        group = join(context.placement)
        mixture = open_mixture(context.store, task.trajectory, context.shards, _together(group, context.stop, context.lease))
        state = _take_up(context, task, group.device)
        _refuse_foreign_ids(mixture, state.model)
        start = state.position.tokens
        context.lease.start_from(start)
        _share(group, state)
        _train(context, task, mixture, state, group)
        group.part_company()
        del state  # the check holds two more models
        final, difference = _checked_export(context, task, mixture, group.device)
    results = _results(checkpoint.position_of(final.state), difference)
    return Outcome(results, dict(final.files), start, _tokens_lost(context, start))


def follow(store: Store, digest: str, placement: Placement, shards: Path, stop: Callable[[], bool]) -> None:
    """What every rank but rank 0 does for a train task: its part of each step.

    Raises PeerLost, TaskRefused, Stopped, what the store raises.
    """
    task = read_task(store, digest)
    assert isinstance(task, TrainTask)
    with _processor(placement):
        group = join(placement)
        mixture = open_mixture(store, task.trajectory, shards, _together(group, stop))
        told: tuple[Shape, Position] = group.tell()
        shape, position = told
        model = Model(shape).to(group.device)
        state = State(model, adamw(model, task.trajectory.optimizer), position)
        _copy(group, state)
        while state.position.tokens < task.tokens:
            step(task.trajectory, mixture, state, placement.micro_batch, Unheard(), group)
            if group.any(stop()):
                break
        group.part_company()


def _together(group: Group, stop: Callable[[], bool], lease: Lease | None = None) -> Fetching:
    """Every rank goes from shard to shard with the others, so that `lease`, which rank 0 has, lives while any machine fetches."""

    def one_more() -> None:
        stopping = group.any(stop())
        if lease is not None:
            lease.renew_uncounted()
        if stopping:
            raise Stopped(STOPPED_FETCHING)

    return Fetching(one_more, follows=group.local_rank > 0)


def _share(group: Group, state: State) -> None:
    """Give the other ranks the state that they all go on from."""
    if group.world > 1:
        group.tell((state.model.shape, state.position))
        _copy(group, state)


def _copy(group: Group, state: State) -> None:
    group.copy([*state.model.parameters(), *moments(state.optimizer)])


def _refuse_what_no_retry_mends(task: TrainTask) -> None:
    trajectory = task.trajectory
    if trajectory.numerics != NUMERICS:
        raise TaskRefused(
            f"the task asks for NUMERICS {trajectory.numerics}; this trainer computes {NUMERICS}: use the image that it was planned with"
        )
    if trajectory.precision not in DTYPES:
        raise TaskRefused(f"precision {trajectory.precision!r} is unknown to this trainer; it knows {', '.join(DTYPES)}")
    if task.tokens <= 0 or task.tokens % trajectory.tokens_per_step:
        raise TaskRefused(
            f"{task.tokens} tokens are not a whole number of steps of {trajectory.tokens_per_step} tokens; plan the study again"
        )


def _refuse_foreign_ids(mixture: Mixture, model: Model) -> None:
    if mixture.vocabulary > model.shape.vocabulary:
        raise TaskRefused(
            f"the mixture's tokenizer has {mixture.vocabulary} ids and the model {model.shape.vocabulary}; "
            "give the size a vocabulary at least as large as the tokenizer's"
        )


@contextmanager
def _processor(placement: Placement) -> Iterator[None]:
    """The settings of the process that results depend on, put back afterwards: a worker does other tasks too."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(placement.threads)
    torch.set_float32_matmul_precision("highest")  # no TF32: float32 means float32
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


def _take_up(context: Context, task: TrainTask, device: torch.device) -> State:
    """The highest checkpoint of the trajectory that is not past the task's end, else its start."""
    found = checkpoints.load_latest(context.store, context.lease.work_root, task.tokens, context.cache)
    if found is None:
        return _start(context, task.trajectory, device)
    kept, files = found
    model = checkpoint.load_model(files, device)
    optimizer = adamw(model, task.trajectory.optimizer)
    checkpoint.load_optimizer(files, model, optimizer)
    return State(model, optimizer, checkpoint.position_of(kept.state))


def _start(context: Context, trajectory: Trajectory, device: torch.device) -> State:
    start = trajectory.start
    if isinstance(start, FromInitialisation):
        model = initialised(start).to(device)
        return State(model, adamw(model, trajectory.optimizer), Position())
    work_root = addresses.work_root(TaskKind.TRAIN, start.trajectory)
    _, files = checkpoints.load(
        context.store, work_root, start.tokens, context.cache, None if start.keep_optimizer else checkpoint.MODEL_FILES
    )
    model = checkpoint.load_model(files, device)
    optimizer = adamw(model, trajectory.optimizer)
    if start.keep_optimizer:
        checkpoint.load_optimizer(files, model, optimizer)
    return State(model, optimizer, Position())


def _train(context: Context, task: TrainTask, mixture: Mixture, state: State, group: Group) -> None:
    """Steps until the end, each told and kept as often as the placement asks."""
    use = Use(task.trajectory.sequence_length, mixture.end_of_text)
    curve, kept_at = Curve(context, task.tokens), monotonic()
    while state.position.tokens < task.tokens:
        step(task.trajectory, mixture, state, context.placement.micro_batch, curve, group)
        ended, stopping = state.position.tokens >= task.tokens, group.any(context.stopping())
        if ended or stopping or monotonic() - kept_at >= context.placement.checkpoint_seconds:
            curve.write()
            checkpoint.publish(context.store, context.lease, state, use, context.cache)
            context.lease.renew_uncounted()  # writing a large one took minutes, and at the end its check begins
            kept_at = monotonic()
        if stopping and not ended:
            raise Stopped(f"asked to stop; kept at {state.position.tokens} of {task.tokens} tokens")


def _checked_export(context: Context, task: TrainTask, mixture: Mixture, device: torch.device) -> tuple[Checkpoint, float]:
    """The checkpoint that is kept at the task's end, and how far transformers is from us on the first window."""
    kept, files = checkpoints.load(context.store, context.lease.work_root, task.tokens, context.cache, checkpoint.MODEL_FILES)
    window = torch.from_numpy(mixture.batch(0).ids[:1, :-1][:, :_EXPORT_TOKENS])
    return kept, export.check(files, window, device)


def _results(position: Position, difference: float) -> dict[str, float | int | str]:
    """`loss`: the mean over the last steps with a finite one, ten at most, in nats a token; none of them, and it is not there.

    `export_difference`: the largest between two logits of the first window, ours and those of transformers.
    """
    loss = {LOSS: sum(position.losses) / len(position.losses)} if position.losses else {}
    return {
        **loss,
        "tokens": position.tokens,
        "steps": position.step,
        "skipped_steps": position.skipped,
        "token_hash": position.token_hash,
        "export_difference": difference,
    }


def _tokens_lost(context: Context, start: int) -> int:
    before = [body for body in leases.history(context.store, context.lease.work_root) if body.number < context.lease.number]
    assert isinstance(context.task, TrainTask)
    return leases.tokens_lost(before, start, context.task.tokens)
