"""`status`, `watch` and `logs` of a study on a cluster: the double in memory, a controller that runs, pods that are played."""

import io
import time
from collections.abc import Callable

import pytest
from rich.console import Console

from orchestrator.cli.grid import drawn
from orchestrator.cli.logs import follow_logs, show_logs
from orchestrator.cli.status import document, is_bad
from orchestrator.cli.status_readers import on_cluster_and_store
from orchestrator.cli.watch import PlainLines, watch_until_over
from orchestrator.cluster.memory import ClusterFault
from orchestrator.cluster.study_object import find_object
from orchestrator.contract.plan import PlannedTask
from orchestrator.contract.vocabulary import ExitCode
from orchestrator.errors import NotThere, PlanRefused, Refused, StoreUnavailable
from orchestrator.monitor.status_reader import Lookout
from orchestrator.monitor.study_view import StudyView
from orchestrator.store import Store
from orchestrator.store.addresses import attempt_key, work_root
from orchestrator.store.leases import Holder, take
from tests.controller.simulated_cluster import Played


@pytest.fixture
def played() -> Played:
    return Played()


def lookout(played: Played) -> Lookout:
    return Lookout("mine", played.clock, store=played.store, cluster=played.cluster)


def text_of(view: StudyView) -> str:
    out = io.StringIO()
    Console(file=out, width=200).print(drawn(view))
    return out.getvalue()


def training(played: Played) -> StudyView:
    """The study when its trunks train, each in a pod."""
    loop = played.controller()
    played.apply()
    for _ in range(10):
        played.turn(loop)
        view = lookout(played).look()
        if view.plan is not None and any(work.task.kind == "train" for work in view.at_work):
            return view
        if played.cluster.list("pods").items:
            played.clock.advance(5)
            played.end_pods()
        else:
            played.start_pods()
    raise AssertionError(text_of(lookout(played).look()))


# status


def test_a_study_that_nobody_has_looked_at_says_so(played: Played) -> None:
    played.apply()
    view = lookout(played).look()
    assert (view.phase, view.plan) == ("Unseen", None)
    shown = text_of(view)
    assert "mine in namespace studies: Unseen" in shown
    assert "none yet: no controller has looked at it" in shown


def test_the_grid_shows_what_the_controller_decides_by(played: Played) -> None:
    view = training(played)
    assert view.phase == "Running"
    assert [str(cell.state) for cell in view.cells] == ["running", "running"]
    assert {work.pod for work in view.at_work} == {pod["metadata"]["name"] for pod in played.cluster.list("pods").items}
    shown = text_of(view)
    assert "▶ 0/1" in shown
    assert f"pod {view.at_work[0].pod} for " in shown
    assert "Accepted" in shown
    assert "Progressing" in shown
    assert not is_bad(view)


def test_a_finished_study_is_green_and_so_is_its_object(played: Played) -> None:
    loop = played.controller()
    played.apply()
    played.run_to_the_end(loop)
    view = lookout(played).look()
    assert (view.phase, {str(cell.state) for cell in view.cells}) == ("Succeeded", {"done"})
    assert document(view)["counts"]["cellsDone"] == 2


def test_why_a_submitted_task_waits_is_told(played: Played) -> None:
    training(played)
    for pod in played.cluster.list("pods").items:
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: no GPU"}
        played.cluster.set_status("pods", pod["metadata"]["name"], {"phase": "Pending", "conditions": [condition]})
    view = lookout(played).look()
    assert view.waits == {"Unschedulable: 0/1 nodes: no GPU": 2}
    assert "2 x Unschedulable: 0/1 nodes: no GPU" in text_of(view)


def test_a_refused_study_shows_the_rule_and_is_bad(played: Played) -> None:
    played.apply(execution={})
    played.turn(played.controller())
    view = lookout(played).look()
    assert (view.phase, is_bad(view)) == ("Refused", True)
    shown = text_of(view)
    assert "ImageMissing" in shown
    assert "no grid" not in shown, "there is nothing to wait for"


def test_what_was_said_of_an_older_version_is_marked(played: Played) -> None:
    training(played)
    played.edit(budget={"gpuHours": 3})
    view = lookout(played).look()
    assert view.phase == "Unseen"
    assert "(before its last edit)" in text_of(view)


def test_a_task_of_another_study_is_somebody_elses_work(played: Played) -> None:
    training(played)
    played.apply("other")
    played.turn(played.controller())
    view = Lookout("other", played.clock, store=played.store, cluster=played.cluster).look()
    awaited = [work for work in view.at_work if work.state == "awaited"]
    assert awaited
    assert awaited[0].reason == "study mine works on it"


def test_a_store_out_of_reach_leaves_what_the_object_says(played: Played) -> None:
    training(played)

    def away(_url: str) -> Store:
        raise StoreUnavailable("no credentials")

    view = on_cluster_and_store(played.cluster, "mine", None, away).look()
    assert view.plan is None
    assert view.trouble == "its store cannot be reached from here: no credentials"
    shown = text_of(view)
    assert "Running, 0/2 cells, 3/" in shown
    assert "its store cannot be reached from here: no credentials" in shown
    assert f"{view.pods[0].name}: Running" in shown
    assert "Progressing" in shown
    assert "▶ 0/1" in shown, "the object tells the state of every cell, though not its progress"
    assert [(each.cell.name, each.state) for each in view.cells] == [(each.cell.name, each.state) for each in lookout(played).look().cells]


def test_the_letters_in_the_status_are_in_the_order_of_the_cells(played: Played) -> None:
    view = training(played)
    played.cluster.set_status("pods", view.at_work[0].pod, {"phase": "Pending"})
    played.turn(played.controller())
    assert played.status()["cellStates"] == "QR"
    blind = Lookout("mine", played.clock, store=None, cluster=played.cluster, trouble="far away").look()
    assert [(each.cell.name, str(each.state)) for each in blind.cells] == [
        ("scratch/0.03M/c0/s1", "queued"),
        ("scratch/0.03M/c50/s1", "running"),
    ]


@pytest.mark.parametrize("letters", ["", "DD", "D", "DDD", "x."])
def test_letters_that_are_not_of_this_grid_show_no_grid_rather_than_a_wrong_one(played: Played, letters: str) -> None:
    training(played)
    body = find_object(played.cluster, "mine")
    played.cluster.patch_status("mine", {**body["status"], "cellStates": letters}, body["metadata"]["resourceVersion"])
    view = Lookout("mine", played.clock, store=None, cluster=played.cluster, trouble="far away").look()
    assert [str(each.state) for each in view.cells] == (["done", "done"] if letters == "DD" else [])
    assert ("no grid:" in text_of(view)) == (letters != "DD")


def test_a_store_that_does_not_hold_the_plan_is_not_taken_for_the_studys(played: Played) -> None:
    training(played)
    other = Played()
    view = Lookout("mine", played.clock, store=other.store, cluster=played.cluster).look()
    assert view.plan is None
    assert "does not hold its plan" in view.trouble


def test_a_study_that_is_not_there_is_a_clear_word(played: Played) -> None:
    with pytest.raises(NotThere, match="no study in namespace studies is called 'mine'"):
        on_cluster_and_store(played.cluster, "mine", None)


# watch


def test_watch_tells_every_change_and_ends_when_all_is_done(played: Played) -> None:
    loop, lines = played.controller(), list[str]()
    played.apply()

    def pause() -> None:
        played.turn(loop)
        played.work()

    assert watch_until_over(lookout(played), PlainLines(lines.append), pause)
    assert "mine: Unseen" in lines[0]
    assert "mine: Succeeded, 2/2 cells; tasks: " in "".join(lines)
    assert sum("is done" in line for line in lines) == 2
    assert len(lines) == len(set(lines))


def test_watch_of_what_fails_ends_with_a_failure(played: Played) -> None:
    loop = played.controller()
    played.apply()

    def pause() -> None:
        played.turn(loop)
        played.start_pods()
        played.end_pods(ExitCode.REFUSED, "shard 3 has another hash")

    lines: list[str] = []
    assert not watch_until_over(lookout(played), PlainLines(lines.append), pause)
    assert "mine: Failed" in lines[-1] or "has failed" in lines[-1]


def test_watch_goes_on_when_the_cluster_was_away_for_a_while(played: Played) -> None:
    loop, lines = played.controller(), list[str]()
    played.apply()

    def pause() -> None:
        played.turn(loop)
        played.work()
        if not any("not new" in line for line in lines):
            played.cluster.faults.append(ClusterFault("get", "scalingstudies/mine", times=2))

    assert watch_until_over(lookout(played), PlainLines(lines.append), pause)
    assert sum("what is shown is not new" in line for line in lines) == 1, "the same trouble is told once"


def test_watch_ends_when_the_study_is_deleted(played: Played) -> None:
    training(played)
    with pytest.raises(NotThere):
        watch_until_over(lookout(played), PlainLines(lambda _: None), lambda: played.cluster.remove("scalingstudies", "mine"))


# logs


def logs(played: Played, what: str = "", tail: int = 0) -> tuple[bool, list[str]]:
    lines: list[str] = []
    return show_logs(lookout(played), what, lines.append, tail), lines


def with_logs(played: Played, view: StudyView) -> PlannedTask:
    """Every pod has said three lines; the first task at work."""
    for work in view.at_work:
        played.cluster.pod_logs[work.pod] = [f"{work.task.digest[:6]} step {number}" for number in range(3)]
    return view.at_work[0].task


def by_cell(view: StudyView) -> str:
    return view.plan.cells[0].name if view.plan else ""


@pytest.mark.parametrize("ask", [by_cell, lambda view: view.at_work[0].task.digest[:12], lambda view: view.at_work[0].pod])
def test_a_cell_a_digest_and_a_pod_lead_to_the_same_log(played: Played, ask: Callable[[StudyView], str]) -> None:
    view = training(played)
    task = with_logs(played, view)
    assert logs(played, ask(view)) == (True, [f"{task.digest[:6]} step {number}" for number in range(3)])
    assert logs(played, ask(view), tail=1) == (True, [f"{task.digest[:6]} step 2"])


def test_without_a_name_all_that_is_at_work_is_shown_under_its_own_head(played: Played) -> None:
    view = training(played)
    with_logs(played, view)
    there, lines = logs(played)
    assert there
    heads = [line for line in lines if "==> " in line]
    assert len(heads) == len(view.at_work) == 2
    assert f"==> train {view.at_work[0].task.label}, pod {view.at_work[0].pod} (Running) <==" in lines


def test_when_the_pod_is_gone_the_log_of_the_last_attempt_comes_from_the_store(played: Played) -> None:
    view = training(played)
    task = view.at_work[0].task
    played.end_pods()
    there, lines = logs(played, task.digest)
    assert (there, lines[0]) == (
        False,
        f"no log of {task.digest} is left: pods go a minute after they end, and the store has none. Its attempts:",
    )
    assert lines[1].endswith(": done")
    played.objects.put(attempt_key(work_root(task.kind, task.work), 1, "log.txt"), b"first\nlast \xff\n")
    assert logs(played, task.digest) == (True, ["first", "last \ufffd"])


def test_an_attempt_that_found_the_task_done_does_not_hide_the_log_of_the_one_that_did_it(played: Played) -> None:
    view = training(played)
    task = view.at_work[0].task
    played.end_pods()
    root = work_root(task.kind, task.work)
    played.objects.put(attempt_key(root, 1, "log.txt"), b"step 1\n")
    late = take(played.store, root, task.digest, Holder())
    played.objects.put(attempt_key(root, late.number, "log.txt"), b"")
    late.end("done", ExitCode.DONE)
    assert logs(played, task.digest) == (True, ["step 1"])


def test_what_has_not_begun_says_what_it_waits_for(played: Played) -> None:
    view = training(played)
    assert view.plan is not None
    task = next(task for task in view.plan.tasks.values() if task.kind == "evaluate")
    assert logs(played, task.digest)[1] == [f"{task.digest} has not begun:", f"  evaluate {task.label}: waits for what it needs"]


def test_when_nobody_is_at_work_that_is_said(played: Played) -> None:
    loop = played.controller()
    played.apply()
    played.run_to_the_end(loop)
    there, lines = logs(played)
    assert not there
    assert lines == ["mine: nobody works on it now (Succeeded). Name a cell, a digest or a pod to see what it has said."]


def test_a_container_that_has_not_begun_is_no_error(played: Played) -> None:
    view = training(played)
    played.cluster.faults.append(ClusterFault("logs", error=lambda: Refused('container "main" is waiting to start: PodInitializing')))
    assert logs(played, view.at_work[0].pod) == (True, ["(it has not begun)"])


def test_a_cell_that_is_not_there_names_some_that_are(played: Played) -> None:
    training(played)
    with pytest.raises(PlanRefused, match=r"'scratch/1B/s1' is not a cell of mine\. Cells are called, for example: scratch/0.03M/c0/s1"):
        logs(played, "scratch/1B/s1")


def test_without_the_store_pods_and_digests_still_lead_to_logs(played: Played) -> None:
    view = training(played)
    task = with_logs(played, view)
    blind = Lookout("mine", played.clock, store=None, cluster=played.cluster, trouble="its store is far away")
    lines: list[str] = []
    assert show_logs(blind, task.digest[:12], lines.append)
    assert lines == [f"{task.digest[:6]} step {number}" for number in range(3)]
    with pytest.raises(PlanRefused, match="which cells and tasks it has is not known here: its store is far away"):
        show_logs(blind, "scratch/0.03M/c0/s1", lines.append)


def test_follow_reads_pods_that_come_later_and_ends_with_the_study(played: Played) -> None:
    loop, lines = played.controller(), list[str]()
    played.apply()
    looking = lookout(played)

    def pause() -> None:
        if played.cluster.list("pods").items:
            played.end_pods()
        played.turn(loop)
        played.start_pods()
        for pod in played.cluster.list("pods").items:
            name = pod["metadata"]["name"]
            played.cluster.pod_logs.setdefault(name, [f"{name} begins", f"{name} ends"])

    follow_logs(looking, "", lines.append, pause)
    assert len(lines) == len(set(lines)) == 2 * len(played.cluster.pod_logs), "every line once"
    assert all(line.startswith(("[prepare ", "[train scratch/0.03M/", "[evaluate scratch/0.03M/")) for line in lines)


def test_follow_takes_up_a_stream_that_broke_off_where_it_was(played: Played) -> None:
    """The double ends a stream when it has said all there is, as a connection that breaks off does."""
    view = training(played)
    pod, lines, looks = view.at_work[0].pod, list[str](), list[int]()

    def pause() -> None:
        time.sleep(0.05)
        looks.append(1)
        said = [f"step {number}" for number in range(len(looks))]
        played.cluster.pod_logs[pod] = said
        if len(looks) == 6:
            played.cluster.set_status("pods", pod, {"phase": "Succeeded"})

    follow_logs(lookout(played), pod, lines.append, pause)
    assert lines == [f"step {number}" for number in range(6)], "each once, and the last ones although it ended meanwhile"


def test_follow_waits_for_a_pod_that_has_not_begun_and_reads_it_though_it_ran_between_two_looks(played: Played) -> None:
    view = training(played)
    pod, lines = view.at_work[0].pod, list[str]()
    played.cluster.set_status("pods", pod, {"phase": "Pending"})

    def pause() -> None:
        played.cluster.pod_logs[pod] = ["begins", "ends"]
        played.cluster.set_status("pods", pod, {"phase": "Succeeded"})

    follow_logs(lookout(played), pod, lines.append, pause)
    assert lines == ["begins", "ends"]


def test_follow_begins_with_the_last_lines_and_leaves_out_none_that_come_later(played: Played) -> None:
    view = training(played)
    pod, lines, looks = view.at_work[0].pod, list[str](), list[int]()
    said = played.cluster.pod_logs[pod] = [f"step {number}" for number in range(5)]

    def pause() -> None:
        time.sleep(0.05)
        looks.append(1)
        if len(looks) == 2:
            said.extend(f"step {number}" for number in range(5, 9))
            played.cluster.set_status("pods", pod, {"phase": "Succeeded"})

    follow_logs(lookout(played), pod, lines.append, pause, tail=2)
    assert lines == [f"step {number}" for number in range(3, 9)]


def test_follow_ends_when_nobody_reads_it(played: Played) -> None:
    view = training(played)
    with_logs(played, view)

    def closed(_line: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        follow_logs(lookout(played), "", closed, lambda: time.sleep(0.05))


def test_follow_of_what_has_ended_shows_what_there_is(played: Played) -> None:
    view = training(played)
    pod, task, lines = view.at_work[0].pod, view.at_work[0].task, list[str]()
    played.cluster.pod_logs[pod] = ["begins", "ends"]
    played.end_pods()
    follow_logs(lookout(played), task.digest, lines.append, lambda: None, tail=1)
    assert lines[0].startswith(f"no log of {task.digest} is left")
    played.objects.put(attempt_key(work_root(task.kind, task.work), 1, "log.txt"), b"first\nlast\n")
    lines.clear()
    follow_logs(lookout(played), task.digest, lines.append, lambda: None, tail=1)
    assert lines == ["last"]


def test_follow_without_a_cluster_says_where_to_look(played: Played) -> None:
    training(played)
    with pytest.raises(PlanRefused, match="-n names the study's namespace"):
        follow_logs(Lookout("mine", played.clock, store=played.store), "", lambda _: None, lambda: None)
