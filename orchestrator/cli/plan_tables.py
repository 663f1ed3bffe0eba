"""Prints the summary of a plan as tables. Called by `cli.plan`; nothing is computed here."""

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.contract.formatting import format_duration
from orchestrator.planning.summary import CostRow, PlanSummary, SizeRow, SourceRow, StageRow, TaskRow

WIDTH: Final = 180


def print_summary(shown: PlanSummary) -> None:
    """Print the whole summary on stdout, with the warnings last."""
    console = wide_console()
    tasks = ", ".join(f"{count:,} {kind}" for kind, count in shown.tasks.items())
    counts = f": {shown.cells:,} cells, {sum(shown.tasks.values()):,} tasks ({tasks}), {shown.done:,} done"
    console.print(Text.assemble((shown.study, "bold"), counts))
    console.print(
        f"sharing saves {shown.saved_percent:.1f} % of the tokens: {count(shown.trained_tokens)} instead of"
        f" {count(shown.unshared_tokens)} if each cell trained alone"
    )
    console.print(_sizes(shown.sizes))
    console.print(_stages(shown.stages))
    console.print(_sources(shown.sources))
    console.print(_costs([*shown.costs, shown.total], shown))
    if shown.workers:
        longest = f"{format_duration(3600 * shown.longest_path_hours)} however many workers there are"
    else:
        longest = f"{shown.longest_path_hours:,.2f} GPU-hours with one GPU per task"
    console.print(f"longest path: {longest}, ending with {shown.longest_path[-1]}")
    for warning in shown.warnings:
        console.print(Text.assemble(("warning:", "yellow"), f" {warning}"), soft_wrap=True)


def print_tasks(rows: Sequence[TaskRow]) -> None:
    """Print one line per task, in dependency order."""
    table = table_of("\ntasks", "digest", "kind", "state", "tokens", "needs", "task")
    table.columns[-1].justify = "left"
    for row in rows:
        table.add_row(row.digest[:12], row.kind, row.state, f"{row.tokens:,}" if row.tokens else "", f"{len(row.needs)}", row.label)
    wide_console().print(table)


def wide_console() -> Console:
    """Return a console that never truncates a table; a narrower terminal wraps the lines.

    Text is never parsed as markup, so that a path such as `[a-f]*.txt` is printed unchanged.
    """
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.width = max(console.width, WIDTH)
    return console


def count(number: float) -> str:
    """Return a count in short form: 512, 26.8K, 1.5M, 200B."""
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
    table = table_of("\nsizes", "size", "body", "N", "all", "batch", "tokens/step", "peak rate", "warm-up", "deviation", "FLOPs/token")
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
    table = table_of("\nstages", "recipe", "stage", "kind", "cells", "tokens requested", "realised", "steps", "code %")
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
    table = table_of("\nsources, and the cell that reads most of each", "source", "group", "tokens", "read", "epochs", "allowed", "cell")
    for row in rows:
        tokens = "?" if row.tokens is None else f"{'' if row.exact else '~'}{count(row.tokens)}"
        table.add_row(row.source, row.group, tokens, count(row.read), row.epochs, f"{row.allowed:g}", row.cell)
    return table


def _costs(rows: Sequence[CostRow], shown: PlanSummary) -> Table:
    if shown.workers:
        return _cpu_costs(rows, shown)
    table = table_of(
        f"\nremaining work, on {shown.gpu} at {shown.mfu:.0%} MFU", "size", "tasks", "tokens", "FLOPs (palm)", "GPU-hours", "money"
    )
    for row in rows:
        money = "" if row.money is None else f"{row.money:,.0f}"
        table.add_row(row.size, f"{row.tasks:,}", count(row.tokens), f"{row.flops:.3g}", f"{row.gpu_hours:,.2f}", money)
    return table


def _cpu_costs(rows: Sequence[CostRow], shown: PlanSummary) -> Table:
    workers = f"{shown.workers} worker{'s' if shown.workers > 1 else ''}"
    title = f"\nremaining work, on this machine's CPU (speed {shown.rate_from})"
    table = table_of(title, "size", "tasks", "tokens", "FLOPs (palm)", "one worker", f"{workers}, about")
    for row in rows:
        table.add_row(
            row.size,
            f"{row.tasks:,}",
            count(row.tokens),
            f"{row.flops:.3g}",
            format_duration(row.seconds),
            format_duration(row.seconds / shown.workers),
        )
    return table
