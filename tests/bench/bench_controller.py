"""What a controller takes: memory, time and writes of its rounds with 50 studies of 1,000 tasks, and a decision over 10,000 tasks.

    pytest -m bench tests/bench/bench_controller.py -s

Asked are at most 300 MB, at most 0.5 s, and writes only of what has changed. Memory is that of the whole process, the tests' own and the
cluster in memory included; the store is a folder.
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
from orchestrator.reconcile.observe import LABEL_WORKFLOW, LeaseSeen, Observed, PodSeen, WorkflowSeen
from orchestrator.spec import Study, StudySpec
from orchestrator.store import open_store
from orchestrator.workflow import Unit, short, units, workflow_name
from tests.controller.simulated_cluster import SPEC, T0, Played, tasks_of

STUDIES = 50
TASKS, MANY_TASKS = 1_000, 10_000
READS = ("list", "get", "read_config", "watch")
IN_FLIGHT = 200


def spec_of(first_seed: int, tasks: int) -> dict[str, Any]:
    """A study of at least so many tasks: eleven proportions, eight tasks a cell."""
    spec = copy.deepcopy(SPEC)
    spec["grid"]["codePercent"] = list(range(0, 101, 10))
    spec["grid"]["seeds"] = list(range(first_seed, first_seed + tasks // 88 + 1))
    spec["recipes"][0]["stages"] = spec["recipes"][0]["stages"][:1]
    spec["evaluation"] = {"after": ["pretrain"], "suites": ["bpb", "continuation", "nl-reasoning", "world-knowledge"]}
    return spec


def resident() -> tuple[float, float]:
    """MB of this process, now and at most."""
    now = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    return now, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def writes(cluster: InMemoryCluster) -> int:
    return sum(name not in READS for name, _ in cluster.calls)


@pytest.mark.bench
def test_memory_time_and_writes_of_fifty_studies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    played = Played()
    played.store = open_store(str(tmp_path))
    for number in range(STUDIES):
        played.apply(f"study-{number}", **spec_of(1 + number * 100, TASKS))
    loop = played.controller()

    def told(what: str, act: Callable[[], None]) -> None:
        before, start = writes(played.cluster), time.perf_counter()
        act()
        took, (now, most) = time.perf_counter() - start, resident()
        counts = played.status("study-0")["counts"]
        workflows = sum(len(page.items) for page in played.cluster.pages("workflows"))
        print(
            f"{what}: {took:.2f} s, {writes(played.cluster) - before} writes, {now:.0f} MB in all, at most {most:.0f};"
            f" {workflows:,} Workflows; a study: {counts['tasksDone']} of {counts['tasks']} tasks done"
        )

    with capsys.disabled():
        print(f"\nbefore the first round: {resident()[0]:.0f} MB")
        for what in ("planned", "tokenizer", "prepared", "submitted", "all looked at", "nothing new"):
            told(what, lambda: played.turn(loop))
            if what in ("planned", "tokenizer"):
                played.work()
        start_a_pod(played, "study-0")
        loop.wake("study-0")
        played.clock.advance(1)
        told("a pod of one study starts", loop.turn)


def start_a_pod(played: Played, study: str) -> None:
    labels = {LABEL_STUDY: study, LABEL_KIND: TaskKind.TRAIN}
    body = next(body for page in played.cluster.pages("workflows", labels) for body in page.items)
    name, digest = body["metadata"]["name"], tasks_of(body)[0]
    labels = {LABEL_MANAGED_BY: MANAGED_BY, LABEL_STUDY: study, LABEL_WORKFLOW: name, LABEL_DIGEST: short(digest)}
    played.cluster.put("pods", {"metadata": {"name": f"{name}-1", "labels": labels}, "spec": {}, "status": {"phase": "Running"}})


@pytest.fixture(scope="module")
def large() -> Planned:
    spec = spec_of(1, MANY_TASKS)
    study = Study("large", StudySpec.model_validate(spec), "large.yaml", spec)
    plan = plan_study(study, {})
    return Planned(study, "0" * 64, 1, plan, units(plan), frozenset())


def observed(over: tuple[Unit, ...], at_work: tuple[Unit, ...]) -> Observed:
    """Units that are done, and some whose first task runs."""
    now = T0 - timedelta(seconds=5)
    done = frozenset(digest for unit in over for digest in unit.tasks)
    lease = {
        digest: LeaseSeen("large", 1, digest not in done, now, 0 if digest in done else None, "", 60.0, 60.0, 1000)
        for unit in (*over, *at_work)
        for digest in (unit.tasks if unit in over else unit.tasks[:1])
    }
    workflows = tuple(WorkflowSeen(workflow_name(unit, 1), "large", 1, unit.tasks, "Running") for unit in at_work)
    pods = tuple(PodSeen(f"{workflow_name(unit, 1)}-1", workflow_name(unit, 1), short(unit.tasks[0]), "Running") for unit in at_work)
    return Observed(done, workflows, pods, lease, spent=60.0 * len(done))


@pytest.mark.bench
def test_a_decision_over_ten_thousand_tasks(large: Planned, capsys: pytest.CaptureFixture[str]) -> None:
    half = len(large.units) // 2
    states = {
        "nothing done": observed((), ()),
        f"half done, {IN_FLIGHT} Workflows at work": observed(large.units[:half], large.units[half : half + IN_FLIGHT]),
        "all done": observed(large.units, ()),
    }
    facts = StudyFacts("large", 1, 1, False, large.digest, 1)
    limits = Limits(Price("h100", 0.45, None, {}), budget_gpu_hours=1e6, namespace_gpu_hours=1e6)

    def decided(seen: Observed) -> tuple[Decision, float]:
        start = time.process_time()
        decision = reconcile(facts, large.plan, large.units, seen, limits, T0)
        return decision, time.process_time() - start

    with capsys.disabled():
        print(f"\n{len(large.plan.tasks):,} tasks, {len(large.plan.cells):,} cells, {len(large.units):,} units")
        for what, seen in states.items():
            took = [decided(seen)[1] for _ in range(5)]
            decision = decided(seen)[0]
            print(f"{what}: {min(took):.2f} to {max(took):.2f} s of processor, {len(decision.actions)} actions, {decision.status['phase']}")


@pytest.mark.bench
def test_a_look_of_the_controller_at_ten_thousand_tasks(capsys: pytest.CaptureFixture[str]) -> None:
    """The same with all around it: a listing, leases, actions, a status."""
    played = Played()
    played.apply("large", **spec_of(1, MANY_TASKS))
    loop = played.controller()
    with capsys.disabled():
        for what in ("planned", "tokenizer", "prepared", *["submitted"] * 2, "pods at work", "their tasks done", "nothing new"):
            before, start = writes(played.cluster), time.perf_counter()
            if what == "pods at work":
                played.start_pods()
            elif what == "their tasks done":
                played.end_pods()
            begin = time.perf_counter()
            played.turn(loop)
            took, counts = time.perf_counter() - begin, played.status("large")["counts"]
            told = f"{counts['tasksDone']} of {counts['tasks']} tasks done, {counts['tasksRunning']} run"
            print(f"{what}: {took:.2f} s, {writes(played.cluster) - before} writes; {told}; played in {begin - start:.1f} s")
            if what in ("planned", "tokenizer"):
                played.work()
