"""Training settings that override the ladder's: optimizer, schedule, batch, precision."""

from decimal import Decimal
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from orchestrator.spec.fields import BySize, Choice, Decay, Deviation, PeakRate, Rate, Sequences, SpecModel, WarmupTokens, integer, number

Precision: TypeAlias = Annotated[Literal["fp32", "bf16"], Choice(("fp32", "bf16"))]
SequenceLength: TypeAlias = Annotated[int, integer("4096", 8, 2**20)]
ScheduleShape: TypeAlias = Annotated[Literal["wsd", "cosine", "linear"], Choice(("wsd", "cosine", "linear"))]

# With a decay of 1, AdamW's bias correction would divide by zero
_BELOW_ONE = "0.999999"


class OptimizerSpec(SpecModel):
    """AdamW settings that override the ladder's."""

    beta1: Annotated[Decimal, number('"0.9"', 0, _BELOW_ONE)] | None = Field(None, description="Decay rate of the first moment.")
    beta2: Annotated[Decimal, number('"0.95"', 0, _BELOW_ONE)] | None = Field(None, description="Decay rate of the second moment.")
    eps: Annotated[Decimal, number('"1e-8"', 0, "1", above=True)] | None = Field(None, description="Epsilon of AdamW.")
    weight_decay: Annotated[Decimal, number('"0.1"', 0, "10")] | None = Field(
        None, description="Decoupled weight decay; not applied to embeddings."
    )
    clip: Annotated[Decimal, number("1", 0, above=True)] | None = Field(None, description="Maximum gradient norm.")
    z_loss: Annotated[Decimal, number('"1e-5"', 0, "1")] | None = Field(None, description="Weight of the z-loss.")

    def over(self, base: "OptimizerSpec") -> "OptimizerSpec":
        """Return these settings, with unset ones taken from `base`."""
        return base.model_copy(update=_given(self))


class ScheduleSpec(SpecModel):
    """Learning-rate schedule settings that override those of the kind and the ladder."""

    shape: ScheduleShape | None = Field(None, description="wsd: constant, then linear decay. cosine, linear: decay over the whole stage.")
    decay: Decay | None = Field(None, description="wsd only: part of the stage over which the rate decays. Default: 10%.")
    peak: BySize[PeakRate] | None = Field(None, description="Peak learning rate, one value or by size. Default: the ladder's.")
    warmup: BySize[WarmupTokens] | None = Field(
        None, description="Warm-up in tokens, one value or by size. Default: N, the number of parameters."
    )
    final: Rate | None = Field(None, description="Learning rate at the end. Default: 0.")

    def over(self, base: "ScheduleSpec") -> "ScheduleSpec":
        """Return these settings, with unset keys taken from `base`."""
        return base.model_copy(update=_given(self))


class PartialTraining(SpecModel):
    """Training settings that a recipe can override."""

    sequence_length: SequenceLength | None = Field(None, description="Tokens per sequence (T).")
    precision: Precision | None = Field(None, description="Precision of the forward and backward pass; never substituted.")
    batch: BySize[Sequences] | None = Field(None, description="Sequences per step, one value or by size. Default: the ladder's.")
    deviation: BySize[Deviation] | None = Field(None, description="Standard deviation of the initial weights, one value or by size.")
    optimizer: OptimizerSpec = Field(default_factory=OptimizerSpec, description="AdamW settings that override the ladder's.")
    schedule: ScheduleSpec = Field(default_factory=ScheduleSpec, description="Learning-rate schedule settings that override the ladder's.")


class Training(PartialTraining):
    """Training settings of every stage unless a recipe or the stage overrides them."""

    sequence_length: SequenceLength = Field(description="Tokens per sequence (T).")
    precision: Precision = Field(description="Precision of the forward and backward pass; never substituted: bf16 on a CPU runs as bf16.")

    def overridden(self, part: PartialTraining | None) -> "Training":
        """Return these settings, overridden key by key by the recipe's."""
        if part is None:
            return self
        merged = {"optimizer": part.optimizer.over(self.optimizer), "schedule": part.schedule.over(self.schedule)}
        return self.model_copy(update={**_given(part), **merged})


def _given(part: SpecModel) -> dict[str, Any]:
    return {name: value for name, value in part if value is not None}
