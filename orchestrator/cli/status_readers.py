"""Who looks at a study for `status`, `watch` and `logs`: at its store, at its cluster, or at both as far as they can be reached."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import typer

from orchestrator.cli.connect import PLUGIN, Named, connected, name_of, namespace_of, program_of, standing_store

if TYPE_CHECKING:
    from orchestrator.cluster.port import Cluster, Document
    from orchestrator.errors import ScalingStudyError
    from orchestrator.monitor.status_reader import Lookout
    from orchestrator.store import Store

T = TypeVar("T")

# A bucket that cannot be reached from here is found out by its client after most of a minute
STORE_SECONDS: Final = 15.0


@contextmanager
def lookout(ctx: typer.Context, study: str, namespace: str, context: str, store: str | None) -> Iterator["Lookout"]:
    """Who looks at the study. Errors that come while it looks have with them what mends them.

    A cluster is asked when one is named: by -n, --context, kubectl, or the file's namespace; when all that is given is a name; and when the
    store is out of reach or does not have the study. Else plan, records and leases in the store tell everything.
    """
    from orchestrator.cluster.study_object import clear_words
    from orchestrator.errors import ScalingStudyError, StoreError

    named = name_of(study)
    wants_cluster = bool(namespace or context or (named.namespace and store is None)) or program_of(ctx) == PLUGIN
    trouble = ""
    if not wants_cluster and (store is not None or named.file is not None):
        address = store or _address_in(named)
        try:
            found = within(STORE_SECONDS, lambda: _in_store(named.name, address))
        except StoreError as problem:
            if "://" not in address:
                raise
            trouble = f"its store is out of reach ({problem})"
        else:
            if found is not None:
                yield found
                return
            trouble = f"{address} has no study called {named.name}"
    try:
        cluster = connected(namespace_of(named, namespace), context)
    except ScalingStudyError as problem:
        raise _neither(problem, study, named, trouble) from problem
    with clear_words(cluster.namespace):
        yield on_cluster_and_store(cluster, named.name, store)


def _neither(problem: "ScalingStudyError", study: str, named: Named, trouble: str) -> "ScalingStudyError":
    """No cluster either: what else would have done."""
    from orchestrator.errors import ScalingStudyError

    if trouble:
        return ScalingStudyError(f"{study}: {trouble}, and {problem}")
    if named.file is None:
        return ScalingStudyError(f"{study} is no file here. As a name it needs a cluster or --store URL: {problem}")
    return ScalingStudyError(f"{problem}\n    To ask the study's store alone: --store URL")


def _address_in(named: Named) -> str:
    from orchestrator.spec import read_study
    from orchestrator.study.opening import store_address

    assert named.file is not None
    return store_address(read_study(named.file), None)


def _in_store(name: str, address: str) -> "Lookout | None":
    """Looks at a study in a store; None where a bucket does not have it, since its cluster may."""
    from orchestrator.monitor.status_reader import Lookout
    from orchestrator.store.objects import utc_now
    from orchestrator.store.plans import current_spec

    opened = standing_store(address, name)
    if "://" in address and current_spec(opened, name) is None:
        return None
    return Lookout(name, utc_now, store=opened)


def on_cluster_and_store(cluster: "Cluster", name: str, store: str | None, open_store: "Callable[[str], Store] | None" = None) -> "Lookout":
    """Looks at a study of a cluster, and at its store as far as it can be reached from here. Raises NotThere, ClusterError."""
    from orchestrator.cluster.study_object import find_object
    from orchestrator.errors import StoreError
    from orchestrator.monitor.status_reader import Lookout
    from orchestrator.store import open_store as open_any
    from orchestrator.store.objects import utc_now
    from orchestrator.store.plans import current_spec

    body: Document = find_object(cluster, name)
    address = store or str(body["spec"].get("store", ""))

    def answering() -> "Store":
        if store is None and "://" not in address:
            raise StoreError(f"{address} is a folder of another machine")
        opened = (open_store or open_any)(address)
        current_spec(opened, name)
        return opened

    opened, trouble = None, ""
    try:
        opened = within(STORE_SECONDS, answering)
    except StoreError as problem:
        trouble = f"its store cannot be reached from here: {problem}"
    return Lookout(name, utc_now, store=opened, cluster=cluster, trouble=trouble, address=address)


def within(seconds: float, ask: "Callable[[], T]") -> "T":
    """What `ask` returns or raises, or StoreUnavailable when it takes longer: a client that has no credentials searches for some."""
    from orchestrator.errors import StoreUnavailable

    results: list[T] = []
    problems: list[BaseException] = []

    def run() -> None:
        try:
            results.append(ask())
        except BaseException as problem:  # handed on to whoever waits
            problems.append(problem)

    asking = threading.Thread(target=run, daemon=True, name="store")
    asking.start()
    asking.join(seconds)
    if problems:
        raise problems[0]
    if not results:
        raise StoreUnavailable(f"it has not answered within {seconds:.0f} s; are its credentials in the environment?")
    return results[0]
