"""The policy of a namespace: limits set by the platform team in a ConfigMap that researchers cannot write.

The controller checks it before it accepts a study. Pure: takes the ConfigMap's data as text and returns the violations. An empty or
missing value allows everything. Lists have one entry per line; `*` matches any characters.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final

import yaml

from orchestrator.errors import ClusterError
from orchestrator.planning.estimate import DEFAULT_MFU, PEAK_FLOPS
from orchestrator.spec import Execution, Study

KNOWN_KEYS: Final = (
    "gpuHours",
    "gpusPerPod",
    "images",
    "queues",
    "stores",
    "priorityClass",
    "tolerations",
    "storeSecret",
    "storeSecrets",
    "shardsClaim",
    "gpu",
    "stallMinutes",
    "checkpointSeconds",
    "workflowsAtOnce",
)


@dataclass(frozen=True, slots=True)
class Policy:
    """Caps, allowed patterns (empty: all), and defaults for pods. `gpu`: the GPU type used for cost estimates."""

    gpu_hours: float | None = None
    gpus_per_pod: int | None = None
    images: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()
    store_secret: str = ""
    store_secrets: tuple[str, ...] = ()
    shards_claim: str = ""
    gpu: str = "h100"
    mfu: float = DEFAULT_MFU
    stall_minutes: float = 30
    checkpoint_seconds: int = 600
    workflows_at_once: int | None = None
    pod_defaults: dict[str, Any] = field(default_factory=dict)

    def with_defaults(self, execution: Execution) -> Execution:
        """Return the study's execution settings, completed with the namespace's defaults."""
        if execution.store_secret or not self.store_secret:
            return execution
        return execution.model_copy(update={"store_secret": self.store_secret})


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that a study violates. `rule`: the reason of `Accepted=False`; `message`: the problem and its solution."""

    rule: str
    message: str


def read_policy(data: Mapping[str, str] | None) -> Policy:
    """Read the policy from a ConfigMap's data; None allows everything.

    Raises ClusterError for unknown keys and invalid values, because a misspelled cap must not be ignored.
    """
    given = {key: text.strip() for key, text in (data or {}).items() if text.strip()}
    if unknown := sorted(set(given) - set(KNOWN_KEYS)):
        raise ClusterError(f"the policy has an unknown key {unknown[0]!r}; allowed are {', '.join(KNOWN_KEYS)}")
    gpu = given.get("gpu", "h100")
    if gpu not in PEAK_FLOPS:
        raise ClusterError(f"the policy's gpu {gpu!r} is unknown; allowed are {', '.join(PEAK_FLOPS)}")
    defaults: dict[str, Any] = {}
    if "tolerations" in given:
        defaults["tolerations"] = _list_of_objects(given["tolerations"])
    if "priorityClass" in given:
        defaults["podPriorityClassName"] = given["priorityClass"]
    gpus, at_once = _number(given, "gpusPerPod"), _number(given, "workflowsAtOnce")
    return Policy(
        gpu_hours=_number(given, "gpuHours"),
        gpus_per_pod=None if gpus is None else int(gpus),
        images=_lines(given, "images"),
        queues=_lines(given, "queues"),
        stores=_lines(given, "stores"),
        store_secret=given.get("storeSecret", ""),
        store_secrets=_lines(given, "storeSecrets"),
        shards_claim=given.get("shardsClaim", ""),
        gpu=gpu,
        stall_minutes=_number(given, "stallMinutes") or Policy().stall_minutes,
        checkpoint_seconds=int(_number(given, "checkpointSeconds") or Policy().checkpoint_seconds),
        workflows_at_once=None if at_once is None else int(at_once),
        pod_defaults=defaults,
    )


SYSTEM_PREFIX: Final = "scaling-study-"
"""Prefix of the installation's own service accounts."""
TOKEN_SUFFIX: Final = ".service-account-token"
"""Suffix that Argo requires for the Secret with the token of its own containers."""


def policy_violations(study: Study, policy: Policy) -> tuple[Violation, ...]:
    """Return the rules of any cluster, and of this namespace, that the study violates."""
    return (*_of_any_cluster(study), *_of_this_namespace(study, policy))


def _of_any_cluster(study: Study) -> Iterator[Violation]:
    if study.spec.execution.image is None:
        yield Violation("ImageMissing", "spec.execution.image: a cluster needs the trainer's image; set it, preferably by digest")
    if "://" not in study.spec.store or study.spec.store.startswith("file://"):
        yield Violation("StoreNotShared", f"spec.store: {study.spec.store!r} is a folder on one machine; use s3://, gs:// or az://")
    account, secret = study.spec.execution.service_account or "", study.spec.execution.store_secret or ""
    if account.startswith(SYSTEM_PREFIX) and account != f"{SYSTEM_PREFIX}trainer":
        yield Violation(
            "AccountNotAllowed", f"spec.execution.serviceAccount: {account!r} is reserved for the system; name your own account, or none"
        )
    if secret.endswith(TOKEN_SUFFIX):
        yield Violation(
            "SecretNotAllowed",
            f"spec.execution.storeSecret: {secret!r} holds a cluster token, which training pods may not use; name another Secret",
        )
    for number, source in enumerate(study.spec.data.sources):
        if "://" not in source.path and not source.path.startswith("/"):
            problem = f"{source.path!r} is a relative path, which a cluster cannot resolve; use s3://, gs://, az:// or an absolute path"
            yield Violation("RelativePath", f"spec.data.sources[{number}].path: {problem}")


def _of_this_namespace(study: Study, policy: Policy) -> Iterator[Violation]:
    execution = study.spec.execution
    if execution.image is not None and not _matches(execution.image, policy.images):
        yield Violation("ImageNotAllowed", f"spec.execution.image: {execution.image!r} is not allowed; allowed are {_shown(policy.images)}")
    if policy.queues and not _matches(execution.queue or "", policy.queues):
        yield Violation(
            "QueueNotAllowed", f"spec.execution.queue: {execution.queue or ''!r} is not allowed; allowed are {_shown(policy.queues)}"
        )
    if not _matches(study.spec.store, policy.stores):
        yield Violation("StoreNotAllowed", f"spec.store: {study.spec.store!r} is not allowed; allowed are {_shown(policy.stores)}")
    secret = execution.store_secret
    if secret and secret != policy.store_secret and not _matches(secret, policy.store_secrets):
        yield Violation(
            "SecretNotAllowed", f"spec.execution.storeSecret: {secret!r} is not allowed; allowed are {_shown(policy.store_secrets)}"
        )
    for size in study.spec.grid.sizes:
        gpus = execution.gpus_per_pod.get(size, 1)
        if policy.gpus_per_pod is not None and gpus > policy.gpus_per_pod:
            problem = f"{gpus} GPUs per pod exceed the {policy.gpus_per_pod} allowed in this namespace"
            yield Violation("TooManyGpusPerPod", f'spec.execution.gpusPerPod["{size}"]: {problem}')


def _matches(text: str, patterns: tuple[str, ...]) -> bool:
    return not patterns or any(fnmatchcase(text, pattern) for pattern in patterns)


def _shown(patterns: tuple[str, ...]) -> str:
    return ", ".join(patterns)


def _lines(given: Mapping[str, str], key: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in given.get(key, "").splitlines() if line.strip())


def _number(given: Mapping[str, str], key: str) -> float | None:
    if key not in given:
        return None
    try:
        number = float(given[key])
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise ClusterError(
            f"the policy's {key} {given[key]!r} is not a non-negative number; write one such as 1000, or leave it empty for no cap"
        )
    return number


def _list_of_objects(text: str) -> list[dict[str, Any]]:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        found = None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ClusterError(
            "the policy's tolerations are not a YAML list of objects; write for example [{key: nvidia.com/gpu, operator: Exists}]"
        )
    return found
