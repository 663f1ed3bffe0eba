"""Memory, time and number of writes of the controller with 50 studies of 1,000 tasks, and the time to reconcile 10,000 tasks.

    pytest -m bench tests/bench/bench_controller.py -s

Targets: at most 300 MB, at most 0.5 s per decision, and writes only for changes. Memory is that of the whole process, including the test
and the in-memory cluster; the store is a folder.
"""

import copy
import os
import resource
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cluster.memory import InMemoryCluster
from orchestrator.contract.vocabulary import LABEL_DIGEST, LABEL_KIND, LABEL_MANAGED_BY, LABEL_STUDY, MANAGED_BY, TaskKind
from orchestrator.controller.planning import Planned
from orchestrator.planning import plan_study
from orchestrator.planning.estimate import Price
from orchestrator.reconcile import Decision, Limits, StudyFacts, reconcile
from orchestrator.reconcile.observed import LABEL_WORKFLOW, Observation, ObservedLease, ObservedPod, ObservedWorkflow
from orchestrator.spec import Study, StudySpec
from orchestrator.store import open_store
from orchestrator.workflow import Unit, short, units, workflow_name
from tests.controller.simulated_cluster import SPEC, T0, SimulatedCluster, tasks_of

STUDIES = 50
TASKS, MANY_TASKS = 1_000, 10_000
READS = ("list", "get", "read_config", "watch")
IN_FLIGHT = 200


def spec_of(first_seed: int, tasks: int) -> dict[str, Any]:
    """Return the spec of a study with at least `tasks` tasks: eleven code percentages, eight tasks per cell."""
    spec = copy.deepcopy(SPEC)
    spec["grid"]["codePercent"] = list(range(0, 101, 10))
    spec["grid"]["seeds"] = list(range(first_seed, first_seed + tasks // 88 + 1))
    spec["recipes"][0]["stages"] = spec["recipes"][0]["stages"][:1]
    spec["evaluation"] = {"after": ["pretrain"], "suites": ["bpb", "continuation", "nl-reasoning", "world-knowledge"]}
    return spec


def resident() -> tuple[float, float]:
    """Return the current and the peak resident memory of this process in MB."""
    now = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return now, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def writes(cluster: InMemoryCluster) -> int:
    return sum(name not in READS for name, _ in cluster.calls)


@pytest.mark.bench
def test_memory_time_and_writes_of_fifty_studies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    simulated = SimulatedCluster()
    simulated.store = open_store(str(tmp_path))
    for number in range(STUDIES):
        simulated.apply(f"study-{number}", **spec_of(1 + number * 100, TASKS))
    loop = simulated.controller()

    def report(what: str, operation: Callable[[], None]) -> None:
        before, start = writes(simulated.cluster), time.perf_counter()
        operation()
        took, (now, most) = time.perf_counter() - start, resident()
        counts = simulated.status("study-0")["counts"]
        workflows = sum(len(page.items) for page in simulated.cluster.pages("workflows"))
        print(
            f"{what}: {took:.2f} s, {writes(simulated.cluster) - before} writes, {now:.0f} MB resident, peak {most:.0f};"
            f" {workflows:,} Workflows; a study: {counts['tasksDone']} of {counts['tasks']} tasks done"
        )

    with capsys.disabled():
        print(f"\nbefore the first iteration: {resident()[0]:.0f} MB")
        for what in ("planned", "tokenizer", "prepared", "submitted", "all reconciled", "no change"):
            report(what, lambda: simulated.step(loop))
            if what in ("planned", "tokenizer"):
                simulated.work()
        start_a_pod(simulated, "study-0")
        loop.wake("study-0")
        simulated.clock.advance(1)
        report("a pod of one study starts", loop.step)


def start_a_pod(simulated: SimulatedCluster, study: str) -> None:
    labels = {LABEL_STUDY: study, LABEL_KIND: TaskKind.TRAIN}
    body = next(body for page in simulated.cluster.pages("workflows", labels) for body in page.items)
    name, digest = body["metadata"]["name"], tasks_of(body)[0]
    labels = {LABEL_MANAGED_BY: MANAGED_BY, LABEL_STUDY: study, LABEL_WORKFLOW: name, LABEL_DIGEST: short(digest)}
    simulated.cluster.put("pods", {"metadata": {"name": f"{name}-1", "labels": labels}, "spec": {}, "status": {"phase": "Running"}})


@pytest.fixture(scope="module")
def large() -> Planned:
    spec = spec_of(1, MANY_TASKS)
    study = Study("large", StudySpec.model_validate(spec), "large.yaml", spec)
    plan = plan_study(study, {})
    return Planned(study, "0" * 64, 1, plan, units(plan), frozenset())


def observed(finished: tuple[Unit, ...], running: tuple[Unit, ...]) -> Observation:
    """Return observations of finished units, and of units whose first task is running."""
    now = T0 - timedelta(seconds=5)
    done = frozenset(digest for unit in finished for digest in unit.tasks)
    lease = {
        digest: ObservedLease("large", 1, digest not in done, now, 0 if digest in done else None, "", 60.0, 60.0, 1000)
        for unit in (*finished, *running)
        for digest in (unit.tasks if unit in finished else unit.tasks[:1])
    }
    workflows = tuple(ObservedWorkflow(workflow_name(unit, 1), "large", 1, unit.tasks, "Running") for unit in running)
    pods = tuple(ObservedPod(f"{workflow_name(unit, 1)}-1", workflow_name(unit, 1), short(unit.tasks[0]), "Running") for unit in running)
    return Observation(done, workflows, pods, lease, spent=60.0 * len(done))


@pytest.mark.bench
def test_reconcile_of_ten_thousand_tasks(large: Planned, capsys: pytest.CaptureFixture[str]) -> None:
    half = len(large.units) // 2
    states = {
        "nothing done": observed((), ()),
        f"half done, {IN_FLIGHT} Workflows running": observed(large.units[:half], large.units[half : half + IN_FLIGHT]),
        "all done": observed(large.units, ()),
    }
    facts = StudyFacts("large", 1, 1, False, large.digest, 1)
    limits = Limits(Price("h100", 0.45, None, {}), budget_gpu_hours=1e6, namespace_gpu_hours=1e6)

    def decided(seen: Observation) -> tuple[Decision, float]:
        start = time.process_time()
        decision = reconcile(facts, large.plan, large.units, seen, limits, T0)
        return decision, time.process_time() - start

    with capsys.disabled():
        print(f"\n{len(large.plan.tasks):,} tasks, {len(large.plan.cells):,} cells, {len(large.units):,} units")
        for what, seen in states.items():
            took = [decided(seen)[1] for _ in range(5)]
            decision = decided(seen)[0]
            print(f"{what}: {min(took):.2f} to {max(took):.2f} s of CPU time, {len(decision.actions)} actions, {decision.status['phase']}")


@pytest.mark.bench
def test_controller_iteration_with_ten_thousand_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    """Measures the whole iteration: the listing, the leases, `reconcile`, the actions and the status."""
    simulated = SimulatedCluster()
    simulated.apply("large", **spec_of(1, MANY_TASKS))
    loop = simulated.controller()
    with capsys.disabled():
        for what in ("planned", "tokenizer", "prepared", *["submitted"] * 2, "pods running", "their tasks done", "no change"):
            before, start = writes(simulated.cluster), time.perf_counter()
            if what == "pods running":
                simulated.start_pods()
            elif what == "their tasks done":
                simulated.end_pods()
            begin = time.perf_counter()
            simulated.step(loop)
            took, counts = time.perf_counter() - begin, simulated.status("large")["counts"]
            summary = f"{counts['tasksDone']} of {counts['tasks']} tasks done, {counts['tasksRunning']} running"
            print(f"{what}: {took:.2f} s, {writes(simulated.cluster) - before} writes; {summary}; simulated in {begin - start:.1f} s")
            if what in ("planned", "tokenizer"):
                simulated.work()
