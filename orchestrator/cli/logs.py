"""`scaling-study logs`: what the pods of a study say, or have said."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Final

import typer

from orchestrator.cli.connect import ContextOption, NamespaceOption, StoreOption, StudyArgument

if TYPE_CHECKING:
    from orchestrator.cluster.port import Cluster
    from orchestrator.monitor.log_sources import Piece, Wanted
    from orchestrator.monitor.status_reader import Lookout
    from orchestrator.monitor.study_view import StudyView
    from orchestrator.reconcile.observe import PodSeen

LOOK_SECONDS: Final = 2.0
EXIT_STOPPED: Final = 75
"""Ctrl-C: see the command line's help."""


def register(app: typer.Typer) -> None:
    app.command("logs")(logs)


def logs(
    ctx: typer.Context,
    study: StudyArgument,
    what: Annotated[
        str, typer.Argument(metavar="[CELL | DIGEST | POD]", help="A cell, some digits of a digest, or a pod; all at work unless given.")
    ] = "",
    namespace: NamespaceOption = "",
    context: ContextOption = "",
    store: StoreOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what they say, also in pods that come later.")] = False,
    tail: Annotated[int, typer.Option(min=0, help="Lines of each log, the last ones; 0: all.")] = 0,
) -> None:
    """Show what the pods say that work, or worked, on a cell or a task.

    Pods go a minute after they end: their logs are in the store then, with each attempt, and are read from there. Exits 1 when there is
    no log, and says why.
    """
    from orchestrator.cli.status_readers import lookout

    with lookout(ctx, study, namespace, context, store) as looking:
        if follow:
            try:
                follow_logs(looking, what, print, lambda: time.sleep(LOOK_SECONDS), tail)
            except KeyboardInterrupt:
                raise typer.Exit(EXIT_STOPPED) from None
        elif not show_logs(looking, what, print, tail):
            raise typer.Exit(1)


def show_logs(looking: "Lookout", what: str, say: Callable[[str], None], tail: int = 0) -> bool:
    """Prints what there is; False when there is nothing but the reason. Raises PlanRefused for a cell that is not there."""
    from orchestrator.monitor.log_sources import wanted

    view = looking.look()
    return _show(looking, view, wanted(view, what), say, tail)


def _show(looking: "Lookout", view: "StudyView", asked: "Wanted", say: Callable[[str], None], tail: int) -> bool:
    from orchestrator.monitor.log_sources import pieces, why_none

    found = pieces(view, asked, looking.cluster, looking.store)
    for number, piece in enumerate(found):
        if len(found) > 1:
            say(f"{'' if number == 0 else chr(10)}==> {piece.title} <==")
        for line in _tail(piece, tail):
            say(line)
    if not found:
        for line in [*why_none(view, asked, looking.store), *_of_workers(looking, view)]:
            say(line)
    return bool(found)


def _tail(piece: "Piece", tail: int) -> Iterator[str]:
    return iter(deque(piece.lines(), maxlen=tail)) if tail else piece.lines()


def _of_workers(looking: "Lookout", view: "StudyView") -> list[str]:
    """A run on this machine has no pods: its worker processes write into a folder."""
    from orchestrator.tracking import local_folder

    if looking.cluster is not None or looking.store is None:
        return []
    folder = local_folder(looking.store, view.name) / "logs"
    return [f"What the worker processes of a run on this machine print is in {folder}"] if folder.is_dir() else []


def follow_logs(looking: "Lookout", what: str, say: Callable[[str], None], pause: Callable[[], None], tail: int = 0) -> None:
    """Prints what the pods say until nothing more will be said; where none says anything, what `show_logs` has. Raises as that does.

    `tail`: of pods that are at work at the first look, the last lines of what they have said by then; of later ones all.
    """
    from orchestrator.cluster.study_object import OVER
    from orchestrator.errors import PlanRefused
    from orchestrator.monitor.log_sources import is_settled, wanted
    from orchestrator.reconcile.observe import TERMINAL

    cluster = looking.cluster
    if cluster is None:
        local = _of_workers(looking, looking.look())
        raise PlanRefused("\n".join(["--follow goes on with pods, and no cluster was asked; -n names the study's namespace", *local]))
    asked: Wanted | None = None
    streams: _Streams | None = None
    while True:
        view = looking.look()
        if asked is None or not what:
            asked = wanted(view, what)
        if streams is None:
            streams = _Streams(cluster, say, view.pods, tail)
        mine = [pod for pod in view.pods if asked.takes(pod)]
        for pod in mine:
            if pod.phase == "Running" or streams.owes(pod):
                streams.read(pod, label_of(pod, asked) if not what or len(asked.tasks) > 1 else "")
        have_ended = bool(what and asked.pods) and all(pod.phase in TERMINAL for pod in mine)
        over = view.phase in (*OVER, "Paused") or is_settled(view, asked.tasks) or have_ended
        if over and not streams.are_open:
            if what and not streams.were_read:
                _show(looking, view, asked, say, tail)
            return
        pause()
        if streams.trouble is not None:
            raise streams.trouble


def label_of(pod: "PodSeen", asked: "Wanted") -> str:
    """`[train scratch/60M/c25/s1 pretrain] `, by the pod's name where its task is not known."""
    task = next((task for task in asked.tasks if pod.digest and task.digest.startswith(pod.digest)), None)
    return f"[{pod.name}] " if task is None else f"[{task.kind} {task.label}] "


class _Streams:
    """Reads several pods at once, a thread each. One whose connection broke off is taken up where it was.

    `before`: the pods that were there first: those that had ended are not read, of those at work the last `tail` lines, 0 for all.
    """

    def __init__(self, cluster: "Cluster", say: Callable[[str], None], before: "Iterable[PodSeen]", tail: int) -> None:
        self._cluster = cluster
        self._say = say
        self._before = {pod.name: pod for pod in before}
        self._tail = tail
        self.trouble: OSError | None = None
        self._lock = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}
        self._said: dict[str, int] = {}
        self._read_whole: set[str] = set()

    @property
    def are_open(self) -> bool:
        return any(thread.is_alive() for thread in self._threads.values())

    @property
    def were_read(self) -> bool:
        """Whether any pod was."""
        return bool(self._threads)

    def owes(self, pod: "PodSeen") -> bool:
        """Whether a pod that has ended meanwhile may have said more than was read: its stream broke off, or it ran between two looks."""
        known = self._before.get(pod.name)
        return pod.is_over and not (known and known.is_over) and pod.name not in self._read_whole

    def read(self, pod: "PodSeen", label: str) -> None:
        """Begin, if nobody reads it. `label` stands before its lines."""
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
            if self._tail and known is not None and known.phase == "Running" and pod not in self._said:
                self._said[pod] = max(0, sum(1 for _ in self._cluster.logs(pod)) - self._tail)
            for line in islice(self._cluster.logs(pod, follow=True), self._said.get(pod, 0), None):
                with self._lock:
                    self._said[pod] = self._said.get(pod, 0) + 1
                    self._say(f"{label}{line}")
        except ClusterError:
            return  # gone, not begun, or the API is away: the next look decides
        except OSError as problem:  # whoever reads us has closed the pipe
            self.trouble = problem
