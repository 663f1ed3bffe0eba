"""Opening a study: the plan stays frozen until the file changes, and changed source files are detected."""

from pathlib import Path

import pytest

from orchestrator.errors import Damaged, PlanRefused
from orchestrator.planning.repetition import SourceTokens
from orchestrator.store.addresses import plan_key, study_key
from orchestrator.store.plans import current, versions
from orchestrator.study.opening import freeze_plan, known_tokens, open_study, paths_by_fingerprint, store_address
from tests.small_study import STUDY


@pytest.fixture
def file(tmp_path: Path) -> Path:
    for name in ("text/a.txt", "code/a.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(f"content of {name}\n" * 50)
    study = tmp_path / "study.yaml"
    study.write_text(STUDY)
    return study


def test_frozen_plan_is_reused(file: Path) -> None:
    first = open_study(file)
    assert not first.is_frozen
    digest = freeze_plan(first)
    again = open_study(file)
    assert again.is_frozen
    assert again.plan == first.plan
    assert freeze_plan(again) == digest


@pytest.mark.parametrize("body", [b"{}", None])
@pytest.mark.parametrize("what", ["plan", "version"])
def test_damaged_plan_or_version_is_restored_if_the_files_are_unchanged(file: Path, what: str, body: bytes | None) -> None:
    first = open_study(file)
    digest = freeze_plan(first)
    key = plan_key(digest) if what == "plan" else study_key("small", 1)
    if body is None:
        first.store.objects.delete(key)
    else:
        first.store.objects.put(key, body)
    opened = open_study(file)
    assert opened.plan == first.plan
    freeze_plan(opened)
    assert open_study(file).is_frozen
    assert list(versions(first.store, "small")) == [1]


@pytest.mark.parametrize("what", ["plan", "version"])
def test_damaged_plan_or_version_of_changed_files_needs_replan(file: Path, what: str) -> None:
    first = open_study(file)
    digest = freeze_plan(first)
    key = plan_key(digest) if what == "plan" else study_key("small", 1)
    first.store.objects.put(key, b"{}")
    (file.parent / "text" / "a.txt").write_text("something else\n" * 50)
    with pytest.raises(Damaged, match="if the files of a source have changed since, `scaling-study run FILE --replan`"):
        open_study(file)
    freeze_plan(open_study(file, replan=True))
    assert open_study(file).is_frozen


@pytest.mark.parametrize(
    "change", [("gpuHours: 10", "gpuHours: 20"), ("budget:", "paused: true\n  budget:"), ("budget:", "execution: {queue: q}\n  budget:")]
)
def test_pause_budget_and_execution_keep_the_plan(file: Path, change: tuple[str, str]) -> None:
    freeze_plan(open_study(file))
    file.write_text(STUDY.replace(*change))
    assert open_study(file).is_frozen


def test_changed_grid_creates_a_new_version(file: Path) -> None:
    freeze_plan(open_study(file))
    file.write_text(STUDY.replace("[0, 50]", "[0, 50, 100]"))
    opened = open_study(file)
    assert not opened.is_frozen
    digest = freeze_plan(opened)
    newest = current(opened.store, "small")
    assert newest is not None
    assert newest[0] == digest


def test_files_changed_after_freezing_are_rejected_without_replan(file: Path) -> None:
    before = open_study(file)
    freeze_plan(before)
    (file.parent / "text" / "a.txt").write_text("something else\n" * 50)
    with pytest.raises(PlanRefused, match="the files of text have changed since small was planned"):
        open_study(file)
    after = open_study(file, replan=True)
    assert not set(after.plan.tasks) & set(before.plan.tasks) or after.plan != before.plan
    freeze_plan(after)
    assert open_study(file).plan == after.plan


@pytest.mark.parametrize("edit", [("seeds: [1]", "seeds: [1, 2]"), ("path: text}", "path: text, maxRepetition: 5}")])
def test_changed_files_are_rejected_after_an_edit_of_the_study(file: Path, edit: tuple[str, str]) -> None:
    freeze_plan(open_study(file))
    file.write_text(STUDY.replace(*edit))
    freeze_plan(open_study(file))
    (file.parent / "text" / "a.txt").write_text("something else\n" * 50)
    with pytest.raises(PlanRefused, match="the files of text have changed"):
        open_study(file)
    file.write_text(file.read_text().replace("codePercent: [0, 50]", "codePercent: [0, 25, 50]"))
    with pytest.raises(PlanRefused, match="the files of text have changed"):
        open_study(file)


def test_edit_that_changes_no_task_keeps_the_plan_digest(file: Path) -> None:
    digest = freeze_plan(open_study(file))
    file.write_text(STUDY.replace("path: text}", "path: text, maxRepetition: 5}"))
    assert not open_study(file).is_frozen
    assert freeze_plan(open_study(file)) == digest
    assert open_study(file).is_frozen


@pytest.mark.parametrize(("given", "known"), [("", 275), (", limit: 150", 150), (", tokens: 2000, limit: 700", 700), (", tokens: 40", 40)])
def test_limit_bounds_the_estimated_tokens_of_a_source(file: Path, given: str, known: int) -> None:
    file.write_text(STUDY.replace("path: text}", f"path: text{given}}}"))
    opened = open_study(file)
    (text,) = (source.digest for source in opened.plan.sources if source.name == "text")
    assert known_tokens(opened, set())[text] == SourceTokens(known, exact=False)


def test_moved_but_unchanged_files_keep_all_digests(file: Path) -> None:
    freeze_plan(open_study(file))
    (file.parent / "text").rename(file.parent / "words")
    file.write_text(STUDY.replace("path: text", "path: words"))
    assert set(open_study(file).plan.tasks) == set(open_study(file, replan=True).plan.tasks)


def test_plan_with_unknown_content_is_not_frozen(file: Path) -> None:
    (file.parent / "code" / "a.py").unlink()
    opened = open_study(file)
    with pytest.raises(PlanRefused, match="this plan cannot run, because the content of these sources is unknown"):
        freeze_plan(opened)
    assert current(opened.store, "small") is None


def test_paths_are_relative_to_the_study_file(file: Path) -> None:
    opened = open_study(file)
    assert opened.store.url.endswith(str(file.parent / "store"))
    assert sorted(path for paths in paths_by_fingerprint(opened.study, opened.plan).values() for path in paths) == [
        str(file.parent / "code"),
        str(file.parent / "text"),
    ]
    assert store_address(opened.study, "s3://elsewhere") == "s3://elsewhere"
