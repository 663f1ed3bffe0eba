"""Contents of a task's MLflow run: tags, parameters and curve. Pure, without MLflow."""

from dataclasses import replace

import pytest

from orchestrator.contract.tasks import TrainTask
from orchestrator.tracking.view import CURVE_POINTS, curve, finished, parameters_of, tags_of
from tests.analysis.synthetic_study import SyntheticStudy
from tests.tracking.synthetic_store import PLAN, STUDY, first_train_task, metric_rows


def test_tags_of_a_task_name_all_cells_that_use_it() -> None:
    cell = next(cell for cell in PLAN.cells if cell.code_percent == "0")
    twin = replace(cell, name="twin", recipe="twins", data_seed=7)
    tags = tags_of(replace(PLAN, cells=(cell, twin)))
    task = tags[cell.stages[0].trains[0]]
    assert (task["recipe"], task["size"], task["code_percent"], task["stage"]) == ("from-scratch,twins", "0.03M", "0", "pretrain")
    assert (task["seed"], task["cells"]) == ("1,1/7", f"{cell.name},twin")


def test_finished_run_names_each_commit_and_version_once() -> None:
    planned, _ = first_train_task()
    record = STUDY.records(PLAN)[planned.digest]
    known, unknown = record.attempts[0], record.attempts[0].model_copy(update={"commit": ""})
    changed = known.model_copy(update={"dirty": True, "versions": {"scaling-study": "0.1.0"}})
    view = finished(planned, {}, {}, record.model_copy(update={"attempts": [known, unknown, changed, known]}), [], 0, "mark")
    assert view.tags["commit"] == "0123456789ab,0123456789ab-dirty"
    assert view.tags["version"] == "0.1.0"
    without_commit = finished(planned, {}, {}, record.model_copy(update={"attempts": [unknown]}), [], 0, "mark")
    assert {"commit", "version"}.isdisjoint(without_commit.tags)


def test_code_percent_of_a_recipe_with_fixed_proportions_is_fixed() -> None:
    tags = tags_of(PLAN)
    assert {tags[digest]["code_percent"] for digest in PLAN.tasks if "balanced" in tags[digest].get("recipe", "")} == {"fixed"}


def test_curve_is_downsampled_and_covers_its_own_task_to_the_last_step() -> None:
    for planned in SyntheticStudy(sizes=("0.03M",), seeds=(1,)).plan().tasks.values():
        if not isinstance(planned.task, TrainTask):
            continue
        rows = metric_rows(planned.task, 0, planned.task.tokens + 5 * planned.task.trajectory.tokens_per_step)
        points = [point for point in curve(planned, rows) if point.name == "loss"]
        assert len(points) <= CURVE_POINTS + 1
        assert points[-1].tokens == planned.task.tokens
        assert points[0].tokens > planned.from_tokens


@pytest.mark.parametrize("steps", [1, CURVE_POINTS - 1, CURVE_POINTS + 1, 997, 100_003])
def test_curve_of_any_length_ends_with_its_last_step(steps: int) -> None:
    planned, task = first_train_task()
    end = steps * task.trajectory.tokens_per_step
    points = list(curve(replace(planned, task=replace(task, tokens=end)), metric_rows(task, 0, end)))
    assert points[-1].tokens == end
    assert len(points) <= 2 * (CURVE_POINTS + 1)


def test_parameters_name_sources_and_respect_the_limits_of_mlflow() -> None:
    parameters = parameters_of(PLAN, first_train_task()[0])
    assert {"prose", "stdlib"} & set(parameters["trajectory.shares"].replace('"', " ").split())
    assert all(len(name) <= 250 and 0 < len(value) <= 6000 for name, value in parameters.items())
