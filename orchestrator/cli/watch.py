"""`scaling-study watch`: redraw the view of `status` until the study ends."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from orchestrator.cli import exits
from orchestrator.cli.connect import ContextOption, NamespaceOption, StoreOption, StudyArgument, status_reader

if TYPE_CHECKING:
    from orchestrator.monitor.grid_table import CellProgress
    from orchestrator.monitor.status_reader import StatusReader
    from orchestrator.monitor.study_view import StudyView


class Screen(Protocol):
    """Displays a view. `note` prints a permanent line."""

    def show(self, view: "StudyView") -> None: ...
    def note(self, text: str) -> None: ...


def register(app: typer.Typer) -> None:
    app.command("watch")(watch)


def watch(
    ctx: typer.Context,
    study: StudyArgument,
    namespace: NamespaceOption = "",
    context: ContextOption = "",
    store: StoreOption = None,
    interval: Annotated[float, typer.Option(min=0.2, help="Wait this many seconds between updates.")] = 3.0,
    plain: Annotated[bool, typer.Option("--plain", help="Print a line per change instead of the live view.")] = False,
) -> None:
    """Watch a study until it ends: redraw its table on a terminal; otherwise print a line per change.

    Exits 0 when every cell is done, 1 if a cell cannot be completed or the study was rejected. Ctrl-C stops watching (75), not the study. A
    store or cluster that becomes unreachable is retried.
    """
    with status_reader(ctx, study, namespace, context, store) as reader, open_screen(plain) as screen:
        try:
            succeeded = watch_until_over(reader, screen, lambda: time.sleep(interval))
        except KeyboardInterrupt:
            raise typer.Exit(exits.STOPPED) from None
    if not succeeded:
        raise typer.Exit(exits.FAILED)


def watch_until_over(reader: "StatusReader", screen: Screen, pause: Callable[[], None]) -> bool:
    """Return whether the study succeeded. The first read raises its errors; later retryable errors are noted and retried."""
    from orchestrator.cluster.study_object import TERMINAL_PHASES
    from orchestrator.errors import ScalingStudyError

    view, trouble = reader.read(), ""
    while True:
        screen.show(view)
        if view.phase in TERMINAL_PHASES:
            return view.phase == "Succeeded"
        pause()
        try:
            view, trouble = reader.read(), ""
        except ScalingStudyError as problem:
            if not problem.retryable:
                raise
            if str(problem) != trouble:
                trouble = str(problem)
                screen.note(f"the view is out of date: {trouble}")


@contextmanager
def open_screen(plain: bool) -> Iterator[Screen]:
    """Yield the live view on a terminal, otherwise plain lines."""
    from orchestrator.cli.grid import console

    if plain or not console().is_terminal:
        yield PlainLines(print)
        return
    with LiveView() as live:
        yield live


class LiveView:
    """The view of `status`, redrawn in place on a terminal. The last view stays on the screen."""

    def __init__(self) -> None:
        from rich.live import Live

        from orchestrator.cli.grid import console, needs_ascii

        terminal = console()
        self._only_ascii = needs_ascii(terminal)
        self._live = Live(console=terminal, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> "LiveView":
        self._live.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        # show all of the last view, even if it is longer than the screen
        self._live.vertical_overflow = "visible"
        self._live.stop()

    def show(self, view: "StudyView") -> None:
        from orchestrator.cli.grid import render_view

        self._live.update(render_view(view, only_ascii=self._only_ascii), refresh=True)

    def note(self, text: str) -> None:
        self._live.console.print(text, markup=False, style="yellow")


class PlainLines:
    """For logs and pipes: a line whenever the progress changes, and a line for every cell that ends."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._last = ""
        self._ended: dict[str, str] = {}

    def show(self, view: "StudyView") -> None:
        line = progress_line(view)
        if line != self._last:
            self._last = line
            self._say(f"{view.now:%H:%M:%S} {line}")
        for cell_state in view.cells:
            self._report_end(view, cell_state)

    def _report_end(self, view: "StudyView", cell_state: "CellProgress") -> None:
        name, state = cell_state.cell.name, str(cell_state.state)
        if state in ("done", "failed") and self._ended.get(name) != state:
            self._ended[name] = state
            self._say(f"{view.now:%H:%M:%S}   {name} {'is done' if state == 'done' else 'has failed'}")

    def note(self, text: str) -> None:
        self._say(text)


def progress_line(view: "StudyView") -> str:
    """Return phase, counts and the main reason for waiting; two lines differ only if the study has changed."""
    from orchestrator.cli.grid import summary
    from orchestrator.cluster.study_object import verdict_of

    parts = [f"{view.name}: {view.phase}"]
    if view.plan is not None:
        done = sum(str(cell_state.state) == "done" for cell_state in view.cells)
        states = ", ".join(f"{number} {state}" for state, number in sorted(view.counts.items()))
        parts.append(f"{done}/{len(view.cells)} cells; tasks: {states}")
    elif counts := summary(view):
        parts.append(counts)
    if view.body is not None and view.phase in ("Refused", "Planning"):
        parts.append(verdict_of(view.body).message)
    parts += [f"{number} waiting: {reason}" for reason, number in list(view.waits.items())[:1]]
    return ", ".join(parts)
