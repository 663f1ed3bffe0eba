"""The grid of a study, and custom shapes."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, TypeAlias

from pydantic import BeforeValidator, Field, StrictBool

from orchestrator.spec.fields import SEED, CodePercent, Part, Short, SizeName, number, whole


class Seed(Part):
    """The seeds of one repetition. `1` in the file is `{init: 1, data: 1}`."""

    init: Annotated[int, SEED] = Field(description="Seed of the initial weights.")
    data: Annotated[int, SEED] = Field(description="Seed of the order of the data.")


def _seed_of(given: object) -> object:
    return given if isinstance(given, (Mapping, Seed)) else {"init": given, "data": given}


SeedGiven: TypeAlias = Annotated[Seed, Short((SEED,)), BeforeValidator(_seed_of)]


class Grid(Part):
    """Sizes x code proportions x seeds."""

    sizes: tuple[SizeName, ...] = Field(min_length=1, max_length=64, description="Names of the ladder, or of shapes under `models`.")
    code_percent: tuple[CodePercent, ...] = Field(
        (), max_length=101, description="Percent of code in the mixtures that say `codePercent: grid`."
    )
    seeds: tuple[SeedGiven, ...] = Field(
        min_length=1, max_length=1000, description="Of initialisation and of data order; `{init: 1, data: 2}` sets them apart."
    )


class ModelShape(Part):
    """A custom Llama-shaped decoder. The vocabulary is the tokenizer's."""

    width: Annotated[int, whole("768", 2, 2**16)] = Field(description="Width of the residual stream (d).")
    layers: Annotated[int, whole("12", 1, 1000)] = Field(description="Number of layers (L).")
    heads: Annotated[int, whole("12", 1, 1024)] = Field(description="Number of attention heads (H).")
    feed_forward: Annotated[int, whole("3072", 1, 2**18)] = Field(description="Width of the SwiGLU layer (ff).")
    tied: StrictBool = Field(False, description="Whether the output head shares its weights with the embedding.")
    rope_theta: Annotated[int, whole("500000", 1, 10**9)] = Field(500_000, description="Base of the rotary position embedding.")
    norm_eps: Annotated[Decimal, number('"1e-5"', 0, "1", above=True)] = Field(Decimal("1e-5"), description="Epsilon of RMSNorm.")
