"""Recipes: the stages of training."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from orchestrator.contract.vocabulary import StageKind
from orchestrator.spec.data import MAX_SOURCES
from orchestrator.spec.fields import Choice, CodePercent, Label, ShortForm, SizeName, SpecModel, Text, TokenCount, Weight
from orchestrator.spec.grid import SeedGiven
from orchestrator.spec.numbers import COUNT_PATTERN, MULTIPLE_PATTERN, Quantity, read_count, read_multiple
from orchestrator.spec.training import PartialTraining, ScheduleSpec

_LENGTH: Final = "a length (200B for 200B tokens, 20x for 20 N tokens, or {text: 200B})"
_AMOUNT: Final = Quantity(read_count, _LENGTH, "200B", COUNT_PATTERN, 1)
_MULTIPLE: Final = Quantity(read_multiple, _LENGTH, "20x", MULTIPLE_PATTERN, Decimal(0), Decimal(10**6), above=True, allow_integer=False)


class Tokens(SpecModel):
    """Length of a stage; exactly one of the three is set."""

    amount: Annotated[int, _AMOUNT] | None = Field(None, description="Number of tokens: `200B`.")
    per_parameter: Annotated[Decimal, _MULTIPLE] | None = Field(None, description="Multiple of N, the parameters of the size: `20x`.")
    text: TokenCount | None = Field(None, description="Number of text tokens; the total depends on the code proportion: `{text: 200B}`.")

    def asked(self, n: int, code_percent: Decimal | int) -> int:
        """Return the total tokens for `n` parameters at `code_percent`, rounded down. Raises ValueError for text at 100 % code."""
        if self.amount is not None:
            return self.amount
        if self.per_parameter is not None:
            return int(self.per_parameter * n)
        assert self.text is not None
        if code_percent >= 100:
            raise ValueError("no number of tokens contains text at 100 % code")
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
            raise PydanticCustomError("unexpected_key", "{key}", {"key": key, "allowed_key": "text"})
    return given if given.get("text") is not None else {"amount": _AMOUNT.validate(given)}


TokensGiven: TypeAlias = Annotated[Tokens, ShortForm((_AMOUNT, _MULTIPLE), only=("text",)), BeforeValidator(_tokens_of)]


def _grid_or_percent(given: object) -> str:
    return "<percent>" if isinstance(given, (int, Decimal)) or (isinstance(given, str) and given[:1].isdigit()) else "<grid>"


_GRID: Final = Text("grid, or a number from 0 to 100 (write a fraction in quotes)", "grid", "grid", 4, suggest_cleaned=True)

CodePercentGiven: TypeAlias = Annotated[
    Annotated[Literal["grid"], _GRID, Tag("<grid>")] | Annotated[CodePercent, Tag("<percent>")], Discriminator(_grid_or_percent)
]


class Mixture(SpecModel):
    """The shares of the sources that a stage reads, in target tokens: code percent between the groups, weights inside a group."""

    code_percent: CodePercentGiven = Field(description="Percentage of code tokens, or `grid` for the code proportion of the cell.")
    code: dict[Label, Weight] = Field({}, max_length=MAX_SOURCES, description="Percentages of the code sources; they add up to 100.")
    text: dict[Label, Weight] = Field({}, max_length=MAX_SOURCES, description="Percentages of the text sources; they add up to 100.")


class Stage(SpecModel):
    """A stage of a recipe: tokens, mixture and schedule."""

    name: Label = Field(description="Name for `evaluation` and contrasts; not part of any task's identity.")
    kind: Annotated[StageKind, Choice(tuple(StageKind))] = Field(
        description="Default: the name, if it is `continue` or `cooldown`; else `pretrain` for the first stage. Otherwise required."
    )
    tokens: TokensGiven = Field(
        description="Length: `200B` tokens, `20x` (20 tokens per parameter), or `{text: 200B}` (text tokens, plus the code tokens)."
    )
    mixture: Mixture = Field(description="Shares of the sources that the stage reads.")
    schedule: ScheduleSpec | None = Field(None, description="Overrides the schedule of `training` and of the kind, key by key.")
    optimizer: Annotated[Literal["keep", "fresh"], Choice(("keep", "fresh"))] | None = Field(
        None, description="AdamW state at the start of the stage. Default: `keep` for a cooldown, `fresh` for a continue."
    )
    start: Annotated[Literal["result", "stable"], Choice(("result", "stable"))] | None = Field(
        None,
        description="Start from the previous stage's result (default for continue) or the end of its stable part (default for cooldown).",
    )


class Recipe(SpecModel):
    """An ordered list of stages, and the subset of the grid that it applies to."""

    name: Label = Field(description="Name for contrasts and reports; not part of any task's identity.")
    sizes: tuple[SizeName, ...] | None = Field(
        None, min_length=1, max_length=64, description="Sizes of the grid that use this recipe. Default: all."
    )
    code_percent: tuple[CodePercent, ...] | None = Field(
        None, min_length=1, max_length=101, description="Code proportions of the grid that use this recipe. Default: all."
    )
    seeds: tuple[SeedGiven, ...] | None = Field(
        None, min_length=1, max_length=1000, description="Seeds of the grid that use this recipe. Default: all."
    )
    training: PartialTraining | None = Field(None, description="Settings that override those of the study's `training`.")
    stages: tuple[Stage, ...] = Field(min_length=1, max_length=32, description="Stages of training, in order.")

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
