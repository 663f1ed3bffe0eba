"""Evaluate the state of a trajectory on one suite: suite -> benchmarks -> items.

`attempt` calls `run` for evaluate tasks. `suites` provides the benchmarks, `likelihood` computes the model's log-likelihoods. Each item
has a row in `items.parquet`; the aggregated results are in the record.
"""

import tempfile
from pathlib import Path

import torch

from orchestrator.contract.record import Artifact
from orchestrator.contract.tasks import EvaluateTask
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.store import addresses, artifacts, checkpoints
from trainer.checkpoints.state import MODEL_FILES, load_model
from trainer.context import Context, Outcome, Stopped
from trainer.evaluate import items, suites
from trainer.evaluate.items import Benchmark, Row
from trainer.evaluate.likelihood import log_likelihoods
from trainer.model.transformer import Model


def run(context: Context) -> Outcome:
    """Perform the evaluate task of `context` and return its outcome. Raises TaskRefused, Stopped, StoreError."""
    task = context.task
    assert isinstance(task, EvaluateTask)
    torch.set_num_threads(context.placement.threads)
    benchmarks = suites.benchmarks(context, task)
    device = torch.device("cuda" if context.placement.gpus else "cpu")
    work_root = addresses.work_root(TaskKind.TRAIN, task.trajectory)
    _, files = checkpoints.load(context.store, work_root, task.tokens, context.cache, MODEL_FILES)
    context.after_download()
    model = load_model(files, device)
    results: dict[str, float | int | str] = {}
    rows: list[Row] = []
    for benchmark in benchmarks:
        scored = _score(context, benchmark, model, device)
        results.update(benchmark.results(scored))
        rows += scored
    return Outcome(results, {"items": _write_items(context, rows)})


def _score(context: Context, benchmark: Benchmark, model: Model, device: torch.device) -> list[Row]:
    sequences = benchmark.sequences()

    def on_batch(done: int) -> None:
        context.lease.renew(done)
        context.progress(done, len(sequences), f"{benchmark.name} sequences")
        if context.stopping():
            raise Stopped(f"asked to stop while scoring {benchmark.name}; a retry scores it from the start")

    return benchmark.rows(log_likelihoods(model.logits, sequences, model.shape.vocabulary, device, on_batch))


def _write_items(context: Context, rows: list[Row]) -> Artifact:
    with tempfile.TemporaryDirectory(prefix="items-", dir=context.cache) as folder:
        path = Path(folder) / "items.parquet"
        items.write(rows, path)
        return artifacts.write_file(context.store, context.lease.key(path.name), path)
