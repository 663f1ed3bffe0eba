"""Remote runs through a simulated Argo Server: killed, stopped, detached, and with errors of all kinds."""

import copy
import time
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.cluster.argo_server import ArgoServerCluster
from orchestrator.cluster.memory import ClusterFault
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.vocabulary import API_VERSION, LABEL_DIGEST, OBJECT_KIND
from orchestrator.controller.snapshot import OURS
from orchestrator.errors import ClusterUnavailable, PlanRefused, Refused, TokenRefused
from orchestrator.monitor.progress import Snapshot
from orchestrator.reconcile.observed import LABEL_WORKFLOW, parse_workflow
from orchestrator.remote import Interrupts, RemoteOutcome, run_study, study_object
from orchestrator.spec import read_object
from orchestrator.study.fingerprints import FingerprintResult, write_result
from tests.cluster.simulated_argo_server import SimulatedArgoServer
from tests.controller.simulated_cluster import SPEC, SimulatedCluster

SMALL: dict[str, Any] = {
    "grid": {"sizes": ["0.03M"], "codePercent": [50], "seeds": [1]},
    "recipes": [{**SPEC["recipes"][0], "stages": SPEC["recipes"][0]["stages"][:1]}],
    "evaluation": {"after": ["pretrain"], "suites": ["bpb"]},
    "store": "s3://simulated/store",
}


class Killed(BaseException):
    """Simulates the kill of the process."""


class Notes:
    """Listener that records. `shown`: the last snapshot of the run."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.shown: Snapshot | None = None

    def show(self, snapshot: Snapshot) -> None:
        self.shown = snapshot

    def note(self, text: str) -> None:
        self.lines.append(text)

    def has(self, text: str) -> bool:
        return any(text in line for line in self.lines)


class SimulatedUser(Interrupts):
    """Never sleeps: the nth call of `wait` calls `pass_time(n)`."""

    def __init__(self, pass_time: Callable[[int], None]) -> None:
        super().__init__()
        self.waits = 0
        self._pass_time = pass_time

    def wait(self, seconds: float) -> None:  # noqa: ARG002
        self.waits += 1
        assert self.waits < 200, "the run does not end"
        self._pass_time(self.waits)


class Place:
    """A simulated namespace with an Argo Server, in which the study `mine` runs."""

    def __init__(self) -> None:
        self.simulated = SimulatedCluster()
        self.server = SimulatedArgoServer(self.simulated.cluster)
        self.notes = Notes()

    def run(self, step: Callable[[int], None] | None = None, *, logs: bool = False, **changes: Any) -> RemoteOutcome:
        """Run the study as a new process. `step` is called between two iterations; by default all pods run and end."""

        def pass_time(number: int) -> None:
            self.simulated.clock.advance(11)
            (step or self.work)(number)

        spec = copy.deepcopy(SPEC) | SMALL | changes
        study = read_object({"apiVersion": API_VERSION, "kind": OBJECT_KIND, "metadata": {"name": "mine"}, "spec": spec})
        cluster = ArgoServerCluster(self.server, self.simulated.cluster.namespace, self.simulated.clock)
        self.user = SimulatedUser(pass_time)
        return run_study(
            cluster,
            study_object(study, cluster.namespace),
            self.simulated.store,
            self.notes,
            self.user,
            logs=logs,
            monotonic=self.simulated.clock.seconds,
        )

    def work(self, _number: int = 0) -> None:
        self.simulated.work()

    def runs(self) -> set[int]:
        return {parse_workflow(body).run_number for body in self.simulated.workflows()}


@pytest.fixture
def place() -> Place:
    return Place()


def is_whole(end: RemoteOutcome) -> bool:
    """Return whether every task is done."""
    return end.plan is not None and end.result.done == end.plan.tasks.keys() and end.result.is_complete and not end.trouble


def undisturbed_run() -> Place:
    place = Place()
    assert is_whole(place.run())
    return place


def test_study_runs_to_its_end_and_is_reported(place: Place) -> None:
    end = place.run()
    assert is_whole(end)
    assert end.plan is not None
    assert end.result.done == end.plan.tasks.keys()
    assert sorted(place.simulated.ran) == sorted(end.plan.tasks)
    assert (end.trouble, end.was_detached, end.result.skipped) == ("", False, 0)
    lines = [line for line in place.notes.lines if line.startswith("done ")]
    assert len(lines) == len(end.plan.tasks)
    assert place.notes.has("mine: 1 cells, ")
    assert place.notes.shown is not None
    assert (place.notes.shown.done, place.notes.shown.waiting) == (len(end.plan.tasks), 0)


def test_workflows_have_no_owner_reference(place: Place) -> None:
    place.run()
    assert all("ownerReferences" not in body["metadata"] for body in place.simulated.workflows())


def test_second_run_skips_finished_tasks(place: Place) -> None:
    first = place.run()
    made = place.server.submitted()
    again = place.run()
    assert is_whole(again)
    assert (again.result.skipped, place.server.submitted()) == (len(first.result.done), made)


def test_run_killed_at_any_iteration_continues_with_its_workflows() -> None:
    reference = undisturbed_run()
    for iteration in range(1, reference.user.waits + 1):
        place = Place()

        def die(number: int, iteration: int = iteration, place: Place = place) -> None:
            place.simulated.start_pods()
            if number == iteration:
                raise Killed
            place.work()

        with pytest.raises(Killed):
            place.run(die)
        before = place.runs()
        assert is_whole(place.run())
        assert sorted(place.simulated.ran) == sorted(reference.simulated.ran), "no task runs twice"
        assert len(place.server.submitted()) == len(reference.server.submitted()), "no Workflow is submitted twice"
        assert place.runs() == before, "the run number is kept while Workflows are running"


def test_first_interrupt_stops_the_pods_and_the_next_run_resumes(place: Place) -> None:
    def interrupt(number: int) -> None:
        place.simulated.start_pods()
        if number == 3:
            place.user.request_stop()
        if number == 6:
            place.simulated.end_pods(ExitCode.STOPPED)

    end = place.run(interrupt)
    assert end.result.was_stopped
    assert not end.was_detached
    assert place.user.waits >= 6, "the run waits for its pods"
    assert end.result.skipped == 0
    assert sum(line.startswith("mine: 1 cells") for line in place.notes.lines) == 1
    assert all(parse_workflow(body).was_stopped for body in place.simulated.workflows())
    before = place.runs()
    assert is_whole(place.run())
    assert max(place.runs()) > max(before), "the run after a stopped one has a new number"


def test_second_interrupt_detaches_at_once(place: Place) -> None:
    def interrupt(number: int) -> None:
        place.simulated.start_pods()
        if number in (3, 5):
            place.user.request_stop()

    end = place.run(interrupt)
    assert end.was_detached
    assert end.result.was_stopped
    assert place.user.waits == 5


def test_interrupt_during_fingerprinting_stops_its_pod_and_the_next_run_repeats_it(place: Place) -> None:
    sources = [{key: value for key, value in source.items() if key != "fingerprint"} for source in SPEC["data"]["sources"]]
    data = {**SPEC["data"], "sources": sources}

    def interrupt(number: int) -> None:
        (reader,) = place.simulated.workflows()
        labels = {**OURS, LABEL_WORKFLOW: reader["metadata"]["name"], LABEL_DIGEST: ""}
        status = {"phase": "Pending", "message": "no image"}
        place.simulated.cluster.put("pods", {"metadata": {"name": "r", "labels": labels}, "spec": {}, "status": status})
        if number == 3:
            place.user.request_stop()

    end = place.run(interrupt, data=data)
    assert (end.plan, end.result.was_stopped) == (None, True)
    assert place.notes.has("no plan yet: a pod reads the files")
    (reader,) = place.simulated.workflows()
    assert reader["spec"]["shutdown"] == "Stop"
    assert place.notes.has("to read the files: no image")
    place.simulated.cluster.set_status("workflows", reader["metadata"]["name"], {"phase": "Failed"})
    place.simulated.cluster.remove("pods", "r")

    def read(_number: int) -> None:
        for body in [body for body in place.simulated.workflows("") if body["metadata"]["name"].startswith("ss-files")]:
            key = next(word for word in body["spec"]["templates"][0]["container"]["args"] if word.startswith("--key="))
            found = FingerprintResult({"web": "a" * 64, "stack": "b" * 64}, {"web": 1, "stack": 1})
            write_result(place.simulated.store, key.removeprefix("--key="), found)
            place.simulated.cluster.set_status("workflows", body["metadata"]["name"], {"phase": "Succeeded"})
        place.work()

    assert is_whole(place.run(read, data=data))


def test_failed_tasks_are_reported_and_retried_by_the_next_run(place: Place) -> None:
    def fail(_number: int) -> None:
        place.simulated.start_pods()
        place.simulated.end_pods(ExitCode.REFUSED, "a bad hash")

    end = place.run(fail)
    assert not is_whole(end)
    assert set(end.result.failed.values()) == {"a bad hash"}
    assert end.result.held_back
    assert place.notes.has("permanently: a bad hash")
    assert is_whole(place.run())


def test_unreachable_server_is_waited_for(place: Place) -> None:
    def fail_temporarily(number: int) -> None:
        place.server.error = ClusterUnavailable("the Argo Server is unreachable") if 2 <= number < 8 else None
        place.work()

    assert is_whole(place.run(fail_temporarily))
    assert place.notes.has("is unreachable")
    assert sorted(place.simulated.ran) == sorted(undisturbed_run().simulated.ran)


def test_expired_token_ends_the_run_with_a_clear_error_and_the_next_run_continues(place: Place) -> None:
    def lose(number: int) -> None:
        if number == 3:
            place.server.error = TokenRefused("the Argo Server rejected the token")
        place.work()

    with pytest.raises(TokenRefused, match="rejected the token"):
        place.run(lose)
    place.server.error = None
    assert is_whole(place.run())
    assert sorted(place.simulated.ran) == sorted(undisturbed_run().simulated.ran)


def test_run_ends_if_the_server_rejects_every_workflow(place: Place) -> None:
    place.simulated.cluster.admission.append(lambda _kind, _body: "exceeded quota")
    end = place.run()
    assert "exceeded quota" in end.trouble
    assert not end.result.done


def test_run_ends_if_the_server_rejects_the_fingerprint_workflow(place: Place) -> None:
    place.simulated.cluster.admission.append(lambda _kind, _body: "workflows is forbidden")
    sources = [{key: value for key, value in source.items() if key != "fingerprint"} for source in SPEC["data"]["sources"]]
    end = place.run(data={**SPEC["data"], "sources": sources})
    assert (end.plan, "workflows is forbidden" in end.trouble) == (None, True)


def test_submission_is_retried_after_a_temporary_rejection(place: Place) -> None:
    refuse = ["exceeded quota"]
    place.simulated.cluster.admission.append(lambda _kind, _body: refuse[0] if refuse else None)

    def relent(_number: int) -> None:
        refuse.clear()
        place.work()

    assert is_whole(place.run(relent))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"execution": {}}, "a cluster needs the trainer's image"),
        ({"store": "results"}, "is a folder on one machine"),
    ],
)
def test_study_that_no_cluster_can_run_is_refused(place: Place, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanRefused, match=message):
        place.run(**changes)
    assert not place.server.submitted()


def test_run_ends_if_the_budget_is_exhausted(place: Place) -> None:
    end = place.run(budget={"gpuHours": "0.000001"})
    assert "raise spec.budget" in end.trouble


def test_stalled_pod_is_restarted_under_a_new_name(place: Place) -> None:
    """The stalled pod may still exist on an unreachable node, so its name must not be reused."""
    hung: set[str] = set()

    def hang(number: int) -> None:
        place.simulated.start_pods()
        if number == 2:
            hung.update(body["metadata"]["name"] for body in place.simulated.workflows("Running"))
            place.simulated.clock.advance(3600)
        elif number > 3:
            for name in hung:
                for pod in place.simulated.cluster.list("pods", {LABEL_WORKFLOW: name}).items:
                    place.simulated.cluster.remove("pods", pod["metadata"]["name"])
            place.work()

    assert is_whole(place.run(hang))
    stopped = {body["metadata"]["name"] for body in place.simulated.workflows() if parse_workflow(body).was_stopped}
    assert stopped == hung
    assert len(place.runs()) == 2
    assert place.notes.has("Stalled: ")


def test_lost_reply_to_a_submission_causes_no_duplicate(place: Place) -> None:
    place.simulated.cluster.faults.append(ClusterFault("create", "workflows/*", when="after", times=2))
    assert is_whole(place.run())
    assert sorted(place.simulated.ran) == sorted(undisturbed_run().simulated.ran)


def test_two_concurrent_runs_run_no_task_twice(place: Place) -> None:
    ends = []

    def join(number: int) -> None:
        place.simulated.start_pods()
        if number == 2:
            ends.append(place.run())
        place.work()

    ends.append(place.run(join))
    assert [is_whole(end) for end in ends] == [True, True]
    assert sorted(place.simulated.ran) == sorted(undisturbed_run().simulated.ran)
    assert len(place.runs()) == 1


def test_pod_logs_are_reported_if_requested_and_permitted(place: Place) -> None:
    def write(_number: int) -> None:
        place.simulated.start_pods()
        for pod in place.simulated.cluster.list("pods").items:
            place.simulated.cluster.pod_logs[pod["metadata"]["name"]] = ["step 1", "step 2"]

    def written(number: int) -> None:
        write(number)
        if number > 2:
            place.work()

    place.run(written, logs=True)
    eventually(lambda: place.notes.has("prepare tokenizer | step 2"))

    other = Place()
    other.server.log_error = Refused("pods is forbidden")

    def forbidden(number: int) -> None:
        other.simulated.start_pods()
        if number > 2:
            other.work()

    assert is_whole(other.run(forbidden, logs=True))
    eventually(lambda: other.notes.has("no logs: pods is forbidden"))
    assert sum("no logs" in line for line in other.notes.lines) == 1


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until `holds()` is true, because logs are written by other threads."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
