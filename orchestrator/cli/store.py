"""`scaling-study store verify` and `store gc`: what is broken in a store, and what nobody needs any more."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from orchestrator.store import Store

Where = Annotated[str, typer.Argument(help="A study file, or the store itself: a folder, s3://, gs:// or az://.", metavar="FILE_OR_STORE")]


def register(app: typer.Typer) -> None:
    store = typer.Typer(help="Look after a store: what is broken, what nobody needs.", no_args_is_help=True)
    store.command("verify")(verify)
    store.command("gc")(gc)
    app.add_typer(store, name="store")


def verify(
    where: Where,
    repair: Annotated[bool, typer.Option("--repair", help="Move what is broken aside; the next run makes it again.")] = False,
) -> None:
    """Read all that counts in a store and check it against its hashes. Exits 1 when something is broken and was not repaired."""
    from orchestrator.store.maintenance import verify as check

    store = open_named(where)
    findings = check(store, repair)
    for finding in findings:
        print(f"{'repaired' if finding.repaired else 'broken  '}  {finding.key}: {finding.problem}")
        if finding.advice:
            print(f"          {finding.advice}")
    left = [finding for finding in findings if not finding.repaired]
    print(f"{store.url}: {len(findings)} broken, {len(findings) - len(left)} repaired")
    if left:
        if not repair:
            print(f"To move them aside: scaling-study store verify {where} --repair")
        raise typer.Exit(1)


def gc(
    where: Where,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
) -> None:
    """Remove checkpoints that no frozen plan, no record and no attempt at work needs. Says first what goes."""
    from orchestrator.contract.formatting import amount
    from orchestrator.store.maintenance import gc as clear

    store = open_named(where)
    removals = clear(store, dry_run=True)
    for removal in removals:
        print(f"{amount(removal.bytes):>8}B  {removal.key}: {removal.why}")
    if not dry_run and removals:
        removals = clear(store, dry_run=False)
    total = amount(sum(removal.bytes for removal in removals))
    print(f"{store.url}: {len(removals)} objects of {total}B {'would go' if dry_run else 'removed'}")


def open_named(where: str) -> "Store":
    """The store of a study file, or the one at an address. A folder that is not there is a mistake here, not a new store."""
    from orchestrator.cli.connect import standing_store
    from orchestrator.errors import StoreError
    from orchestrator.spec import read_study
    from orchestrator.store import is_there
    from orchestrator.study.opening import store_address

    if Path(where).is_file():
        return standing_store(store_address(read_study(Path(where)), None))
    if not is_there(where):
        raise StoreError(f"{where}: there is no such file and no such folder; give a study file or a store")
    return standing_store(where)
