"""The words that cross a process or a file: kinds, exit codes, suites, names of metrics and tags."""

from enum import IntEnum, StrEnum
from typing import Final

API_VERSION: Final = "scaling-study.dev/v1alpha1"
OBJECT_KIND: Final = "ScalingStudy"


class TaskKind(StrEnum):
    """What a task does. A trained tokenizer is a `prepare` task."""

    PREPARE = "prepare"
    TRAIN = "train"
    EVALUATE = "evaluate"


class StageKind(StrEnum):
    """Names and defaults of one thing: a start, a mixture, a schedule and a number of tokens."""

    PRETRAIN = "pretrain"
    CONTINUE = "continue"
    COOLDOWN = "cooldown"


class Group(StrEnum):
    """The two groups that `codePercent` divides a mixture between."""

    TEXT = "text"
    CODE = "code"


class ExitCode(IntEnum):
    """How an attempt ends. 64 and 65 are Argo's own."""

    DONE = 0
    """The record is there (also when it was there before)."""
    FAILED = 1
    """A failure that a retry may mend."""
    HELD = 69
    """Another attempt holds the lease, or what the task needs is being made again: ask again later."""
    STOPPED = 75
    """Stopped on request after a checkpoint: run again; not a failure."""
    REFUSED = 78
    """No retry can mend it."""


# Names of metrics: in metrics tables, records, MLflow and the tidy table alike.
LOSS: Final = "loss"
"""Mean cross-entropy of the step in nats a token, without z-loss."""
GRAD_NORM: Final = "grad_norm"
LEARNING_RATE: Final = "learning_rate"
TOKENS_PER_SECOND: Final = "tokens_per_second"
BITS_PER_BYTE: Final = "bits_per_byte"
ACCURACY: Final = "accuracy"

SOURCE_SUITES: Final = ("bpb", "continuation")
"""Suites made from held-out documents: one evaluate task a state and source."""

BENCHMARK_SUITES: Final[dict[str, tuple[str, ...]]] = {
    # Aryabumi et al. 2024, arXiv:2408.10914, section 2.3
    "nl-reasoning": (
        "boolq",
        "piqa",
        "hellaswag",
        "siqa",
        "arc_easy",
        "arc_challenge",
        "copa",
        "openbookqa",
        "winogrande",
        "csqa",
        "storycloze",
    ),
    "world-knowledge": ("triviaqa", "nq_open"),
    "code": ("humaneval", "mbpp"),
    "generation": ("dolly200",),
}
"""Suites of named benchmarks: one evaluate task a state and suite."""

SUITES: Final = (*SOURCE_SUITES, *BENCHMARK_SUITES)

# Tags of an MLflow run; lists, joined by commas, where a task serves several cells.
TAGS: Final = ("study", "recipe", "size", "code_percent", "seed", "stage", "digest", "attempt")

# Labels and annotations on what we make on a cluster. A label's value ends at 63 characters: it holds the first 32 hex of a digest.
LABEL_PREFIX: Final = "scaling-study.dev/"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "scaling-study"
LABEL_STUDY: Final = LABEL_PREFIX + "study"
LABEL_KIND: Final = LABEL_PREFIX + "kind"
LABEL_DIGEST: Final = LABEL_PREFIX + "digest"
LABEL_RUN: Final = LABEL_PREFIX + "run"
LABEL_SIZE: Final = LABEL_PREFIX + "size"
LABEL_STORE: Final = LABEL_PREFIX + "store"
"""Which store the work goes to, as a short hash of its address: the same task in two stores is work twice."""
LABEL_QUEUE: Final = "kueue.x-k8s.io/queue-name"
WAITER: Final = "scaling-study-waiter"
"""Service account of what waits for training over several nodes: it may make JobSets and see their pods, and its container alone of all in
a Workflow holds that token."""
ANNOTATION_TASKS: Final = LABEL_PREFIX + "tasks"
"""On a Workflow: the full digests of its tasks, as a JSON list in their order."""
ANNOTATION_RETRY: Final = LABEL_PREFIX + "retry"
"""On a ScalingStudy: the lowest run number that it may have. A person's `retry` raises it, and failed tasks are tried again."""
DIGEST_LABEL_LENGTH: Final = 32
