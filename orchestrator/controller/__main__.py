"""`python -m orchestrator.controller`: entry point of the controller's pod. Flags, signals and threads; `loop` does the work."""

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
from orchestrator.controller.loop import Loop, LoopOptions
from orchestrator.controller.metrics import Metrics
from orchestrator.controller.study_reconciler import StudyReconciler
from orchestrator.controller.watching import Watches
from orchestrator.errors import ClusterError
from orchestrator.store import open_store
from orchestrator.store.objects import utc_now

LOG: Final = logging.getLogger(__name__)

# One step lists the namespace and reconciles every due study. A longer step fails the liveness probe.
LIVENESS_SECONDS: Final = 600.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT. Return 0 then, 1 if the cluster is unreachable at the start."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.DEBUG if options.verbose else logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # the client's debug lines contain every response of the API
    logging.getLogger("kubernetes").setLevel(logging.INFO)
    # importing the client takes two seconds, which --help does not need
    from orchestrator.cluster.kubernetes_api import connect

    try:
        cluster = connect(options.namespace)
    except ClusterError as problem:
        print(problem, file=sys.stderr)
        return 1
    stop = threading.Event()

    def request_stop(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, request_stop)
    signal.signal(signal.SIGINT, request_stop)
    run(cluster, options, stop)
    return 0


def run(cluster: Cluster, options: argparse.Namespace, stop: threading.Event) -> None:
    """Run the controller until `stop` is set."""
    metrics = Metrics()
    election = Election(cluster, options.lease, options.identity, options.lease_seconds)
    waiter_image = options.waiter_image or own_image(cluster)
    reconciler = StudyReconciler(cluster, open_store, utc_now, metrics, options.image, waiter_image)

    def may_work() -> bool:
        return not stop.is_set() and (options.alone or election.is_leader)

    loop = Loop(cluster, reconciler, metrics, utc_now, options=LoopOptions(options.relist_seconds, options.policy), may_work=may_work)
    watches = Watches(cluster, stop, loop.wake, loop.relist)
    loop.on_listed = lambda snapshot: watches.start_from(snapshot.versions)
    heartbeat = [time.monotonic()]
    server = serve(
        options.port,
        {
            "/metrics": lambda: (200, metrics.text()),
            "/healthz": lambda: _probe(time.monotonic() - heartbeat[0] < LIVENESS_SECONDS, "the loop hangs"),
            "/readyz": lambda: _probe(loop.has_listed.is_set() or not may_work(), "the namespace has not been listed yet"),
        },
    )
    election_thread = threading.Thread(target=election.run, args=(stop, loop.relist), name="election", daemon=True)
    if not options.alone:
        election_thread.start()
    LOG.info("namespace %s, as %s, port %d", cluster.namespace, options.identity, server.server_address[1])
    watches.start()
    while not stop.is_set():
        metrics.set_leader(may_work())
        loop.step()
        heartbeat[0] = time.monotonic()
        loop.wait()
    if not options.alone:
        election_thread.join()
        election.resign()
    server.shutdown()
    server.server_close()
    LOG.info("stopped on request")


def _probe(is_healthy: bool, problem: str) -> tuple[int, bytes]:
    return (200, b"ok\n") if is_healthy else (503, f"{problem}\n".encode())


def own_image(cluster: Cluster) -> str:
    """Return the image of this pod, "" outside a pod."""
    try:
        pod = cluster.get("pods", name) if (name := os.environ.get("POD_NAME")) else None
    except ClusterError as problem:
        LOG.warning("this pod cannot be read: %s", problem)
        pod = None
    return str(pod["spec"]["containers"][0]["image"]) if pod else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator.controller",
        description="Run the scaling studies of one namespace.",
    )
    parser.add_argument("--namespace", default="", help="namespace; default: this pod's own, or that of the kubectl context")
    parser.add_argument(
        "--identity", default=os.environ.get("POD_NAME") or socket.gethostname(), help="holder identity in the Lease; default: %(default)s"
    )
    parser.add_argument("--lease", default="scaling-study-controller", help="name of the Lease for leader election; default: %(default)s")
    parser.add_argument(
        "--lease-seconds", type=int, default=15, help="seconds after which an unreachable leader is replaced; default: %(default)s"
    )
    parser.add_argument("--alone", action="store_true", help="disable leader election; no other controller may run in the namespace")
    parser.add_argument(
        "--policy", default="scaling-study-policy", help="name of the ConfigMap with the namespace's policy; default: %(default)s"
    )
    parser.add_argument("--image", default=os.environ.get("IMAGE", ""), help="image of pods that fingerprint files; default: the study's")
    parser.add_argument("--waiter-image", default="", help="image of pods that wait for multi-node training; default: this pod's own")
    parser.add_argument(
        "--relist-seconds", type=float, default=180.0, help="interval in seconds for reconciling every study; default: %(default)s"
    )
    parser.add_argument("--port", type=int, default=8080, help="port of /metrics, /healthz and /readyz; default: %(default)s")
    parser.add_argument("--verbose", action="store_true", help="log at DEBUG level")
    return parser


if __name__ == "__main__":
    sys.exit(main())
