"""The benchmarks of each suite, built from the items of an evaluate task.

`evaluate.run` calls `benchmarks`. A suite is a function from context and task to benchmarks. To add one, write the function and register
it in `SUITES`. The suites of `contract.vocabulary.BENCHMARK_SUITES` are planned but have no function yet.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from orchestrator.contract.tasks import EvaluateTask
from orchestrator.contract.vocabulary import BENCHMARK_SUITES
from orchestrator.errors import TaskRefused
from orchestrator.store import artifacts, records
from trainer.context import Context
from trainer.data.sources import Fetching, PreparedSource
from trainer.evaluate.bits_per_byte import BitsPerByte, HeldOut
from trainer.evaluate.continuation import Continuation, questions
from trainer.evaluate.items import Benchmark


def benchmarks(context: Context, task: EvaluateTask) -> list[Benchmark]:
    """Return the benchmarks of the task's suite. Raises TaskRefused if this trainer does not implement the suite."""
    if task.suite not in SUITES:
        planned = " (its benchmarks are listed, but this version cannot run them yet)" if task.suite in BENCHMARK_SUITES else ""
        raise TaskRefused(
            f"suite {task.suite!r} is not implemented in this trainer{planned}; available are {', '.join(SUITES)}: "
            "remove it from evaluation.suites"
        )
    return SUITES[task.suite](context, task)


def _bits_per_byte(context: Context, task: EvaluateTask) -> list[Benchmark]:
    source, documents, window = _items_of(task, source=str, documents=int, window=int)
    prepared = PreparedSource.open(context.store, source, context.shards)
    return [BitsPerByte(list(prepared.held_out(documents, Fetching(context.after_download))), prepared.end_of_text, window)]


def _continuation(context: Context, task: EvaluateTask) -> list[Benchmark]:
    source, documents, start, length, choices, seed = _items_of(
        task, source=str, documents=int, context=int, continuation=int, choices=int, seed=int
    )
    prepared = PreparedSource.open(context.store, source, context.shards)
    held_out: list[HeldOut] = list(prepared.held_out(documents, Fetching(context.after_download)))
    selected = questions(held_out, prepared.end_of_text, context=start, continuation=length, choices=choices, seed=seed)
    return [Continuation(selected, _text_bytes(context, source))]


def _text_bytes(context: Context, source: str) -> Callable[[list[int]], int]:
    """Return a function from token ids of a source to the size of their text in UTF-8; a truncated character counts as U+FFFD."""
    from tokenizers import Tokenizer

    record = records.read_record(context.store, source)
    assert record is not None, "the source has been opened"
    tokenizer = Tokenizer.from_str(artifacts.read_bytes(context.store, record.artifacts["tokenizer"]).decode())
    return lambda ids: len(tokenizer.decode(ids, skip_special_tokens=False).encode())


def _items_of(task: EvaluateTask, **types: type) -> tuple[Any, ...]:
    """Return the values of the task's items in the order of `types`. Raises TaskRefused if names or types differ."""
    items: Mapping[str, Any] = task.items
    wrong = [f"{name} ({kind.__name__})" for name, kind in types.items() if type(items.get(name)) is not kind]
    if wrong or set(items) != set(types):
        raise TaskRefused(
            f"suite {task.suite!r} requires exactly the items {', '.join(types)}, but the task has {dict(items)!r}; "
            f"missing or of another type: {', '.join(wrong) or 'none'}"
        )
    return tuple(items[name] for name in types)


SUITES: Final[dict[str, Callable[[Context, EvaluateTask], list[Benchmark]]]] = {"bpb": _bits_per_byte, "continuation": _continuation}
