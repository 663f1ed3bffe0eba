"""Names and constants shared across processes and files: kinds, suites, metrics, tags, labels."""

from datetime import timedelta
from enum import StrEnum
from typing import Final

API_VERSION: Final = "scaling-study.dev/v1alpha1"
OBJECT_KIND: Final = "ScalingStudy"
ACCOUNT_KIND: Final = "GpuAccount"
ACCOUNT_NAME: Final = "scaling-study"
"""Name of the one GpuAccount object of a namespace."""


class TaskKind(StrEnum):
    """The kind of a task. Training a tokenizer is a `prepare` task."""

    PREPARE = "prepare"
    TRAIN = "train"
    EVALUATE = "evaluate"


class StageKind(StrEnum):
    """The kind of a stage. All kinds consist of a start, a mixture, a schedule and a token count; they differ in defaults."""

    PRETRAIN = "pretrain"
    CONTINUE = "continue"
    COOLDOWN = "cooldown"


class Group(StrEnum):
    """The two groups that `codePercent` divides a mixture between."""

    TEXT = "text"
    CODE = "code"


# Names of metrics in metrics tables, records, MLflow and the tidy table.
LOSS: Final = "loss"
"""Mean cross-entropy of the step in nats per token, without z-loss."""
GRAD_NORM: Final = "grad_norm"
LEARNING_RATE: Final = "learning_rate"
TOKENS_PER_SECOND: Final = "tokens_per_second"
BITS_PER_BYTE: Final = "bits_per_byte"
ACCURACY: Final = "accuracy"

SOURCE_SUITES: Final = ("bpb", "continuation")
"""Suites made from held-out documents: one evaluate task per state and source."""

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
"""Suites of named benchmarks: one evaluate task per state and suite."""

SUITES: Final = (*SOURCE_SUITES, *BENCHMARK_SUITES)

# Tags of an MLflow run; comma-separated lists where several cells share a task.
TAGS: Final = ("study", "recipe", "size", "code_percent", "seed", "stage", "digest", "attempt")

# Labels and annotations on cluster objects. A label value has at most 63 characters, so it contains the first 32 hex digits of a digest.
LABEL_PREFIX: Final = "scaling-study.dev/"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGED_BY: Final = "scaling-study"
LABEL_STUDY: Final = LABEL_PREFIX + "study"
LABEL_KIND: Final = LABEL_PREFIX + "kind"
LABEL_DIGEST: Final = LABEL_PREFIX + "digest"
LABEL_RUN: Final = LABEL_PREFIX + "run"
LABEL_SIZE: Final = LABEL_PREFIX + "size"
LABEL_STORE: Final = LABEL_PREFIX + "store"
"""Short hash of the store's address: the same task in two stores is two units of work."""
LABEL_JOBSET: Final = "jobset.sigs.k8s.io/jobset-name"
"""JobSet's own label on its pods."""
LABEL_QUEUE: Final = "kueue.x-k8s.io/queue-name"
WAITER: Final = "scaling-study-waiter"
"""Service account of the JobSet waiter for training on several nodes. It may create JobSets and read their pods; no other container of a
Workflow has its token."""
ANNOTATION_TASKS: Final = LABEL_PREFIX + "tasks"
"""On a Workflow: the full digests of its tasks, as a JSON list in order."""
ANNOTATION_RETRY: Final = LABEL_PREFIX + "retry"
"""On a ScalingStudy: the minimum run number. The `retry` command increments it to retry failed tasks."""
DIGEST_LABEL_LENGTH: Final = 32

CLOCK_MARGIN: Final = timedelta(seconds=60)
"""Allowed clock skew before a lease is considered expired."""
