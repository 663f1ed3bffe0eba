"""Train tasks: bring a trajectory to a number of tokens."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Self

from orchestrator.contract.identity import digest_of, dumps
from orchestrator.contract.kinds.base import Document, Need, TaskIdentity
from orchestrator.contract.vocabulary import TaskKind


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama-shaped decoder: pre-norm RMSNorm, SwiGLU, RoPE, no biases, as many key-value heads as query heads."""

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
        """N: all parameters except the input embedding, that is, body and head. A tied head is included."""
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
    """A start from the state of another trajectory after `tokens` of its own. `keep_optimizer`: False resets the moments."""

    trajectory: str
    tokens: int
    keep_optimizer: bool

    def identity(self) -> Document:
        return {"trajectory": self.trajectory, "tokens": self.tokens, "optimizer": "keep" if self.keep_optimizer else "fresh"}


@dataclass(frozen=True, slots=True)
class Schedule:
    """A learning rate over tokens.

    `constant`: warm up to `peak` over `warmup` tokens, then stay there (the stable part of wsd, which has no end: `final` and `tokens`
    are None). `linear` and `cosine`: warm up, then decay to `final` at `tokens` after the trajectory's start.
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
    """AdamW, gradient clipping and z-loss. `embedding_decay` replaces `weight_decay` on the embedding (and a tied head)."""

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

    `shares`: (prepare digest, coprime share), sorted by digest, none zero. `already_read`: (prepare digest, windows) that the
    ancestors have read of these sources, without zeros, in windows of this trajectory's sequence length. `batch`: sequences per step.
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
class TrainTask(TaskIdentity):
    """Train a trajectory up to `tokens`, counted from its own start."""

    kind: ClassVar = TaskKind.TRAIN

    trajectory: Trajectory
    tokens: int

    def identity(self) -> Document:
        return {"kind": "train", "trajectory": self.trajectory.identity(), "tokens": self.tokens}

    @classmethod
    def read(cls, document: Document) -> Self:
        return cls(read_trajectory(document["trajectory"]), document["tokens"])

    def needs(self) -> Iterator[Need]:
        for digest, _ in self.trajectory.shares:
            yield Need(digest)
        if isinstance(self.trajectory.start, FromState):
            yield Need(self.trajectory.start.trajectory, self.trajectory.start.tokens)

    def result(self) -> Need:
        return Need(digest_of(self.trajectory.identity()), self.tokens)

    def work_digest(self, digest: str) -> str:
        """Return the trajectory's digest: its tasks share leases and checkpoints, so that no tokens are trained twice."""
        del digest
        return digest_of(self.trajectory.identity())

    def required_numerics(self) -> int:
        return self.trajectory.numerics


def trajectory_text(trajectory: Trajectory) -> str:
    """`dumps(trajectory.identity())`, assembled from cached parts: planning 10,000 cells hashes 40,000 trajectories."""
    read, shares = _pairs_text(trajectory.already_read), _pairs_text(trajectory.shares)
    return (
        f'{{"already_read":{read},"batch":{trajectory.batch},"data_seed":{trajectory.data_seed},"numerics":{trajectory.numerics},'
        f'"optimizer":{_part_text(trajectory.optimizer)},"precision":"{trajectory.precision}","schedule":{_part_text(trajectory.schedule)},'
        f'"sequence_length":{trajectory.sequence_length},"shares":{shares},"start":{_start_text(trajectory.start)}}}'
    )


def train_text(trajectory: str, tokens: int) -> str:
    """Canonical JSON of the train task that brings the trajectory with this text to `tokens`."""
    return f'{{"kind":"train","tokens":{tokens},"trajectory":{trajectory}}}'


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
    """Return the trajectory in a document (inverse of `Trajectory.identity`)."""
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
