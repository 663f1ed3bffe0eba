"""Check that every stage is long enough at every size: at least one batch, and more than its warm-up."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from orchestrator.contract.sizes import LADDER, TINY_BATCH, Rung, batch_sequences, is_tiny
from orchestrator.spec.checks.lookups import paths_of_stage_percents, sizes_of, stage_percents
from orchestrator.spec.checks.stages import PlacedStage, placed_stages
from orchestrator.spec.messages import Finding, Path, format_list
from orchestrator.spec.models import StudySpec
from orchestrator.spec.recipe import Recipe
from orchestrator.spec.training import Training

# Minimum stage length, in warm-ups; a shorter stage would spend much of its tokens below the peak rate
MIN_WARMUPS: Final = 10

T = TypeVar("T")

_DEPENDS_ON: Final[tuple[Path, ...]] = (("grid", "sizes"), ("models",), ("data", "tokenizer"), ("training",))


@dataclass(frozen=True, slots=True)
class Length:
    """A stage at one size, in tokens. `n` and `batch_tokens` are None if the vocabulary is unknown; `warmup` is None if it is N."""

    size: str
    asked: int
    n: int | None
    batch_tokens: int | None
    warmup: int | None
    before_decay: int


def check_lengths(spec: StudySpec) -> Iterator[Finding]:
    """Check that stages are long enough for a batch, for ten warm-ups of N tokens, and for the given warm-up."""
    for placed in placed_stages(spec):
        number, index = placed.path[1], placed.path[3]
        assert isinstance(number, int)
        assert isinstance(index, int)
        lengths = list(_lengths(spec, spec.recipes[number], placed))
        depends_on = (
            *_DEPENDS_ON,
            ("recipes", number, "training"),
            ("recipes", number, "sizes"),
            *paths_of_stage_percents(number, index),
            *placed.depends_on,
        )
        for rule in (_less_than_a_batch, _few_warmups, _warmup_past_the_end):
            finding = rule(placed, lengths, (*depends_on, (*placed.path, "tokens")))
            if finding is not None:
                yield finding
                break


def _lengths(spec: StudySpec, recipe: Recipe, placed: PlacedStage) -> Iterator[Length]:
    training = spec.training_of(recipe)
    percents = [percent for percent in stage_percents(spec, recipe, placed.stage) if percent < 100 or placed.stage.tokens.text is None]
    if not percents:
        return
    for size in sizes_of(spec, recipe):
        rung = rung_of(spec, size)
        n = None if rung is None or spec.data.tokenizer.vocabulary is None else rung.shape(spec.data.tokenizer.vocabulary).n
        if n is None and placed.stage.tokens.per_parameter is not None:
            continue
        asked = placed.stage.tokens.asked(n or 0, min(percents))
        warmup = by_size(placed.merged.warmup, size)
        decay = (10 if placed.merged.decay is None else placed.merged.decay) if placed.has_stable_part else 0
        yield Length(size, asked, n, _tokens_per_batch(spec, training, size, rung, n), warmup, int(asked * (100 - decay) / 100))


def _tokens_per_batch(spec: StudySpec, training: Training, size: str, rung: Rung | None, n: int | None) -> int | None:
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
    """Return the value for `size` of a setting that is one value or a map from size to value."""
    return value.get(size) if isinstance(value, dict) else value


def _less_than_a_batch(placed: PlacedStage, lengths: list[Length], depends_on: tuple[Path, ...]) -> Finding | None:
    short = [length for length in lengths if length.batch_tokens is not None and length.asked < length.batch_tokens]
    if not short:
        return None
    first = short[0]
    wrong = (
        f"this is less than one batch at {_sizes(short)}: {first.asked:,} of {_count_of(first.batch_tokens or 0, 'token')} at {first.size}."
    )
    return Finding((*placed.path, "tokens"), wrong, "Give more tokens, or a smaller training.batch.", depends_on=depends_on)


def _few_warmups(placed: PlacedStage, lengths: list[Length], depends_on: tuple[Path, ...]) -> Finding | None:
    short = _pick(lengths, lambda n, length: length.warmup is None and length.asked < MIN_WARMUPS * n)
    if placed.is_cooldown or not short:
        return None
    first = short[0]
    asked = f"{_count_of(first.asked, 'token')} at {first.size}"
    wrong = f"this is less than ten warm-ups at {_sizes(short)}: {asked}, whose warm-up takes N = {first.n:,} tokens."
    return Finding(
        (*placed.path, "tokens"), wrong, "Give at least 10x, or schedule: {warmup: ...} with fewer tokens.", depends_on=depends_on
    )


def _pick(lengths: list[Length], condition: Callable[[int, Length], bool]) -> list[Length]:
    return [length for length in lengths if length.n is not None and condition(length.n, length)]


def _warmup_past_the_end(placed: PlacedStage, lengths: list[Length], depends_on: tuple[Path, ...]) -> Finding | None:
    long = [length for length in lengths if length.warmup is not None and length.warmup > length.before_decay]
    if not long:
        return None
    first = long[0]
    until = "the decay begins" if placed.has_stable_part else "the stage ends"
    warmup = f"a warm-up of {_count_of(first.warmup or 0, 'token')}"
    wrong = f"{warmup} does not end before {until} at {_sizes(long)}: after {_count_of(first.before_decay, 'token')} at {first.size}."
    return Finding((*placed.path, "tokens"), wrong, "Give more tokens, or a shorter warm-up.", depends_on=depends_on)


def _sizes(lengths: list[Length]) -> str:
    return format_list((length.size for length in lengths), 8)


def _count_of(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
