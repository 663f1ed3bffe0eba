"""What the planner resolves when a study file leaves it open, and where it says each value comes from."""

from typing import Any

import pytest

from orchestrator.contract.identity import decimal
from orchestrator.contract.sizes import batch_sequences, peak_learning_rate, tiny_peak_learning_rate
from orchestrator.errors import PlanRefused
from orchestrator.planning import is_runnable, plan_study
from orchestrator.planning.build import UNKNOWN, source_items
from orchestrator.planning.defaults import rates, resolve_size
from orchestrator.spec import Study, StudySpec
from tests.study_spec import study_spec

SMALL = {"width": 40, "layers": 2, "heads": 2, "feedForward": 100}
LARGE = {"width": 512, "layers": 8, "heads": 8, "feedForward": 2048}


def spec_of(model: dict[str, Any], **training: Any) -> StudySpec:
    document = study_spec("store", ["own"])
    document["models"] = {"own": model}
    document["training"] |= {"schedule": {}, **training}
    document["recipes"][0]["stages"][0]["tokens"] = "40x"
    return StudySpec.model_validate(document)


def test_small_own_shape_follows_the_laws_of_tiny_shapes() -> None:
    spec = spec_of(SMALL)
    recipe = spec.recipes[0]
    size = resolve_size(spec, recipe, "own")
    first = rates(spec, recipe.stages[0], size)
    assert (size.batch, size.batch_from, size.deviation) == (4, "law of tiny shapes", "0.06")
    assert (first.peak, first.peak_from) == (decimal(tiny_peak_learning_rate(size.shape.body), derived=True), "law of tiny shapes")


def test_large_own_shape_follows_the_laws_of_the_ladder() -> None:
    spec = spec_of(LARGE)
    recipe = spec.recipes[0]
    size = resolve_size(spec, recipe, "own")
    first = rates(spec, recipe.stages[0], size)
    assert size.shape.n > 8_000_000
    assert (size.batch, size.batch_from, size.deviation) == (batch_sequences(size.shape.n, 128), "law of the ladder", "0.02")
    assert (first.peak, first.peak_from) == (decimal(peak_learning_rate(size.shape.n), derived=True), "law of the ladder")


@pytest.mark.parametrize(("batch", "beta2"), [(4095, "0.99"), (4096, "0.95")])
def test_beta2_follows_the_tokens_of_a_step(batch: int, beta2: str) -> None:
    """4,096 sequences of 128 tokens are the 524,288 tokens from which a batch is large."""
    spec = spec_of(SMALL, batch=batch)
    size = resolve_size(spec, spec.recipes[0], "own")
    assert (size.tokens_per_step, size.optimizer.beta2) == (batch * 128, beta2)


@pytest.mark.parametrize(
    ("given", "warmup", "source"), [({}, None, "N tokens"), ({"warmup": 512}, 512, "study file"), ({"warmup": 0}, 0, "study file")]
)
def test_warm_up_is_n_tokens_unless_the_study_file_gives_one(given: dict[str, Any], warmup: int | None, source: str) -> None:
    spec = spec_of(SMALL, schedule=given)
    size = resolve_size(spec, spec.recipes[0], "own")
    pretrain, cooldown = (rates(spec, stage, size) for stage in spec.recipes[0].stages)
    assert (pretrain.warmup, pretrain.warmup_from) == (size.shape.n if warmup is None else warmup, source)
    assert (cooldown.warmup, cooldown.warmup_from) == (0, "none")


def with_tokenizer_file(**tokenizer: Any) -> Study:
    document = study_spec("store", ["0.03M"])
    document["data"]["tokenizer"] = {"file": "tokenizer.json", **tokenizer}
    return Study("s", StudySpec.model_validate(document), "s.yaml", document)


def test_tokenizer_file_needs_a_vocabulary_size() -> None:
    with pytest.raises(PlanRefused, match=r"the vocabulary size of tokenizer\.json is unknown; write `vocabulary:` beside `file:`"):
        plan_study(with_tokenizer_file(), {}, "f" * 64)
    assert plan_study(with_tokenizer_file(vocabulary=1024), {}, "f" * 64).shapes["0.03M"].vocabulary == 1024


def test_tokenizer_file_is_identified_by_its_hash() -> None:
    study = with_tokenizer_file(vocabulary=1024)
    unknown, one, other = (plan_study(study, {}, sha256) for sha256 in ("", "e" * 64, "f" * 64))
    assert (unknown.tokenizer, one.tokenizer) == (f"{UNKNOWN}tokenizer.json", f"file:{'e' * 64}")
    assert (is_runnable(unknown), is_runnable(one)) == (False, True)
    assert set(one.tasks).isdisjoint(other.tasks)


@pytest.mark.parametrize(
    ("window", "context", "continuation"), [(4096, 256, 64), (512, 256, 64), (510, 255, 64), (256, 128, 64), (254, 127, 63), (8, 4, 2)]
)
def test_continuation_items_fit_in_half_and_a_quarter_of_a_window(window: int, context: int, continuation: int) -> None:
    """They are part of a task's identity: other numbers would repeat every finished evaluation."""
    assert source_items("continuation", "digest", 100, window) == {
        "source": "digest", "documents": 100, "context": context, "continuation": continuation, "choices": 4, "seed": 0,
    }  # fmt: skip
    assert source_items("bpb", "digest", 100, window) == {"source": "digest", "documents": 100, "window": window}
