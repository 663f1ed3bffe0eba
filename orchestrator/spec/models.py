"""A study as frozen models: what `read_study` returns and the planner, the price and the CRD are made from.

Field names are Python's here and camelCase in the file. The models hold what the file says; defaults that depend on the size of a model
(batch, rates, warm-up) stay None and are `orchestrator.sizes`'s to give. A percentage is a Decimal of percent: `10%` is Decimal(10).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, StrictBool, Tag, model_validator
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from orchestrator.contract.words import SUITES, Group, StageKind
from orchestrator.spec.fields import (
    Address,
    BatchSequences,
    BySize,
    ByteCount,
    Choice,
    CodePercent,
    Decay,
    Deviation,
    HexDigest,
    Label,
    PeakRate,
    Rate,
    SizeName,
    Text,
    TokenCount,
    WarmupTokens,
    Weight,
    Words,
    number,
    whole,
)
from orchestrator.spec.numbers import Quantity, read_multiple

# 2**31 keeps a seed inside a signed 32-bit integer, which every generator takes
LARGEST_SEED: Final = 2**31 - 1
LARGEST_SOURCES: Final = 16


class Part(BaseModel):
    """A part of a study file: frozen, with camelCase names in the file, and no key that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Seed(Part):
    """The seeds of one repetition. `1` in the file is `{init: 1, data: 1}`."""

    init: Annotated[int, whole("a seed", "1", 0, LARGEST_SEED)] = Field(description="Seed of the initial weights.")
    data: Annotated[int, whole("a seed", "1", 0, LARGEST_SEED)] = Field(description="Seed of the order of the data.")


def _seed_of(given: object) -> object:
    return given if isinstance(given, (Mapping, Seed)) else {"init": given, "data": given}


SeedGiven = Annotated[Seed, BeforeValidator(_seed_of)]


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
    """A Llama-shaped decoder of one's own. The vocabulary is the tokenizer's."""

    width: Annotated[int, whole("the width", "768", 2, 2**16)] = Field(description="Width of the residual stream (d).")
    layers: Annotated[int, whole("the number of layers", "12", 1, 1000)] = Field(description="Number of layers (L).")
    heads: Annotated[int, whole("the number of heads", "12", 1, 1024)] = Field(description="Number of attention heads (H).")
    feed_forward: Annotated[int, whole("the width of the feed-forward layer", "3072", 1, 2**18)] = Field(
        description="Width of the SwiGLU layer (ff)."
    )
    tied: StrictBool = Field(False, description="Whether the output head shares its weights with the embedding.")
    rope_theta: Annotated[int, whole("the base of the rotary embedding", "500000", 1, 10**9)] = Field(
        500_000, description="Base of the rotary position embedding."
    )
    norm_eps: Annotated[Decimal, number("epsilon of the norms", '"1e-5"', 0, 1, above=True)] = Field(
        Decimal("1e-5"), description="Epsilon of RMSNorm."
    )


class TrainTokenizer(Part):
    """A byte-level BPE trained on the study's own sources."""

    vocabulary: Annotated[int, whole("the size of the vocabulary", "50304", 258, 2**20)] = Field(
        description="Number of entries, the end-of-text token included."
    )
    bytes: ByteCount = Field(description="How much text it is trained on, in all.")
    weights: dict[Label, Weight] = Field(
        min_length=1, max_length=LARGEST_SOURCES, description="Percent of those bytes by source; 100 in all."
    )


class TokenizerFile(Part):
    """A tokenizer that is there: a `tokenizer.json`."""

    file: Address = Field(description="Path or address of a tokenizer.json; a path is relative to the study file.")
    vocabulary: Annotated[int, whole("the size of the vocabulary", "50304", 258, 2**20)] | None = Field(
        None, description="Size of the model's vocabulary; that of the file unless given."
    )


def _which_tokenizer(given: object) -> str | None:
    if isinstance(given, TrainTokenizer) or (isinstance(given, Mapping) and "train" in given):
        return "train"
    return "<file>" if isinstance(given, (Mapping, TokenizerFile)) else None


def _inside_train(given: object) -> object:
    if not isinstance(given, Mapping):
        return given
    for key in given:
        if key != "train":
            raise PydanticCustomError("beside_train", "{key}", {"key": key})
    return given["train"]


TokenizerGiven = Annotated[
    Annotated[TrainTokenizer, BeforeValidator(_inside_train), Tag("train")] | Annotated[TokenizerFile, Tag("<file>")],
    Discriminator(_which_tokenizer),
]


class Source(Part):
    """Files that are read as one stream of documents."""

    name: Label = Field(description="What mixtures call it; no part of any identity.")
    group: Annotated[Group, Choice(tuple(Group))] = Field(description="Which side of `codePercent` it is on.")
    path: Address = Field(description="A file, folder or pattern; a relative one starts at the study file's folder.")
    fingerprint: HexDigest | None = Field(None, description="Digest of the content, where `plan` cannot reach the files.")
    tokens: TokenCount | None = Field(None, description="How many tokens it has, until `prepare` has counted them.")
    max_repetition: Annotated[Decimal, number("a number of repetitions", "4", 0, 1000, above=True)] = Field(
        Decimal(4), description="A plan that reads it more often is refused (Muennighoff et al. 2023 found 4 still useful)."
    )
    limit: TokenCount | None = Field(None, description="Only so many tokens of it are prepared.")
    column: Words = Field("text", description="Column of Parquet, or key of JSON lines, that holds the text.")
    max_file_bytes: ByteCount = Field(2**20, description="Source code: larger files are left out.")


class HeldOut(Part):
    """Documents kept out of every source and scored."""

    one_in: Annotated[int, whole("one document in so many", "200", 2, 10**6)] = Field(
        200, description="One document in so many is kept out, by a hash of its content."
    )
    documents: Annotated[int, whole("a number of documents", "2000", 1, 10**7)] = Field(
        2000, description="At most so many of them are scored, by source."
    )


class Data(Part):
    """What is read, and how it becomes tokens."""

    tokenizer: TokenizerGiven = Field(description="One for all cells: `{train: {...}}` or `{file: tokenizer.json}`.")
    sources: tuple[Source, ...] = Field(min_length=1, max_length=64, description="What mixtures are made of.")
    held_out: HeldOut = Field(HeldOut(), description="What is kept out of every source to be scored.")


class OptimizerSpec(Part):
    """AdamW, where it shall differ from the ladder."""

    beta1: Annotated[Decimal, number("beta1", '"0.9"', 0, 1)] | None = Field(None, description="Decay of the first moment.")
    beta2: Annotated[Decimal, number("beta2", '"0.95"', 0, 1)] | None = Field(None, description="Decay of the second moment.")
    eps: Annotated[Decimal, number("epsilon", '"1e-8"', 0, 1, above=True)] | None = Field(None, description="Epsilon of AdamW.")
    weight_decay: Annotated[Decimal, number("weight decay", '"0.1"', 0, 10)] | None = Field(
        None, description="Decoupled weight decay; embeddings have none."
    )
    clip: Annotated[Decimal, number("a norm", '"1.0"', 0, above=True)] | None = Field(None, description="Largest norm of a gradient.")
    z_loss: Annotated[Decimal, number("a weight", '"1e-5"', 0, 1)] | None = Field(None, description="Weight of the z-loss.")

    def over(self, base: "OptimizerSpec") -> "OptimizerSpec":
        """This one, with what it leaves open taken from `base`."""
        return base.model_copy(update=self.given())

    def given(self) -> dict[str, Any]:
        """What is set here, by field."""
        return {name: value for name, value in self if value is not None}


class ScheduleSpec(Part):
    """The learning rate over tokens, where it shall differ from the kind's and the ladder's."""

    shape: Annotated[Literal["wsd", "cosine", "linear"], Choice(("wsd", "cosine", "linear"))] | None = Field(
        None, description="wsd: flat, then a linear leaf; cosine and linear: down over the whole stage."
    )
    decay: Decay | None = Field(None, description="wsd: the part of the stage over which the leaf falls.")
    peak: BySize[PeakRate] | None = Field(None, description="Highest rate, one or by size; by the ladder's law unless given.")
    warmup: BySize[WarmupTokens] | None = Field(None, description="Tokens over which the rate rises, one or by size; N unless given.")
    final: Rate | None = Field(None, description="The rate at the end; 0 unless given.")

    def over(self, base: "ScheduleSpec") -> "ScheduleSpec":
        """This one, with what it leaves open taken from `base`, key by key."""
        return base.model_copy(update=self.given())

    def given(self) -> dict[str, Any]:
        """What is set here, by field."""
        return {name: value for name, value in self if value is not None}


class PartialTraining(Part):
    """What a recipe may say otherwise than the study."""

    sequence_length: Annotated[int, whole("tokens a sequence", "4096", 8, 2**20)] | None = Field(None, description="Tokens a sequence (T).")
    precision: Annotated[Literal["fp32", "bf16"], Choice(("fp32", "bf16"))] | None = Field(
        None, description="Of the forward and backward pass; never substituted."
    )
    batch: BySize[BatchSequences] | None = Field(None, description="Sequences a step, one or by size; by the ladder's law unless given.")
    deviation: BySize[Deviation] | None = Field(None, description="Standard deviation of the initial weights, one or by size.")
    optimizer: OptimizerSpec = Field(OptimizerSpec(), description="AdamW, where it shall differ from the ladder.")
    schedule: ScheduleSpec = Field(ScheduleSpec(), description="Learning rate, where it shall differ from the ladder.")


class Training(PartialTraining):
    """How every stage is trained unless a recipe or the stage says otherwise."""

    sequence_length: Annotated[int, whole("tokens a sequence", "4096", 8, 2**20)] = Field(description="Tokens a sequence (T).")
    precision: Annotated[Literal["fp32", "bf16"], Choice(("fp32", "bf16"))] = Field(
        description="Of the forward and backward pass; never substituted: bf16 on a CPU runs as bf16."
    )

    def overridden(self, part: PartialTraining | None) -> "Training":
        """This training with what a recipe says otherwise, key by key."""
        if part is None:
            return self
        plain = {
            name: getattr(part, name) for name in ("sequence_length", "precision", "batch", "deviation") if getattr(part, name) is not None
        }
        return self.model_copy(
            update={**plain, "optimizer": part.optimizer.over(self.optimizer), "schedule": part.schedule.over(self.schedule)}
        )


_MULTIPLE: Final = Quantity(
    read_multiple,
    "tokens as a multiple of N, above 0",
    "20x",
    r"^(0|[1-9][0-9]{0,5})([.][0-9]{1,5})?x$",
    Decimal(0),
    Decimal(10**6),
    True,
    False,
)


class Tokens(Part):
    """How long a stage is; exactly one of the three is set."""

    amount: TokenCount | None = Field(None, description="So many tokens: `200B`.")
    per_parameter: Annotated[Decimal, _MULTIPLE] | None = Field(None, description="So many times N of the size: `20x`.")
    text: TokenCount | None = Field(None, description="As many in all as make the text so many: `{text: 200B}`.")

    def asked(self, n: int, code_percent: Decimal) -> int:
        """Tokens in all for a model of `n` parameters at `code_percent`, rounded down. Raises ValueError for text at 100 % code."""
        if self.amount is not None:
            return self.amount
        if self.per_parameter is not None:
            return int(self.per_parameter * n)
        assert self.text is not None
        if code_percent >= 100:
            raise ValueError("no number of tokens holds text at 100 % code")
        return int(self.text * 100 / (100 - code_percent))


def _tokens_of(given: object) -> object:
    if isinstance(given, str) and given.endswith("x"):
        return {"perParameter": given}
    if isinstance(given, Tokens):
        return given
    if isinstance(given, Mapping):
        for key in given:
            if key != "text":
                raise PydanticCustomError("tokens_key", "{key}", {"key": key})
        if not given:
            raise PydanticCustomError("tokens_empty", "")
        return given
    return {"amount": given}


TokensGiven = Annotated[Tokens, BeforeValidator(_tokens_of)]


def _grid_or_percent(given: object) -> str:
    return "<grid>" if isinstance(given, str) and not given[:1].isdigit() else "<percent>"


CodePercentGiven = Annotated[
    Annotated[Literal["grid"], Choice(("grid",)), Tag("<grid>")] | Annotated[CodePercent, Tag("<percent>")], Discriminator(_grid_or_percent)
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

    def code_percent_at(self, grid_percent: Decimal | None) -> Decimal:
        """Percent of code of this stage in a cell at `grid_percent`. Raises ValueError when it is the grid's and the cell has none."""
        percent = self.mixture.code_percent
        if percent != "grid":
            return percent
        if grid_percent is None:
            raise ValueError(f"stage {self.name} takes the grid's proportions and the cell has none")
        return grid_percent


class Recipe(Part):
    """An ordered list of stages that a model goes through, and the part of the grid that goes through it."""

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
        """Whether there is a cell for every proportion of the grid."""
        return any(stage.mixture.code_percent == "grid" for stage in self.stages)


def _with_kind(stage: object, *, first: bool) -> object:
    if not isinstance(stage, Mapping) or "kind" in stage:
        return stage
    if first:
        return {**stage, "kind": str(StageKind.PRETRAIN)}
    if stage.get("name") in (StageKind.CONTINUE, StageKind.COOLDOWN):
        return {**stage, "kind": str(stage["name"])}
    return stage


class EvaluationSpec(Part):
    """What is scored, and after which stages."""

    after: tuple[Label, ...] = Field((), max_length=64, description="Names of stages.")
    suites: tuple[Annotated[str, Choice(SUITES)], ...] = Field((), max_length=64, description="Names of suites.")


class Arm(Part):
    """One side of a contrast: the cells of a recipe at a size and a proportion, after a stage."""

    recipe: Label = Field(description="Name of a recipe.")
    size: SizeName = Field(description="A size of the recipe.")
    code_percent: CodePercent | None = Field(None, description="A proportion of the grid; left out where the recipe fixes its own.")
    stage: Label = Field(description="A stage of the recipe that is evaluated.")


class Contrast(Part):
    """A difference between two arms that is named before the runs."""

    name: Label = Field(description="What the report calls it.")
    metric: Annotated[
        str,
        Text("a suite, or suite/source or suite/benchmark", "bpb", r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(/[a-z0-9]([-_a-z0-9]*[a-z0-9])?)?", 127),
    ] = Field(description="A suite of `evaluation`, or one source or benchmark of it: `bpb/web`.")
    arm: Arm = Field(description="What is compared.")
    against: Arm = Field(description="What it is compared with.")


class Budget(Part):
    """What the study may cost."""

    gpu_hours: Annotated[Decimal, number("GPU-hours", "300000", 0, above=True)] | None = Field(
        None, description="No run is started that passes it."
    )


class Toleration(Part):
    """A taint that pods of the study may ignore, as Kubernetes has it."""

    key: Words | None = Field(None, description="Key of the taint; every key unless given.")
    operator: Annotated[Literal["Exists", "Equal"], Choice(("Exists", "Equal"))] = Field("Equal", description="How `value` is compared.")
    value: Words | None = Field(None, description="Value of the taint.")
    effect: (
        Annotated[Literal["NoSchedule", "PreferNoSchedule", "NoExecute"], Choice(("NoSchedule", "PreferNoSchedule", "NoExecute"))] | None
    ) = Field(None, description="Effect of the taint; every effect unless given.")


_GPUS: Final = whole("GPUs a pod", "8", 0, 1024)


class Execution(Part):
    """Where and how the study runs; never part of an identity."""

    image: Words | None = Field(None, description="Image of the trainer, best by digest.")
    gpus_per_pod: dict[SizeName, Annotated[int, _GPUS]] = Field(
        {}, max_length=64, description="GPUs of a training pod by size; 1 unless given."
    )
    nodes: dict[SizeName, Annotated[int, whole("nodes a task", "2", 1, 1024)]] = Field(
        {}, max_length=64, description="Nodes of a training task by size; 1 unless given."
    )
    micro_batch: BySize[BatchSequences] | None = Field(None, description="Sequences a forward pass on one GPU, one or by size.")
    queue: Words | None = Field(None, description="Kueue's queue for training pods.")
    priority_class: Words | None = Field(None, description="PriorityClass of the pods.")
    service_account: Words | None = Field(None, description="ServiceAccount of the Workflows.")
    pull_secrets: tuple[Words, ...] = Field((), max_length=16, description="Secrets that pull the image.")
    store_secret: Words | None = Field(None, description="Secret whose keys are the store's environment variables.")
    node_selector: dict[Words, Words] = Field({}, max_length=32, description="Labels that a node must have.")
    tolerations: tuple[Toleration, ...] = Field((), max_length=32, description="Taints that the pods ignore.")
    grace_seconds: Annotated[int, whole("seconds", "120", 1, 3600)] = Field(
        120, description="Between SIGTERM and SIGKILL: time for a last checkpoint."
    )


class StudySpec(Part):
    """All that a study file says under `spec`."""

    store: Address = Field(description="Data, checkpoints and records: s3://, gs://, az://, or a folder relative to the study file.")
    grid: Grid = Field(description="Sizes x code proportions x seeds.")
    models: dict[SizeName, ModelShape] = Field({}, max_length=64, description="Shapes of one's own, by name.")
    data: Data = Field(description="What is read, and how it becomes tokens.")
    training: Training = Field(description="How every stage is trained unless a recipe or the stage says otherwise.")
    recipes: tuple[Recipe, ...] = Field(min_length=1, max_length=64, description="What the models go through.")
    evaluation: EvaluationSpec = Field(EvaluationSpec(), description="What is scored, and after which stages.")
    contrasts: tuple[Contrast, ...] = Field((), max_length=256, description="Differences that are named before the runs.")
    budget: Budget = Field(Budget(), description="What the study may cost.")
    execution: Execution = Field(Execution(), description="Where and how it runs; never part of an identity.")
    paused: StrictBool = Field(False, description="Stops politely: running tasks write a checkpoint.")

    def training_of(self, recipe: Recipe) -> Training:
        """The training of a recipe: the study's, with what the recipe says otherwise."""
        return self.training.overridden(recipe.training)


@dataclass(frozen=True)
class Study:
    """A study as it was read. `path`: of the file, relative paths start in its folder. `document`: what stood under `spec`."""

    name: str
    spec: StudySpec
    path: str
    document: Mapping[str, Any] = field(default_factory=dict, compare=False)
