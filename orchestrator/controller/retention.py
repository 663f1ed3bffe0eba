"""`python -m orchestrator.controller.retention`: clears the stores that the studies of a namespace name, or says what would go.

A CronJob of manifests/base runs it, suspended until somebody wants it. What it finds is noted in each store, where the controller reads
it for the studies' status; a store that is away keeps nobody from the others.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence

from orchestrator.cluster.port import Cluster
from orchestrator.cluster.study_object import why_not_accepted
from orchestrator.contract.formatting import amount
from orchestrator.errors import ClusterError, ScalingStudyError
from orchestrator.store import Store, open_store
from orchestrator.store.maintenance import gc, note_look


def clear(cluster: Cluster, open_named: Callable[[str], Store], *, remove: bool) -> Iterator[tuple[str, str, bool]]:
    """Each store of the namespace's studies, what there is to say of it, and whether it could be looked at. Raises ClusterError.

    A store that no accepted study names is left alone: it may be one that the namespace does not allow.
    """
    named: dict[str, dict[str, str]] = {}
    for body in cluster.list("scalingstudies").items:
        if "://" in (url := body["spec"].get("store", "")):
            named.setdefault(url, {})[body["metadata"]["name"]] = why_not_accepted(body)
    for url, studies in sorted(named.items()):
        if all(studies.values()):
            yield url, "; ".join(f"skipped, since {name} is not accepted ({why})" for name, why in studies.items()), True
            continue
        try:
            store = open_named(url)
            look = note_look(store, gc(store, dry_run=not remove), removed=remove)
        except ScalingStudyError as problem:
            yield url, str(problem), False
        else:
            yield url, f"{look.count} objects of {amount(look.size)}B {'removed' if remove else 'would go'}", True


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 1 when some store could not be looked at."""
    given = _parser().parse_args(arguments)
    # the client takes two seconds to load, which --help need not
    from orchestrator.cluster.kubernetes_api import connect

    try:
        results = list(clear(connect(given.namespace), open_store, remove=given.remove))
    except ClusterError as problem:
        print(problem, file=sys.stderr)
        return 1
    for url, told, _ in results:
        print(f"{url}: {told}", flush=True)
    return 0 if all(is_well for _, _, is_well in results) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.controller.retention",
        description="Say which checkpoints of the namespace's studies nobody needs; each study's status then shows it.",
    )
    parser.add_argument("--namespace", default="", help="the namespace; by default this pod's own, or the context's")
    parser.add_argument("--remove", action="store_true", help="remove them")
    return parser


if __name__ == "__main__":
    sys.exit(main())
