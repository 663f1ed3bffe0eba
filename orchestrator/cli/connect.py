"""Arguments and options that several commands share, and the connection to the study they name.

A command's own function takes a `StudyOnCluster`, so that a test can pass any cluster.
"""

import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeAlias

import typer

if TYPE_CHECKING:
    from orchestrator.cluster.port import Cluster
    from orchestrator.monitor.status_reader import StatusReader

PLUGIN: Final = "kubectl sstudy"
"""The name under which kubectl runs the command line; a study is then always one on a cluster."""

FileArgument: TypeAlias = Annotated[Path, typer.Argument(metavar="FILE", help="Path of the study file.")]
StudyArgument: TypeAlias = Annotated[str, typer.Argument(metavar="STUDY", help="Path of the study file, or the study's name.")]
NamespaceOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--namespace", "-n", help="Use this namespace of the cluster. Default: the one in the study file, else that of the context."
    ),
]
ContextOption: TypeAlias = Annotated[
    str, typer.Option("--context", help="Use this context of the kubeconfig. Default: the current context.")
]
StoreOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--store", help="Use the store at this address: a folder or a URL (s3://, gs://, az://). Default: the one that the study names."
    ),
]


@dataclass(frozen=True, slots=True)
class StudyOnCluster:
    """A study on a cluster, and the program and kubeconfig context that the user reached it with."""

    cluster: "Cluster"
    name: str
    program: str = "scaling-study"
    context: str = ""

    def command(self, verb: str) -> str:
        """Return the command line that applies `verb` to this study, for messages."""
        context = ["--context", self.context] if self.context else []
        return shlex.join([*self.program.split(), verb, self.name, "-n", self.cluster.namespace, *context])


@contextmanager
def on_cluster(ctx: typer.Context, study: str, namespace: str, context: str) -> Iterator[StudyOnCluster]:
    """Yield the study on its cluster. Errors raised inside the block explain how to fix them.

    Raises ClusterError, MissingExtra, InvalidStudy.
    """
    from orchestrator.cluster.study_object import explain_errors
    from orchestrator.monitor.connect import connect_cluster, resolve_namespace, resolve_study

    reference = resolve_study(study)
    cluster = connect_cluster(resolve_namespace(reference, namespace), context)
    with explain_errors(cluster.namespace):
        yield StudyOnCluster(cluster, reference.name, program_of(ctx), context)


def status_reader(
    ctx: typer.Context, study: str, namespace: str, context: str, store: str | None
) -> "AbstractContextManager[StatusReader]":
    """Return a context manager for a reader of the study's status; the kubectl plugin always reads the cluster."""
    from orchestrator.monitor.connect import status_reader as connect

    prefer_cluster = program_of(ctx) == PLUGIN
    return connect(study, namespace=namespace, context=context, store=store, prefer_cluster=prefer_cluster)


def program_of(ctx: typer.Context) -> str:
    """Return the program's name: `scaling-study` or `kubectl sstudy`."""
    return ctx.find_root().info_name or "scaling-study"
