"""The public Python API: its exported names, and a study that is planned, run and reported through it."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import orchestrator
from orchestrator import api
from orchestrator.api import RunOptions
from orchestrator.errors import PlanRefused
from orchestrator.store import open_store
from orchestrator.tracking.run_mirror import start_mirror
from tests.cli.test_run import STUDY, write_study

README = Path(__file__).parents[1] / "README.md"
EXPORTED = {
    "ArgoServer", "RemoteRunOptions", "RunOptions", "RunOutcome", "RunPreview", "StudyPlan", "StudyReport",
    "plan", "preview_run", "report", "run", "run_remote", "status",
}  # fmt: skip


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return write_study(tmp_path)


def test_the_package_exports_exactly_the_public_names() -> None:
    assert set(api.__all__) == EXPORTED
    assert set(orchestrator.__all__) == EXPORTED | {"__version__"}
    assert set(orchestrator.__all__) <= set(dir(orchestrator))
    for name in EXPORTED:
        assert getattr(orchestrator, name) is getattr(api, name)
    assert orchestrator.__version__ == version("scaling-study")
    with pytest.raises(AttributeError, match="nothing_of_this_name"):
        orchestrator.nothing_of_this_name  # noqa: B018


def test_import_orchestrator_imports_nothing_else_of_the_package() -> None:
    program = (
        "import sys, orchestrator; print(sorted(name for name in sys.modules if name.startswith(('orchestrator.', 'pydantic', 'rich'))))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_a_planned_study_has_counts_and_costs(study: Path) -> None:
    planned = orchestrator.plan(study)
    assert planned.is_runnable
    assert (planned.summary.cells, planned.summary.done) == (2, 0)
    assert sum(planned.summary.tasks.values()) == len(planned.plan.tasks)


def test_a_preview_lists_pending_tasks_and_the_blocker(study: Path) -> None:
    preview = orchestrator.preview_run(study)
    assert (preview.done, len(preview.pending), preview.blocker) == (0, preview.tasks, None)
    study.write_text(STUDY + "  paused: true\n")
    blocked = orchestrator.preview_run(study)
    assert len(blocked.pending) == preview.tasks
    assert isinstance(blocked.blocker, PlanRefused)
    assert not (study.parent / "store").exists()
    with pytest.raises(PlanRefused, match=r"spec\.paused is true"):
        orchestrator.run(study)


def test_a_mirror_that_cannot_start_is_reported_and_does_not_fail_the_run(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file in place of the folder of the log, like a disk that cannot be written")
    said: list[str] = []
    assert start_mirror(open_store(str(tmp_path)), "small", "", said.append) is None
    assert said[0].startswith("Nothing is mirrored to MLflow: ")


@pytest.mark.long
def test_a_study_runs_to_its_report(study: Path) -> None:
    said: list[str] = []
    outcome = orchestrator.run(study, RunOptions(workers=1, tracking=False, plain=True), say=said.append)
    assert outcome.is_complete
    assert outcome.report is not None
    assert said[-1] == f"report: {outcome.report.page.as_uri()}"
    view = orchestrator.status(study)
    assert view.phase == "Succeeded"
    assert orchestrator.plan(study).summary.done == len(outcome.result.done) == len(view.tasks)
    again = orchestrator.report(study, out=study.parent / "again")
    assert again.is_current
    assert again.page.read_bytes() == outcome.report.page.read_bytes()
    assert set(again.cells().state) == {"done"}


@pytest.mark.long
def test_the_readmes_example_plans_runs_and_plots(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"<!-- api -->\n```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert code is not None
    assert len(code[1].splitlines()) <= 12
    monkeypatch.chdir(study.parent)
    monkeypatch.setenv("MPLBACKEND", "agg")
    program = code[1].replace("manifests/examples/demo.yaml", str(study)).replace("from-scratch", "scratch")
    (study.parent / "example.py").write_text(program)
    done = subprocess.run([sys.executable, "example.py"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (study.parent / "demo.png").stat().st_size > 1000
