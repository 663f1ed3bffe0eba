"""`scaling-study logs`: show the logs of a study's pods, from the cluster or from the store."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Final

import typer

from orchestrator.cli import exits
from orchestrator.cli.connect import ContextOption, NamespaceOption, StoreOption, StudyArgument, status_reader

if TYPE_CHECKING:
    from orchestrator.cluster.port import Cluster
    from orchestrator.monitor.log_sources import LogSelection, LogSource
    from orchestrator.monitor.status_reader import StatusReader
    from orchestrator.monitor.study_view import StudyView
    from orchestrator.reconcile.observed import ObservedPod

POLL_SECONDS: Final = 2.0


def register(app: typer.Typer) -> None:
    app.command("logs")(logs)


def logs(
    ctx: typer.Context,
    study: StudyArgument,
    what: Annotated[
        str,
        typer.Argument(
            metavar="[CELL | DIGEST | POD]", help="A cell, the first 6 or more digits of a digest, or a pod. Default: all running pods."
        ),
    ] = "",
    namespace: NamespaceOption = "",
    context: ContextOption = "",
    store: StoreOption = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep printing new lines as they are written, including those of new pods.")
    ] = False,
    tail: Annotated[int, typer.Option(min=0, help="Print this many lines from the end of each log; 0: all.")] = 0,
) -> None:
    """Show the logs of the pods that run, or ran, a cell or task.

    Pods are deleted a minute after they end; their logs are then read from the store, which keeps one log per attempt. Exits 1, with the
    reason, if there is no log. Ctrl-C stops --follow (75), not the study.
    """
    with status_reader(ctx, study, namespace, context, store) as reader:
        if follow:
            try:
                follow_logs(reader, what, print, lambda: time.sleep(POLL_SECONDS), tail)
            except KeyboardInterrupt:
                raise typer.Exit(exits.STOPPED) from None
        elif not show_logs(reader, what, print, tail):
            raise typer.Exit(exits.FAILED)


def show_logs(reader: "StatusReader", what: str, say: Callable[[str], None], tail: int = 0) -> bool:
    """Print the logs; if there are none, print the reason and return False. Raises PlanRefused for an unknown cell."""
    from orchestrator.monitor.log_sources import select_logs

    view = reader.read()
    return _show(reader, view, select_logs(view, what), say, tail)


def _show(reader: "StatusReader", view: "StudyView", selection: "LogSelection", say: Callable[[str], None], tail: int) -> bool:
    from orchestrator.monitor.log_sources import explain_missing_logs, find_logs

    found = find_logs(view, selection, reader.cluster, reader.store)
    for number, piece in enumerate(found):
        if len(found) > 1:
            say(f"{'' if number == 0 else chr(10)}==> {piece.title} <==")
        for line in _tail(piece, tail):
            say(line)
    if not found:
        for line in [*explain_missing_logs(view, selection, reader.store), *_local_log_hint(reader, view)]:
            say(line)
    return bool(found)


def _tail(piece: "LogSource", tail: int) -> Iterator[str]:
    return iter(deque(piece.lines(), maxlen=tail)) if tail else piece.lines()


def _local_log_hint(reader: "StatusReader", view: "StudyView") -> list[str]:
    """Name the folder with the worker logs of a run on this machine, which has no pods."""
    from orchestrator.tracking import local_folder

    if reader.cluster is not None or reader.store is None:
        return []
    folder = local_folder(reader.store, view.name) / "logs"
    return [f"The worker processes of a run on this machine log to {folder}"] if folder.is_dir() else []


def follow_logs(reader: "StatusReader", what: str, say: Callable[[str], None], pause: Callable[[], None], tail: int = 0) -> None:
    """Print the pods' logs until no more lines can come; if there were none, print what `show_logs` prints.

    `tail`: number of earlier lines to print for pods that run already; later pods are printed in full. Raises as `show_logs` does.
    """
    from orchestrator.cluster.study_object import TERMINAL_PHASES
    from orchestrator.errors import PlanRefused
    from orchestrator.monitor.log_sources import is_final, select_logs
    from orchestrator.reconcile.observed import TERMINAL

    cluster = reader.cluster
    if cluster is None:
        hint = _local_log_hint(reader, reader.read())
        raise PlanRefused("\n".join(["--follow reads pods, and no cluster was named; -n names the study's namespace", *hint]))
    selection: LogSelection | None = None
    streams: _Streams | None = None
    while True:
        view = reader.read()
        if selection is None or not what:
            selection = select_logs(view, what)
        if streams is None:
            streams = _Streams(cluster, say, view.pods, tail)
        pods = [pod for pod in view.pods if selection.includes(pod)]
        for pod in pods:
            if pod.phase == "Running" or streams.may_have_unread_lines(pod):
                streams.read(pod, label_of(pod, selection) if not what or len(selection.tasks) > 1 else "")
        have_ended = bool(what and selection.pods) and all(pod.phase in TERMINAL for pod in pods)
        over = view.phase in (*TERMINAL_PHASES, "Paused") or is_final(view, selection.tasks) or have_ended
        if over and not streams.are_open:
            if what and not streams.were_read:
                _show(reader, view, selection, say, tail)
            return
        pause()
        if streams.trouble is not None:
            raise streams.trouble


def label_of(pod: "ObservedPod", selection: "LogSelection") -> str:
    """Return `[train scratch/60M/c25/s1 pretrain] `, or the pod's name if its task is unknown."""
    task = next((task for task in selection.tasks if pod.digest and task.digest.startswith(pod.digest)), None)
    return f"[{pod.name}] " if task is None else f"[{task.kind} {task.label}] "


class _Streams:
    """Reads the logs of several pods, one thread each. An interrupted stream continues after the last line that was read.

    `before`: the pods at the start. Pods that had ended are not read. Running pods are read from their last `tail` lines on (0: all).
    """

    def __init__(self, cluster: "Cluster", say: Callable[[str], None], before: "Iterable[ObservedPod]", tail: int) -> None:
        self._cluster = cluster
        self._say = say
        self._before = {pod.name: pod for pod in before}
        self._tail = tail
        self.trouble: OSError | None = None
        self._lock = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}
        self._lines_read: dict[str, int] = {}
        self._read_whole: set[str] = set()

    @property
    def are_open(self) -> bool:
        return any(thread.is_alive() for thread in self._threads.values())

    @property
    def were_read(self) -> bool:
        """Whether any pod was read."""
        return bool(self._threads)

    def may_have_unread_lines(self, pod: "ObservedPod") -> bool:
        """Whether a pod that has ended may have unread lines, because its stream broke or it ran only between two polls."""
        known = self._before.get(pod.name)
        return pod.is_over and not (known and known.is_over) and pod.name not in self._read_whole

    def read(self, pod: "ObservedPod", label: str) -> None:
        """Start a thread for the pod unless one is running. `label` is printed before each line."""
        known = self._threads.get(pod.name)
        if known is None or not known.is_alive():
            if pod.is_over:
                self._read_whole.add(pod.name)
            self._threads[pod.name] = threading.Thread(target=self._pump, args=(pod.name, label), daemon=True, name=pod.name)
            self._threads[pod.name].start()

    def _pump(self, pod: str, label: str) -> None:
        from orchestrator.errors import ClusterError

        known = self._before.get(pod)
        try:
            if self._tail and known is not None and known.phase == "Running" and pod not in self._lines_read:
                self._lines_read[pod] = max(0, sum(1 for _ in self._cluster.logs(pod)) - self._tail)
            for line in islice(self._cluster.logs(pod, follow=True), self._lines_read.get(pod, 0), None):
                with self._lock:
                    self._lines_read[pod] = self._lines_read.get(pod, 0) + 1
                    self._say(f"{label}{line}")
        except ClusterError:
            return  # deleted, not started, or the API is unreachable: the next poll decides
        except OSError as problem:  # standard output was closed
            self.trouble = problem
