"""Train a trajectory up to the number of tokens of a task.

`attempt` calls `run` for train tasks. A step is a pure function of the state and the step's number, so an attempt may start from any
checkpoint of the trajectory. On the same CPU with the same number of threads, the results are bit-identical.
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
from trainer.checkpoints.state import MODEL_FILES, ExportSettings, Position, State, load_model, load_optimizer, position_of, publish
from trainer.context import STOPPED_FETCHING, Context, Outcome, Stopped
from trainer.data.sources import Fetching, Mixture, open_mixture
from trainer.model.transformer import Model, initialised
from trainer.training.metrics_recorder import MetricsRecorder, NullRecorder
from trainer.training.optimizer import adamw, moments
from trainer.training.ranks import Group, join
from trainer.training.step import DTYPES, step

_EXPORT_TOKENS: Final = 512
"""Tokens of a window on which the exported model is checked: enough to detect differences, few enough for a CPU."""


def run(context: Context) -> Outcome:
    """Perform the train task of `context` and return its outcome. Raises TaskRefused, Stopped, LeaseLost, StoreError.

    Stopped is raised only before the first step or after a checkpoint.
    """
    task = context.task
    assert isinstance(task, TrainTask)
    _validate(task)
    with _processor(context.placement):
        group = join(context.placement)
        mixture = open_mixture(context.store, task.trajectory, context.shards, _fetching(group, context.stop, context.lease))
        state = _resume(context, task, group.device)
        _validate_vocabulary(mixture, state.model)
        start = state.position.tokens
        context.lease.start_from(start)
        _broadcast_state(group, state)
        _train(context, task, mixture, state, group)
        group.leave()
        del state  # frees memory: the check loads two more models
        final, difference = _check_export(context, task, mixture, group.device)
    results = _results(position_of(final.state), difference)
    return Outcome(results, dict(final.files), start, _tokens_lost(context, start))


def follow(store: Store, digest: str, placement: Placement, shards: Path, stop: Callable[[], bool]) -> None:
    """Run a rank other than rank 0 of a train task: process its part of each step.

    Raises PeerLost, TaskRefused, Stopped, StoreError.
    """
    task = read_task(store, digest)
    assert isinstance(task, TrainTask)
    with _processor(placement):
        group = join(placement)
        mixture = open_mixture(store, task.trajectory, shards, _fetching(group, stop))
        received: tuple[Shape, Position] = group.broadcast_object()
        shape, position = received
        model = Model(shape).to(group.device)
        state = State(model, adamw(model, task.trajectory.optimizer), position)
        _broadcast_tensors(group, state)
        while state.position.tokens < task.tokens:
            step(task.trajectory, mixture, state, placement.micro_batch, NullRecorder(), group)
            if group.any(stop()):
                break
        group.leave()


def _fetching(group: Group, stop: Callable[[], bool], lease: Lease | None = None) -> Fetching:
    """Return callbacks that synchronise all ranks after each shard, so that rank 0 renews `lease` while any node fetches."""

    def on_shard() -> None:
        stopping = group.any(stop())
        if lease is not None:
            lease.renew_uncounted()
        if stopping:
            raise Stopped(STOPPED_FETCHING)

    return Fetching(on_shard, follows=group.local_rank > 0)


def _broadcast_state(group: Group, state: State) -> None:
    """Send the initial state from rank 0 to the other ranks."""
    if group.world > 1:
        group.broadcast_object((state.model.shape, state.position))
        _broadcast_tensors(group, state)


def _broadcast_tensors(group: Group, state: State) -> None:
    group.broadcast_tensors([*state.model.parameters(), *moments(state.optimizer)])


def _validate(task: TrainTask) -> None:
    trajectory = task.trajectory
    if trajectory.numerics != NUMERICS:
        raise TaskRefused(
            f"the task requires NUMERICS {trajectory.numerics}; this trainer implements {NUMERICS}: use the image that it was planned with"
        )
    if trajectory.precision not in DTYPES:
        raise TaskRefused(f"unknown precision {trajectory.precision!r}; this trainer supports {', '.join(DTYPES)}")
    if task.tokens <= 0 or task.tokens % trajectory.tokens_per_step:
        raise TaskRefused(
            f"{task.tokens} tokens are not a whole number of steps of {trajectory.tokens_per_step} tokens; plan the study again"
        )


def _validate_vocabulary(mixture: Mixture, model: Model) -> None:
    if mixture.vocabulary > model.shape.vocabulary:
        raise TaskRefused(
            f"the mixture's tokenizer has {mixture.vocabulary} ids, but the model has {model.shape.vocabulary}; "
            "give the size a vocabulary at least as large as the tokenizer's"
        )


@contextmanager
def _processor(placement: Placement) -> Iterator[None]:
    """Set the process-wide settings that affect results, and restore them afterwards for the worker's other tasks."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(placement.threads)
    torch.set_float32_matmul_precision("highest")  # no TF32: float32 means float32
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


def _resume(context: Context, task: TrainTask, device: torch.device) -> State:
    """Return the state at the latest checkpoint of the trajectory up to the task's end, else its initial state."""
    found = checkpoints.load_latest(context.store, context.lease.work_root, task.tokens, context.cache)
    if found is None:
        return _start(context, task.trajectory, device)
    kept, files = found
    model = load_model(files, device)
    optimizer = adamw(model, task.trajectory.optimizer)
    load_optimizer(files, model, optimizer)
    return State(model, optimizer, position_of(kept.state))


def _start(context: Context, trajectory: Trajectory, device: torch.device) -> State:
    start = trajectory.start
    if isinstance(start, FromInitialisation):
        model = initialised(start).to(device)
        return State(model, adamw(model, trajectory.optimizer), Position())
    work_root = addresses.work_root(TaskKind.TRAIN, start.trajectory)
    _, files = checkpoints.load(context.store, work_root, start.tokens, context.cache, None if start.keep_optimizer else MODEL_FILES)
    model = load_model(files, device)
    optimizer = adamw(model, trajectory.optimizer)
    if start.keep_optimizer:
        load_optimizer(files, model, optimizer)
    return State(model, optimizer, Position())


def _train(context: Context, task: TrainTask, mixture: Mixture, state: State, group: Group) -> None:
    """Train up to the task's end; record every step and write checkpoints at the placement's interval."""
    export_settings = ExportSettings(task.trajectory.sequence_length, mixture.end_of_text)
    recorder, saved = MetricsRecorder(context, task.tokens), monotonic()
    while state.position.tokens < task.tokens:
        step(task.trajectory, mixture, state, context.placement.micro_batch, recorder, group)
        ended, stopping = state.position.tokens >= task.tokens, group.any(context.stopping())
        if ended or stopping or monotonic() - saved >= context.placement.checkpoint_seconds:
            recorder.write()
            publish(context.store, context.lease, state, export_settings, context.cache)
            context.lease.renew_uncounted()  # writing a large checkpoint takes minutes, and the export check follows the last one
            saved = monotonic()
        if stopping and not ended:
            raise Stopped(f"asked to stop; saved at {state.position.tokens} of {task.tokens} tokens")


def _check_export(context: Context, task: TrainTask, mixture: Mixture, device: torch.device) -> tuple[Checkpoint, float]:
    """Return the checkpoint at the task's end and the largest difference between its logits and those of transformers."""
    kept, files = checkpoints.load(context.store, context.lease.work_root, task.tokens, context.cache, MODEL_FILES)
    window = torch.from_numpy(mixture.batch(0).ids[:1, :-1][:, :_EXPORT_TOKENS])
    return kept, export.check(files, window, device)


def _results(position: Position, difference: float) -> dict[str, float | int | str]:
    """Return the results of the record.

    `loss`: mean over the last steps with a finite loss, at most ten, in nats per token; absent if there are none. `export_difference`:
    largest difference between a logit of this model and that of transformers on the first window.
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
