"""`scaling-study store verify` and `store gc`: check a store for damage, and remove checkpoints that are no longer needed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli import exits

if TYPE_CHECKING:
    from orchestrator.store import Store
    from orchestrator.store.maintenance import Finding

StoreArgument = Annotated[
    str, typer.Argument(help="Path of a study file, or address of a store: a folder, s3://, gs:// or az://.", metavar="FILE_OR_STORE")
]


def register(app: typer.Typer) -> None:
    store = typer.Typer(help="Maintain a store: check its content, remove checkpoints that are no longer needed.", no_args_is_help=True)
    store.command("verify")(verify)
    store.command("gc")(gc)
    app.add_typer(store, name="store")


def verify(
    where: StoreArgument,
    repair: Annotated[bool, typer.Option("--repair", help="Quarantine damaged objects, so that the next run creates them again.")] = False,
) -> None:
    """Check the objects of a store against their hashes. Exits 1 if a damaged object that is needed was not repaired.

    Damage of objects that no plan, record or run needs any more is listed as a note.
    """
    from orchestrator.store.maintenance import verify as check

    store = open_existing(where)
    findings = check(store, repair)
    for finding in findings:
        print(f"{_label(finding)}  {finding.key}: {finding.problem}")
        if finding.advice:
            print(f"          {finding.advice}")
    left = [finding for finding in findings if not finding.repaired and finding.counts]
    repaired = sum(finding.repaired for finding in findings)
    notes = len(findings) - repaired - len(left)
    print(f"{store.url}: {len(left) + repaired} damaged, {repaired} repaired" + (f", {notes} notes" if notes else ""))
    if left:
        if not repair:
            print(f"To quarantine them: scaling-study store verify {where} --repair")
        raise typer.Exit(exits.FAILED)


def _label(finding: "Finding") -> str:
    return "repaired" if finding.repaired else "damaged " if finding.counts else "note    "


def gc(
    where: StoreArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the checkpoints that would be removed; remove nothing.")] = False,
) -> None:
    """Remove checkpoints that no plan, record or running attempt in the store needs. Lists them, but does not ask for confirmation."""
    from orchestrator.contract.formatting import format_count
    from orchestrator.store.maintenance import gc as clear

    store = open_existing(where)
    removals = clear(store, dry_run=True)
    for removal in removals:
        print(f"{format_count(removal.bytes):>8}B  {removal.key}: {removal.why}")
    if not dry_run and removals:
        removals = clear(store, dry_run=False)
    total = format_count(sum(removal.bytes for removal in removals))
    print(f"{store.url}: {len(removals)} objects of {total}B {'would be removed' if dry_run else 'removed'}")


def open_existing(where: str) -> "Store":
    """Open the store of a study file, or the one at an address. Raises StoreError for a missing folder; it is not created."""
    from orchestrator.errors import StoreError
    from orchestrator.monitor.connect import existing_store, is_file
    from orchestrator.spec import read_study
    from orchestrator.store import store_exists
    from orchestrator.study.opening import store_address

    if is_file(where):
        return existing_store(store_address(read_study(Path(where)), None))
    if not store_exists(where):
        raise StoreError(f"{where}: no such file and no such folder; give a study file or the address of a store")
    return existing_store(where)
