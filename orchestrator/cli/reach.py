"""How a command gets to the study that a person names: by its file or its name, on a cluster or in a store.

Commands that look at a study or change it take the same words: STUDY, --namespace, --context, --store. A command's own function takes an
`At`, so that a test gives it any cluster. Heavy imports are inside, as in every module of the command line.
"""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias, TypeVar

import typer

if TYPE_CHECKING:
    from orchestrator.cluster import Cluster, Document
    from orchestrator.errors import ScalingStudyError
    from orchestrator.store import Store
    from orchestrator.study_view import Lookout

T = TypeVar("T")

PLUGIN: Final = "kubectl sstudy"
"""The name under which kubectl runs the command line; there a study is always one of a cluster."""
# A bucket that cannot be reached from here is found out by its client after most of a minute
STORE_SECONDS: Final = 15.0

StudyArgument: TypeAlias = Annotated[str, typer.Argument(metavar="STUDY", help="The study file, or the study's name.")]
NamespaceOption: TypeAlias = Annotated[
    str, typer.Option("--namespace", "-n", help="Namespace of the cluster; by default the file's, else the context's.")
]
ContextOption: TypeAlias = Annotated[str, typer.Option("--context", help="Context of the kubeconfig; by default the current one.")]
StoreOption: TypeAlias = Annotated[str | None, typer.Option("--store", help="Where the store is, instead of what file or object say.")]


@dataclass(frozen=True, slots=True)
class Named:
    """A study as a person named it. `file`: None where a name was given; `namespace`: the file's, "" without."""

    name: str
    file: Path | None = None
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class At:
    """A study on a cluster, and the words by which whoever asked got there."""

    cluster: "Cluster"
    name: str
    program: str = "scaling-study"
    context: str = ""

    def line(self, verb: str) -> str:
        """The command that does `verb` to this study, to be told to people."""
        context = ["--context", self.context] if self.context else []
        return shlex.join([*self.program.split(), verb, self.name, "-n", self.cluster.namespace, *context])


@contextmanager
def on_cluster(ctx: typer.Context, study: str, namespace: str, context: str) -> Iterator[At]:
    """The study on the cluster, whose errors come with what mends them. Raises ClusterError, MissingExtra, StudyMistakes."""
    from orchestrator.study_object import clear_words

    named = name_of(study)
    cluster = connected(namespace_of(named, namespace), context)
    with clear_words(cluster.namespace):
        yield At(cluster, named.name, program_of(ctx), context)


def program_of(ctx: typer.Context) -> str:
    """`scaling-study` or `kubectl sstudy`: as what we were started."""
    return ctx.find_root().info_name or "scaling-study"


def name_of(study: str) -> Named:
    """The name that a file gives, whatever other mistakes it has, or the name itself. Raises StudyMistakes for a file without one."""
    path = Path(study)
    if not path.is_file():
        return Named(study)
    from orchestrator.spec import read_study
    from orchestrator.spec.yaml_text import NotYaml, read_document

    try:
        values = read_document(path.read_bytes(), study)[0].values
    except (NotYaml, OSError):
        values = None
    metadata = values.get("metadata") if isinstance(values, dict) else None
    if isinstance(metadata, dict) and isinstance(metadata.get("name"), str):
        namespace = metadata.get("namespace")
        return Named(metadata["name"], path, namespace if isinstance(namespace, str) else "")
    return Named(read_study(path).name, path)


def namespace_of(named: Named, given: str) -> str:
    """The namespace that is meant, "" for the context's. Raises ClusterError when file and command line name two."""
    from orchestrator.errors import ClusterError

    if given and named.namespace and given != named.namespace:
        raise ClusterError(f"{named.file}: metadata.namespace is {named.namespace!r} and -n says {given!r}; leave one of them out")
    return given or named.namespace


def connected(namespace: str, context: str) -> "Cluster":
    """The cluster that is meant. Raises ClusterError, MissingExtra."""
    try:
        from orchestrator.kube import connect
    except ModuleNotFoundError as problem:
        from orchestrator.errors import MissingExtra

        raise MissingExtra("a cluster needs the package `kubernetes`: pip install 'scaling-study[cluster]'") from problem
    return connect(namespace, context)


@contextmanager
def lookout(ctx: typer.Context, study: str, namespace: str, context: str, store: str | None) -> Iterator["Lookout"]:
    """Who looks at the study. Errors that come while it looks have with them what mends them.

    A cluster is asked when one is named, by -n, --context or kubectl; when all that is given is a name; and when the file's store is out
    of reach. Else plan, records and leases in the store tell everything.
    """
    from orchestrator.errors import ScalingStudyError, StoreError
    from orchestrator.study_object import clear_words

    named = name_of(study)
    wants_cluster = bool(namespace or context or named.namespace) or program_of(ctx) == PLUGIN
    trouble = ""
    if not wants_cluster and (store is not None or named.file is not None):
        address = store or _address_in(named)
        try:
            found = within(STORE_SECONDS, lambda: _in_store(named.name, address))
        except StoreError as problem:
            if "://" not in address:
                raise
            trouble = str(problem)
        else:
            if found is not None:
                yield found
                return
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
        return ScalingStudyError(f"{study}: its store is out of reach ({trouble}), and {problem}")
    if named.file is None:
        return ScalingStudyError(f"{study} is no file here. As a name it needs a cluster or --store URL: {problem}")
    return problem


def _address_in(named: Named) -> str:
    from orchestrator.spec import read_study
    from orchestrator.study import store_address

    assert named.file is not None
    return store_address(read_study(named.file), None)


def _in_store(name: str, address: str) -> "Lookout | None":
    """Looks at a study in a store; None where a bucket does not have it, since its cluster may."""
    from orchestrator.store import open_store
    from orchestrator.store.objects import utc_now
    from orchestrator.store.plans import current_spec
    from orchestrator.study_view import Lookout

    opened = open_store(address)
    if "://" in address and current_spec(opened, name) is None:
        return None
    return Lookout(name, utc_now, store=opened)


def on_cluster_and_store(cluster: "Cluster", name: str, store: str | None, open_store: "Callable[[str], Store] | None" = None) -> "Lookout":
    """Looks at a study of a cluster, and at its store as far as it can be reached from here. Raises NotThere, ClusterError."""
    from orchestrator.errors import StoreError
    from orchestrator.store import open_store as open_any
    from orchestrator.store.objects import utc_now
    from orchestrator.store.plans import current_spec
    from orchestrator.study_object import find_object
    from orchestrator.study_view import Lookout

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
    import threading

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
