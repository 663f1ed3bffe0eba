"""The identities of tasks as data: what `task.json` holds, and how to read it back.

The planner builds these, the trainer obeys them; neither adds a default of its own. `identity()` gives the object whose canonical JSON
is hashed, `read_identity` is its inverse. Placement (names, paths, image, GPUs, threads, store) has no place here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeAlias

from orchestrator.contract.identity import digest_of, dumps
from orchestrator.errors import ContractError

PREPARE_VERSION: Final = 1
"""Raised by whoever changes the bytes that `prepare` writes for the same files."""

SHUFFLE_SEED: Final = 0
"""Of the order of documents inside a source: a constant, so that seeds of a study only choose windows."""

Document: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama-shaped decoder: RMSNorm before, SwiGLU, RoPE, no bias, as many key-value heads as heads."""

    width: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int
    tied: bool
    rope_theta: int
    norm_eps: str

    @property
    def body(self) -> int:
        """Parameters without embedding and head: attention, SwiGLU and the norms."""
        d = self.width
        return self.layers * (4 * d * d + 3 * d * self.feed_forward + 2 * d) + d

    @property
    def n(self) -> int:
        """N: every parameter but the input embedding, that is body and head, whether or not the head is tied."""
        return self.body + self.width * self.vocabulary

    @property
    def total(self) -> int:
        """All parameters; a tied head is counted once."""
        return self.body + self.width * self.vocabulary * (1 if self.tied else 2)

    def identity(self) -> Document:
        return {
            "width": self.width,
            "layers": self.layers,
            "heads": self.heads,
            "feed_forward": self.feed_forward,
            "vocabulary": self.vocabulary,
            "tied": self.tied,
            "rope_theta": self.rope_theta,
            "norm_eps": self.norm_eps,
        }


@dataclass(frozen=True, slots=True)
class FromInitialisation:
    """A start from random weights: normal with `deviation`, drawn with `seed`."""

    shape: Shape
    seed: int
    deviation: str

    def identity(self) -> Document:
        return {"shape": self.shape.identity(), "seed": self.seed, "deviation": self.deviation}


@dataclass(frozen=True, slots=True)
class FromState:
    """A start from the state of another trajectory after `tokens` of its own. `keep_optimizer` is False for fresh moments."""

    trajectory: str
    tokens: int
    keep_optimizer: bool

    def identity(self) -> Document:
        return {"trajectory": self.trajectory, "tokens": self.tokens, "optimizer": "keep" if self.keep_optimizer else "fresh"}


@dataclass(frozen=True, slots=True)
class Schedule:
    """A learning rate over tokens.

    `constant`: up to `peak` over `warmup` tokens, then flat for ever (the stable part of wsd: it has no end, so `final` and `tokens`
    are None). `linear` and `cosine`: up over `warmup`, then down to `final` at `tokens` after the trajectory's start.
    """

    shape: str
    warmup: int
    peak: str
    final: str | None = None
    tokens: int | None = None

    def identity(self) -> Document:
        ends = {} if self.shape == "constant" else {"final": self.final, "tokens": self.tokens}
        return {"shape": self.shape, "warmup": self.warmup, "peak": self.peak, **ends}


@dataclass(frozen=True, slots=True)
class Optimizer:
    """AdamW and what surrounds its step. `embedding_decay` replaces `weight_decay` on the embedding (and a tied head)."""

    beta1: str
    beta2: str
    eps: str
    weight_decay: str
    embedding_decay: str
    clip: str
    z_loss: str

    def identity(self) -> Document:
        return {
            "name": "adamw",
            "beta1": self.beta1,
            "beta2": self.beta2,
            "eps": self.eps,
            "weight_decay": self.weight_decay,
            "embedding_decay": self.embedding_decay,
            "clip": self.clip,
            "z_loss": self.z_loss,
        }


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Everything that determines a training run except where it ends.

    `shares`: (prepare digest, coprime share), sorted by digest, none zero. `already_read`: (prepare digest, windows) of those same
    sources that its ancestors have read, zeros dropped, in windows of this trajectory's sequence length. `batch`: sequences a step.
    """

    start: FromInitialisation | FromState
    shares: tuple[tuple[str, int], ...]
    already_read: tuple[tuple[str, int], ...]
    data_seed: int
    sequence_length: int
    batch: int
    optimizer: Optimizer
    schedule: Schedule
    precision: str
    numerics: int

    @property
    def tokens_per_step(self) -> int:
        return self.batch * self.sequence_length

    def identity(self) -> Document:
        return {
            "start": self.start.identity(),
            "shares": [list(pair) for pair in self.shares],
            "already_read": [list(pair) for pair in self.already_read],
            "data_seed": self.data_seed,
            "sequence_length": self.sequence_length,
            "batch": self.batch,
            "optimizer": self.optimizer.identity(),
            "schedule": self.schedule.identity(),
            "precision": self.precision,
            "numerics": self.numerics,
        }


@dataclass(frozen=True, slots=True)
class Reader:
    """How files become documents: the column or key that holds the text, and the largest file of source code taken, in bytes."""

    column: str
    max_file_bytes: int

    def identity(self) -> Document:
        return {"column": self.column, "max_file_bytes": self.max_file_bytes}


@dataclass(frozen=True, slots=True)
class TokenizerTask:
    """Train a byte-level BPE. `sources`: (fingerprint, reader, coprime weight), sorted by fingerprint; `byte_count`: read in all."""

    vocabulary: int
    byte_count: int
    held_out_one_in: int
    sources: tuple[tuple[str, Reader, int], ...]

    def identity(self) -> Document:
        return {
            "kind": "prepare",
            "output": "tokenizer",
            "version": PREPARE_VERSION,
            "vocabulary": self.vocabulary,
            "bytes": self.byte_count,
            "held_out_one_in": self.held_out_one_in,
            "shuffle_seed": SHUFFLE_SEED,
            "sources": [{"fingerprint": f, "reader": reader.identity(), "weight": weight} for f, reader, weight in self.sources],
        }


@dataclass(frozen=True, slots=True)
class PrepareTask:
    """Turn the files behind a fingerprint into shuffled tokens and a held-out set.

    The fingerprint is the digest of the sorted (SHA-256 of a file's content, reader, language) triples: declared and computed ones give
    one identity. `tokenizer`: the digest of a TokenizerTask, or `file:` and the SHA-256 of a tokenizer.json. `limit`: tokens, or None.
    """

    fingerprint: str
    reader: Reader
    tokenizer: str
    held_out_one_in: int
    limit: int | None

    def identity(self) -> Document:
        return {
            "kind": "prepare",
            "output": "tokens",
            "version": PREPARE_VERSION,
            "fingerprint": self.fingerprint,
            "reader": self.reader.identity(),
            "tokenizer": self.tokenizer,
            "held_out_one_in": self.held_out_one_in,
            "shuffle_seed": SHUFFLE_SEED,
            "limit": self.limit,
        }


@dataclass(frozen=True, slots=True)
class TrainTask:
    """Bring a trajectory to `tokens`, counted from its own start."""

    trajectory: Trajectory
    tokens: int

    def identity(self) -> Document:
        return {"kind": "train", "trajectory": self.trajectory.identity(), "tokens": self.tokens}


@dataclass(frozen=True, slots=True)
class EvaluateTask:
    """Score the state (trajectory, tokens) on one suite. `items` is the suite's own description of what is asked."""

    trajectory: str
    tokens: int
    suite: str
    items: Mapping[str, Any]
    numerics: int

    def identity(self) -> Document:
        return {
            "kind": "evaluate",
            "state": {"trajectory": self.trajectory, "tokens": self.tokens},
            "suite": self.suite,
            "items": dict(self.items),
            "numerics": self.numerics,
        }


Task: TypeAlias = TokenizerTask | PrepareTask | TrainTask | EvaluateTask


def read_identity(document: Document) -> Task:
    """The task behind the content of a `task.json`. Raises ContractError when it is not exactly one of ours."""
    try:
        task = _READERS[document["kind"], document.get("output")](document)
    except (KeyError, TypeError, ValueError) as problem:
        raise ContractError(f"this is not the identity of a task ({type(problem).__name__}: {problem})") from problem
    if task.identity() != document:
        raise ContractError("this identity has keys or values that this version of the contract does not know")
    return task


def digest_of_task(task: Task) -> str:
    return digest_of(task.identity())


def trajectory_text(trajectory: Trajectory) -> str:
    """`dumps(trajectory.identity())`, put together from parts that thousands of trajectories share: planning 10,000 cells hashes 40,000."""
    read, shares = _pairs_text(trajectory.already_read), _pairs_text(trajectory.shares)
    return (
        f'{{"already_read":{read},"batch":{trajectory.batch},"data_seed":{trajectory.data_seed},"numerics":{trajectory.numerics},'
        f'"optimizer":{_part_text(trajectory.optimizer)},"precision":"{trajectory.precision}","schedule":{_part_text(trajectory.schedule)},'
        f'"sequence_length":{trajectory.sequence_length},"shares":{shares},"start":{_start_text(trajectory.start)}}}'
    )


def train_text(trajectory: str, tokens: int) -> str:
    """Canonical JSON of the train task that brings the trajectory with this text to `tokens`."""
    return f'{{"kind":"train","tokens":{tokens},"trajectory":{trajectory}}}'


def evaluate_text(items: str, numerics: int, trajectory: str, tokens: int, suite: str) -> str:
    """Canonical JSON of an evaluate task whose items have this canonical text."""
    state = f'{{"tokens":{tokens},"trajectory":"{trajectory}"}}'
    return f'{{"items":{items},"kind":"evaluate","numerics":{numerics},"state":{state},"suite":"{suite}"}}'


def _start_text(start: FromInitialisation | FromState) -> str:
    if isinstance(start, FromState):
        optimizer = "keep" if start.keep_optimizer else "fresh"
        return f'{{"optimizer":"{optimizer}","tokens":{start.tokens},"trajectory":"{start.trajectory}"}}'
    return f'{{"deviation":"{start.deviation}","seed":{start.seed},"shape":{_part_text(start.shape)}}}'


@lru_cache(maxsize=4096)
def _part_text(part: Shape | Optimizer | Schedule) -> str:
    return dumps(part.identity())


def _pairs_text(pairs: tuple[tuple[str, int], ...]) -> str:
    return "[" + ",".join(f'["{digest}",{number}]' for digest, number in pairs) + "]"


def read_trajectory(document: Document) -> Trajectory:
    """Inverse of `Trajectory.identity`."""
    start = document["start"]
    return Trajectory(
        start=_read_start(start),
        shares=tuple((digest, share) for digest, share in document["shares"]),
        already_read=tuple((digest, windows) for digest, windows in document["already_read"]),
        data_seed=document["data_seed"],
        sequence_length=document["sequence_length"],
        batch=document["batch"],
        optimizer=Optimizer(**{key: value for key, value in document["optimizer"].items() if key != "name"}),
        schedule=Schedule(**document["schedule"]),
        precision=document["precision"],
        numerics=document["numerics"],
    )


def _read_start(start: Document) -> FromInitialisation | FromState:
    if "shape" in start:
        return FromInitialisation(Shape(**start["shape"]), start["seed"], start["deviation"])
    return FromState(start["trajectory"], start["tokens"], start["optimizer"] == "keep")


def _read_train(document: Document) -> TrainTask:
    return TrainTask(read_trajectory(document["trajectory"]), document["tokens"])


def _read_evaluate(document: Document) -> EvaluateTask:
    state = document["state"]
    return EvaluateTask(state["trajectory"], state["tokens"], document["suite"], document["items"], document["numerics"])


def _read_tokenizer(document: Document) -> TokenizerTask:
    sources = tuple((entry["fingerprint"], Reader(**entry["reader"]), entry["weight"]) for entry in document["sources"])
    return TokenizerTask(document["vocabulary"], document["bytes"], document["held_out_one_in"], sources)


def _read_prepare(document: Document) -> PrepareTask:
    return PrepareTask(
        document["fingerprint"], Reader(**document["reader"]), document["tokenizer"], document["held_out_one_in"], document["limit"]
    )


_READERS: Final[dict[tuple[str, str | None], Callable[[Document], Task]]] = {
    ("train", None): _read_train,
    ("evaluate", None): _read_evaluate,
    ("prepare", "tokenizer"): _read_tokenizer,
    ("prepare", "tokens"): _read_prepare,
}
