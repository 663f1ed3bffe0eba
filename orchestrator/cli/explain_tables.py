"""Prints a cell and its differences from another, or a task and its record. Called by `cli.explain`."""

from rich.console import Console
from rich.text import Text

from orchestrator.cli.plan_tables import table_of, wide_console
from orchestrator.contract.kinds import KINDS
from orchestrator.contract.plan import Cell, Plan
from orchestrator.planning.explain import differences, nearest, tasks_of
from orchestrator.store import Store
from orchestrator.store.records import read_record


def print_cell(plan: Plan, cell: Cell, other: Cell | None, done: set[str]) -> None:
    """Print a cell's stages, its tasks with their states, and the differences from `other` (None: the nearest cell)."""
    console = wide_console()
    for stage in cell.stages:
        how = (
            f" ({stage.kind}): {stage.tokens:,} of {stage.asked:,} tokens requested, {stage.steps:,} steps,"
            f" {stage.code_percent} % code; {', '.join(stage.rates)}"
        )
        console.print(Text.assemble((stage.name, "bold"), how))
    table = table_of(f"\n{cell.name}", "stage", "task", "digest", "state", "shared with")
    for line in tasks_of(plan, cell):
        state = "done" if line.digest in done else "missing"
        table.add_row(line.stage, line.what, line.digest[:12], state, f"{line.shared_with} cells" if line.shared_with else "")
    console.print(table)
    compared = other or nearest(plan, cell)
    if compared is not None:
        _print_differences(console, plan, cell, compared)


def _print_differences(console: Console, plan: Plan, cell: Cell, other: Cell) -> None:
    shared = set(cell.tasks) & set(other.tasks)
    console.print(f"\nshares {len(shared)} tasks with {other.name}")
    for found in differences(plan, cell, other):
        console.print(f"  {found.stage}: {found.field} is {found.here} here, {found.there} there")


def print_task(store: Store, plan: Plan, digest: str) -> None:
    """Print a task: its cells, the keys of its attempts, and its record."""
    console = wide_console()
    planned = plan.tasks[digest]
    console.print(Text.assemble((f"{planned.kind} {digest}", "bold"), f"\n  {planned.label}"))
    console.print(f"  identity: tasks/{digest}/task.json\n  attempts: {KINDS[planned.kind].root}/{planned.work}/attempts")
    for cell in plan.cells:
        if digest in cell.tasks:
            console.print(f"  serves {cell.name}")
    record = read_record(store, digest)
    if record is None:
        console.print("  not done")
        return
    for name, value in record.results.items():
        console.print(f"  {name} = {value}")
    for attempt in record.attempts:
        console.print(f"  attempt {attempt.number} on {attempt.node or 'this machine'} (pid {attempt.pid}), {attempt.processor}")
        console.print(f"    {attempt.start} to {attempt.end}, {attempt.how}")
        console.print(
            f"    image {attempt.image or 'none'}, commit {attempt.commit or 'unknown'}{' with local changes' if attempt.dirty else ''}"
        )
    for name, artifact in record.artifacts.items():
        console.print(f"  {name}: {artifact.key} ({artifact.bytes:,} bytes, sha256 {artifact.sha256[:12]})")
