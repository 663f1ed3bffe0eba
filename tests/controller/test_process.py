"""The controller's process: threads, probes, metrics."""

import re
import threading
import urllib.error
import urllib.request

import pytest

from orchestrator.cluster.memory import InMemoryCluster
from orchestrator.controller.__main__ import _parser, run
from orchestrator.controller.http_server import serve
from tests.controller.simulated_cluster import SimulatedCluster

PATIENCE = 60


def test_the_whole_controller_runs_and_stops_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    simulated = SimulatedCluster()
    simulated.cluster = InMemoryCluster()
    stop = threading.Event()
    given = _parser().parse_args(["--port", "0", "--identity", "me", "--lease-seconds", "60"])
    controller = threading.Thread(target=run, args=(simulated.cluster, given, stop))
    controller.start()
    simulated.apply()
    done = threading.Event()
    for _ in range(PATIENCE * 10):
        if simulated.status().get("phase") == "Running":
            break
        done.wait(0.1)
    stop.set()
    controller.join(PATIENCE)
    assert not controller.is_alive()
    assert simulated.status()["phase"] == "Running"
    assert simulated.workflows()
    assert simulated.cluster.acquire_lease("scaling-study-controller", "another", 15), "the lease was released"
    capsys.readouterr()


def test_probes_and_metrics_are_served() -> None:
    server = serve(0, {"/healthz": lambda: (200, b"ok\n"), "/readyz": lambda: (503, b"not yet\n")})
    place = f"http://127.0.0.1:{server.server_address[1]}"
    with urllib.request.urlopen(f"{place}/healthz") as answer:
        assert answer.read() == b"ok\n"
    for path, code in (("readyz", 503), ("nothing", 404)):
        with pytest.raises(urllib.error.HTTPError) as problem:
            urllib.request.urlopen(f"{place}/{path}")
        assert problem.value.code == code
        problem.value.close()
    server.shutdown()
    server.server_close()


def test_metrics_of_a_deleted_study_are_removed() -> None:
    simulated = SimulatedCluster()
    loop = simulated.controller()
    simulated.apply()
    simulated.run_to_the_end(loop)
    text = loop._metrics.text().decode()
    assert 'scaling_study_studies{phase="Succeeded"} 1.0' in text
    assert 'scaling_study_tasks{state="done",study="mine"} 19.0' in text
    assert re.search(r'scaling_study_gpu_seconds\{cause="done",study="mine"\} [1-9]', text)
    simulated.cluster.delete("scalingstudies", "mine")
    simulated.step(loop)
    assert 'study="mine"' not in loop._metrics.text().decode()
