"""A study made ready: the plan stays frozen until the file asks for something else, and nobody changes files under it unseen."""

from pathlib import Path

import pytest

from orchestrator.errors import Damaged, PlanRefused
from orchestrator.planning.repetition import SourceTokens
from orchestrator.store.addresses import plan_key, study_key
from orchestrator.store.plans import current
from orchestrator.study.opening import inputs, keep, known_tokens, open_study, store_address

STUDY = """\
apiVersion: scaling-study.dev/v1alpha1
kind: ScalingStudy
metadata: {name: small}
spec:
  store: store
  grid: {sizes: ["0.03M"], codePercent: [0, 50], seeds: [1]}
  data:
    tokenizer: {train: {vocabulary: 1024, bytes: 1M, weights: {text: 50, code: 50}}}
    sources:
    - {name: text, group: text, path: text}
    - {name: code, group: code, path: code}
  training: {sequenceLength: 128, precision: fp32, schedule: {warmup: 8K}}
  recipes:
  - name: scratch
    stages:
    - {name: pretrain, tokens: 100K, mixture: {codePercent: grid, code: {code: 100}, text: {text: 100}}}
  evaluation: {after: [pretrain], suites: [bpb]}
  budget: {gpuHours: 10}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    for name in ("text/a.txt", "code/a.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(f"content of {name}\n" * 50)
    study = tmp_path / "study.yaml"
    study.write_text(STUDY)
    return study


def test_the_frozen_plan_is_used_again(file: Path) -> None:
    first = open_study(file)
    assert not first.is_frozen
    digest = keep(first)
    again = open_study(file)
    assert again.is_frozen
    assert again.plan == first.plan
    assert keep(again) == digest


def test_what_is_said_to_mend_a_damaged_plan_mends_it(file: Path) -> None:
    first = open_study(file)
    digest = keep(first)
    first.store.objects.put(plan_key(digest), b"{}")
    with pytest.raises(Damaged, match="run FILE --replan` writes it again"):
        open_study(file)
    keep(open_study(file, replan=True))
    assert open_study(file).plan == first.plan
    first.store.objects.put(plan_key(digest), b"{}")
    first.store.objects.delete(study_key("small", 1))
    keep(open_study(file))
    assert open_study(file).plan == first.plan


def test_what_is_said_to_mend_a_damaged_version_mends_it(file: Path) -> None:
    first = open_study(file)
    keep(first)
    first.store.objects.put(study_key("small", 1), b"{}")
    with pytest.raises(Damaged, match="delete it"):
        open_study(file)
    first.store.objects.delete(study_key("small", 1))
    keep(open_study(file))
    assert open_study(file).is_frozen


@pytest.mark.parametrize(
    "change", [("gpuHours: 10", "gpuHours: 20"), ("budget:", "paused: true\n  budget:"), ("budget:", "execution: {queue: q}\n  budget:")]
)
def test_pause_budget_and_execution_keep_the_plan(file: Path, change: tuple[str, str]) -> None:
    keep(open_study(file))
    file.write_text(STUDY.replace(*change))
    assert open_study(file).is_frozen


def test_another_grid_makes_another_version(file: Path) -> None:
    keep(open_study(file))
    file.write_text(STUDY.replace("[0, 50]", "[0, 50, 100]"))
    opened = open_study(file)
    assert not opened.is_frozen
    digest = keep(opened)
    stands = current(opened.store, "small")
    assert stands is not None
    assert stands[0] == digest


def test_files_that_changed_under_a_frozen_plan_are_refused_until_somebody_replans(file: Path) -> None:
    before = open_study(file)
    keep(before)
    (file.parent / "text" / "a.txt").write_text("something else\n" * 50)
    with pytest.raises(PlanRefused, match="the files of text have changed since small was planned"):
        open_study(file)
    after = open_study(file, replan=True)
    assert not set(after.plan.tasks) & set(before.plan.tasks) or after.plan != before.plan
    keep(after)
    assert open_study(file).plan == after.plan


@pytest.mark.parametrize("edit", [("seeds: [1]", "seeds: [1, 2]"), ("path: text}", "path: text, maxRepetition: 5}")])
def test_an_edit_of_the_study_does_not_let_changed_files_pass(file: Path, edit: tuple[str, str]) -> None:
    keep(open_study(file))
    file.write_text(STUDY.replace(*edit))
    keep(open_study(file))
    (file.parent / "text" / "a.txt").write_text("something else\n" * 50)
    with pytest.raises(PlanRefused, match="the files of text have changed"):
        open_study(file)
    file.write_text(file.read_text().replace("codePercent: [0, 50]", "codePercent: [0, 25, 50]"))
    with pytest.raises(PlanRefused, match="the files of text have changed"):
        open_study(file)


def test_an_edit_that_changes_no_task_is_frozen_too(file: Path) -> None:
    digest = keep(open_study(file))
    file.write_text(STUDY.replace("path: text}", "path: text, maxRepetition: 5}"))
    assert not open_study(file).is_frozen
    assert keep(open_study(file)) == digest
    assert open_study(file).is_frozen


@pytest.mark.parametrize(("given", "known"), [("", 275), (", limit: 150", 150), (", tokens: 2000, limit: 700", 700), (", tokens: 40", 40)])
def test_a_limit_bounds_what_is_guessed_of_a_source(file: Path, given: str, known: int) -> None:
    file.write_text(STUDY.replace("path: text}", f"path: text{given}}}"))
    opened = open_study(file)
    (text,) = (source.digest for source in opened.plan.sources if source.name == "text")
    assert known_tokens(opened, set())[text] == SourceTokens(known, exact=False)


def test_files_that_moved_unchanged_are_the_same_study(file: Path) -> None:
    keep(open_study(file))
    (file.parent / "text").rename(file.parent / "words")
    file.write_text(STUDY.replace("path: text", "path: words"))
    assert set(open_study(file).plan.tasks) == set(open_study(file, replan=True).plan.tasks)


def test_a_plan_with_unknown_content_is_not_frozen(file: Path) -> None:
    (file.parent / "code" / "a.py").unlink()
    opened = open_study(file)
    with pytest.raises(PlanRefused, match="this plan cannot run, because the content of these sources is unknown"):
        keep(opened)
    assert current(opened.store, "small") is None


def test_paths_are_relative_to_the_file(file: Path) -> None:
    opened = open_study(file)
    assert opened.store.url.endswith(str(file.parent / "store"))
    assert sorted(path for paths in inputs(opened.study, opened.plan).values() for path in paths) == [
        str(file.parent / "code"),
        str(file.parent / "text"),
    ]
    assert store_address(opened.study, "s3://elsewhere") == "s3://elsewhere"
