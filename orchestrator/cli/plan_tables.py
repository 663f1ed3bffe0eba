"""Prints outlines and explanations as tables. Called by `cli.plan` and `cli.explain`; nothing is computed here."""

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.planning.summary import CostRow, Outline, SizeRow, SourceRow, StageRow

WIDTH: Final = 180


def print_outline(shown: Outline) -> None:
    """The whole outline on stdout, the warnings last."""
    console = wide_console()
    tasks = ", ".join(f"{count:,} {kind}" for kind, count in shown.tasks.items())
    counts = f": {shown.cells:,} cells, {sum(shown.tasks.values()):,} tasks ({tasks}), {shown.done:,} done"
    console.print(Text.assemble((shown.study, "bold"), counts))
    console.print(
        f"sharing saves {shown.saved_percent:.1f} % of the tokens: {count(shown.trained_tokens)} are trained,"
        f" {count(shown.unshared_tokens)} if each cell trained alone"
    )
    console.print(_sizes(shown.sizes))
    console.print(_stages(shown.stages))
    console.print(_sources(shown.sources))
    console.print(_costs([*shown.costs, shown.total], shown.gpu, shown.mfu))
    console.print(f"longest path: {shown.longest_path_hours:,.2f} GPU-hours on one GPU a task, through {shown.longest_path[-1]}")
    for warning in shown.warnings:
        console.print(Text.assemble(("warning:", "yellow"), f" {warning}"), soft_wrap=True)


def wide_console() -> Console:
    """A console that never cuts a table: a terminal that is narrower wraps lines itself, and a pipe has no width.

    Words of a study are no markup: a path such as `[a-f]*.txt` is shown as it is.
    """
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.width = max(console.width, WIDTH)
    return console


def count(number: float) -> str:
    """A count as people write it: 512, 26.8K, 1.5M, 200B."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(number) >= size:
            return f"{number / size:.4g}{unit}"
    return f"{number:.4g}"


def table_of(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    return table


def _sizes(rows: Sequence[SizeRow]) -> Table:
    table = table_of("\nsizes", "size", "body", "N", "all", "batch", "tokens a step", "peak rate", "warm-up", "deviation", "FLOPs a token")
    for row in rows:
        table.add_row(
            row.size,
            count(row.body),
            count(row.n),
            count(row.total),
            f"{row.batch_sequences} ({_short(row.batch_from)})",
            f"{row.batch_tokens:,}",
            f"{row.peak} ({_short(row.peak_from)})",
            f"{count(row.warmup)} ({row.warmup_from})",
            row.deviation,
            f"{row.flops_palm:.3g} palm, {row.flops_causal:.3g} causal",
        )
    return table


def _short(origin: str) -> str:
    return {"study file": "file", "law of the ladder": "ladder", "law of tiny shapes": "tiny law"}.get(origin, origin)


def _stages(rows: Sequence[StageRow]) -> Table:
    table = table_of("\nstages", "recipe", "stage", "kind", "cells", "tokens asked", "realised", "steps", "code %")
    for row in rows:
        table.add_row(
            row.recipe,
            row.stage,
            row.kind,
            f"{row.cells:,}",
            _between(count(row.asked[0]), count(row.asked[1])),
            _between(f"{row.tokens[0]:,}", f"{row.tokens[1]:,}"),
            _between(f"{row.steps[0]:,}", f"{row.steps[1]:,}"),
            _between(*row.code_percent),
        )
    return table


def _between(least: str, most: str) -> str:
    return least if least == most else f"{least} - {most}"


def _sources(rows: Sequence[SourceRow]) -> Table:
    table = table_of("\nsources, and the cell that reads each most", "source", "group", "tokens", "read", "epochs", "allowed", "cell")
    for row in rows:
        tokens = "?" if row.tokens is None else f"{'' if row.exact else '~'}{count(row.tokens)}"
        table.add_row(row.source, row.group, tokens, count(row.read), row.epochs, f"{row.allowed:g}", row.cell)
    return table


def _costs(rows: Sequence[CostRow], gpu: str, mfu: float) -> Table:
    table = table_of(
        f"\nwhat is left to do, on {gpu} at {mfu:.0%} of its peak", "size", "tasks", "tokens", "FLOPs (palm)", "GPU-hours", "money"
    )
    for row in rows:
        money = "" if row.money is None else f"{row.money:,.0f}"
        table.add_row(row.size, f"{row.tasks:,}", count(row.tokens), f"{row.flops:.3g}", f"{row.gpu_hours:,.2f}", money)
    return table
