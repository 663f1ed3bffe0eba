"""`scaling-study watch`: the picture of `status`, drawn anew until the study is over."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Final, Protocol

import typer

from orchestrator.cli.connect import ContextOption, NamespaceOption, StoreOption, StudyArgument

if TYPE_CHECKING:
    from orchestrator.monitor.grid_table import CellStanding
    from orchestrator.monitor.status_reader import Lookout
    from orchestrator.monitor.study_view import StudyView

EXIT_STOPPED: Final = 75
"""Ctrl-C: see the command line's help."""


class Screen(Protocol):
    """Where a view is shown. `note` is a line that stays."""

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
    interval: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks.")] = 3.0,
    plain: Annotated[bool, typer.Option("--plain", help="A line for every change, also on a terminal.")] = False,
) -> None:
    """Watch a study until it is over: its grid drawn anew on a terminal, a line for every change elsewhere.

    Ends with 0 when every cell is done, with 1 when some never will be or the study was refused. Ctrl-C ends the watching (75), not the
    study. A store or cluster that is away for a while is waited for.
    """
    from orchestrator.cli.status_readers import lookout

    with lookout(ctx, study, namespace, context, store) as looking, screen(plain) as shown_on:
        try:
            succeeded = watch_until_over(looking, shown_on, lambda: time.sleep(interval))
        except KeyboardInterrupt:
            raise typer.Exit(EXIT_STOPPED) from None
    if not succeeded:
        raise typer.Exit(1)


def watch_until_over(looking: "Lookout", shown_on: Screen, pause: Callable[[], None]) -> bool:
    """Whether it has succeeded. Errors of the first look are raised; a later one that may pass is told and waited for."""
    from orchestrator.cluster.study_object import OVER
    from orchestrator.errors import ScalingStudyError

    view, trouble = looking.look(), ""
    while True:
        shown_on.show(view)
        if view.phase in OVER:
            return view.phase == "Succeeded"
        pause()
        try:
            view, trouble = looking.look(), ""
        except ScalingStudyError as problem:
            if not problem.retryable:
                raise
            if str(problem) != trouble:
                trouble = str(problem)
                shown_on.note(f"what is shown is not new: {trouble}")


@contextmanager
def screen(plain: bool) -> Iterator[Screen]:
    """The live picture on a terminal, else plain lines."""
    from orchestrator.cli.grid import console

    if plain or not console().is_terminal:
        yield PlainLines(print)
        return
    with LivePicture() as live:
        yield live


class LivePicture:
    """For a terminal: the picture of `status`, redrawn in place. The last one stays."""

    def __init__(self) -> None:
        from rich.live import Live

        from orchestrator.cli.grid import console, speaks_ascii

        shown_on = console()
        self._only_ascii = speaks_ascii(shown_on)
        self._live = Live(console=shown_on, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> "LivePicture":
        self._live.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        # the last picture is not cut where it is longer than the screen
        self._live.vertical_overflow = "visible"
        self._live.stop()

    def show(self, view: "StudyView") -> None:
        from orchestrator.cli.grid import drawn

        self._live.update(drawn(view, only_ascii=self._only_ascii), refresh=True)

    def note(self, text: str) -> None:
        self._live.console.print(text, markup=False, style="yellow")


class PlainLines:
    """For logs and pipes: a line when something is other than before, and a line for every cell that ends."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._last = ""
        self._ended: dict[str, str] = {}

    def show(self, view: "StudyView") -> None:
        line = progress_line(view)
        if line != self._last:
            self._last = line
            self._say(f"{view.now:%H:%M:%S} {line}")
        for standing in view.cells:
            self._tell_end(view, standing)

    def _tell_end(self, view: "StudyView", standing: "CellStanding") -> None:
        name, state = standing.cell.name, str(standing.state)
        if state in ("done", "failed") and self._ended.get(name) != state:
            self._ended[name] = state
            self._say(f"{view.now:%H:%M:%S}   {name} {'is done' if state == 'done' else 'has failed'}")

    def note(self, text: str) -> None:
        self._say(text)


def progress_line(view: "StudyView") -> str:
    """What changes now and then: phase and counts, and why nothing goes on where that is known."""
    from orchestrator.cli.grid import summary
    from orchestrator.cluster.study_object import verdict_of

    parts = [f"{view.name}: {view.phase}"]
    if view.plan is not None:
        done = sum(str(standing.state) == "done" for standing in view.cells)
        states = ", ".join(f"{number} {state}" for state, number in sorted(view.counts.items()))
        parts.append(f"{done}/{len(view.cells)} cells; tasks: {states}")
    elif told := summary(view):
        parts.append(told)
    if view.body is not None and view.phase in ("Refused", "Planning"):
        parts.append(verdict_of(view.body).message)
    parts += [f"{number} wait: {reason}" for reason, number in list(view.waits.items())[:1]]
    return ", ".join(parts)
