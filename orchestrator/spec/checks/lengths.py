"""Check that every stage is long enough at every size: at least one batch, and more than its warm-up."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from orchestrator.contract.sizes import LADDER, TINY_BATCH, Rung, batch_sequences, is_tiny
from orchestrator.spec.checks.lookups import percents_read, sizes_of, stage_percents
from orchestrator.spec.checks.stages import Step, steps_of
from orchestrator.spec.messages import Finding, Path, listed
from orchestrator.spec.models import StudySpec
from orchestrator.spec.recipe import Recipe
from orchestrator.spec.training import Training

# A shorter stage would spend most of its tokens below its rate
WARMUPS: Final = 10

T = TypeVar("T")

_READS: Final[tuple[Path, ...]] = (("grid", "sizes"), ("models",), ("data", "tokenizer"), ("training",))


@dataclass(frozen=True, slots=True)
class Length:
    """A stage at one size, in tokens. `n` and `step` are None if the vocabulary is unknown; `warmup` is None if it is N."""

    size: str
    asked: int
    n: int | None
    step: int | None
    warmup: int | None
    before_decay: int


def check_lengths(spec: StudySpec) -> Iterator[Finding]:
    """Find stages that are too short for a batch, for ten warm-ups of N tokens, or for the given warm-up."""
    for step in steps_of(spec):
        number, index = step.path[1], step.path[3]
        assert isinstance(number, int)
        assert isinstance(index, int)
        lengths = list(_lengths(spec, spec.recipes[number], step))
        reads = (*_READS, ("recipes", number, "training"), ("recipes", number, "sizes"), *percents_read(number, index), *step.reads)
        for rule in (_less_than_a_batch, _few_warmups, _warmup_past_the_end):
            finding = rule(step, lengths, (*reads, (*step.path, "tokens")))
            if finding is not None:
                yield finding
                break


def _lengths(spec: StudySpec, recipe: Recipe, step: Step) -> Iterator[Length]:
    training = spec.training_of(recipe)
    percents = [percent for percent in stage_percents(spec, recipe, step.stage) if percent < 100 or step.stage.tokens.text is None]
    if not percents:
        return
    for size in sizes_of(spec, recipe):
        rung = rung_of(spec, size)
        n = None if rung is None or spec.data.tokenizer.vocabulary is None else rung.shape(spec.data.tokenizer.vocabulary).n
        if n is None and step.stage.tokens.per_parameter is not None:
            continue
        asked = step.stage.tokens.asked(n or 0, min(percents))
        warmup = by_size(step.merged.warmup, size)
        decay = (10 if step.merged.decay is None else step.merged.decay) if step.has_stable_part else 0
        yield Length(size, asked, n, _tokens_a_step(spec, training, size, rung, n), warmup, int(asked * (100 - decay) / 100))


def _tokens_a_step(spec: StudySpec, training: Training, size: str, rung: Rung | None, n: int | None) -> int | None:
    given = by_size(training.batch, size)
    if given is not None:
        return given * training.sequence_length
    if n is None or rung is None:
        return None
    assert spec.data.tokenizer.vocabulary is not None
    tiny = is_tiny(rung, spec.data.tokenizer.vocabulary)
    return (TINY_BATCH if tiny else batch_sequences(n, training.sequence_length)) * training.sequence_length


def rung_of(spec: StudySpec, size: str) -> Rung | None:
    """Return the shape of `size` without its vocabulary, None if it is unknown."""
    own = spec.models.get(size)
    return LADDER.get(size) if own is None else Rung(own.width, own.layers, own.heads, own.feed_forward, own.tied)


def by_size(value: T | dict[str, T] | None, size: str) -> T | None:
    """Return a setting that is one value or a map by size."""
    return value.get(size) if isinstance(value, dict) else value


def _less_than_a_batch(step: Step, lengths: list[Length], reads: tuple[Path, ...]) -> Finding | None:
    short = [length for length in lengths if length.step is not None and length.asked < length.step]
    if not short:
        return None
    first = short[0]
    wrong = f"this is less than one batch at {_sizes(short)}: {_s(first.asked, 'token')} of {first.step:,} at {first.size}."
    return Finding((*step.path, "tokens"), wrong, "Give more tokens, or a smaller training.batch.", reads=reads)


def _few_warmups(step: Step, lengths: list[Length], reads: tuple[Path, ...]) -> Finding | None:
    short = _pick(lengths, lambda n, length: length.warmup is None and length.asked < WARMUPS * n)
    if step.is_cooldown or not short:
        return None
    first = short[0]
    asked = f"{_s(first.asked, 'token')} at {first.size}"
    wrong = f"this is less than ten warm-ups at {_sizes(short)}: {asked}, whose warm-up takes N = {first.n:,} tokens."
    return Finding((*step.path, "tokens"), wrong, "Give at least 10x, or schedule: {warmup: ...} with fewer tokens.", reads=reads)


def _pick(lengths: list[Length], condition: Callable[[int, Length], bool]) -> list[Length]:
    return [length for length in lengths if length.n is not None and condition(length.n, length)]


def _warmup_past_the_end(step: Step, lengths: list[Length], reads: tuple[Path, ...]) -> Finding | None:
    long = [length for length in lengths if length.warmup is not None and length.warmup > length.before_decay]
    if not long:
        return None
    first = long[0]
    until = "the decay begins" if step.has_stable_part else "the stage ends"
    warmup = f"a warm-up of {_s(first.warmup or 0, 'token')}"
    wrong = f"{warmup} does not end before {until} at {_sizes(long)}: after {first.before_decay:,} at {first.size}."
    return Finding((*step.path, "tokens"), wrong, "Give more tokens, or a shorter warmup.", reads=reads)


def _sizes(lengths: list[Length]) -> str:
    return listed((length.size for length in lengths), 8)


def _s(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
