"""How a command gets to the study that a person names, by its file or its name, and to its cluster.

Commands that look at a study (through `lookouts`) or change it take the same words: STUDY, --namespace, --context, --store. A command's own
function takes an `At`, so that a test gives it any cluster.
"""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

if TYPE_CHECKING:
    from orchestrator.cluster.port import Cluster
    from orchestrator.store import Store

PLUGIN: Final = "kubectl sstudy"
"""The name under which kubectl runs the command line; there a study is always one of a cluster."""

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
    from orchestrator.cluster.study_object import clear_words

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


def standing_store(address: str, study: str = "") -> "Store":
    """The store at an address, for who only reads of `study` there. A folder that is not there is told and not made. Raises StoreError."""
    from orchestrator.errors import StoreError
    from orchestrator.store import is_there, open_store

    if not is_there(address):
        so = f", and so no study called {study}" if study else ""
        raise StoreError(f"there is no store at {address}: no such folder{so}. `scaling-study run FILE` begins one; --store names another")
    return open_store(address)


def connected(namespace: str, context: str) -> "Cluster":
    """The cluster that is meant. Raises ClusterError, MissingExtra."""
    try:
        from orchestrator.cluster.kubernetes_api import connect
    except ModuleNotFoundError as problem:
        from orchestrator.errors import MissingExtra

        raise MissingExtra("a cluster needs the package `kubernetes`: pip install 'scaling-study[cluster]'") from problem
    return connect(namespace, context)
