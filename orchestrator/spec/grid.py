"""The grid of a study, and custom model shapes."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, Field, StrictBool

from orchestrator.spec.fields import SEED, CodePercent, ShortForm, SizeName, SpecModel, integer, number


class Seed(SpecModel):
    """The seeds of one repetition. `1` in the file is `{init: 1, data: 1}`."""

    init: Annotated[int, SEED] = Field(description="Seed of the initial weights.")
    data: Annotated[int, SEED] = Field(description="Seed of the data order.")


def _seed_of(given: object) -> object:
    return given if isinstance(given, (Mapping, Seed)) else {"init": given, "data": given}


SeedGiven: TypeAlias = Annotated[Seed, ShortForm((SEED,)), BeforeValidator(_seed_of)]


class Grid(SpecModel):
    """Sizes x code proportions x seeds."""

    sizes: tuple[SizeName, ...] = Field(min_length=1, max_length=64, description="Sizes of the ladder, or names of shapes under `models`.")
    code_percent: tuple[CodePercent, ...] = Field(
        (), max_length=101, description="Percentages of code in the mixtures with `codePercent: grid`."
    )
    seeds: tuple[SeedGiven, ...] = Field(
        min_length=1, max_length=1000, description="Seeds of initialisation and data order; `{init: 1, data: 2}` sets them separately."
    )


class ModelShape(SpecModel):
    """A custom Llama-style decoder. Its vocabulary is that of the tokenizer."""

    width: Annotated[int, integer("768", 2, 2**16)] = Field(description="Width of the residual stream (d).")
    layers: Annotated[int, integer("12", 1, 1000)] = Field(description="Number of layers (L).")
    heads: Annotated[int, integer("12", 1, 1024)] = Field(description="Number of attention heads (H).")
    feed_forward: Annotated[int, integer("3072", 1, 2**18)] = Field(description="Width of the SwiGLU feed-forward layer (ff).")
    tied: StrictBool = Field(False, description="Whether the output head shares its weights with the embedding.")
    rope_theta: Annotated[int, integer("500000", 1, 10**9)] = Field(500_000, description="Base of the rotary position embedding.")
    norm_eps: Annotated[Decimal, number('"1e-5"', 0, "1", above=True)] = Field(Decimal("1e-5"), description="Epsilon of RMSNorm.")
