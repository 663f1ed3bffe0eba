"""`scaling-study status`: how far a study is, who works on what, and what has failed, from plan, records and leases alone."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from orchestrator.contract.plan import Plan, PlannedTask
    from orchestrator.store import Store
    from orchestrator.store.leases import LeaseBody

# Lines of one list; the rest are counted
LISTED = 40


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the tasks of a plan stand. `working`: task and the lease that is held; `refused`: task and why no retry can mend it."""

    done: frozenset[str]
    working: "tuple[tuple[PlannedTask, LeaseBody], ...]"
    refused: dict[str, str]


def register(app: typer.Typer) -> None:
    app.command("status")(status)


def status(
    study: Annotated[str, typer.Argument(help="The study file, or a study's name together with --store.")],
    store: Annotated[str | None, typer.Option(help="Where the store is, instead of what the file says.")] = None,
) -> None:
    """Show how far a study is. Reads the frozen plan, never the sources. Exits 1 when a task has failed for good."""
    from orchestrator.cli.tracking import which_study
    from orchestrator.errors import PlanRefused
    from orchestrator.store import open_store
    from orchestrator.store.plans import current

    name, address = which_study(study, store)
    opened = open_store(address)
    frozen = current(opened, name)
    if frozen is None:
        raise PlanRefused(f"{opened.url} has no study called {name}; `scaling-study run FILE` begins one")
    standing = look(opened, frozen[1])
    show(frozen[1], standing, opened)
    if standing.refused:
        raise typer.Exit(1)


def look(store: "Store", plan: "Plan") -> Standing:
    """Asks the store: one listing for what is done, and the leases of what could be at work."""
    from orchestrator.contract.words import ExitCode
    from orchestrator.store.addresses import work_root
    from orchestrator.store.leases import history, is_live
    from orchestrator.store.processes import here
    from orchestrator.store.records import done

    finished = done(store) & plan.tasks.keys()
    working, refused, now = [], {}, store.clock()
    for digest, planned in plan.tasks.items():
        if digest in finished or not finished.issuperset(planned.needs):
            continue
        mine = [lease for lease in history(store, work_root(planned.kind, planned.work)) if lease.digest == digest]
        if mine and is_live(mine[-1], now, here()):
            working.append((planned, mine[-1]))
        elif mine and mine[-1].ended and mine[-1].ended.code == ExitCode.REFUSED:
            refused[digest] = mine[-1].ended.message
    return Standing(frozenset(finished), tuple(working), refused)


def show(plan: "Plan", standing: Standing, store: "Store") -> None:
    """Counts, then who works on what, then what is missing and why."""
    from orchestrator.contract.words import TaskKind
    from orchestrator.local import held_back
    from orchestrator.progress import amount, duration, holes

    whole = sum(standing.done.issuperset(cell.tasks) for cell in plan.cells)
    print(f"{plan.study}: {whole}/{len(plan.cells)} cells, {len(standing.done)}/{len(plan.tasks)} tasks done in {store.url}")
    for kind in TaskKind:
        of_kind = [digest for digest, planned in plan.tasks.items() if planned.kind is kind]
        if of_kind:
            print(f"  {kind:8} {sum(digest in standing.done for digest in of_kind)}/{len(of_kind)}")
    if standing.working:
        print("at work:")
    for planned, lease in standing.working[:LISTED]:
        since = duration((store.clock() - lease.start).total_seconds())
        step = duration((store.clock() - lease.renewed).total_seconds())
        at = f"at {amount(lease.tokens)}, " if lease.tokens else ""
        print(f"  {planned.kind} {planned.label}: {at}process {lease.pid} on {lease.host} for {since}, last step {step} ago")
    if len(standing.working) > LISTED:
        print(f"  ... and {len(standing.working) - LISTED} more")
    if standing.refused:
        print("missing, until somebody mends it and runs it again:")
        for hole in holes(plan, standing.refused, held_back(plan, standing.refused, standing.done))[:LISTED]:
            print(f"  {hole}")
