"""Reading a study: the models of a valid file, and files that are rejected as a whole."""

import subprocess
import sys
import tracemalloc
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.contract.vocabulary import API_VERSION, OBJECT_KIND, Group, StageKind, TaskKind
from orchestrator.errors import InvalidStudy
from orchestrator.planning import plan_study
from orchestrator.spec import (
    Mistake,
    Recipe,
    Seed,
    Source,
    StudySpec,
    TokenizerFile,
    Tokens,
    TrainTokenizer,
    read_bytes,
    read_object,
    read_study,
)
from orchestrator.spec.checks.plan_size import estimated_tasks

LAUGHS = b"a: &a [x, x]\n" + b"".join(b"%c: &%c [*%c, *%c, *%c]\n" % (c + 1, c + 1, c, c, c) for c in range(97, 117))

PATH = Path(__file__).parent / "good_study.yaml"
GOOD = PATH.read_text()


def spec_of(text: str = GOOD) -> StudySpec:
    return read_bytes(text.encode(), "study.yaml").spec


def edited(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def mistakes(body: bytes | str) -> list[Mistake]:
    with pytest.raises(InvalidStudy) as caught:
        read_bytes(body.encode() if isinstance(body, str) else body, "study.yaml")
    found = caught.value.mistakes
    assert all(isinstance(mistake, Mistake) for mistake in found)
    return [mistake for mistake in found if isinstance(mistake, Mistake)]


def message(body: bytes | str) -> str:
    return "\n".join(map(str, mistakes(body)))


def test_a_study_has_its_name_its_path_and_its_spec_as_given() -> None:
    study = read_study(PATH)
    assert (study.name, study.path) == ("to-code", str(PATH))
    assert study.document == yaml.safe_load(GOOD)["spec"]


def test_models_have_the_values_of_the_file() -> None:
    spec = spec_of()
    assert spec.grid.sizes == ("60M", "470M", "own")
    assert spec.grid.code_percent == (Decimal(0), Decimal(25), Decimal("62.5"), Decimal(100))
    assert spec.grid.seeds == (Seed(init=1, data=1), Seed(init=2, data=2), Seed(init=1, data=2))
    assert spec.models["own"].tied
    assert spec.models["own"].rope_theta == 500_000
    assert spec.data.tokenizer == TrainTokenizer(vocabulary=50304, bytes=10**10, weights={"web": Decimal(50), "stack": Decimal(50)})
    assert spec.data.sources[3] == Source(
        name="curated", group=Group.TEXT, path="curated", limit=40 * 10**9, column="body", max_file_bytes=2**20
    )
    assert spec.data.sources[2].max_repetition == Decimal("2.5")
    assert spec.data.sources[0].max_repetition == 4
    assert spec.training.schedule.decay == 10
    assert spec.training.batch == {"60M": 64}
    assert spec.execution.gpus_per_pod == {"470M": 8}
    assert not spec.paused


def test_default_kind_depends_on_position_and_name() -> None:
    kinds = {stage.name: stage.kind for recipe in spec_of().recipes for stage in recipe.stages}
    assert kinds == {
        "pretrain": StageKind.PRETRAIN,
        "cooldown": StageKind.COOLDOWN,
        "init": StageKind.PRETRAIN,
        "text": StageKind.CONTINUE,
        "text-again": StageKind.CONTINUE,
    }
    assert all(isinstance(kind, StageKind) for kind in kinds.values())


def test_tokenizer_can_be_a_file() -> None:
    text = edited("{train: {vocabulary: 50304, bytes: 10G, weights: {web: 50, stack: 50}}}", "{file: bpe/tokenizer.json}")
    assert spec_of(text).data.tokenizer == TokenizerFile(file="bpe/tokenizer.json")


def test_recipe_overrides_training_key_by_key() -> None:
    spec = spec_of(edited("training: {optimizer: {beta2", 'training: {precision: fp32, schedule: {final: "1e-5"}, optimizer: {beta2'))
    scratch, to_text = (spec.training_of(recipe) for recipe in spec.recipes)
    assert scratch == spec.training
    assert (to_text.precision, to_text.sequence_length, to_text.batch) == ("fp32", 4096, {"60M": 64})
    assert to_text.schedule.shape == "wsd"
    assert (to_text.schedule.decay, to_text.schedule.final) == (Decimal(10), Decimal("1e-5"))
    assert to_text.optimizer.beta2 == Decimal("0.98")


def test_only_a_recipe_with_a_grid_mixture_follows_the_grid() -> None:
    assert [recipe.follows_grid for recipe in spec_of().recipes] == [True, False]


@pytest.mark.parametrize(
    ("tokens", "n", "percent", "asked"),
    [
        (Tokens(amount=200), 10**9, 50, 200),
        (Tokens(per_parameter=Decimal("12.5")), 1001, 50, 12512),
        (Tokens(text=90), 10**9, 10, 100),
        (Tokens(text=90), 10**9, 0, 90),
        (Tokens(text=100), 10**9, "33.3", 149),
    ],
)  # fmt: skip
def test_tokens_can_be_given_in_three_ways(tokens: Tokens, n: int, percent: int | str, asked: int) -> None:
    assert tokens.asked(n, Decimal(percent)) == asked


def test_text_tokens_at_100_percent_code_raise() -> None:
    with pytest.raises(ValueError, match="100 % code"):
        Tokens(text=1).asked(1, 100)


@pytest.mark.parametrize(
    ("written", "tokens"),
    [
        ("4096", 4096), ('"4096"', 4096), ("470M", 470_000_000), ("2.8B", 2_800_000_000), ("200B", 200 * 10**9), ("1.5T", 1_500 * 10**9),
        ("10G", 10**10), ("32k", 32_000), ("32K", 32_000), ('"9007199254740993"', 2**53 + 1),
        ("9007199254740992", 2**53), ("0.5M", 500_000),
    ],
)  # fmt: skip
def test_token_counts_accept_units(written: str, tokens: int) -> None:
    assert spec_of(edited("tokens: 180B", f"tokens: {written}")).data.sources[2].tokens == tokens


@pytest.mark.parametrize(
    "written", ["1.0000001k", '"2,8B"', "1e9", "0", "-1", "B", "1 B", "1KB", '""', "²", "1000000001B", "[1]", "true", "{}"]
)
def test_invalid_token_count_is_rejected(written: str) -> None:
    assert "sources[2].tokens" in message(edited("tokens: 180B", f"tokens: {written}"))


@pytest.mark.parametrize(
    ("written", "suggestion"),
    [('"200b"', '"200B"'), ('"200 B"', '"200B"'), ('"2,000"', "2000"), ('"200_000"', "200000"), ('"200GB"', '"200G"'), ("007T", '"7T"')],
)
def test_misspelled_number_gets_a_suggestion(written: str, suggestion: str) -> None:
    assert f"Did you mean {suggestion}?" in message(edited("tokens: 180B", f"tokens: {written}"))


@pytest.mark.parametrize(("written", "bytes_"), [("1MiB", 2**20), ("64KiB", 65536), ("10M", 10**7), ("100", 100)])
def test_bytes_accept_decimal_and_binary_units(written: str, bytes_: int) -> None:
    assert spec_of(edited("maxFileBytes: 1MiB", f"maxFileBytes: {written}")).data.sources[3].max_file_bytes == bytes_


def test_aliases_are_expanded() -> None:
    text = edited("codePercent: 50, code: {stack: 100}", "codePercent: 50, code: &stack {stack: 100}")
    text = text.replace("codePercent: 10, code: {stack: 100}", "codePercent: 10, code: *stack")
    assert spec_of(text) == spec_of()


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "study.yaml: the file is empty."),
        (b"# nothing\n\n", "study.yaml: the file is empty."),
        (b"---\n---\n", "study.yaml:2: a second document begins here"),
        (b"just text", "study.yaml:1: \"just text\" is not a mapping with the keys apiVersion, kind, metadata, spec, status."),
        (b"- a\n- b\n", "study.yaml:1: a list of 2 is not a mapping"),
        (GOOD.replace("own", "für").encode("latin-1"), "study.yaml:7: the byte 0xFC in column 25 is not UTF-8 (it is 'ü' in Latin-1)."),
        (b"\xef\xbb\xbf" + GOOD.encode(), "study.yaml:1: the file begins with a byte-order mark."),
        (GOOD.encode("utf-16"), "study.yaml:1: the file is UTF-16; a study file is UTF-8."),
        (GOOD.encode() + b"\x00", "study.yaml:54: the character '\\x00' is not allowed in YAML."),
        (b"#" * 2**20 + b"\n", "study.yaml: the file has 1048577 bytes; at most 1048576 are allowed."),
        (b"a: " + b"[" * 100 + b"]" * 100, "study.yaml:1: this is nested deeper than 24 levels."),
        (b"[" * 100_000, "study.yaml:1: this is nested deeper than 24 levels."),
        (b"spec: [" + b"1, " * 60_000 + b"]", "study.yaml:1: this contains more than 50000 values."),
        (LAUGHS, "more than 50000 values"),
    ],
    ids=[
        *("empty", "comments", "two-empty", "text", "list", "latin-1", "bom", "utf-16", "nul", "large", "deep", "open", "long", "laughs")
    ],
)  # fmt: skip
def test_unparsable_file_is_rejected(body: bytes, expected: str) -> None:
    assert expected in message(body)


def test_unreadable_file_raises_invalid_study(tmp_path: Path) -> None:
    for path, reason in [(tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory"), (Path("a\0b"), "null byte")]:
        with pytest.raises(InvalidStudy, match=reason):
            read_study(path)


def test_mistakes_are_sorted_by_line() -> None:
    text = GOOD.replace("precision: bf16", "precision: x").replace("paths", "x").replace("store: s3://studies", "store: s33://studies")
    text = text.replace("queue: research", "queue: Research").replace("sizes: [60M, 470M, own]", "sizes: [60M, 471M, own]")
    lines = [mistake.line for mistake in mistakes(text)]
    assert lines == sorted(lines)
    assert len(lines) == 4


def test_kubernetes_object_reads_like_its_file() -> None:
    document: dict[str, Any] = yaml.safe_load(GOOD)
    document["metadata"] |= {"uid": "u", "creationTimestamp": None, "managedFields": [{"f:spec": {}}], "generation": 3}
    document["status"] = {"state": "Running", "conditions": []}
    assert read_object(document).spec == spec_of()


def test_mistakes_in_an_object_have_no_file_and_no_line() -> None:
    document: dict[str, Any] = yaml.safe_load(GOOD)
    document["spec"]["grid"]["sizes"] = ["471M"]
    with pytest.raises(InvalidStudy) as caught:
        read_object(document)
    assert str(caught.value).startswith('spec.grid.sizes[0]: "471M" is not a size of the ladder')


def test_float_in_an_object_is_rejected_with_a_suggestion() -> None:
    document: dict[str, Any] = yaml.safe_load(GOOD)
    document["spec"]["grid"]["codePercent"] = [0, 25, 62.5, 100]
    with pytest.raises(InvalidStudy, match=r'62\.5 is not a number from 0 to 100[^\n]*\n    Did you mean "62\.5"\?'):
        read_object(document)


def test_null_in_an_object_is_reported_where_a_value_is_required() -> None:
    document: dict[str, Any] = yaml.safe_load(GOOD)
    document["spec"]["recipes"][0]["stages"][0]["tokens"] = None
    document["spec"]["grid"]["seeds"] = [None]
    document["spec"]["budget"]["gpuHours"] = None
    with pytest.raises(InvalidStudy) as caught:
        read_object(document)
    assert [str(mistake).split(": ")[0] for mistake in caught.value.mistakes] == ["spec.grid.seeds[0]", "spec.recipes[0].stages[0].tokens"]


def test_reading_an_object_does_not_modify_it() -> None:
    document: dict[str, Any] = yaml.safe_load(GOOD)
    document["spec"]["training"] = {"precison": "bf16", "batch": 0}
    before = yaml.safe_dump(document)
    with pytest.raises(InvalidStudy):
        read_object(document)
    assert yaml.safe_dump(document) == before


def test_python_field_names_are_not_valid_keys() -> None:
    assert "spec.grid.code_percent: this is not a key of grid" in message(edited("codePercent: [0, 25", "code_percent: [0, 25"))


def test_models_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        spec_of().grid.sizes = ()  # type: ignore[misc]


def test_first_stage_named_cooldown_is_a_cooldown_unless_its_kind_is_given() -> None:
    first = "{name: init, tokens"
    assert "a cooldown cannot be the first stage" in message(edited(first, "{name: cooldown, tokens"))
    recipe = spec_of(edited(first, "{name: cooldown, kind: pretrain, tokens")).recipes[1]
    assert recipe.stages[0].kind == StageKind.PRETRAIN


@pytest.mark.parametrize(
    "change",
    [
        ("optimizer: keep}", "start: stable}"),
        ('schedule: {final: "1e-6"}', 'schedule: {peak: "1e-4"}\n      start: result'),
        ('schedule: {final: "1e-6"}', 'schedule: {shape: cosine, final: "1e-6"}'),
        ("schedule: {shape: wsd, decay: 10%}", "schedule: {warmup: 0}"),
        ("tokens: {text: 90B}", "tokens: {text: 90B}, schedule: {shape: cosine}"),
        ("code: {stack: 80, markup: 20}", 'code: {stack: "33.3333", markup: "66.6667"}'),
        ("tokens: 40B\n", "tokens: 3.7B\n"),
        ("store: s3://studies/to-code", "store: ../a folder/here"),
        ("queue: research", "queue: research\n    tolerations: [{operator: Exists}]\n    nodeSelector: {gpu.example.com/kind: h100}"),
    ],
)
def test_valid_variant_is_accepted(change: tuple[str, str]) -> None:
    spec_of(edited(*change))


def test_grid_above_the_cell_limit_is_rejected() -> None:
    seeds, percents = ", ".join(map(str, range(1000))), ", ".join(map(str, range(101)))
    text = edited("seeds: [1, 2, {init: 1, data: 2}]", f"seeds: [{seeds}]").replace('[0, 25, "62.5", 100]', f"[{percents}]")
    assert "spec.grid: the grid has 303,002 cells; at most 100,000 can be planned." in message(text)


def large_study(seeds: int, stages: int, sources: int, suites: list[str]) -> str:
    """Return a study of one size and 50 proportions, in which every stage is evaluated on every source."""
    mixture = {"codePercent": "grid", "text": {"s0": 100}, "code": {"s1": 100}}
    spec = {
        "store": "s3://studies/large",
        "grid": {"sizes": ["60M", "150M"], "codePercent": list(range(50)), "seeds": list(range(seeds))},
        "data": {
            "tokenizer": {"train": {"vocabulary": 50304, "bytes": "10G", "weights": {"s0": 100}}},
            "sources": [{"name": f"s{i}", "group": ("text", "code")[i % 2], "path": f"s3://corpora/{i}"} for i in range(sources)],
        },
        "training": {"sequenceLength": 4096, "precision": "bf16"},
        "recipes": [
            {
                "name": "long",
                "stages": [
                    {"name": f"t{i}", "kind": "continue" if i else "pretrain", "tokens": "200B", "mixture": mixture} for i in range(stages)
                ],
            }
        ],
        "evaluation": {"after": [f"t{i}" for i in range(stages)], "suites": suites},
    }
    return yaml.safe_dump({"apiVersion": API_VERSION, "kind": OBJECT_KIND, "metadata": {"name": "large"}, "spec": spec})


def test_study_above_the_task_limit_is_rejected_before_anything_is_planned() -> None:
    text = large_study(1000, 16, 64, ["bpb", "continuation"])
    tracemalloc.start()
    shown = message(text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "spec.grid: the study has up to 209,600,000 tasks (training: 4,800,000, evaluation: 204,800,000) in 100,000 cells;" in shown
    assert "at most 150,000 can be planned.\n    Remove sizes, proportions or seeds under grid, or stages of recipes." in shown
    # bytes: 2,000 a byte of the file, and far below one a task
    assert peak < 2_000 * len(text) < 209_600_000


def test_task_limit_names_the_evaluations_if_they_are_the_problem() -> None:
    shown = message(large_study(5, 16, 64, ["bpb", "continuation"]))
    assert "tasks (training: 24,000, evaluation: 1,024,000) in 500 cells" in shown
    assert "Remove stages from evaluation.after (2 suites on 64 sources after each), suites, or sources" in shown


def test_task_limit_is_an_upper_bound_and_allows_ten_thousand_cells() -> None:
    spec = spec_of(large_study(100, 2, 3, ["bpb"]))
    assert len(spec.grid.seeds) * len(spec.grid.code_percent) * len(spec.grid.sizes) == 10_000
    small = read_bytes(large_study(1, 2, 3, ["bpb", "code"]).encode(), "study.yaml")
    trains, evaluations = estimated_tasks(small.spec)
    kinds = Counter(task.kind for task in plan_study(small, {}).tasks.values())
    assert kinds[TaskKind.TRAIN] <= trains <= 1.5 * kinds[TaskKind.TRAIN]
    assert kinds[TaskKind.EVALUATE] == evaluations


def test_importing_the_reader_imports_no_heavy_package() -> None:
    heavy = "torch pandas numpy mlflow kubernetes pyarrow obstore transformers"
    code = f"import sys, orchestrator.spec; print([name for name in {heavy.split()!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_recipe_can_be_built_with_python_field_names() -> None:
    made = Recipe.model_validate({"name": "r", "code_percent": (Decimal(25),), "stages": [
        {"name": "s", "tokens": "20x", "mixture": {"code_percent": "grid", "code": {"a": 100}, "text": {"b": 100}}},
    ]})  # fmt: skip
    assert made.stages[0].tokens == Tokens(per_parameter=Decimal(20))
