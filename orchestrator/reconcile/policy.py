"""The policy of a namespace: limits set by the platform team in a ConfigMap that researchers cannot write.

The controller checks it before it accepts a study. Pure: takes the ConfigMap's data as text and returns the violations. An empty or
missing value, and a missing ConfigMap, allow everything, except source files on a pod's disk (`sources`). Lists have one entry per line;
`*` matches any characters. Addresses are compared in their normal form (`orchestrator.spec.addresses`).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final

import yaml

from orchestrator.errors import ClusterError
from orchestrator.planning.estimate import DEFAULT_MFU, PEAK_FLOPS
from orchestrator.spec import Execution, Study, TokenizerFile
from orchestrator.spec.addresses import dot_segment, is_local, is_url, normalized, percent_encoding
from orchestrator.spec.messages import Path, format_path, format_value

LIMITS: Final = (
    "gpuHours",
    "gpusPerPod",
    "nodesPerTask",
    "workflowsAtOnce",
    "images",
    "queues",
    "stores",
    "sources",
    "storeSecrets",
    "pullSecrets",
    "serviceAccounts",
    "priorityClasses",
)
"""Keys that limit nothing while they are empty."""
KNOWN_KEYS: Final = (
    *LIMITS,
    "allowTolerations",
    "allowNodeSelector",
    "priorityClass",
    "tolerations",
    "storeSecret",
    "shardsClaim",
    "gpu",
    "stallMinutes",
    "checkpointSeconds",
)


@dataclass(frozen=True, slots=True)
class Policy:
    """Caps, allowed patterns (empty: all), and defaults for pods. `gpu`: the GPU type used for cost estimates."""

    gpu_hours: float | None = None
    gpus_per_pod: int | None = None
    nodes_per_task: int | None = None
    images: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    """Empty: every bucket, but no file on a pod's disk."""
    store_secret: str = ""
    store_secrets: tuple[str, ...] = ()
    pull_secrets: tuple[str, ...] = ()
    service_accounts: tuple[str, ...] = ()
    priority_class: str = ""
    priority_classes: tuple[str, ...] = ()
    allow_tolerations: bool = True
    allow_node_selector: bool = True
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
    return Policy(
        gpu_hours=_number(given, "gpuHours"),
        gpus_per_pod=_whole(given, "gpusPerPod"),
        nodes_per_task=_whole(given, "nodesPerTask"),
        images=_lines(given, "images"),
        queues=_lines(given, "queues"),
        stores=_lines(given, "stores"),
        sources=_lines(given, "sources"),
        store_secret=given.get("storeSecret", ""),
        store_secrets=_lines(given, "storeSecrets"),
        pull_secrets=_lines(given, "pullSecrets"),
        service_accounts=_lines(given, "serviceAccounts"),
        priority_class=given.get("priorityClass", ""),
        priority_classes=_lines(given, "priorityClasses"),
        allow_tolerations=_boolean(given, "allowTolerations"),
        allow_node_selector=_boolean(given, "allowNodeSelector"),
        shards_claim=given.get("shardsClaim", ""),
        gpu=gpu,
        stall_minutes=_number(given, "stallMinutes") or Policy().stall_minutes,
        checkpoint_seconds=int(_number(given, "checkpointSeconds") or Policy().checkpoint_seconds),
        workflows_at_once=_whole(given, "workflowsAtOnce"),
        pod_defaults=defaults,
    )


def missing_limits(data: Mapping[str, str] | None) -> str:
    """Return the limits that the policy does not set, for the controller's log; "" if it sets all."""
    if data is None:
        return "the namespace has no policy ConfigMap, so nothing limits its studies: GPU-hours, images, stores, Secrets and accounts"
    unset = [key for key in LIMITS if not data.get(key, "").strip()]
    return f"the policy sets no limit for {', '.join(unset)}; an empty value allows everything" if unset else ""


SYSTEM_PREFIX: Final = "scaling-study-"
"""Prefix of the installation's own service accounts."""
TRAINER_ACCOUNT: Final = f"{SYSTEM_PREFIX}trainer"
"""The account of pods whose study names none."""
TOKEN_SUFFIX: Final = ".service-account-token"
"""Suffix that Argo requires for the Secret with the token of its own containers."""
CRITICAL_PREFIX: Final = "system-"
"""Prefix of the PriorityClasses that Kubernetes reserves for its own pods (system-node-critical, system-cluster-critical)."""
TEMPLATE: Final = "{{"
"""Argo evaluates `{{...}}` in every string of a Workflow, with functions that can exhaust the memory of its controller."""


def policy_violations(study: Study, policy: Policy) -> tuple[Violation, ...]:
    """Return the violated rules: those that hold on any cluster, then those of this namespace."""
    return (*violations_on_any_cluster(study), *_of_this_namespace(study, policy))


def violations_on_any_cluster(study: Study) -> Iterator[Violation]:
    """Yield the violations that do not depend on a namespace's policy."""
    execution = study.spec.execution
    if execution.image is None:
        yield Violation("ImageMissing", "spec.execution.image: a cluster needs the trainer's image; set it, preferably by digest")
    yield from _addresses_on_any_cluster(study)
    account, secret, priority = execution.service_account or "", execution.store_secret or "", execution.priority_class or ""
    if account.startswith(SYSTEM_PREFIX) and account != TRAINER_ACCOUNT:
        yield Violation(
            "AccountNotAllowed", f"spec.execution.serviceAccount: {account!r} is reserved for the system; name your own account, or none"
        )
    if secret.endswith(TOKEN_SUFFIX):
        yield Violation(
            "SecretNotAllowed",
            f"spec.execution.storeSecret: {secret!r} holds a cluster token, which training pods may not use; name another Secret",
        )
    if priority.startswith(CRITICAL_PREFIX):
        yield Violation(
            "PriorityNotAllowed",
            f"spec.execution.priorityClass: {priority!r} is reserved for the cluster's own pods; name another class, or none",
        )
    yield from _templates(study)


def _addresses_on_any_cluster(study: Study) -> Iterator[Violation]:
    store = study.spec.store
    if is_local(store):
        yield Violation("StoreNotShared", f"spec.store: {store!r} is a folder on one machine; use s3://, gs:// or az://")
    else:
        yield from _ambiguous("spec.store", store)
    for path, address in _inputs(study):
        if _is_relative(address):
            yield Violation(
                "RelativePath", f"{path}: {address!r} is a relative path, which a cluster cannot resolve; use s3://, gs:// or az://"
            )
        else:
            yield from _ambiguous(path, address)


def _inputs(study: Study) -> Iterator[tuple[str, str]]:
    """Yield path and address of the files that pods read: sources, and the tokenizer's file."""
    for number, source in enumerate(study.spec.data.sources):
        yield f"spec.data.sources[{number}].path", source.path
    if isinstance(study.spec.data.tokenizer, TokenizerFile):
        yield "spec.data.tokenizer.file", study.spec.data.tokenizer.file


def _is_relative(address: str) -> bool:
    return not is_url(address) and not address.startswith("/")


def _ambiguous(path: str, address: str) -> Iterator[Violation]:
    """Yield a violation for an address with dot segments or percent-encoding, to which the policy's patterns cannot be applied."""
    if segment := dot_segment(address):
        problem = f"contains the segment {segment!r}, so it would name another folder; write the address of the folder itself"
        yield Violation("AddressNotAllowed", f"{path}: {address!r} {problem}")
    elif code := percent_encoding(address):
        problem = f"contains the percent-encoding {code!r}, which not all storage clients decode; write the character itself"
        yield Violation("AddressNotAllowed", f"{path}: {address!r} {problem}")


def _templates(study: Study) -> Iterator[Violation]:
    """Yield a violation for the first key or value that Argo would evaluate."""
    document = {**study.document, "store": study.spec.store}
    for path, text in _strings(document, ("spec",)):
        if TEMPLATE in text:
            problem = f"{format_value(text)} contains {TEMPLATE!r}, which Argo Workflows evaluates; remove it"
            yield Violation("TemplateNotAllowed", f"{format_path(path)}: {problem}")
            return


def _strings(value: object, path: Path) -> Iterator[tuple[Path, str]]:
    """Yield every key and every text inside a value, with its path."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield (*path, str(key)), str(key)
            yield from _strings(inner, (*path, str(key)))
    elif isinstance(value, Sequence):
        for number, inner in enumerate(value):
            yield from _strings(inner, (*path, number))


def _of_this_namespace(study: Study, policy: Policy) -> Iterator[Violation]:
    execution, where = study.spec.execution, "spec.execution"
    if execution.image is not None:
        yield from _unlisted("ImageNotAllowed", f"{where}.image", execution.image, policy.images)
    yield from _unlisted("QueueNotAllowed", f"{where}.queue", execution.queue or "", policy.queues)
    if not is_local(study.spec.store):
        yield from _unlisted_address("StoreNotAllowed", "spec.store", study.spec.store, policy.stores)
    yield from _sources(study, policy.sources)
    if execution.store_secret and execution.store_secret != policy.store_secret:
        yield from _unlisted("SecretNotAllowed", f"{where}.storeSecret", execution.store_secret, policy.store_secrets)
    for number, name in enumerate(execution.pull_secrets):
        yield from _unlisted("PullSecretNotAllowed", f"{where}.pullSecrets[{number}]", name, policy.pull_secrets)
    if execution.service_account and execution.service_account != TRAINER_ACCOUNT:
        yield from _unlisted("AccountNotAllowed", f"{where}.serviceAccount", execution.service_account, policy.service_accounts)
    if execution.priority_class and execution.priority_class != policy.priority_class:
        yield from _unlisted("PriorityNotAllowed", f"{where}.priorityClass", execution.priority_class, policy.priority_classes)
    for size in study.spec.grid.sizes:
        yield from _above("TooManyGpusPerPod", f'{where}.gpusPerPod["{size}"]', execution.gpus_per_pod.get(size, 1), policy.gpus_per_pod)
        yield from _above("TooManyNodesPerTask", f'{where}.nodes["{size}"]', execution.nodes.get(size, 1), policy.nodes_per_task)
    yield from _scheduling(study, policy)


def _sources(study: Study, allowed: tuple[str, ...]) -> Iterator[Violation]:
    for path, address in _inputs(study):
        if _is_relative(address):
            continue
        if is_local(address) and not allowed:
            # the disk of a pod holds the files of its image and of Kubernetes, such as credentials
            problem = "is a file of a pod, which only `sources` of the namespace's policy can allow; use s3://, gs:// or az://"
            yield Violation("SourceNotAllowed", f"{path}: {address!r} {problem}")
        else:
            yield from _unlisted_address("SourceNotAllowed", path, address, allowed)


def _scheduling(study: Study, policy: Policy) -> Iterator[Violation]:
    execution = study.spec.execution
    if execution.tolerations and not policy.allow_tolerations:
        keys = ", ".join(repr(toleration.key or "*") for toleration in execution.tolerations)
        problem = f"tolerations of {keys} are given; this namespace allows none (allowTolerations: false); remove them"
        yield Violation("TolerationsNotAllowed", f"spec.execution.tolerations: {problem}")
    if execution.node_selector and not policy.allow_node_selector:
        problem = (
            f"the labels {', '.join(map(repr, execution.node_selector))} are required; this namespace allows no node selector"
            " (allowNodeSelector: false); remove it"
        )
        yield Violation("NodeSelectorNotAllowed", f"spec.execution.nodeSelector: {problem}")


def _unlisted(rule: str, path: str, given: str, allowed: tuple[str, ...]) -> Iterator[Violation]:
    """Yield a violation if the list is not empty and does not contain the value."""
    if allowed and not any(fnmatchcase(given, pattern) for pattern in allowed):
        yield Violation(rule, f"{path}: {given!r} is not allowed; allowed are {', '.join(allowed)}")


def _unlisted_address(rule: str, path: str, given: str, allowed: tuple[str, ...]) -> Iterator[Violation]:
    if allowed and not any(fnmatchcase(normalized(given), normalized(pattern)) for pattern in allowed):
        yield Violation(rule, f"{path}: {given!r} is not allowed; allowed are {', '.join(allowed)}")


def _above(rule: str, path: str, given: int, cap: int | None) -> Iterator[Violation]:
    if cap is not None and given > cap:
        yield Violation(rule, f"{path}: {given} is not allowed; this namespace allows at most {cap}")


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


def _whole(given: Mapping[str, str], key: str) -> int | None:
    number = _number(given, key)
    if number is not None and number != int(number):
        raise ClusterError(f"the policy's {key} {given[key]!r} is not a whole number; write one such as 8, or leave it empty for no cap")
    return None if number is None else int(number)


def _boolean(given: Mapping[str, str], key: str) -> bool:
    """Return a boolean; a key that is empty or missing is true."""
    text = given.get(key, "true")
    if text not in ("true", "false"):
        raise ClusterError(f'the policy\'s {key} {text!r} is neither true nor false; write "true" or "false", or leave it empty for true')
    return text == "true"


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
