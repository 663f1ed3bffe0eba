"""Find the study that a command or API call names, and connect to its store and its cluster.

`orchestrator.api` and the commands call it. A study is named by its file or by its name; its state is read from its store, from its
cluster, or from both.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from orchestrator.cluster.port import Cluster, Document
from orchestrator.cluster.study_object import explain_errors, find_object
from orchestrator.errors import ClusterError, MissingExtra, ScalingStudyError, StoreError, StoreUnavailable
from orchestrator.monitor.status_reader import StatusReader
from orchestrator.spec import read_study
from orchestrator.spec.yaml_text import NotYaml, read_document
from orchestrator.store import Store, open_store, store_exists
from orchestrator.store.objects import utc_now
from orchestrator.store.plans import current_spec
from orchestrator.study.opening import store_address

T = TypeVar("T")

# The client of an unreachable bucket gives up only after most of a minute
STORE_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class StudyReference:
    """A study as the user named it. `file`: None if only a name was given; `namespace`: the file's, "" if it has none."""

    name: str
    file: Path | None = None
    namespace: str = ""


def resolve_study(study: str) -> StudyReference:
    """Return the study that a file or a name refers to.

    A file needs only a readable name; its other mistakes are ignored here. Raises InvalidStudy for a file without a name.
    """
    path = Path(study)
    if not is_file(study):
        return StudyReference(study)
    try:
        values = read_document(path.read_bytes(), study)[0].values
    except (NotYaml, OSError):
        values = None
    metadata = values.get("metadata") if isinstance(values, dict) else None
    if isinstance(metadata, dict) and isinstance(metadata.get("name"), str):
        namespace = metadata.get("namespace")
        return StudyReference(metadata["name"], path, namespace if isinstance(namespace, str) else "")
    return StudyReference(read_study(path).name, path)


def is_file(path: str) -> bool:
    """Return whether there is a file at a path; False for a text that cannot be a path, such as one of 300 characters."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def resolve_namespace(reference: StudyReference, given: str) -> str:
    """Return the namespace, "" for the context's. Raises ClusterError if the file and the option name different ones."""
    if given and reference.namespace and given != reference.namespace:
        raise ClusterError(f"{reference.file}: metadata.namespace is {reference.namespace!r} but -n is {given!r}; remove one of them")
    return given or reference.namespace


def existing_store(address: str, study: str = "") -> Store:
    """Open a store for reading `study`; a missing folder is an error and is not created. Raises StoreError."""
    if not store_exists(address):
        effect = f", so there is no study called {study}" if study else ""
        raise StoreError(
            f"there is no store at {address}: no such folder{effect}. Create it with `scaling-study run FILE`, or name another with --store"
        )
    return open_store(address)


def connect_cluster(namespace: str, context: str) -> Cluster:
    """Connect to the Kubernetes API of a kubeconfig context. Raises ClusterError, MissingExtra."""
    try:
        from orchestrator.cluster.kubernetes_api import connect
    except ModuleNotFoundError as problem:
        raise MissingExtra("a cluster needs the package `kubernetes`: pip install 'scaling-study[cluster]'") from problem
    return connect(namespace, context)


@contextmanager
def status_reader(
    study: str, *, namespace: str = "", context: str = "", store: str | None = None, prefer_cluster: bool = False
) -> Iterator[StatusReader]:
    """Yield a reader of the study's status. Cluster errors raised inside the block explain how to fix them.

    The cluster is used if one is named (`namespace`, `context`, `prefer_cluster` or the file's namespace), if only the study's name is
    given, or if the store is unreachable or does not hold the study. Otherwise the store's plan, records and leases are enough.
    Raises ScalingStudyError if neither can be read.
    """
    reference = resolve_study(study)
    use_cluster = prefer_cluster or bool(namespace or context or (reference.namespace and store is None))
    trouble = ""
    if not use_cluster and (store is not None or reference.file is not None):
        address = store or _store_address(reference)
        try:
            reader = with_timeout(STORE_SECONDS, lambda: _store_reader(reference.name, address))
        except StoreError as problem:
            if "://" not in address:
                raise
            trouble = f"its store is unreachable ({problem})"
        else:
            if reader is not None:
                yield reader
                return
            trouble = f"{address} has no study called {reference.name}"
    try:
        cluster = connect_cluster(resolve_namespace(reference, namespace), context)
    except ScalingStudyError as problem:
        raise _unreadable(problem, study, reference, trouble) from problem
    with explain_errors(cluster.namespace):
        yield cluster_status_reader(cluster, reference.name, store)


def _unreadable(problem: ScalingStudyError, study: str, reference: StudyReference, trouble: str) -> ScalingStudyError:
    """Return the error to raise if neither the cluster nor the store can be read; its message lists alternatives."""
    if trouble:
        return ScalingStudyError(f"{study}: {trouble}, and {problem}")
    if reference.file is None:
        return ScalingStudyError(f"{study} is not a file here. A study's name needs a cluster or --store URL: {problem}")
    return ScalingStudyError(f"{problem}\n    To read only the study's store: --store URL")


def _store_address(reference: StudyReference) -> str:
    assert reference.file is not None
    return store_address(read_study(reference.file), None)


def _store_reader(name: str, address: str) -> StatusReader | None:
    """Return a reader of the store alone; None if a bucket does not hold the study, which may then exist on a cluster."""
    opened = existing_store(address, name)
    if "://" in address and current_spec(opened, name) is None:
        return None
    return StatusReader(name, utc_now, store=opened)


def cluster_status_reader(cluster: Cluster, name: str, store: str | None, opener: Callable[[str], Store] = open_store) -> StatusReader:
    """Return a reader of a study on a cluster, and of its store if this machine can reach it. Raises NotFound, ClusterError."""
    body: Document = find_object(cluster, name)
    address = store or str(body["spec"].get("store", ""))

    def open_and_probe() -> Store:
        if store is None and "://" not in address:
            raise StoreError(f"{address} is a folder on another machine")
        opened = opener(address)
        current_spec(opened, name)
        return opened

    opened, trouble = None, ""
    try:
        opened = with_timeout(STORE_SECONDS, open_and_probe)
    except StoreError as problem:
        trouble = f"its store cannot be reached from here: {problem}"
    return StatusReader(name, utc_now, store=opened, cluster=cluster, trouble=trouble, address=address)


def with_timeout(seconds: float, call: Callable[[], T]) -> T:
    """Return what `call` returns, or raise what it raises; raise StoreUnavailable after `seconds`.

    A store client without credentials searches for them for a long time.
    """
    results: list[T] = []
    problems: list[BaseException] = []

    def work() -> None:
        try:
            results.append(call())
        except BaseException as problem:  # raised again in the calling thread
            problems.append(problem)

    thread = threading.Thread(target=work, daemon=True, name="store")
    thread.start()
    thread.join(seconds)
    if problems:
        raise problems[0]
    if not results:
        raise StoreUnavailable(f"it has not answered within {seconds:.0f} s; are its credentials in the environment?")
    return results[0]
