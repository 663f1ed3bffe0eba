"""What a decision sees of the pods and Workflows of the API: GPUs, times, reasons, ends."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from orchestrator.contract.vocabulary import LABEL_JOBSET, LABEL_RUN
from orchestrator.reconcile.observed import ObservedPod, ObservedWorkflow, parse_pod, parse_workflow

START = datetime(2030, 1, 1, tzinfo=UTC)
Document = dict[str, Any]


def at(seconds: int) -> str:
    return f"{START + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%SZ}"


def parsed(status: Document | None = None, spec: Document | None = None, **metadata: Any) -> ObservedPod:
    return parse_pod({"metadata": {"name": "p", **metadata}, "spec": spec or {}, "status": status or {}}, {"lost": False})


@pytest.mark.parametrize(
    ("limits", "gpus"),
    [
        ([{"nvidia.com/gpu": "8", "cpu": "32", "memory": "100Gi"}], 8),
        ([{"nvidia.com/gpu": 4}, {"amd.com/gpu": 2}, {"cpu": "1"}], 6),
        ([{"nvidia.com/gpu": "many"}], 0),
        ([], 0),
    ],
)
def test_gpus_of_a_pod_are_those_of_all_its_containers(limits: list[Document], gpus: int) -> None:
    assert parsed(spec={"containers": [{"resources": {"limits": limit}} for limit in limits]}).gpus == gpus


def scheduled(status: str, seconds: int, kind: str = "PodScheduled") -> Document:
    return {"type": kind, "status": status, "lastTransitionTime": at(seconds)}


@pytest.mark.parametrize(
    ("status", "seconds"),
    [
        ({}, None),
        ({"conditions": [scheduled("False", 5)]}, None),
        ({"conditions": [scheduled("True", 5), scheduled("True", 1, "Ready")]}, 5),
        ({"conditions": [scheduled("True", 5)], "startTime": at(7)}, 5),
        ({"conditions": [scheduled("True", 9)], "startTime": at(7)}, 7),
        ({"startTime": at(7)}, 7),
    ],
)
def test_gpus_are_reserved_from_the_time_a_pod_is_scheduled(status: Document, seconds: int | None) -> None:
    assert parsed(status).gpu_start == (None if seconds is None else START + timedelta(seconds=seconds))


def ended(seconds: int) -> Document:
    return {"name": "c", "state": {"terminated": {"finishedAt": at(seconds)}}}


@pytest.mark.parametrize(
    ("containers", "seconds"),
    [([], None), ([ended(3), ended(9), ended(5)], 9), ([ended(3), {"name": "main", "state": {"running": {}}}], None)],
)
def test_gpus_are_reserved_until_the_last_container_has_ended(containers: list[Document], seconds: int | None) -> None:
    assert parsed({"containerStatuses": containers}).gpu_end == (None if seconds is None else START + timedelta(seconds=seconds))


def test_trainer_start_is_not_that_of_another_container() -> None:
    containers = [{"name": name, "state": {"running": {"startedAt": at(start)}}} for name, start in (("wait", 1), ("main", 4))]
    assert parsed({"containerStatuses": containers}).trainer_started_at == START + timedelta(seconds=4)
    assert parsed({"containerStatuses": containers[:1]}).trainer_started_at is None


def waiting(reason: str, message: str = "") -> Document:
    return {"state": {"waiting": {"reason": reason, "message": message}}}


UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ({"containerStatuses": [waiting("ImagePullBackOff", "no such image")]}, "ImagePullBackOff: no such image"),
        ({"initContainerStatuses": [waiting("CrashLoopBackOff")], "containerStatuses": [waiting("PodInitializing")]}, "CrashLoopBackOff"),
        ({"containerStatuses": [waiting("ContainerCreating")], "conditions": [UNSCHEDULABLE]}, "Unschedulable: 0/3 nodes"),
        ({"conditions": [UNSCHEDULABLE | {"status": "True"}], "message": "evicted"}, "evicted"),
        ({"reason": "NodeLost"}, "NodeLost"),
        ({}, ""),
    ],
)
def test_reason_of_a_pod_says_why_it_does_not_run(status: Document, reason: str) -> None:
    assert parsed(status).reason == reason


@pytest.mark.parametrize(
    ("condition", "disruption"),
    [
        ({"type": "DisruptionTarget", "status": "True", "reason": "Preemption", "message": "by p2"}, "Preemption: by p2"),
        ({"type": "TerminationTarget", "status": "True", "reason": "Workload", "message": ""}, "Workload"),
        ({"type": "DisruptionTarget", "status": "False", "reason": "Preemption"}, ""),
        ({"type": "Ready", "status": "True", "reason": "Preemption"}, ""),
    ],
)
def test_disruption_is_read_from_the_conditions(condition: Document, disruption: str) -> None:
    assert parsed({"conditions": [condition]}).preempted == disruption


def test_pod_without_a_status_is_pending_on_a_ready_node() -> None:
    pod = parse_pod({"metadata": {"name": "p"}}, {"lost": False})
    assert (pod.phase, pod.node_is_ready, pod.deletion_deadline, pod.created) == ("Pending", True, None, None)
    assert not parsed(spec={"nodeName": "lost"}).node_is_ready


@pytest.mark.parametrize(
    ("name", "spec", "labels", "host"),
    [
        ("pod-1", {}, {}, "pod-1"),
        ("pod-1", {"hostname": "given"}, {}, "given"),
        ("pod-1", {"hostname": "given"}, {LABEL_JOBSET: "jobset"}, "jobset"),
        ("x" * 62 + "-.y", {}, {}, "x" * 62),
    ],
)
def test_host_is_the_name_under_which_the_trainer_takes_leases(name: str, spec: Document, labels: Document, host: str) -> None:
    assert parsed(spec=spec, name=name, labels=labels).host == host


def node(kind: str, phase: str, short: str = "abc", **changes: Any) -> Document:
    return {"type": kind, "phase": phase, "inputs": {"parameters": [{"name": "short", "value": short}]}, **changes}


def workflow_of(**nodes: Document) -> ObservedWorkflow:
    return parse_workflow({"metadata": {"name": "w"}, "spec": {}, "status": {"nodes": nodes}})


@pytest.mark.parametrize(
    ("kind", "phase", "failed", "succeeded"),
    [
        ("Retry", "Failed", {"abc"}, set()),
        ("Retry", "Error", {"abc"}, set()),
        ("Retry", "Succeeded", set(), {"abc"}),
        ("Retry", "Running", set(), set()),
        ("Pod", "Failed", set(), set()),
        ("DAG", "Failed", set(), set()),
    ],
)
def test_only_an_ended_retry_node_is_final(kind: str, phase: str, failed: set[str], succeeded: set[str]) -> None:
    found = workflow_of(n=node(kind, phase), dag={"type": "Retry", "phase": "Failed"})
    assert (set(found.failed), set(found.succeeded)) == (failed, succeeded)


def test_reason_is_that_of_the_latest_attempt() -> None:
    first = node("Pod", "Failed", message="the first", startedAt=at(1))
    second = node("Pod", "Failed", message="the second", startedAt=at(2))
    for nodes in ({"a": first, "b": second}, {"a": second, "b": first}):
        assert workflow_of(**nodes).reasons == {"abc": "the second"}


def test_only_ended_attempts_have_an_end() -> None:
    nodes = {
        "n0": node("Pod", "Failed", name="w(0)", finishedAt=at(3)),
        "n1": node("Pod", "Running", name="w(1)"),
        "n2": node("Retry", "Failed", name="w", finishedAt=at(3)),
    }
    found = workflow_of(**nodes)
    assert found.finished == {"n0": START + timedelta(seconds=3), "w(0)": START + timedelta(seconds=3)}
    assert found.ended_attempts == {"abc": 1}


@pytest.mark.parametrize(("label", "number"), [("7", 7), ("", 0), ("two", 0), ("-1", 0), ("\u0663", 0)])
def test_run_number_is_a_whole_number_or_0(label: str, number: int) -> None:
    assert parse_workflow({"metadata": {"name": "w", "labels": {LABEL_RUN: label}}, "spec": {}}).run_number == number
