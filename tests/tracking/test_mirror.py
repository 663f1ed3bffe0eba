import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.contract.exits import ExitCode
from orchestrator.contract.plan import Plan, PlannedTask
from orchestrator.contract.tasks import TrainTask
from orchestrator.contract.vocabulary import TAGS, TaskKind
from orchestrator.errors import StoreUnavailable, TrackingUnavailable
from orchestrator.store import Store, open_store
from orchestrator.store.addresses import done_key, record_key, work_root
from orchestrator.store.checkpoints import publish
from orchestrator.store.leases import Holder, Lease, acquire
from orchestrator.store.memory import in_memory_store
from orchestrator.store.metrics import append
from orchestrator.store.plans import freeze
from orchestrator.store.records import publish_record
from orchestrator.tracking import MirrorProcess, masked, repair_command, tracking_uri, ui_command
from orchestrator.tracking.cluster import NamespaceMirror
from orchestrator.tracking.follow import LastAttempts, follow, mirror_once, sole_writer
from orchestrator.tracking.mirror import Mirror
from orchestrator.tracking.mirror_process import command_of
from orchestrator.tracking.view import CURVE_POINTS, curve, finished, parameters_of, tags_of
from tests.analysis.synthetic_study import SyntheticRecipe, SyntheticStage, SyntheticStudy
from tests.controller.simulated_cluster import SimulatedCluster

# As few tasks and steps as still have a trunk, a leaf, a cooldown and a second stage
SMALL = SyntheticStudy(
    sizes=("0.03M",),
    code_percents=("0",),
    seeds=(1,),
    suites=("bpb",),
    recipes=(
        SyntheticRecipe("from-scratch", (SyntheticStage("pretrain", "pretrain", 400), SyntheticStage("cooldown", "cooldown", 20, "20"))),
        SyntheticRecipe(
            "balanced", (SyntheticStage("init", "pretrain", 20, "50", evaluated=False), SyntheticStage("text", "continue", 20, "10"))
        ),
    ),
)
PLAN = SMALL.plan()
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables: making them takes seconds, so each test begins with a copy."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    Mirror(in_memory_store(), SyntheticStudy("another", sizes=("0.03M",), seeds=(1,)).plan(), f"sqlite:///{file}")
    return file


@pytest.fixture
def uri(empty_database: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(empty_database, tmp_path / 'mlflow.db')}"


# --- a store as a run leaves it ------------------------------------------------------------------------------------------------


def rows(task: TrainTask, after: int, upto: int, shift: float = 0.0) -> list[tuple[int, int, str, float]]:
    per_step = task.trajectory.tokens_per_step
    steps = range(after // per_step + 1, upto // per_step + 1)
    return [(step, step * per_step, name, base / step + shift) for step in steps for name, base in (("loss", 7.0), ("grad_norm", 1.0))]


def trained(store: Store, planned: PlannedTask, upto: int, after: int = 0, shift: float = 0.0, saves: tuple[int, ...] = ()) -> Lease:
    """An attempt that took the trajectory up at `after`, trained to `upto`, wrote checkpoints at `saves`, and still holds its lease."""
    assert isinstance(planned.task, TrainTask)
    lease = acquire(store, work_root(planned.kind, planned.work), planned.digest, Holder(study=PLAN.study))
    lease.start_from(after)
    append(store, lease, rows(planned.task, after, upto, shift))
    for tokens in saves:
        publish(store, lease, tokens, {}, {})
    return lease


def finish_all(store: Store, plan: Plan = PLAN, study: SyntheticStudy = SMALL) -> None:
    records = study.records(plan)
    for digest, planned in plan.tasks.items():
        if planned.kind is TaskKind.TRAIN and isinstance(planned.task, TrainTask):
            end = planned.task.tokens
            trained(store, planned, end, planned.from_tokens, saves=(end,)).end("done", 0)
        publish_record(store, records[digest])


def train_task() -> PlannedTask:
    return next(task for task in PLAN.tasks.values() if task.kind is TaskKind.TRAIN)


def ready(store: Store, planned: PlannedTask) -> None:
    records = SMALL.records(PLAN)
    for need in planned.needs:
        for before in PLAN.tasks[need].needs:
            publish_record(store, records[before])
        publish_record(store, records[need])


# --- what is in MLflow ---------------------------------------------------------------------------------------------------------


def contents(uri: str, study: str = "made-up") -> dict[str, dict[str, Any]]:
    """Everything that a person can see of a study, by digest: without MLflow's own ids and its marks of who made the run."""
    import mlflow

    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name(study)
    found: dict[str, dict[str, Any]] = {}
    for run in client.search_runs([experiment.experiment_id], max_results=1000):
        digest = run.data.tags["digest"]
        assert digest not in found, "two runs for one task"
        found[digest] = {
            "tags": {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.user")},
            "params": run.data.params,
            "metrics": {
                name: [(point.step, point.value, point.timestamp) for point in client.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
            },
            "times": (run.info.status, run.info.start_time, run.info.end_time, run.info.run_name),
        }
    return found


def test_a_finished_study_has_a_run_a_task_with_tags_parameters_and_curves(uri: str) -> None:
    store = in_memory_store()
    finish_all(store)
    change = Mirror(store, PLAN, uri).bring_up_to_date()
    assert (change.runs, change.open, change.problems) == (len(PLAN.tasks), 0, [])
    there = contents(uri)
    assert set(there) == set(PLAN.tasks)
    planned = train_task()
    run = there[planned.digest]
    assert isinstance(planned.task, TrainTask)
    assert run["times"][0] == "FINISHED"
    assert set(TAGS) <= set(run["tags"])
    assert (run["tags"]["study"], run["tags"]["digest"], run["tags"]["kind"]) == ("made-up", planned.digest, "train")
    steps = [step for step, _, _ in run["metrics"]["loss"]]
    assert (steps[-1], len(steps) <= CURVE_POINTS + 1) == (planned.task.tokens, True)
    assert run["metrics"]["result/loss"][0][0] == planned.task.tokens
    assert run["params"]["n_body"] == str(PLAN.shapes[planned.size].body)
    evaluation = next(task for task in PLAN.tasks.values() if task.kind is TaskKind.EVALUATE)
    assert there[evaluation.digest]["metrics"]["bits_per_byte"][0][0] > 0
    assert there[evaluation.digest]["tags"]["suite"] == "bpb"


def test_a_second_update_changes_nothing(uri: str) -> None:
    store = in_memory_store()
    finish_all(store)
    Mirror(store, PLAN, uri).bring_up_to_date()
    before = contents(uri)
    mirror = Mirror(store, PLAN, uri)
    assert not mirror.bring_up_to_date().changed
    assert not mirror.bring_up_to_date().changed
    assert contents(uri) == before


def test_deleted_and_rebuilt_is_the_same_as_kept_live(uri: str, empty_database: Path, tmp_path: Path) -> None:
    """Looks in the middle of training, a kill, a resume further back, then the end; against one look at the end."""
    store = in_memory_store()
    planned = train_task()
    assert isinstance(planned.task, TrainTask)
    ready(store, planned)
    mirror = Mirror(store, PLAN, uri)
    per_step = planned.task.trajectory.tokens_per_step
    first = trained(store, planned, 300 * per_step, shift=0.5, saves=(100 * per_step,))
    assert mirror.bring_up_to_date().points > 0
    first.end("killed", 137, "killed")
    mirror.bring_up_to_date()
    assert contents(uri)[planned.digest]["times"][0] == "KILLED"
    trained(store, planned, 200 * per_step, after=100 * per_step).end("stopped", 75)
    change = mirror.bring_up_to_date()
    assert change.replaced == 1, "points after the place of the resume were another attempt's"
    finish_all(store)
    assert mirror.bring_up_to_date().open == 0
    kept_live = contents(uri)
    rebuilt = f"sqlite:///{shutil.copy(empty_database, tmp_path / 'rebuilt.db')}"
    Mirror(store, PLAN, rebuilt).bring_up_to_date()
    assert contents(rebuilt) == kept_live


def test_a_curve_grows_while_the_task_trains(uri: str) -> None:
    store = in_memory_store()
    planned = train_task()
    assert isinstance(planned.task, TrainTask)
    ready(store, planned)
    mirror = Mirror(store, PLAN, uri)
    per_step = planned.task.trajectory.tokens_per_step
    lease = trained(store, planned, 100 * per_step)
    mirror.bring_up_to_date()
    before = contents(uri)[planned.digest]
    assert before["times"][0] == "RUNNING"
    append(store, lease, rows(planned.task, 100 * per_step, 200 * per_step))
    change = mirror.bring_up_to_date()
    after = contents(uri)[planned.digest]
    assert (change.runs, change.replaced) == (0, 0)
    assert change.points == sum(len(after["metrics"][name]) - len(before["metrics"][name]) for name in ("loss", "grad_norm"))
    assert after["metrics"]["loss"][: len(before["metrics"]["loss"])] == before["metrics"]["loss"]
    assert len(after["metrics"]["loss"]) > len(before["metrics"]["loss"])
    assert mirror.bring_up_to_date().points == 0


def test_a_task_that_is_refused_is_failed_and_says_why(uri: str) -> None:
    store = in_memory_store()
    planned = train_task()
    ready(store, planned)
    trained(store, planned, 5120).end("refused", ExitCode.REFUSED, "shard 3 has another hash")
    Mirror(store, PLAN, uri).bring_up_to_date()
    run = contents(uri)[planned.digest]
    assert (run["times"][0], run["tags"]["last_end"]) == ("FAILED", "shard 3 has another hash")


def test_an_incomplete_run_is_replaced(uri: str) -> None:
    """What a mirror that is killed between two calls leaves: a run without its hash, or with fewer points than it could have."""
    import mlflow

    store = in_memory_store()
    finish_all(store)
    Mirror(store, PLAN, uri).bring_up_to_date()
    whole = contents(uri)
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("made-up").experiment_id
    runs = client.search_runs([experiment], max_results=1000)
    client.delete_tag(runs[0].info.run_id, "mirror.hash")
    client.delete_tag(runs[0].info.run_id, "mirror.seal")
    client.delete_run(runs[1].info.run_id)
    client.create_run(experiment, tags={"digest": runs[2].data.tags["digest"]}, start_time=2**41)
    change = Mirror(store, PLAN, uri).bring_up_to_date()
    assert (change.runs, change.replaced) == (2, 1)
    assert contents(uri) == whole


def test_a_record_made_anew_replaces_what_the_run_said(uri: str) -> None:
    store = in_memory_store()
    finish_all(store)
    mirror = Mirror(store, PLAN, uri)
    mirror.bring_up_to_date()
    digest = train_task().digest
    record = SMALL.records(PLAN)[digest]
    store.objects.delete(done_key(digest))
    store.objects.delete(record_key(digest))
    publish_record(store, record.model_copy(update={"results": {**record.results, "loss": 1.25}}))
    mirror.bring_up_to_date()
    assert [value for _, value, _ in contents(uri)[digest]["metrics"]["result/loss"]] == [1.25]


def test_one_damaged_table_hides_one_run_and_no_other(uri: str) -> None:
    store = in_memory_store()
    finish_all(store)
    planned = train_task()
    table = next(stat.key for stat in store.objects.list(work_root(planned.kind, planned.work)) if "/metrics/" in stat.key)
    store.objects.put(table, store.objects.get(table)[:-20])
    change = Mirror(store, PLAN, uri).bring_up_to_date()
    assert change.problems
    assert all(table in problem for problem in change.problems)
    assert change.runs == len(PLAN.tasks) - len(change.problems)


# --- names, tags and curves: pure ----------------------------------------------------------------------------------------------


def test_a_task_that_serves_several_cells_names_them_all() -> None:
    cell = next(cell for cell in PLAN.cells if cell.code_percent == "0")
    twin = replace(cell, name="twin", recipe="twins", data_seed=7)
    tags = tags_of(replace(PLAN, cells=(cell, twin)))
    task = tags[cell.stages[0].trains[0]]
    assert (task["recipe"], task["size"], task["code_percent"], task["stage"]) == ("from-scratch,twins", "0.03M", "0", "pretrain")
    assert (task["seed"], task["cells"]) == ("1,1/7", f"{cell.name},twin")


def test_a_finished_run_names_each_commit_and_version_once() -> None:
    planned = train_task()
    record = SMALL.records(PLAN)[planned.digest]
    known, unknown = record.attempts[0], record.attempts[0].model_copy(update={"commit": ""})
    changed = known.model_copy(update={"dirty": True, "versions": {"scaling-study": "0.1.0"}})
    view = finished(planned, {}, {}, record.model_copy(update={"attempts": [known, unknown, changed, known]}), [], 0, "mark")
    assert view.tags["commit"] == "0123456789ab,0123456789ab-dirty"
    assert view.tags["version"] == "0.1.0"
    assert {"commit", "version"}.isdisjoint(
        finished(planned, {}, {}, record.model_copy(update={"attempts": [unknown]}), [], 0, "mark").tags
    )


def test_a_recipe_that_fixes_its_proportions_is_tagged_so() -> None:
    tags = tags_of(PLAN)
    assert {tags[digest]["code_percent"] for digest in PLAN.tasks if "balanced" in tags[digest].get("recipe", "")} == {"fixed"}


def test_a_curve_has_few_points_its_last_step_and_only_this_tasks_part() -> None:
    for planned in SyntheticStudy(sizes=("0.03M",), seeds=(1,)).plan().tasks.values():
        if not isinstance(planned.task, TrainTask):
            continue
        every = rows(planned.task, 0, planned.task.tokens + 5 * planned.task.trajectory.tokens_per_step)
        points = [point for point in curve(planned, every) if point.name == "loss"]
        assert len(points) <= CURVE_POINTS + 1
        assert points[-1].tokens == planned.task.tokens
        assert points[0].tokens > planned.from_tokens


@pytest.mark.parametrize("steps", [1, CURVE_POINTS - 1, CURVE_POINTS + 1, 997, 100_003])
def test_a_curve_of_any_length_ends_with_its_last_step(steps: int) -> None:
    planned = train_task()
    assert isinstance(planned.task, TrainTask)
    end = steps * planned.task.trajectory.tokens_per_step
    points = list(curve(replace(planned, task=replace(planned.task, tokens=end)), rows(planned.task, 0, end)))
    assert points[-1].tokens == end
    assert len(points) <= 2 * (CURVE_POINTS + 1)


def test_parameters_name_sources_and_never_pass_mlflows_limits() -> None:
    parameters = parameters_of(PLAN, train_task())
    assert {"prose", "stdlib"} & set(parameters["trajectory.shares"].replace('"', " ").split())
    assert all(len(name) <= 250 and 0 < len(value) <= 6000 for name, value in parameters.items())


# --- MLflow away ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def finished_store(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "store"))
    finish_all(store)
    freeze(store, PLAN, {})
    return store


def test_an_unreachable_server_is_retried_and_then_nothing_is_missing(finished_store: Store, uri: str, tmp_path: Path) -> None:
    """The database's folder is not there at the first look."""
    away, said = tmp_path / "away", list[str]()
    away.write_text("a file where the folder should be")

    def wait() -> bool:
        if not away.is_dir():
            away.unlink()
            away.mkdir()
            shutil.copy(uri.removeprefix("sqlite:///"), away / "mlflow.db")
        return False

    blocked = f"sqlite:///{away}/mlflow.db"
    assert follow(finished_store, "made-up", blocked, None, wait, said.append, until_done=True)
    assert any("retrying" in line for line in said)
    assert set(contents(blocked)) == set(PLAN.tasks)


def test_two_mirrors_never_write_one_sqlite_file_at_once(finished_store: Store, uri: str) -> None:
    with sole_writer(uri), pytest.raises(TrackingUnavailable, match="another process mirrors"):
        mirror_once(finished_store, PLAN.study, uri, None)
    assert mirror_once(finished_store, PLAN.study, uri, None).runs
    with sole_writer("http://mlflow:5000"), sole_writer("http://mlflow:5000"):
        """A server's database is its own affair."""


def test_an_unreachable_server_raises_tracking_unavailable() -> None:
    with pytest.raises(TrackingUnavailable, match=r"MLflow at http://127\.0\.0\.1:9"):
        Mirror(in_memory_store(), PLAN, NOWHERE)


def test_the_mirror_process_updates_once_more_when_the_run_ends(finished_store: Store, uri: str, tmp_path: Path) -> None:
    beside = MirrorProcess(finished_store, "made-up", uri, tmp_path / "tracking.log")
    assert beside.finish(seconds=60), beside.log.read_text()
    assert set(contents(uri)) == set(PLAN.tasks)


def test_a_run_waits_for_its_mirror_only_so_long(finished_store: Store, tmp_path: Path) -> None:
    beside = MirrorProcess(finished_store, "made-up", NOWHERE, tmp_path / "tracking.log")
    assert not beside.finish(seconds=0.1)


def test_addresses_of_the_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder, bucket = open_store(str(tmp_path / "s")), in_memory_store()
    assert tracking_uri(folder, "x") == f"sqlite:///{tmp_path}/s/mlflow.db"
    assert tracking_uri(bucket, "x") == f"sqlite:///{Path.cwd()}/x.local/mlflow.db"
    assert ui_command(tracking_uri(folder, "x")) == f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/s/mlflow.db"
    assert repair_command(folder, "x", tracking_uri(folder, "x")) == f"scaling-study tracking mirror x --store {tmp_path}/s"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert tracking_uri(folder, "x") == "http://mlflow:5000"
    assert repair_command(folder, "x", "http://mlflow:5000").endswith(" --uri http://mlflow:5000"), "also where the variable is not set"
    assert tracking_uri(folder, "x", given="sqlite:////elsewhere.db") == "sqlite:////elsewhere.db"


def test_the_mirror_of_a_namespace_opens_no_store_of_a_refused_study() -> None:
    simulated, opened, said = SimulatedCluster(), list[str](), list[str]()
    simulated.apply("mine")
    simulated.apply("refused", store="memory://forbidden", execution={})
    simulated.step(simulated.controller())

    def open_named(url: str) -> Store:
        opened.append(url)
        raise StoreUnavailable("no credentials")

    mirrors = NamespaceMirror(simulated.cluster, NOWHERE, said.append, open_named)
    mirrors.update()
    mirrors.update()
    assert set(opened) == {"memory://simulated"}
    assert said[0] == "mine: no credentials; retrying"
    assert said[1].startswith("refused: not mirrored, because it is not accepted (ImageMissing: ")
    assert len(said) == 2, "each thing once"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:pa@ss@mlflow:5000/a@b", "http://me:***@mlflow:5000/a@b"),
        ("postgresql://me:pass@db/x, http://:pass@h", "postgresql://me:***@db/x, http://:***@h"),
        ("http://mlflow:5000 of me@host", "http://mlflow:5000 of me@host"),
        ("sqlite:////a:b@c.db", "sqlite:////a:b@c.db"),
    ],
)
def test_a_password_in_an_address_is_not_shown(uri: str, shown: str) -> None:
    assert masked(uri) == shown


def test_no_message_about_a_mirror_contains_its_password(finished_store: Store) -> None:
    uri = "http://me:secret@127.0.0.1:9"
    with pytest.raises(TrackingUnavailable, match=r"http://me:\*\*\*@127") as told:
        Mirror(in_memory_store(), PLAN, uri)
    assert "secret" not in str(told.value)
    assert "secret" not in ui_command(uri) + repair_command(finished_store, "made-up", uri)


@pytest.mark.parametrize(
    ("log", "told"),
    [
        (
            "the disk is full; retrying\nTraceback (most recent call last):\n  File 'a.py', line 3, in fol",
            "the disk is full; retrying",
        ),
        ("Traceback (most recent call last):\n  File 'a.py'\nOSError: [Errno 28] No space left", "OSError: [Errno 28] No space left"),
        ("", "no message in "),
    ],
)
def test_the_last_message_is_readable_however_the_log_ends(finished_store: Store, tmp_path: Path, log: str, told: str) -> None:
    beside = MirrorProcess(finished_store, "made-up", NOWHERE, tmp_path / "tracking.log")
    beside.finish(0)
    beside.log.write_text(log)
    assert beside.last_message().startswith(told)


def test_a_last_update_is_retried_and_then_given_up_with_its_reason(finished_store: Store) -> None:
    pauses, said = list[float](), list[str]()
    tries = LastAttempts("the stop request", pauses.append, lambda: sum(pauses))
    with pytest.raises(TrackingUnavailable, match=r"MLflow at http://127.* is unreachable, .*; given up 5 s after the stop request"):
        follow(finished_store, "made-up", NOWHERE, None, tries.another, said.append, until_done=True)
    assert len(said) == len(pauses) + 1 == 12


@pytest.mark.parametrize(("times", "code"), [(1, 1), (2, 75)])
def test_ctrl_c_ends_a_mirror_whose_server_is_unreachable(finished_store: Store, times: int, code: int) -> None:
    line = [sys.executable, "-m", "orchestrator.cli", "tracking", "mirror", "made-up", "--store", finished_store.url]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    mirror = subprocess.Popen(
        [*line, "--uri", NOWHERE, "--follow"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    assert mirror.stdout is not None
    told = mirror.stdout.readline()
    assert told.endswith("retrying\n")
    for _ in range(times):
        mirror.send_signal(signal.SIGINT)
        time.sleep(0.2)
    rest, _ = mirror.communicate(timeout=60)
    assert mirror.returncode == code, rest
    assert ("given up 5 s after the stop request" in rest) == (times == 1)
    assert (len(rest.splitlines()) < 20, "Traceback" in rest) == (True, False), "it pauses between two tries"


def test_the_command_line_of_the_mirror_process_has_no_address(finished_store: Store, tmp_path: Path) -> None:
    assert command_of(finished_store, "made-up")[1:] == ["-m", "orchestrator.tracking", "--store", finished_store.url, "--study", "made-up"]
    mirror = MirrorProcess(finished_store, "made-up", "http://me:secret@127.0.0.1:9", tmp_path / "tracking.log")
    assert not mirror.finish(60)
    assert ("me:***@" in mirror.last_message(), "secret" in mirror.last_message()) == (True, False), mirror.last_message()


@pytest.mark.long
def test_a_real_server_that_comes_back_has_everything(finished_store: Store, tmp_path: Path) -> None:
    port = 5917
    server_uri = f"http://127.0.0.1:{port}"
    said: list[str] = []
    server: list[subprocess.Popen[bytes]] = []

    def wait() -> bool:
        if not server:
            command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
            command += ["--default-artifact-root", str(tmp_path / "artifacts"), "--port", str(port), "--workers", "1"]
            server.append(subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}))
        time.sleep(2)
        return False

    try:
        assert follow(finished_store, "made-up", server_uri, None, wait, said.append, until_done=True)
        assert any("retrying" in line for line in said)
        assert set(contents(server_uri)) == set(PLAN.tasks)
        assert not Mirror(finished_store, PLAN, server_uri).bring_up_to_date().changed
    finally:
        for process in server:
            process.terminate()
            process.wait(30)
