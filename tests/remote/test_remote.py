"""A study's run from where a person sits, by an Argo Server that is played: killed, stopped, left, and troubles of all kinds."""

import copy
import time
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.cluster.argo_server import ArgoServerCluster
from orchestrator.cluster.memory import ClusterFault
from orchestrator.contract.vocabulary import API_VERSION, LABEL_DIGEST, OBJECT_KIND, ExitCode
from orchestrator.controller.snapshot import OURS
from orchestrator.errors import ClusterUnavailable, PlanRefused, Refused, TokenRefused
from orchestrator.monitor.progress import Snapshot
from orchestrator.reconcile.observe import LABEL_WORKFLOW, workflow_seen
from orchestrator.remote import End, Interrupts, run_study, study_object
from orchestrator.spec import read_object
from orchestrator.study.fingerprints import Found, write_found
from tests.cluster.simulated_argo_server import PlayedServer
from tests.controller.simulated_cluster import SPEC, Played

SMALL: dict[str, Any] = {
    "grid": {"sizes": ["0.03M"], "codePercent": [50], "seeds": [1]},
    "recipes": [{**SPEC["recipes"][0], "stages": SPEC["recipes"][0]["stages"][:1]}],
    "evaluation": {"after": ["pretrain"], "suites": ["bpb"]},
    "store": "s3://played/store",
}


class Killed(BaseException):
    """The person's process is gone."""


class Notes:
    """What a person was told. `shown`: the last picture of the run."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.shown: Snapshot | None = None

    def show(self, snapshot: Snapshot) -> None:
        self.shown = snapshot

    def note(self, text: str) -> None:
        self.lines.append(text)

    def has(self, text: str) -> bool:
        return any(text in line for line in self.lines)


class Person(Interrupts):
    """Whoever waits lets `pass_time` happen, with the number of the wait."""

    def __init__(self, pass_time: Callable[[int], None]) -> None:
        super().__init__()
        self.waits = 0
        self._pass_time = pass_time

    def wait(self, seconds: float) -> None:  # noqa: ARG002
        self.waits += 1
        assert self.waits < 200, "it comes to no end"
        self._pass_time(self.waits)


class Place:
    """A played namespace with a server in front of it, and whoever runs the study `mine` there."""

    def __init__(self) -> None:
        self.played = Played()
        self.server = PlayedServer(self.played.cluster)
        self.notes = Notes()

    def run(self, happen: Callable[[int], None] | None = None, *, logs: bool = False, **changes: Any) -> End:
        """A new process. Between two looks `happen` does, by default all that can run runs."""

        def pass_time(number: int) -> None:
            self.played.clock.advance(11)
            (happen or self.work)(number)

        spec = copy.deepcopy(SPEC) | SMALL | changes
        study = read_object({"apiVersion": API_VERSION, "kind": OBJECT_KIND, "metadata": {"name": "mine"}, "spec": spec})
        cluster = ArgoServerCluster(self.server, self.played.cluster.namespace, self.played.clock)
        self.person = Person(pass_time)
        return run_study(
            cluster,
            study_object(study, cluster.namespace),
            self.played.store,
            self.notes,
            self.person,
            logs=logs,
            monotonic=self.played.clock.seconds,
        )

    def work(self, _number: int = 0) -> None:
        self.played.work()

    def runs(self) -> set[int]:
        return {workflow_seen(body).run_number for body in self.played.workflows()}


@pytest.fixture
def place() -> Place:
    return Place()


def is_whole(end: End) -> bool:
    """Every task is done."""
    return end.plan is not None and end.result.done == end.plan.tasks.keys() and end.result.is_complete and not end.trouble


def calm() -> Place:
    place = Place()
    assert is_whole(place.run())
    return place


def test_a_study_runs_to_its_end_and_is_told(place: Place) -> None:
    end = place.run()
    assert is_whole(end)
    assert end.plan is not None
    assert end.result.done == end.plan.tasks.keys()
    assert sorted(place.played.ran) == sorted(end.plan.tasks)
    assert (end.trouble, end.was_left, end.result.skipped) == ("", False, 0)
    told = [line for line in place.notes.lines if line.startswith("done ")]
    assert len(told) == len(end.plan.tasks)
    assert place.notes.has("mine: 1 cells, ")
    assert place.notes.shown is not None
    assert (place.notes.shown.done, place.notes.shown.waiting) == (len(end.plan.tasks), 0)


def test_no_workflow_names_an_owner_that_the_cluster_does_not_have(place: Place) -> None:
    place.run()
    assert all("ownerReferences" not in body["metadata"] for body in place.played.workflows())


def test_what_is_done_is_skipped_when_it_runs_again(place: Place) -> None:
    first = place.run()
    made = place.server.made()
    again = place.run()
    assert is_whole(again)
    assert (again.result.skipped, place.server.made()) == (len(first.result.done), made)


def test_killed_at_any_moment_it_goes_on_with_what_is_at_work() -> None:
    undisturbed = calm()
    for moment in range(1, undisturbed.person.waits + 1):
        place = Place()

        def die(number: int, moment: int = moment, place: Place = place) -> None:
            place.played.start_pods()
            if number == moment:
                raise Killed
            place.work()

        with pytest.raises(Killed):
            place.run(die)
        before = place.runs()
        assert is_whole(place.run())
        assert sorted(place.played.ran) == sorted(undisturbed.played.ran), "no task twice"
        assert len(place.server.made()) == len(undisturbed.server.made()), "and no Workflow either"
        assert place.runs() == before, "it is the same run, as long as something of it is at work"


def test_a_first_interrupt_stops_politely_and_the_next_run_goes_on(place: Place) -> None:
    def interrupt(number: int) -> None:
        place.played.start_pods()
        if number == 3:
            place.person.ask()
        if number == 6:
            place.played.end_pods(ExitCode.STOPPED)

    end = place.run(interrupt)
    assert end.result.was_stopped
    assert not end.was_left
    assert place.person.waits >= 6, "it waits for the pods"
    assert end.result.skipped == 0
    assert sum(line.startswith("mine: 1 cells") for line in place.notes.lines) == 1
    assert all(workflow_seen(body).was_stopped for body in place.played.workflows())
    before = place.runs()
    assert is_whole(place.run())
    assert max(place.runs()) > max(before), "a stopped run is followed by another number"


def test_a_second_interrupt_leaves_at_once(place: Place) -> None:
    def interrupt(number: int) -> None:
        place.played.start_pods()
        if number in (3, 5):
            place.person.ask()

    end = place.run(interrupt)
    assert end.was_left
    assert end.result.was_stopped
    assert place.person.waits == 5


def test_an_interrupt_while_a_pod_reads_the_files_stops_it_and_the_next_run_reads_them_again(place: Place) -> None:
    sources = [{key: value for key, value in source.items() if key != "fingerprint"} for source in SPEC["data"]["sources"]]
    data = {**SPEC["data"], "sources": sources}

    def interrupt(number: int) -> None:
        (reader,) = place.played.workflows()
        labels = {**OURS, LABEL_WORKFLOW: reader["metadata"]["name"], LABEL_DIGEST: ""}
        status = {"phase": "Pending", "message": "no image"}
        place.played.cluster.put("pods", {"metadata": {"name": "r", "labels": labels}, "spec": {}, "status": status})
        if number == 3:
            place.person.ask()

    end = place.run(interrupt, data=data)
    assert (end.plan, end.result.was_stopped) == (None, True)
    assert place.notes.has("no plan yet: a pod reads the files")
    (reader,) = place.played.workflows()
    assert reader["spec"]["shutdown"] == "Stop"
    assert place.notes.has("to read the files: no image")
    place.played.cluster.set_status("workflows", reader["metadata"]["name"], {"phase": "Failed"})
    place.played.cluster.remove("pods", "r")

    def read(_number: int) -> None:
        for body in [body for body in place.played.workflows("") if body["metadata"]["name"].startswith("ss-files")]:
            key = next(word for word in body["spec"]["templates"][0]["container"]["args"] if word.startswith("--key="))
            found = Found({"web": "a" * 64, "stack": "b" * 64}, {"web": 1, "stack": 1})
            write_found(place.played.store, key.removeprefix("--key="), found)
            place.played.cluster.set_status("workflows", body["metadata"]["name"], {"phase": "Succeeded"})
        place.work()

    assert is_whole(place.run(read, data=data))


def test_what_failed_is_told_and_tried_again_by_the_next_run(place: Place) -> None:
    def fail(_number: int) -> None:
        place.played.start_pods()
        place.played.end_pods(ExitCode.REFUSED, "a bad hash")

    end = place.run(fail)
    assert not is_whole(end)
    assert set(end.result.failed.values()) == {"a bad hash"}
    assert end.result.held_back
    assert place.notes.has("for good: a bad hash")
    assert is_whole(place.run())


def test_a_server_that_is_away_is_waited_for(place: Place) -> None:
    def away(number: int) -> None:
        place.server.trouble = ClusterUnavailable("the Argo Server does not answer") if 2 <= number < 8 else None
        place.work()

    assert is_whole(place.run(away))
    assert place.notes.has("does not answer")
    assert sorted(place.played.ran) == sorted(calm().played.ran)


def test_a_token_that_runs_out_ends_the_run_with_a_clear_word_and_the_next_goes_on(place: Place) -> None:
    def lose(number: int) -> None:
        if number == 3:
            place.server.trouble = TokenRefused("the Argo Server does not know the token")
        place.work()

    with pytest.raises(TokenRefused, match="does not know the token"):
        place.run(lose)
    place.server.trouble = None
    assert is_whole(place.run())
    assert sorted(place.played.ran) == sorted(calm().played.ran)


def test_a_server_that_refuses_every_workflow_is_not_asked_for_ever(place: Place) -> None:
    place.played.cluster.admission.append(lambda _kind, _body: "exceeded quota")
    end = place.run()
    assert "exceeded quota" in end.trouble
    assert not end.result.done


def test_a_server_that_refuses_the_pod_that_reads_the_files_is_not_asked_for_ever_either(place: Place) -> None:
    place.played.cluster.admission.append(lambda _kind, _body: "workflows is forbidden")
    sources = [{key: value for key, value in source.items() if key != "fingerprint"} for source in SPEC["data"]["sources"]]
    end = place.run(data={**SPEC["data"], "sources": sources})
    assert (end.plan, "workflows is forbidden" in end.trouble) == (None, True)


def test_a_server_that_refuses_for_a_moment_is_asked_again(place: Place) -> None:
    refuse = ["exceeded quota"]
    place.played.cluster.admission.append(lambda _kind, _body: refuse[0] if refuse else None)

    def relent(_number: int) -> None:
        refuse.clear()
        place.work()

    assert is_whole(place.run(relent))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"execution": {}}, "a cluster needs the trainer's image"),
        ({"store": "results"}, "is a folder of one machine"),
    ],
)
def test_a_study_that_no_cluster_can_run_is_refused(place: Place, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(PlanRefused, match=told):
        place.run(**changes)
    assert not place.server.made()


def test_a_budget_that_does_not_fit_is_the_end(place: Place) -> None:
    end = place.run(budget={"gpuHours": "0.000001"})
    assert "raise spec.budget" in end.trouble


def test_a_pod_that_makes_no_step_is_started_again_under_another_name(place: Place) -> None:
    """Its pod may still be there, on a node that does not answer: no new one may have its name."""
    hung: set[str] = set()

    def hang(number: int) -> None:
        place.played.start_pods()
        if number == 2:
            hung.update(body["metadata"]["name"] for body in place.played.workflows("Running"))
            place.played.clock.advance(3600)
        elif number > 3:
            for name in hung:
                for pod in place.played.cluster.list("pods", {LABEL_WORKFLOW: name}).items:
                    place.played.cluster.remove("pods", pod["metadata"]["name"])
            place.work()

    assert is_whole(place.run(hang))
    stopped = {body["metadata"]["name"] for body in place.played.workflows() if workflow_seen(body).was_stopped}
    assert stopped == hung
    assert len(place.runs()) == 2
    assert place.notes.has("Stalled: ")


def test_a_lost_answer_to_a_submission_makes_no_second_workflow(place: Place) -> None:
    place.played.cluster.faults.append(ClusterFault("create", "workflows/*", when="after", times=2))
    assert is_whole(place.run())
    assert sorted(place.played.ran) == sorted(calm().played.ran)


def test_two_that_run_it_at_once_do_no_task_twice(place: Place) -> None:
    ends = []

    def join(number: int) -> None:
        place.played.start_pods()
        if number == 2:
            ends.append(place.run())
        place.work()

    ends.append(place.run(join))
    assert [is_whole(end) for end in ends] == [True, True]
    assert sorted(place.played.ran) == sorted(calm().played.ran)
    assert len(place.runs()) == 1


def test_what_pods_write_is_told_where_it_is_asked_for_and_allowed(place: Place) -> None:
    def write(_number: int) -> None:
        place.played.start_pods()
        for pod in place.played.cluster.list("pods").items:
            place.played.cluster.pod_logs[pod["metadata"]["name"]] = ["step 1", "step 2"]

    def written(number: int) -> None:
        write(number)
        if number > 2:
            place.work()

    place.run(written, logs=True)
    eventually(lambda: place.notes.has("prepare tokenizer | step 2"))

    other = Place()
    other.server.log_trouble = Refused("pods is forbidden")

    def forbidden(number: int) -> None:
        other.played.start_pods()
        if number > 2:
            other.work()

    assert is_whole(other.run(forbidden, logs=True))
    eventually(lambda: other.notes.has("no logs: pods is forbidden"))
    assert sum("no logs" in line for line in other.notes.lines) == 1


def eventually(holds: Callable[[], bool]) -> None:
    """Threads write when they come to it."""
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
