"""`python -m orchestrator.controller`: the controller's pod. Threads, signals and flags; the work is in `loop`."""

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from types import FrameType
from typing import Final

from orchestrator.cluster.port import Cluster
from orchestrator.controller.election import Election
from orchestrator.controller.http_server import serve
from orchestrator.controller.loop import Loop, Pace
from orchestrator.controller.metrics import Metrics
from orchestrator.controller.study_reconciler import Passes
from orchestrator.controller.watching import Watches
from orchestrator.errors import ClusterError
from orchestrator.store import open_store
from orchestrator.store.objects import utc_now

LOG: Final = logging.getLogger(__name__)

# A turn is a listing and looks at every study; longer than this it hangs
HUNG_SECONDS: Final = 600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs until SIGTERM or SIGINT. Returns 0 then, 1 when no cluster can be reached."""
    given = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.DEBUG if given.verbose else logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # its own debug lines hold every answer of the API
    logging.getLogger("kubernetes").setLevel(logging.INFO)
    # the client takes two seconds to load, which --help need not
    from orchestrator.cluster.kubernetes_api import connect

    try:
        cluster = connect(given.namespace)
    except ClusterError as problem:
        print(problem, file=sys.stderr)
        return 1
    stop = threading.Event()

    def ask_to_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ask_to_stop)
    run(cluster, given, stop)
    return 0


def run(cluster: Cluster, given: argparse.Namespace, stop: threading.Event) -> None:
    """The controller until `stop`."""
    metrics = Metrics()
    election = Election(cluster, given.lease, given.identity, given.lease_seconds)
    passes = Passes(cluster, open_store, utc_now, metrics, given.image, given.waiter_image or own_image(cluster))
    pace = Pace(given.relist_seconds, given.policy)

    def may_work() -> bool:
        return not stop.is_set() and (given.alone or election.is_leader)

    loop = Loop(cluster, passes, metrics, utc_now, pace=pace, may_work=may_work)
    watches = Watches(cluster, stop, loop.wake, loop.relist)
    loop.listed = lambda snapshot: watches.listed(snapshot.versions)
    beat = [time.monotonic()]
    server = serve(
        given.port,
        {
            "/metrics": lambda: (200, metrics.text()),
            "/healthz": lambda: _said(time.monotonic() - beat[0] < HUNG_SECONDS, "the loop hangs"),
            "/readyz": lambda: _said(loop.has_listed.is_set() or not may_work(), "the namespace has not been listed yet"),
        },
    )
    campaign = threading.Thread(target=election.run, args=(stop, loop.relist), name="election", daemon=True)
    if not given.alone:
        campaign.start()
    LOG.info("namespace %s, as %s, port %d", cluster.namespace, given.identity, server.server_address[1])
    watches.start()
    while not stop.is_set():
        metrics.leads(may_work())
        loop.turn()
        beat[0] = time.monotonic()
        loop.wait()
    if not given.alone:
        campaign.join()
        election.resign()
    server.shutdown()
    server.server_close()
    LOG.info("stopped on request")


def _said(is_well: bool, trouble: str) -> tuple[int, bytes]:
    return (200, b"ok\n") if is_well else (503, f"{trouble}\n".encode())


def own_image(cluster: Cluster) -> str:
    """What this pod runs in, "" outside of one."""
    try:
        pod = cluster.get("pods", name) if (name := os.environ.get("POD_NAME")) else None
    except ClusterError as problem:
        LOG.warning("this pod cannot be read: %s", problem)
        pod = None
    return str(pod["spec"]["containers"][0]["image"]) if pod else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m orchestrator.controller", description="Runs the scaling studies of one namespace.")
    parser.add_argument("--namespace", default="", help="the namespace; by default this pod's own, or the context's")
    parser.add_argument("--identity", default=os.environ.get("POD_NAME") or socket.gethostname(), help="who holds the lease")
    parser.add_argument("--lease", default="scaling-study-controller", help="name of the Lease that elects the leader")
    parser.add_argument("--lease-seconds", type=int, default=15, help="a leader that is gone is replaced after so long")
    parser.add_argument("--alone", action="store_true", help="no election: nobody else may run")
    parser.add_argument("--policy", default="scaling-study-policy", help="ConfigMap with what the namespace allows")
    parser.add_argument("--image", default=os.environ.get("IMAGE", ""), help="image of pods that read files; by default the study's")
    parser.add_argument(
        "--waiter-image", default="", help="image of pods that wait for training over several nodes; by default this pod's own"
    )
    parser.add_argument("--relist-seconds", type=float, default=180.0, help="look at everything so often, whatever the watches say")
    parser.add_argument("--port", type=int, default=8080, help="of /metrics, /healthz and /readyz")
    parser.add_argument("--verbose", action="store_true", help="log more")
    return parser


if __name__ == "__main__":
    sys.exit(main())
