"""Resolve what a study file leaves open: batch, rates, warm-up and initialisation of a size, each with its origin.

`chain` calls this once for every recipe and size. The trainer has no defaults of its own: each number that decides a result is given by
the file or resolved here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Final, TypeVar

from orchestrator.contract.identity import decimal
from orchestrator.contract.sizes import (
    DEVIATION,
    LADDER,
    TINY_BATCH,
    TINY_DEVIATION,
    Rung,
    batch_sequences,
    beta2,
    is_tiny,
    peak_learning_rate,
    tiny_peak_learning_rate,
)
from orchestrator.contract.tasks import Optimizer, Shape
from orchestrator.contract.vocabulary import StageKind
from orchestrator.errors import PlanRefused
from orchestrator.spec import Recipe, ScheduleSpec, Stage, StudySpec, TokenizerFile, Training

T = TypeVar("T")

# OLMo-core's ladder, after Porian et al. 2024, arXiv:2406.19146
WEIGHT_DECAY: Final = "0.1"
BETA1: Final = "0.9"
EPS: Final = "1e-8"
CLIP: Final = "1"
Z_LOSS: Final = "1e-5"
DECAY: Final = Fraction(10)
"""Percentage of a wsd stage's steps in its decay leaf."""


@dataclass(frozen=True, slots=True)
class ResolvedSize:
    """One size inside one recipe, with everything resolved but seeds, mixtures and schedules."""

    name: str
    shape: Shape
    training: Training
    batch: int
    batch_from: str
    deviation: str
    optimizer: Optimizer
    precision: str
    sequence_length: int

    @property
    def tokens_per_step(self) -> int:
        return self.batch * self.sequence_length


@dataclass(frozen=True, slots=True)
class Rates:
    """The schedule of a stage. `peak` is None for a cooldown that continues from the current learning rate."""

    shape: str
    decay: Fraction
    peak: str | None
    peak_from: str
    warmup: int
    warmup_from: str
    final: str


def vocabulary_of(spec: StudySpec) -> int:
    """Return the vocabulary size of the tokenizer that all cells share. Raises PlanRefused if the study file does not give it."""
    tokenizer = spec.data.tokenizer
    if isinstance(tokenizer, TokenizerFile) and tokenizer.vocabulary is None:
        raise PlanRefused(f"spec.data.tokenizer: the vocabulary size of {tokenizer.file} is unknown; write `vocabulary:` beside `file:`")
    assert tokenizer.vocabulary is not None
    return tokenizer.vocabulary


def rung_of(spec: StudySpec, size: str) -> Rung:
    """Return the shape of `size`: the study's own, or the ladder's."""
    own = spec.models.get(size)
    if own is None:
        return LADDER[size]
    return Rung(own.width, own.layers, own.heads, own.feed_forward, own.tied, False, own.rope_theta, decimal(own.norm_eps))


def resolve_size(spec: StudySpec, recipe: Recipe, size: str) -> ResolvedSize:
    """Resolve `size` inside `recipe`. Raises PlanRefused if a number cannot be resolved."""
    rung = rung_of(spec, size)
    shape = rung.shape(vocabulary_of(spec))
    training = spec.training_of(recipe)
    tiny = is_tiny(rung, shape.vocabulary)
    given = by_size(training.batch, size)
    law = TINY_BATCH if tiny else batch_sequences(shape.n, training.sequence_length)
    batch = law if given is None else given
    deviation = by_size(training.deviation, size)
    return ResolvedSize(
        name=size,
        shape=shape,
        training=training,
        batch=batch,
        batch_from=_origin(given, tiny),
        deviation=(TINY_DEVIATION if tiny else DEVIATION) if deviation is None else decimal(deviation),
        optimizer=_optimizer(training, batch * training.sequence_length),
        precision=training.precision,
        sequence_length=training.sequence_length,
    )


def rates(spec: StudySpec, stage: Stage, size: ResolvedSize) -> Rates:
    """Return the schedule of `stage` at a size: the defaults of its kind, overridden by the study's, the recipe's and its own keys."""
    cooldown = stage.kind == StageKind.COOLDOWN
    own = stage.schedule or ScheduleSpec()
    asked = own if cooldown else own.over(size.training.schedule)
    shape = asked.shape or ("linear" if cooldown else "wsd")
    peak, peak_from = _peak(by_size(asked.peak, size.name), cooldown, spec, size)
    warmup = by_size(asked.warmup, size.name)
    return Rates(
        shape=shape,
        decay=DECAY if asked.decay is None else Fraction(asked.decay),
        peak=peak,
        peak_from=peak_from,
        warmup=(0 if cooldown else size.shape.n) if warmup is None else warmup,
        warmup_from="study file" if warmup is not None else "none" if cooldown else "N tokens",
        final="0" if asked.final is None else decimal(asked.final),
    )


def _peak(given: Decimal | None, cooldown: bool, spec: StudySpec, size: ResolvedSize) -> tuple[str | None, str]:
    if given is not None:
        return decimal(given), "study file"
    if cooldown:
        return None, "the rate it starts from"
    tiny = is_tiny(rung_of(spec, size.name), size.shape.vocabulary)
    law = tiny_peak_learning_rate(size.shape.body) if tiny else peak_learning_rate(size.shape.n)
    return decimal(law, derived=True), _origin(None, tiny)


def _origin(given: object, tiny: bool) -> str:
    if given is not None:
        return "study file"
    return "law of tiny shapes" if tiny else "law of the ladder"


def by_size(value: T | Mapping[str, T] | None, size: str) -> T | None:
    """Return the value for `size` of a setting that is one value or a map from size to value."""
    return value.get(size) if isinstance(value, Mapping) else value


def _optimizer(training: Training, tokens_per_step: int) -> Optimizer:
    def setting(name: str, law: str) -> str:
        given: Decimal | None = getattr(training.optimizer, name)
        return law if given is None else decimal(given)

    return Optimizer(
        beta1=setting("beta1", BETA1),
        beta2=setting("beta2", beta2(tokens_per_step)),
        eps=setting("eps", EPS),
        weight_decay=setting("weight_decay", WEIGHT_DECAY),
        embedding_decay="0",
        clip=setting("clip", CLIP),
        z_loss=setting("z_loss", Z_LOSS),
    )
