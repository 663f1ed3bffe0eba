"""The example studies: each can be read and planned, and matches the description in its comments."""

from fractions import Fraction
from hashlib import sha256
from pathlib import Path

import pytest

from orchestrator.contract.plan import Plan
from orchestrator.contract.tasks import TrainTask
from orchestrator.planning import plan_study
from orchestrator.planning.repetition import SourceTokens, readings
from orchestrator.spec import Study, read_study

EXAMPLES = Path(__file__).parents[2] / "manifests" / "examples"


def read(name: str) -> Study:
    return read_study(EXAMPLES / name)


def plan(name: str) -> Plan:
    """Return the plan, with synthetic fingerprints for sources that declare none."""
    study = read(name)
    fingerprints = {
        source.name: sha256(source.path.encode()).hexdigest() for source in study.spec.data.sources if source.fingerprint is None
    }
    return plan_study(study, fingerprints, "")


def tasks_of(plan: Plan, recipe: str, **axes: str | None) -> set[str]:
    """Return the digests of all tasks of a recipe's cells with the given axis values."""
    cells = [cell for cell in plan.cells if cell.recipe == recipe and all(getattr(cell, axis) == value for axis, value in axes.items())]
    assert cells
    stages = [stage for cell in cells for stage in cell.stages]
    return {digest for stage in stages for digest in (*stage.trains, *(evaluation.digest for evaluation in stage.evaluations))}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_every_example_plans_and_every_contrast_arm_has_cells(path: Path) -> None:
    planned = plan(path.name)
    assert planned.study == path.stem
    assert planned.cells
    for contrast in planned.contrasts:
        for side in ("arm", "against"):
            arm = contrast[side]
            assert tasks_of(planned, arm["recipe"], size=arm["size"]), contrast["name"]


@pytest.mark.parametrize("name", ["to-code.yaml", "sweep-rates.yaml"])
def test_declared_fingerprints_are_hashes_of_the_source_names(name: str) -> None:
    sources = read(name).spec.data.sources
    assert [source.fingerprint for source in sources] == [sha256(source.name.encode()).hexdigest() for source in sources]


def test_demo_grid_has_four_sizes_four_proportions_and_two_seeds() -> None:
    cells = plan("demo.yaml").cells
    grid = {(cell.size, cell.code_percent, cell.init_seed) for cell in cells if cell.recipe == "from-scratch"}
    assert len(grid) == 4 * 4 * 2
    assert {percent for _, percent, _ in grid} == {"0", "25", "50", "100"}
    assert {cell.size for cell in cells if cell.recipe == "balanced-to-text"} == {"0.09M", "0.25M"}


def test_demo_shares_the_first_stage_of_two_arms() -> None:
    planned = plan("demo.yaml")
    two_stages = tasks_of(planned, "balanced-to-text", size="0.25M")
    half_code = tasks_of(planned, "from-scratch", size="0.25M", code_percent="50")
    shared = {planned.tasks[digest].work for digest in two_stages} & {planned.tasks[digest].work for digest in half_code}
    assert len(shared) == 2, "one shared trajectory per seed: the stable part"


def test_paper_study_has_all_sizes_proportions_seeds_and_cooldowns() -> None:
    planned = plan("to-code.yaml")
    arms = {f"{arm}-cool-{code}" for arm in ("text-only", "balanced-only", "balanced-to-text", "code-to-text") for code in (0, 20)}
    for arm in arms:
        cells = {(cell.size, cell.init_seed) for cell in planned.cells if cell.recipe == arm}
        assert cells == {(size, seed) for size in ("60M", "150M", "470M", "1B", "2.8B") for seed in (1, 2, 3)}, arm
    sweep = {(cell.size, cell.code_percent) for cell in planned.cells if cell.recipe == "from-scratch"}
    assert sweep == {(size, percent) for size in ("60M", "150M", "470M") for percent in ("0", "25", "50", "75", "90", "100")}


@pytest.mark.parametrize(
    ("recipe", "asked", "code"),
    [
        ("text-only-cool-0", [400, 40], ["0", "0"]),
        ("balanced-only-cool-20", [400, 40], ["50", "20"]),
        ("balanced-to-text-cool-20", [200, 200, 40], ["50", "10", "20"]),
        ("code-to-text-cool-0", [200, 200, 40], ["100", "10", "0"]),
        ("text-to-text", [200, 200], ["0", "0"]),
    ],
)
def test_paper_arm_has_its_tokens_and_code_proportions(recipe: str, asked: list[int], code: list[str]) -> None:
    cell = next(cell for cell in plan("to-code.yaml").cells if cell.recipe == recipe and cell.size == "470M")
    assert [stage.asked for stage in cell.stages] == [tokens * 10**9 for tokens in asked]
    assert [stage.code_percent for stage in cell.stages] == code


def test_additive_arm_keeps_its_text_tokens() -> None:
    cells = [cell for cell in plan("to-code.yaml").cells if cell.recipe == "additive"]
    text = {cell.stages[0].asked * (100 - Fraction(cell.code_percent or 0)) / 100 for cell in cells}
    assert all(200 * 10**9 - 1 <= tokens <= 200 * 10**9 for tokens in text)


def test_recipes_with_equal_training_share_all_tasks() -> None:
    planned = plan("to-code.yaml")
    assert tasks_of(planned, "web-code-markup") == tasks_of(planned, "from-scratch", size="470M", code_percent="100")


def test_both_cooldowns_of_an_arm_start_from_the_same_model() -> None:
    planned = plan("to-code.yaml")
    without, with_code = (
        next(cell for cell in planned.cells if cell.recipe == f"balanced-to-text-cool-{code}" and cell.size == "2.8B").stages
        for code in (0, 20)
    )
    assert without[:2] == with_code[:2]
    assert without[2].result != with_code[2].result


def test_synthetic_code_is_read_6_25_times_and_no_source_exceeds_its_limit() -> None:
    study, planned = read("to-code.yaml"), plan("to-code.yaml")
    declared = {source.name: source.tokens for source in study.spec.data.sources}
    known = {source.digest: SourceTokens(declared[source.name] or 0, exact=False) for source in planned.sources}
    found = {reading.source: reading for reading in readings(planned, study.spec.data.sources, known)}
    assert round(float(found["synthetic"].epochs or 0), 2) == 6.25
    assert not any(reading.is_over for reading in found.values())


def test_sweep_has_five_rates_at_two_sizes_centred_on_the_ladder() -> None:
    planned = plan("sweep-rates.yaml")
    peaks: dict[str, list[float]] = {}
    for cell in planned.cells:
        task = planned.tasks[cell.stages[0].trains[0]].task
        assert isinstance(task, TrainTask)
        peaks.setdefault(cell.size, []).append(float(task.trajectory.schedule.peak))
    assert {size: len(found) for size, found in peaks.items()} == {"60M": 5, "150M": 5}
    for found in peaks.values():
        assert found == sorted(found)
        assert [peak / found[2] for peak in found] == pytest.approx([0.25, 0.5, 1, 2, 4], rel=0.01)


def test_cluster_example_has_two_recipes_with_a_shared_first_stage() -> None:
    planned = plan("cluster.yaml")
    assert len(planned.cells) == 2 * 3 * 3
    assert tasks_of(planned, "plain") < tasks_of(planned, "cooled")
