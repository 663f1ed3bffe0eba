"""The planner: which digests an edit of the study changes, and the structure of plans."""

import copy
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.contract.mixture import counts
from orchestrator.contract.plan import Cell, Plan, digest_of_plan, from_document, to_document
from orchestrator.contract.tasks import FromInitialisation, FromState, TrainTask, digest_of_task
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.errors import PlanRefused
from orchestrator.planning import is_runnable, plan_study
from orchestrator.planning.repetition import readings
from orchestrator.spec import Study, StudySpec

Document = dict[str, Any]

FINGERPRINTS = {"web": "a" * 64, "stack": "b" * 64, "markup": "c" * 64, "curated": "d" * 64}
BASE: Document = {
    "store": "store",
    "grid": {"sizes": ["0.03M", "0.09M"], "codePercent": [0, 25, 100], "seeds": [1, 2]},
    "data": {
        "tokenizer": {"train": {"vocabulary": 1024, "bytes": "1M", "weights": {"web": 50, "stack": 50}}},
        "sources": [
            {"name": "web", "group": "text", "path": "web/*.jsonl"},
            {"name": "stack", "group": "code", "path": "stack"},
            {"name": "curated", "group": "text", "path": "curated"},
        ],
        "heldOut": {"oneIn": 50, "documents": 100},
    },
    "training": {"sequenceLength": 128, "precision": "fp32", "schedule": {"warmup": "8K"}},
    "recipes": [
        {
            "name": "scratch",
            "stages": [
                {"name": "pretrain", "tokens": "400K", "mixture": {"codePercent": "grid", "code": {"stack": 100}, "text": {"web": 100}}},
                {"name": "cooldown", "tokens": "100K", "mixture": {"codePercent": 20, "code": {"stack": 100}, "text": {"curated": 100}}},
            ],
        },
        {
            "name": "two-phase",
            "sizes": ["0.09M"],
            "stages": [
                {"name": "init", "tokens": "400K", "mixture": {"codePercent": 50, "code": {"stack": 100}, "text": {"web": 100}}},
                {
                    "name": "text", "kind": "continue", "tokens": "400K",
                    "mixture": {"codePercent": 10, "code": {"stack": 100}, "text": {"web": 100}},
                },
                {"name": "cooldown", "tokens": "100K", "mixture": {"codePercent": 20, "code": {"stack": 100}, "text": {"curated": 100}}},
            ],
        },
    ],
    "evaluation": {"after": ["pretrain", "cooldown"], "suites": ["bpb"]},
}  # fmt: skip

SOURCES = StudySpec.model_validate(BASE).data.sources

Change = Callable[[Document], object]


def changed(change: Change | None = None) -> Document:
    document = copy.deepcopy(BASE)
    if change is not None:
        change(document)
    return document


def planned(change: Change | None = None, fingerprints: Mapping[str, str] = FINGERPRINTS, name: str = "study") -> Plan:
    document = changed(change)
    return plan_study(Study(name, StudySpec.model_validate(document), "study.yaml", document), fingerprints)


def stage(document: Document, recipe: int, index: int) -> Document:
    found: Document = document["recipes"][recipe]["stages"][index]
    return found


def rename_sources(document: Document) -> None:
    text = repr(document)
    for name in FINGERPRINTS:
        text = text.replace(f"'{name}'", f"'the-{name}'")
    document.clear()
    document.update(eval(text))


def digests(plan: Plan, kind: TaskKind | None = None) -> set[str]:
    return {digest for digest, task in plan.tasks.items() if kind is None or task.kind == kind}


PLACEMENT: dict[str, Change] = {
    "store": lambda d: d.update(store="s3://elsewhere/x"),
    "queue, image, GPUs, micro-batch": lambda d: d.update(
        execution={"image": "other:1", "queue": "fast", "gpusPerPod": {"0.09M": 8}, "microBatch": 2, "graceSeconds": 99}
    ),
    "budget": lambda d: d.update(budget={"gpuHours": 5}),
    "paused": lambda d: d.update(paused=True),
    "names of recipes": lambda d: d["recipes"][0].update(name="other"),
    "names of stages": lambda d: (stage(d, 0, 0).update(name="first"), d["evaluation"].update(after=["first", "cooldown"])),
    "paths": lambda d: d["data"]["sources"][0].update(path="s3://moved/here/*.jsonl"),
    "declared tokens and repetition": lambda d: d["data"]["sources"][0].update(tokens="9M", maxRepetition=9),
    "the order of the sources": lambda d: d["data"]["sources"].reverse(),
}


@pytest.mark.parametrize("change", PLACEMENT.values(), ids=PLACEMENT)
def test_placement_settings_change_no_digest(change: Change) -> None:
    assert digests(planned(change)) == digests(planned())


def test_names_of_study_and_sources_change_no_digest() -> None:
    renamed = {f"the-{name}": value for name, value in FINGERPRINTS.items()}
    assert digests(planned(rename_sources, renamed, name="another")) == digests(planned())


ADDITIONS: dict[str, Change] = {
    "a longer horizon": lambda d: d["recipes"].append(
        {"name": "longer", "stages": [{**copy.deepcopy(stage(d, 0, 0)), "tokens": "800K"}, copy.deepcopy(stage(d, 0, 1))]}
    ),
    "a shorter horizon": lambda d: d["recipes"].append(
        {"name": "shorter", "stages": [{**copy.deepcopy(stage(d, 0, 0)), "tokens": "200K"}, copy.deepcopy(stage(d, 0, 1))]}
    ),
    "a size": lambda d: d["grid"].update(sizes=["0.03M", "0.09M", "0.25M"]),
    "a proportion": lambda d: d["grid"].update(codePercent=[0, 25, "37.5", 100]),
    "a seed": lambda d: d["grid"].update(seeds=[1, 2, {"init": 1, "data": 2}]),
    "a recipe": lambda d: d["recipes"].append({**copy.deepcopy(d["recipes"][1]), "name": "again", "sizes": ["0.03M"]}),
    "a source that nothing reads, with an evaluation of it": lambda d: d["data"]["sources"].append(
        {"name": "markup", "group": "code", "path": "markup"}
    ),
    "an evaluation": lambda d: d["evaluation"].update(suites=["bpb", "continuation"]),
}


@pytest.mark.parametrize("change", ADDITIONS.values(), ids=ADDITIONS)
def test_additions_change_no_existing_digest(change: Change) -> None:
    before, after = digests(planned()), digests(planned(change))
    assert before < after


def below(plan: Plan, changed_prepares: set[str]) -> set[str]:
    """Return these tasks and all that depend on them, directly or indirectly."""
    found = set(changed_prepares)
    grew = True
    while grew:
        more = {digest for digest, task in plan.tasks.items() if set(task.needs) & found} - found
        found |= more
        grew = bool(more)
    return found


def test_changed_source_content_changes_exactly_its_dependent_tasks() -> None:
    plan, after = planned(), planned(fingerprints={**FINGERPRINTS, "curated": "e" * 64})
    curated = next(source.digest for source in plan.sources if source.name == "curated")
    assert digests(plan) - digests(after) == below(plan, {curated})


def test_changed_data_seed_changes_only_its_own_cells() -> None:
    def reseed(document: Document) -> None:
        document["grid"]["seeds"] = [1, 3]

    plan, after = planned(), planned(reseed)
    of_seed_1 = {digest for cell in plan.cells if cell.data_seed == 1 for part in cell.stages for digest in part.trains}
    assert digests(plan, TaskKind.TRAIN) & digests(after, TaskKind.TRAIN) == of_seed_1


CHANGES: dict[str, tuple[Change, set[str]]] = {
    "mixture of the cooldown": (lambda d: stage(d, 0, 1)["mixture"].update(codePercent=30), {"scratch cooldown"}),
    "tokens of the cooldown": (lambda d: stage(d, 0, 1).update(tokens="120K"), {"scratch cooldown"}),
    "final of the cooldown": (lambda d: stage(d, 0, 1).update(schedule={"final": "1e-6"}), {"scratch cooldown"}),
    "mixture of the start": (
        lambda d: stage(d, 1, 0)["mixture"].update(codePercent=60),
        {"two-phase init", "two-phase text", "two-phase cooldown"},
    ),
    "tokens in the middle": (lambda d: stage(d, 1, 1).update(tokens="600K"), {"two-phase cooldown"}),
    "optimiser of the continued stage": (lambda d: stage(d, 1, 1).update(optimizer="keep"), {"two-phase text", "two-phase cooldown"}),
}


@pytest.mark.parametrize(("change", "touched"), CHANGES.values(), ids=CHANGES)
def test_edit_changes_exactly_the_dependent_trajectories(change: Change, touched: set[str]) -> None:
    plan, after = planned(), planned(change)
    lost = {
        f"{cell.recipe} {part.name}"
        for cell in plan.cells
        for part in cell.stages
        if plan.tasks[part.trains[-1]].work not in {task.work for task in after.tasks.values()}
    }
    assert lost == touched


EVERYTHING: dict[str, Change] = {
    "sequence length": lambda d: d["training"].update(sequenceLength=64),
    "precision": lambda d: d["training"].update(precision="bf16"),
    "batch": lambda d: d["training"].update(batch=8),
    "deviation": lambda d: d["training"].update(deviation="0.02"),
    "weight decay": lambda d: d["training"].update(optimizer={"weightDecay": "0.2"}),
    "peak": lambda d: d["training"]["schedule"].update(peak="0.01"),
    "warm-up": lambda d: d["training"]["schedule"].update(warmup="16K"),
    "held-out rule": lambda d: d["data"]["heldOut"].update(oneIn=60),
    "vocabulary": lambda d: d["data"]["tokenizer"]["train"].update(vocabulary=2048),
}


@pytest.mark.parametrize("change", EVERYTHING.values(), ids=EVERYTHING)
def test_common_training_settings_change_every_train_task(change: Change) -> None:
    assert not digests(planned(), TaskKind.TRAIN) & digests(planned(change), TaskKind.TRAIN)


@pytest.mark.parametrize("change", [None, *ADDITIONS.values()])
def test_plan_digests_equal_the_digests_of_the_task_identities(change: Change | None) -> None:
    for digest, task in planned(change).tasks.items():
        assert digest_of_task(task.task) == digest


@pytest.mark.parametrize("change", [None, *ADDITIONS.values()])
def test_tasks_are_in_dependency_order(change: Change | None) -> None:
    placed: set[str] = set()
    for digest, task in planned(change).tasks.items():
        assert placed.issuperset(task.needs)
        placed.add(digest)


def test_two_columns_of_one_file_are_two_sources() -> None:
    def two_columns(document: Document) -> None:
        document["data"]["sources"][0].update(path="both.parquet")
        document["data"]["sources"][1].update(path="both.parquet", column="code")

    plan = planned(two_columns, {**FINGERPRINTS, "stack": FINGERPRINTS["web"]})
    assert len({source.digest for source in plan.sources}) == 3


def test_sources_of_both_groups_with_the_same_files_are_rejected() -> None:
    with pytest.raises(PlanRefused, match=r"web \(text\) and stack \(code\) have the same files"):
        planned(fingerprints={**FINGERPRINTS, "stack": FINGERPRINTS["web"]})


@pytest.mark.parametrize("own", [None, 256])
def test_windows_use_the_sequence_length_of_the_recipe(own: int | None) -> None:
    def one_recipe(document: Document) -> None:
        del document["recipes"][1]
        document["recipes"][0]["training"] = {"sequenceLength": own} if own else {}

    plan = planned(one_recipe)
    cell = cell_of(plan, "scratch/0.03M/c100/s1")
    first = cell.stages[0]
    curated = next(source.digest for source in plan.sources if source.name == "curated")
    (found,) = (each for each in readings(plan, SOURCES, {}) if each.source == "curated")
    assert plan.window_of(plan.tasks[first.trains[0]]) == plan.window_of(plan.tasks[first.evaluations[0].digest]) == (own or 128)
    assert found.tokens == dict(cell.stages[-1].read)[curated] * (own or 128)
    assert sum(windows for _, windows in cell.stages[-1].read) * (own or 128) == cell.stages[-1].chain_tokens


def test_frozen_plan_round_trips() -> None:
    plan = planned()
    again = from_document(to_document(plan))
    assert again == plan
    assert digest_of_plan(again) == digest_of_plan(plan)


def cell_of(plan: Plan, name: str) -> Cell:
    return plan.cell(name)


def train(plan: Plan, digest: str) -> TrainTask:
    task = plan.tasks[digest].task
    assert isinstance(task, TrainTask)
    return task


def test_wsd_plans_a_trunk_and_a_decay_leaf_and_the_cooldown_starts_from_the_trunk() -> None:
    plan = planned()
    pretrain, cooldown = cell_of(plan, "scratch/0.09M/c25/s1").stages
    branch, leaf, whole = (train(plan, digest) for digest in pretrain.trains)
    # 400K tokens are 781 whole steps of 512, of which the leaf takes 78
    assert (branch.tokens, leaf.tokens, whole.tokens) == (703 * 512, 78 * 512, 781 * 512)
    assert branch.trajectory == whole.trajectory
    assert leaf.trajectory.start == FromState(plan.tasks[pretrain.trains[0]].work, 703 * 512, keep_optimizer=True)
    assert (leaf.trajectory.schedule.shape, leaf.trajectory.schedule.final) == ("linear", "0")
    start = train(plan, cooldown.trains[0]).trajectory.start
    assert start == FromState(plan.tasks[pretrain.trains[2]].work, 781 * 512, keep_optimizer=True)
    assert plan.tasks[pretrain.trains[2]].from_tokens == 703 * 512
    assert pretrain.result == pretrain.trains[1]


def test_unneeded_leaf_and_rest_of_the_trunk_are_not_planned() -> None:
    only_cooldown = planned(lambda d: d["evaluation"].update(after=["cooldown"]))
    assert len(cell_of(only_cooldown, "scratch/0.09M/c25/s1").stages[0].trains) == 1
    init, text, _ = cell_of(planned(), "two-phase/0.09M/s1").stages
    assert [train(planned(), digest).trajectory.schedule.shape for digest in init.trains] == ["constant", "linear"]
    assert [train(planned(), digest).trajectory.schedule.shape for digest in text.trains] == ["constant"]


def test_continued_stage_resets_the_optimizer_and_continues_the_data_order() -> None:
    plan = planned()
    init, text, _ = cell_of(plan, "two-phase/0.09M/s1").stages
    continued = train(plan, text.trains[0]).trajectory
    assert continued.start == FromState(plan.tasks[init.result].work, 78 * 512, keep_optimizer=False)
    assert dict(continued.already_read) == dict(init.read)
    assert continued.schedule.warmup == 8000


def test_cells_that_differ_only_in_initialisation_share_data_but_no_training() -> None:
    plan = planned(lambda d: d["grid"].update(seeds=[1, {"init": 2, "data": 1}]))
    one, two = (train(plan, cell_of(plan, f"scratch/0.09M/c25/s{seed}").stages[0].trains[0]).trajectory for seed in ("1", "2.1"))
    assert one.shares == two.shares
    assert one.data_seed == two.data_seed
    assert isinstance(one.start, FromInitialisation)
    assert one.start != two.start


def test_longer_horizon_shares_the_trunk_of_the_shorter_and_depends_on_it() -> None:
    plan = planned(ADDITIONS["a longer horizon"])
    short, long = (cell_of(plan, f"{recipe}/0.09M/c25/s1").stages[0] for recipe in ("scratch", "longer"))
    assert plan.tasks[short.trains[2]].work == plan.tasks[long.trains[0]].work
    assert short.trains[2] in plan.tasks[long.trains[0]].needs


def test_text_tokens_are_scaled_by_the_code_proportion() -> None:
    def additive(document: Document) -> None:
        document["grid"]["codePercent"] = [0, 20, 50]
        stage(document, 0, 0)["tokens"] = {"text": "400K"}

    plan = planned(additive)
    asked = {cell.code_percent: cell.stages[0].asked for cell in plan.cells if cell.recipe == "scratch"}
    assert asked == {"0": 400_000, "20": 500_000, "50": 800_000}


def test_tokens_of_less_than_a_batch_are_rejected() -> None:
    with pytest.raises(PlanRefused, match="511 tokens are less than a batch of 512"):
        planned(lambda d: stage(d, 0, 0).update(tokens=511))


def test_stage_too_short_for_its_decay_is_rejected_if_its_result_is_needed() -> None:
    with pytest.raises(PlanRefused, match="a decay of 10 % is less than one of its 4 steps, so the rate would never decay"):
        planned(lambda d: stage(d, 0, 0).update(tokens=4 * 512, schedule={"shape": "wsd", "warmup": 512}))


def test_plan_with_a_source_without_fingerprint_is_not_runnable() -> None:
    assert is_runnable(planned())
    assert not is_runnable(planned(fingerprints={name: value for name, value in FINGERPRINTS.items() if name != "curated"}))


def test_chain_percent_counts_the_read_windows() -> None:
    pretrain, cooldown = cell_of(planned(), "scratch/0.09M/c25/s1").stages
    windows = dict(cooldown.read)
    stack = next(source.digest for source in planned().sources if source.name == "stack")
    assert Decimal(cooldown.chain_code_percent) == pytest.approx(Decimal(100 * windows[stack]) / sum(windows.values()), abs=Decimal("1e-3"))
    assert pretrain.code_percent == "25"
    assert sum(windows.values()) * 128 == cooldown.chain_tokens


@settings(max_examples=60, deadline=None)
@given(
    percent=st.integers(0, 100),
    tokens=st.integers(51_200, 2_000_000),
    decay=st.integers(1, 90),
    seed=st.integers(0, 2**31 - 1),
)
def test_stage_has_whole_steps_and_its_branch_point_lies_inside(percent: int, tokens: int, decay: int, seed: int) -> None:
    def vary(document: Document) -> None:
        document["grid"].update(codePercent=[percent], seeds=[seed], sizes=["0.09M"])
        stage(document, 0, 0).update(tokens=tokens, schedule={"decay": f"{decay}%", "warmup": 512})

    plan = planned(vary)
    pretrain = next(cell for cell in plan.cells if cell.recipe == "scratch").stages[0]
    branch, leaf, whole = (train(plan, digest) for digest in pretrain.trains)
    assert whole.tokens == pretrain.tokens == tokens // 512 * 512
    assert branch.tokens + leaf.tokens == whole.tokens
    assert branch.tokens % 512 == 0 < branch.tokens < whole.tokens
    shares = [share for _, share in branch.trajectory.shares]
    assert [windows for _, windows in leaf.trajectory.already_read] == [n for n in counts(shares, branch.tokens // 128) if n]


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.sampled_from(["0.01M", "0.03M", "0.09M"]), min_size=1, unique=True),
    percents=st.lists(st.integers(0, 100), min_size=1, max_size=5, unique=True),
    seeds=st.lists(st.integers(0, 50), min_size=1, max_size=4, unique=True),
)
def test_subset_of_the_grid_plans_a_subset_of_the_tasks(sizes: list[str], percents: list[int], seeds: list[int]) -> None:
    def part(document: Document) -> None:
        document["recipes"] = document["recipes"][:1]
        document["grid"].update(sizes=sizes, codePercent=percents, seeds=seeds)

    def whole(document: Document) -> None:
        part(document)
        document["grid"].update(sizes=["0.01M", "0.03M", "0.09M"], codePercent=sorted({*percents, 0, 50}), seeds=sorted({*seeds, 7}))

    small, large = planned(part), planned(whole)
    assert len(small.cells) == len(sizes) * len(percents) * len(seeds)
    assert digests(small) <= digests(large)
