"""What a controller takes for many studies: memory, time of a round, writes of one that finds nothing new.

pytest -m bench tests/bench/bench_controller.py -s
"""

import copy
import time
from pathlib import Path

import pytest

from orchestrator.memory_cluster import InMemoryCluster
from tests.orchestrator.played import SPEC, Played

STUDIES = 50
SEEDS = 10


def _resident() -> float:
    """MB of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6


def _writes(cluster: InMemoryCluster) -> int:
    return sum(name not in ("list", "get", "read_config", "watch") for name, _ in cluster.calls)


@pytest.mark.bench
def test_memory_and_time_of_fifty_studies(capsys: pytest.CaptureFixture[str]) -> None:
    played = Played()
    before = _resident()
    for number in range(STUDIES):
        spec = copy.deepcopy(SPEC)
        spec["grid"]["codePercent"] = [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]
        spec["grid"]["seeds"] = [number * SEEDS + seed for seed in range(1, SEEDS + 1)]
        spec["recipes"][0]["stages"] = spec["recipes"][0]["stages"][:1]
        spec["evaluation"]["after"] = ["pretrain"]
        spec["evaluation"]["suites"] = ["bpb", "continuation", "nl-reasoning", "world-knowledge"]
        played.apply(f"study-{number}", **spec)
    loop = played.controller()
    with capsys.disabled():
        for what in ("planned", "tokenizer", "prepared", "trunks", "seen", "calm"):
            writes, start = _writes(played.cluster), time.perf_counter()
            played.turn(loop)
            took = time.perf_counter() - start
            counts = played.status("study-0")["counts"]
            print(
                f"{what}: {took:.1f} s, {_resident() - before:.0f} MB more, {_writes(played.cluster) - writes} writes,"
                f" {len(played.workflows())} Workflows; a study: {counts['tasksDone']} of {counts['tasks']} tasks done"
            )
            if what in ("planned", "tokenizer"):
                played.work()
