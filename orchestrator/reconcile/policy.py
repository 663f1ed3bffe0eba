"""What the platform team allows in a namespace: a ConfigMap that researchers cannot write.

The controller reads it before it accepts a study. Pure: the ConfigMap's data comes in as text, the names of broken rules go out. A value
that is empty or missing allows everything; lists have one entry a line, `*` stands for any characters.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final

import yaml

from orchestrator.errors import ClusterError
from orchestrator.planning.estimate import DEFAULT_MFU, PEAK_FLOPS
from orchestrator.spec import Execution, Study

KNOWN: Final = (
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
    """Caps, allowed patterns (empty: all), and what pods get whose study asks for nothing else. `gpu`: priced like this one."""

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

    def placed(self, execution: Execution) -> Execution:
        """The study's own wishes over what every study here gets."""
        if execution.store_secret or not self.store_secret:
            return execution
        return execution.model_copy(update={"store_secret": self.store_secret})


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule that a study breaks: the reason of `Accepted=False`, and what to do."""

    rule: str
    message: str


def read_policy(data: Mapping[str, str] | None) -> Policy:
    """The policy in a ConfigMap's data; without one, everything is allowed. Raises ClusterError for what cannot be read: a cap with a
    spelling mistake must not be no cap."""
    given = {key: text.strip() for key, text in (data or {}).items() if text.strip()}
    if unknown := sorted(set(given) - set(KNOWN)):
        raise ClusterError(f"the policy has a key {unknown[0]!r} that is not known; there are {', '.join(KNOWN)}")
    gpu = given.get("gpu", "h100")
    if gpu not in PEAK_FLOPS:
        raise ClusterError(f"the policy's gpu {gpu!r} is not known here; there are {', '.join(PEAK_FLOPS)}")
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


OWN: Final = "scaling-study-"
"""How the service accounts of an installation begin."""
TOKEN: Final = ".service-account-token"
"""How Argo wants the Secret called that holds the token of its own containers."""


def broken_rules(study: Study, policy: Policy) -> tuple[Broken, ...]:
    """Every rule of a cluster, and of this namespace, that the study breaks."""
    return (*_of_any_cluster(study), *_of_this_namespace(study, policy))


def _of_any_cluster(study: Study) -> Iterator[Broken]:
    if study.spec.execution.image is None:
        yield Broken("ImageMissing", "spec.execution.image: a cluster needs the trainer's image; write its name, best by digest")
    if "://" not in study.spec.store or study.spec.store.startswith("file://"):
        yield Broken("StoreNotShared", f"spec.store: {study.spec.store!r} is a folder of one machine; write s3://, gs:// or az://")
    account, secret = study.spec.execution.service_account or "", study.spec.execution.store_secret or ""
    if account.startswith(OWN) and account != f"{OWN}trainer":
        yield Broken("AccountNotAllowed", f"spec.execution.serviceAccount: {account!r} is the system's own; name one of yours, or none")
    if secret.endswith(TOKEN):
        yield Broken("SecretNotAllowed", f"spec.execution.storeSecret: {secret!r} holds a token of the cluster, which no training pod gets")
    for number, source in enumerate(study.spec.data.sources):
        if "://" not in source.path and not source.path.startswith("/"):
            told = f"{source.path!r} is relative to a file, which a cluster does not have; write s3://, gs://, az:// or an absolute path"
            yield Broken("RelativePath", f"spec.data.sources[{number}].path: {told}")


def _of_this_namespace(study: Study, policy: Policy) -> Iterator[Broken]:
    execution = study.spec.execution
    if execution.image is not None and not _matches(execution.image, policy.images):
        yield Broken("ImageNotAllowed", f"spec.execution.image: {execution.image!r} is none of {_shown(policy.images)}")
    if policy.queues and not _matches(execution.queue or "", policy.queues):
        yield Broken("QueueNotAllowed", f"spec.execution.queue: {execution.queue or ''!r} is none of {_shown(policy.queues)}")
    if not _matches(study.spec.store, policy.stores):
        yield Broken("StoreNotAllowed", f"spec.store: {study.spec.store!r} is none of {_shown(policy.stores)}")
    secret = execution.store_secret
    if secret and secret != policy.store_secret and not _matches(secret, policy.store_secrets):
        yield Broken("SecretNotAllowed", f"spec.execution.storeSecret: {secret!r} is none of {_shown(policy.store_secrets)}")
    for size in study.spec.grid.sizes:
        gpus = execution.gpus_per_pod.get(size, 1)
        if policy.gpus_per_pod is not None and gpus > policy.gpus_per_pod:
            told = f"{gpus} GPUs a pod are more than the {policy.gpus_per_pod} that are allowed here"
            yield Broken("TooManyGpusPerPod", f'spec.execution.gpusPerPod["{size}"]: {told}')


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
        raise ClusterError(f"the policy's {key} {given[key]!r} is not a number; write one such as 1000, or leave it empty for no cap")
    return number


def _list_of_objects(text: str) -> list[dict[str, Any]]:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        found = None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ClusterError("the policy's tolerations are not a list as YAML; write [{key: nvidia.com/gpu, operator: Exists}]")
    return found
