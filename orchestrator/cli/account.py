"""`scaling-study account`: show the GPU-hours that a namespace has used, or reset them."""

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.cli.connect import ContextOption

if TYPE_CHECKING:
    from rich.table import Table

    from orchestrator.cluster.port import Cluster
    from orchestrator.reconcile.account import Account


def register(app: typer.Typer) -> None:
    app.command("account")(account)


def account(
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Namespace on the cluster. Default: the context's.")] = "",
    context: ContextOption = "",
    reset: Annotated[
        str,
        typer.Option("--reset", metavar="REASON", help="Exclude all GPU-hours used so far from the cap (platform team only)."),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the account as one JSON document, in GPU-seconds.")] = False,
) -> None:
    """Show the GPU-hours of a namespace's studies: billed, by pods and by leases, and what counts against the cap.

    Pods are billed for the time that they held GPUs, leases for the time that the trainer recorded. Where the two differ, the larger one
    counts. Deleting, editing or renaming a study does not lower the totals.
    """
    from orchestrator.cluster.study_object import explain_errors
    from orchestrator.monitor.connect import connect_cluster

    cluster = connect_cluster(namespace, context)
    with explain_errors(cluster.namespace):
        if reset:
            print(reset_account(cluster, reset, datetime.now(UTC)))
            return
        found = read_account(cluster)
    if as_json:
        print(json.dumps(found.to_status(), indent=1, ensure_ascii=False))
        return
    from orchestrator.cli.grid import console

    console().print(account_table(found))
    for done in found.resets[-3:]:
        print(f"reset at {done.at}, after {done.gpu_seconds / 3600:.2f} GPU-hours: {done.reason}")


def read_account(cluster: "Cluster") -> "Account":
    """Return the namespace's account; an empty one if nothing was billed yet. Raises ClusterError."""
    from orchestrator.contract.vocabulary import ACCOUNT_NAME
    from orchestrator.reconcile.account import Account

    body = cluster.get("gpuaccounts", ACCOUNT_NAME) or {}
    return Account.from_status(body.get("status") or {})


def reset_account(cluster: "Cluster", reason: str, now: datetime) -> str:
    """Request a reset, which the controller makes within seconds; return a message. Raises NotFound, Refused."""
    from orchestrator.contract.vocabulary import ACCOUNT_NAME

    # the time makes the value unique, so that a reset for the same reason is also a change
    cluster.patch("gpuaccounts", ACCOUNT_NAME, {"spec": {"reset": f"{now:%Y-%m-%d %H:%M:%S} {reason}"[:256]}})
    return f"the GPU-hours used so far in namespace {cluster.namespace} no longer count against its cap, once the controller has seen this."


def account_table(account: "Account") -> "Table":
    """Return one row per study and store, in GPU-hours, and the totals."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, title=f"{account.used / 3600:.2f} GPU-hours count against the cap", title_justify="left")
    for name in ("study", "store"):
        table.add_column(name)
    for name in ("pods", "leases", "unobserved", "billed"):
        table.add_column(name, justify="right")
    for entry in sorted(account.entries.values(), key=lambda entry: (-entry.billed, entry.study, entry.store)):
        amounts = (entry.pods, entry.leases, entry.unobserved, entry.billed)
        table.add_row(entry.study, entry.url or entry.store, *(f"{seconds / 3600:.2f}" for seconds in amounts))
    if account.folded_entries:
        table.add_row(f"{account.folded_entries} deleted studies", "", "", "", "", f"{account.folded / 3600:.2f}")
    table.add_section()
    table.add_row("total", "", "", "", "", f"{account.billed / 3600:.2f}")
    return table
