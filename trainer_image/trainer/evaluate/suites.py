"""Which benchmarks a suite is made of, and what each is given.

A suite is a function from the task's context to benchmarks; to add one, write it and name it in `SUITES`. Suites of named benchmarks
(`contract.words.BENCHMARK_SUITES`) have their words already and no function yet.
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
    """The benchmarks that `task` asks for. Raises TaskRefused for a suite that this trainer does not have."""
    if task.suite not in SUITES:
        later = " (its benchmarks are named, but this version cannot run them yet)" if task.suite in BENCHMARK_SUITES else ""
        raise TaskRefused(
            f"suite {task.suite!r} is not in this trainer{later}; it has {', '.join(SUITES)}: take it out of evaluation.suites"
        )
    return SUITES[task.suite](context, task)


def _bits_per_byte(context: Context, task: EvaluateTask) -> list[Benchmark]:
    source, documents, window = _asked(task, source=str, documents=int, window=int)
    prepared = PreparedSource.open(context.store, source, context.shards)
    return [BitsPerByte(list(prepared.held_out(documents, Fetching(context.fetched))), prepared.end_of_text, window)]


def _continuation(context: Context, task: EvaluateTask) -> list[Benchmark]:
    source, documents, start, length, choices, seed = _asked(
        task, source=str, documents=int, context=int, continuation=int, choices=int, seed=int
    )
    prepared = PreparedSource.open(context.store, source, context.shards)
    held_out: list[HeldOut] = list(prepared.held_out(documents, Fetching(context.fetched)))
    asked = questions(held_out, prepared.end_of_text, context=start, continuation=length, choices=choices, seed=seed)
    return [Continuation(asked, _text_bytes(context, source))]


def _text_bytes(context: Context, source: str) -> Callable[[list[int]], int]:
    """How many bytes of UTF-8 some token ids of a prepared source spell; a character that is cut off counts as U+FFFD."""
    from tokenizers import Tokenizer

    record = records.read_record(context.store, source)
    assert record is not None, "the source has been opened"
    tokenizer = Tokenizer.from_str(artifacts.read_bytes(context.store, record.artifacts["tokenizer"]).decode())
    return lambda ids: len(tokenizer.decode(ids, skip_special_tokens=False).encode())


def _asked(task: EvaluateTask, **types: type) -> tuple[Any, ...]:
    """The values of the task's items, in the order of `types`. Raises TaskRefused when they are not exactly these."""
    items: Mapping[str, Any] = task.items
    wrong = [f"{name} ({kind.__name__})" for name, kind in types.items() if type(items.get(name)) is not kind]
    if wrong or set(items) != set(types):
        raise TaskRefused(
            f"suite {task.suite!r} is described by {', '.join(types)}; this task has {dict(items)!r}, wrong: {', '.join(wrong)}"
        )
    return tuple(items[name] for name in types)


SUITES: Final[dict[str, Callable[[Context, EvaluateTask], list[Benchmark]]]] = {"bpb": _bits_per_byte, "continuation": _continuation}
