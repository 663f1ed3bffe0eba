"""Recipes: the stages of training."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.contract.vocabulary import StageKind
from orchestrator.spec.data import LARGEST_SOURCES
from orchestrator.spec.fields import Choice, CodePercent, Label, Part, Short, SizeName, Text, TokenCount, Weight
from orchestrator.spec.grid import SeedGiven
from orchestrator.spec.numbers import COUNT_PATTERN, MULTIPLE_PATTERN, Quantity, read_count, read_multiple
from orchestrator.spec.training import PartialTraining, ScheduleSpec

_LENGTH: Final = "a length (200B tokens, 20x for so many times N, or {text: 200B})"
_AMOUNT: Final = Quantity(read_count, _LENGTH, "200B", COUNT_PATTERN, 1)
_MULTIPLE: Final = Quantity(read_multiple, _LENGTH, "20x", MULTIPLE_PATTERN, Decimal(0), Decimal(10**6), above=True, plain=False)


class Tokens(Part):
    """Length of a stage; exactly one of the three is set."""

    amount: Annotated[int, _AMOUNT] | None = Field(None, description="So many tokens: `200B`.")
    per_parameter: Annotated[Decimal, _MULTIPLE] | None = Field(None, description="So many times N of the size: `20x`.")
    text: TokenCount | None = Field(None, description="As many in all as make the text so many: `{text: 200B}`.")

    def asked(self, n: int, code_percent: Decimal | int) -> int:
        """Return the total tokens for `n` parameters at `code_percent`, rounded down. Raises ValueError for text at 100 % code."""
        if self.amount is not None:
            return self.amount
        if self.per_parameter is not None:
            return int(self.per_parameter * n)
        assert self.text is not None
        if code_percent >= 100:
            raise ValueError("no number of tokens holds text at 100 % code")
        return int(self.text * 100 / (100 - Decimal(code_percent)))


def _tokens_of(given: object) -> object:
    if isinstance(given, Tokens):
        return given
    if isinstance(given, str) and given.endswith("x"):
        return {"perParameter": given}
    if not isinstance(given, Mapping):
        return {"amount": _AMOUNT.validate(given)}
    for key in given:
        if key != "text":
            raise PydanticCustomError("beside", "{key}", {"key": key, "beside": "text"})
    return given if given.get("text") is not None else {"amount": _AMOUNT.validate(given)}


TokensGiven: TypeAlias = Annotated[Tokens, Short((_AMOUNT, _MULTIPLE), only=("text",)), BeforeValidator(_tokens_of)]


def _grid_or_percent(given: object) -> str:
    return "<percent>" if isinstance(given, (int, Decimal)) or (isinstance(given, str) and given[:1].isdigit()) else "<grid>"


_GRID: Final = Text("grid, or a number from 0 to 100 (write a fraction in quotes)", "grid", "grid", 4, tidy=True)

CodePercentGiven: TypeAlias = Annotated[
    Annotated[Literal["grid"], _GRID, Tag("<grid>")] | Annotated[CodePercent, Tag("<percent>")], Discriminator(_grid_or_percent)
]


class Mixture(Part):
    """The shares of the sources that a stage reads, in target tokens: code percent between the groups, weights inside a group."""

    code_percent: CodePercentGiven = Field(description="Percent of code, or `grid` for every proportion of the grid.")
    code: dict[Label, Weight] = Field({}, max_length=LARGEST_SOURCES, description="Weights of the code sources; 100 in all.")
    text: dict[Label, Weight] = Field({}, max_length=LARGEST_SOURCES, description="Weights of the text sources; 100 in all.")


class Stage(Part):
    """An entry of a recipe."""

    name: Label = Field(description="What `evaluation` and contrasts call it; no part of any identity.")
    kind: Annotated[StageKind, Choice(tuple(StageKind))] = Field(
        description="pretrain for the first stage; else the name, if that is `continue` or `cooldown`; else it must be given."
    )
    tokens: TokensGiven = Field(description="`200B`, `20x` (times N of the size), or `{text: 200B}` (as many as make the text 200B).")
    mixture: Mixture = Field(description="What it reads.")
    schedule: ScheduleSpec | None = Field(None, description="Merged key by key over that of `training` and of the kind.")
    optimizer: Annotated[Literal["keep", "fresh"], Choice(("keep", "fresh"))] | None = Field(
        None, description="Moments of AdamW at the start: a cooldown keeps, a continue begins afresh unless given."
    )
    start: Annotated[Literal["result", "stable"], Choice(("result", "stable"))] | None = Field(
        None, description="Where in the stage before: its result (continue's default) or the end of its stable part (cooldown's)."
    )


class Recipe(Part):
    """An ordered list of stages, and the part of the grid that uses it."""

    name: Label = Field(description="What contrasts and reports call it; no part of any identity.")
    sizes: tuple[SizeName, ...] | None = Field(None, min_length=1, max_length=64, description="Only these sizes of the grid.")
    code_percent: tuple[CodePercent, ...] | None = Field(
        None, min_length=1, max_length=101, description="Only these proportions of the grid."
    )
    seeds: tuple[SeedGiven, ...] | None = Field(None, min_length=1, max_length=1000, description="Only these seeds of the grid.")
    training: PartialTraining | None = Field(None, description="What is trained otherwise than the study says.")
    stages: tuple[Stage, ...] = Field(min_length=1, max_length=32, description="The stages, in order.")

    @model_validator(mode="before")
    @classmethod
    def _name_the_kinds(cls, given: object) -> object:
        stages = given.get("stages") if isinstance(given, Mapping) else None
        if not isinstance(stages, (list, tuple)):
            return given
        assert isinstance(given, Mapping)
        return {**given, "stages": [_with_kind(stage, first=index == 0) for index, stage in enumerate(stages)]}

    @property
    def follows_grid(self) -> bool:
        """Whether the recipe has a cell for every code proportion of the grid."""
        return any(stage.mixture.code_percent == "grid" for stage in self.stages)


def _with_kind(stage: object, *, first: bool) -> object:
    if not isinstance(stage, Mapping) or "kind" in stage:
        return stage
    if stage.get("name") in (StageKind.CONTINUE, StageKind.COOLDOWN):
        return {**stage, "kind": str(stage["name"])}
    return {**stage, "kind": str(StageKind.PRETRAIN)} if first else stage
