"""`python -m orchestrator.controller.retention`: remove unneeded objects from the stores of a namespace's studies, or list them.

A CronJob of manifests/base runs it; it is suspended by default. The result is written to each store, where the controller reads it for
the studies' statuses. An unreachable store does not block the others.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence

from orchestrator.cluster.port import Cluster
from orchestrator.cluster.study_object import why_not_accepted
from orchestrator.contract.formatting import format_count
from orchestrator.errors import ClusterError, ScalingStudyError
from orchestrator.store import Store, open_store
from orchestrator.store.maintenance import gc, write_gc_report


def collect_garbage(cluster: Cluster, open_named: Callable[[str], Store], *, remove: bool) -> Iterator[tuple[str, str, bool]]:
    """Yield the URL of each store of the namespace's studies, the result as a message, and whether it succeeded. Raises ClusterError.

    A store is skipped if no accepted study names it, because the namespace may not allow it.
    """
    named: dict[str, dict[str, str]] = {}
    for body in cluster.list("scalingstudies").items:
        if "://" in (url := body["spec"].get("store", "")):
            named.setdefault(url, {})[body["metadata"]["name"]] = why_not_accepted(body)
    for url, studies in sorted(named.items()):
        if all(studies.values()):
            yield url, "; ".join(f"skipped, because {name} is not accepted ({why})" for name, why in studies.items()), True
            continue
        try:
            store = open_named(url)
            report = write_gc_report(store, gc(store, dry_run=not remove), removed=remove)
        except ScalingStudyError as problem:
            yield url, str(problem), False
        else:
            yield url, f"{report.count} objects ({format_count(report.size)}B) {'removed' if remove else 'would be removed'}", True


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0, or 1 if the cluster or any store failed."""
    options = _parser().parse_args(arguments)
    # importing the client takes two seconds, which --help does not need
    from orchestrator.cluster.kubernetes_api import connect

    try:
        results = list(collect_garbage(connect(options.namespace), open_store, remove=options.remove))
    except ClusterError as problem:
        print(problem, file=sys.stderr)
        return 1
    for url, message, _ in results:
        print(f"{url}: {message}", flush=True)
    return 0 if all(succeeded for _, _, succeeded in results) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.controller.retention",
        description="List the checkpoints that no study of the namespace needs; each study's status then shows the result.",
    )
    parser.add_argument("--namespace", default="", help="namespace; default: this pod's own, or that of the kubectl context")
    parser.add_argument("--remove", action="store_true", help="remove the checkpoints")
    return parser


if __name__ == "__main__":
    sys.exit(main())
