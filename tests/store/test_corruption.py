"""Damage to every kind of file in a finished store: no command ends in a traceback, and no result is lost without a message.

The table REACTIONS says for each kind of file what `store verify`, `status`, `report` and `run` do about each kind of damage. They are
called through the functions that the commands use, on one study of seven tasks (tests/store/finished_store.py).
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest

from analysis.report import page
from orchestrator import api
from orchestrator.api import local
from orchestrator.api.outcomes import StudyReport
from orchestrator.cli.grid import damaged_tasks, sections
from orchestrator.cli.store import open_existing
from orchestrator.cli.store import verify as verify_command
from orchestrator.contract.record import Record
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.errors import InvalidStudy, ScalingStudyError, StoreError
from orchestrator.store import Store
from orchestrator.store.addresses import done_key, record_key
from orchestrator.store.leases import history
from orchestrator.store.maintenance import Finding, gc, verify
from orchestrator.store.records import read_record
from tests.cli.study_file import command
from tests.store.finished_store import DAMAGES, FinishedStudy, InProcessPool, finish_study


class Reaction(NamedTuple):
    """What the commands do about damage.

    `verify`: "damaged" (exit 1), "note" (exit 0) or "" (not seen). `status`: "done", "open" (the task is not done, and the reason is shown)
    or "error" (a message that names the file and the fix); `report` names a hole for an open task, and fails as `status` does. `repeats`:
    the tasks that `run` does again. `after`: what verify says then. `repaired`: whether verify --repair repairs it; `repeats_repaired`: the
    tasks that the next run does again.
    """

    verify: str
    status: str = "done"
    repeats: int = 0
    after: str = ""
    repaired: bool = True
    repeats_repaired: int = 0


# run writes it again: a plan is a function of the study and its files
REWRITTEN = Reaction("damaged", "error")
# run does the task again, under its lease
REPEATED = Reaction("damaged", "open", repeats=1, repeats_repaired=1)
# the results are in the record; whoever reads the file finds the damage, and verify --repair has it made again
ARTIFACT = Reaction("damaged", after="damaged", repeats_repaired=1)
# readers write it again
MARKER = Reaction("damaged")
LOST_ROWS = Reaction("damaged", after="damaged")
NOT_NEEDED = Reaction("note", after="note")
INFORMATION = Reaction("note", after="note", repaired=False)
UNSEEN = Reaction("", repaired=False)

# Files without a hash, of which a changed digit leaves another valid document. Nothing that decides a result is in them
UNHASHED = ("lease", "failure", "attempt", "report of gc")

REACTIONS: dict[str, Reaction] = {
    "plan": REWRITTEN,
    "version": REWRITTEN,
    "task": NOT_NEEDED,
    "record of prepare": REPEATED,
    "record of train": REPEATED,
    "record of evaluate": REPEATED,
    "marker": MARKER,
    "lease": INFORMATION,
    "checkpoint": ARTIFACT,
    "checkpoint, not needed": NOT_NEEDED,
    "manifest": ARTIFACT,
    "pointer": ARTIFACT,
    "pointer, not needed": NOT_NEEDED,
    "metrics": LOST_ROWS,
    "items": ARTIFACT,
    "shard": ARTIFACT,
    "manifest of a corpus": ARTIFACT,
    "failure": INFORMATION,
    "attempt": INFORMATION,
    "report of gc": INFORMATION,
}
EXCEPTIONS: dict[tuple[str, str], Reaction] = {
    # the spec of the study changed: it is planned again, to the same plan
    ("version", "changed digit"): UNSEEN,
    # its plan is left, and only a run knows the spec
    ("version", "deleted"): REWRITTEN._replace(repaired=False),
    ("task", "deleted"): UNSEEN,
    # as older versions wrote it
    ("marker", "emptied"): UNSEEN,
    # the hash is that of another record
    ("marker", "changed digit"): REPEATED,
    # restored from the manifest, which lists the files of the record
    ("pointer", "deleted"): ARTIFACT._replace(repeats_repaired=0),
    ("pointer, not needed", "deleted"): UNSEEN,
    # no object lists the tables of metrics
    ("metrics", "deleted"): UNSEEN,
    ("failure", "deleted"): UNSEEN,
    ("attempt", "deleted"): UNSEEN,
    ("report of gc", "deleted"): UNSEEN,
}


@pytest.fixture(scope="module")
def in_process() -> Iterator[None]:
    """Tasks run in this process without training, and figures are not drawn."""

    def write_run_report(store: Store, plan: object, out: Path, say: object) -> StudyReport:
        del say
        return StudyReport(out, holes=tuple(page.write_report_with_holes(store, plan, out)[1]))  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("orchestrator.local.run.WorkerPool", InProcessPool)
        patch.setattr(page, "write_report_from_records", lambda _plan, _records, out, **_: out)
        patch.setattr(local, "write_run_report", write_run_report)
        yield


@pytest.fixture(scope="module")
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> FinishedStudy:
    request.getfixturevalue("in_process")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        return finish_study(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def study(finished: FinishedStudy, tmp_path: Path) -> FinishedStudy:
    return finished.copy(tmp_path / "store")


def judge(findings: list[Finding]) -> str:
    if any(finding.counts and not finding.repaired for finding in findings):
        return "damaged"
    return "note" if any(not finding.repaired for finding in findings) else ""


def status(study: FinishedStudy) -> str:
    """Return "done", "open" if a task is not done, or the message of an error."""
    try:
        view = api.status(study.file, store=str(study.folder))
    except ScalingStudyError as problem:
        return str(problem)
    assert view.phase == ("Idle" if view.damaged else "Succeeded")
    return "open" if view.damaged else "done"


def report(study: FinishedStudy) -> list[str] | str:
    """Return the holes of the report, or the message of an error."""
    try:
        return list(api.report(study.file, store=str(study.folder), out=study.folder.parent / "report").holes)
    except ScalingStudyError as problem:
        return str(problem)


def run(study: FinishedStudy) -> int:
    """Run the study to its end and return the number of tasks that were done again."""
    options = api.RunOptions(store=str(study.folder), workers=1, tracking=False, plain=True, out=study.folder.parent / "report")
    with redirect_stdout(StringIO()):
        outcome = api.run(study.file, options, say=lambda _: None)
    assert outcome.is_complete
    assert outcome.report is not None
    assert outcome.report.holes == ()
    return len(outcome.result.done) - outcome.result.skipped


def is_fix(message: str, key: str) -> bool:
    """Whether the message of a command names the damaged file, or the study without a version, and what to do."""
    return (key in message or "no study called" in message) and "scaling-study run" in message


QUICK = ("truncated", "changed digit", "deleted")
"""Damages that the suite tries on every kind of file; the others run with the marker `long`."""


@pytest.mark.parametrize("damage", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in DAMAGES])
@pytest.mark.parametrize("kind", REACTIONS)
def test_commands_react_to_damage_as_the_table_says(study: FinishedStudy, finished: FinishedStudy, kind: str, damage: str) -> None:
    wanted = EXCEPTIONS.get((kind, damage), REACTIONS[kind])
    key = study.keys()[kind]
    DAMAGES[damage](study.folder / key)
    before = study.files()

    found = judge(verify(study.store, repair=False))
    if (kind, damage) == ("marker", "deleted") or (kind, damage) == ("marker", "folder"):
        assert api.status(study.file, store=str(study.folder)).phase == "Idle"  # until a reader restores the marker
        wanted = MARKER
        shown = "done"
    else:
        shown = status(study)
    if kind in UNHASHED and damage == "changed digit":
        wanted = INFORMATION if found else UNSEEN
    assert found == wanted.verify
    holes = report(study)
    if wanted.status == "error":
        assert is_fix(shown, key), shown
        assert isinstance(holes, str)
        assert is_fix(holes, key), holes
    else:
        assert shown == wanted.status
        assert len(holes) == (wanted.status == "open"), holes
    assert run(study) == wanted.repeats
    if study.files() == before:
        assert found == wanted.after
    else:
        assert judge(verify(study.store, repair=False)) == wanted.after
        assert study.results() == finished.results()
        assert (status(study), report(study)) == ("done", [])
    if found:
        damaged = finished.copy(study.folder.with_name("repaired"))
        DAMAGES[damage](damaged.folder / key)
        _check_repair(damaged, finished, wanted)


def _check_repair(study: FinishedStudy, finished: FinishedStudy, wanted: Reaction) -> None:
    before = study.files()
    findings = verify(study.store, repair=True)
    assert all(finding.repaired for finding in findings) == wanted.repaired
    if study.files() == before:
        assert not wanted.repaired
        return
    assert run(study) == wanted.repeats_repaired
    assert judge(verify(study.store, repair=False)) == ""
    assert study.results() == finished.results()


# --- damage that is no broken file


def edit(study: FinishedStudy, digest: str) -> None:
    """Improve a result in a record by hand."""
    path = study.folder / record_key(digest)
    body = path.read_bytes()
    path.unlink()
    path.write_bytes(body.replace(b'"bits_per_byte": 1.25', b'"bits_per_byte": 0.25'))
    assert path.read_bytes() != body


def test_edited_result_is_detected_and_computed_again(study: FinishedStudy, finished: FinishedStudy) -> None:
    digest = study.task(TaskKind.EVALUATE).digest
    edit(study, digest)
    (finding,) = verify(study.store, repair=False)
    assert finding.key == record_key(digest)
    assert "has changed since it was published" in finding.problem
    assert status(study) == "open"
    holes = report(study)
    assert len(holes) == 1
    assert "pretrain bpb code: tasks/" in holes[0]
    assert run(study) == 1
    assert study.results() == finished.results()
    assert verify(study.store, repair=False) == []
    assert [stat.key for stat in study.store.objects.list(f"damaged/tasks/{digest}") if stat.key.endswith(".why.json")]


def test_markers_of_older_versions_are_accepted(study: FinishedStudy) -> None:
    for digest in study.plan.tasks:
        study.store.objects.put(done_key(digest), b"")
    assert verify(study.store, repair=False) == []
    assert (status(study), report(study), run(study)) == ("done", [], 0)


def test_trajectory_with_a_damaged_lease_is_trained_again(study: FinishedStudy, finished: FinishedStudy) -> None:
    """A lease that cannot be read names no task; it expires some minutes after it was written."""
    train = study.task(TaskKind.TRAIN)
    for key in (study.keys()["lease"], study.keys()["record of train"]):
        DAMAGES["truncated"](study.folder / key)
    os.utime(study.folder / study.keys()["lease"], (0, 0))
    assert run(study) == 1
    assert study.results() == finished.results()
    record = read_record(study.store, train.digest)
    assert isinstance(record, Record)
    assert [attempt.number for attempt in record.attempts] == [1, 2]


def test_lost_pointer_of_a_finished_training_is_rebuilt(study: FinishedStudy, finished: FinishedStudy) -> None:
    evaluate = study.task(TaskKind.EVALUATE)
    (study.folder / study.keys()["pointer"]).unlink()
    DAMAGES["deleted"](study.folder / record_key(evaluate.digest))
    assert run(study) >= 1
    assert study.results() == finished.results()
    assert verify(study.store, repair=False) == []


def test_gc_neither_fails_at_damage_nor_removes_what_is_needed(study: FinishedStudy) -> None:
    before = study.files()
    for kind in ("pointer", "checkpoint", "lease", "record of train", "task"):
        copy = study.copy(study.folder.with_name(kind))
        DAMAGES["link to itself"](copy.folder / copy.keys()[kind])
        gc(copy.store, dry_run=False)
        gone = before.keys() - copy.files().keys()
        assert not {name for name in gone if "10240" in name or name.startswith(("tasks", "plans", "studies", "done"))}, kind


def test_names_that_are_not_utf8_are_ignored_and_noted(study: FinishedStudy) -> None:
    folder = study.folder / "tasks" / os.fsdecode(b"\xff")
    folder.mkdir()
    (folder / "record.json").write_text("{}")
    (finding,) = verify(study.store, repair=False)
    assert (finding.key, finding.counts) == ("tasks/\\xff", False)
    assert (status(study), report(study), run(study)) == ("done", [], 0)


def test_private_file_behind_a_link_is_not_copied_to_the_store(study: FinishedStudy, tmp_path: Path) -> None:
    (tmp_path / "private").write_text("secret")
    record = study.folder / study.keys()["record of train"]
    record.unlink()
    record.symlink_to(tmp_path / "private")
    assert run(study) == 1
    assert not any("secret" in path.read_text(errors="replace") for path in (study.folder / "damaged").rglob("*") if path.is_file())
    assert (tmp_path / "private").read_text() == "secret"
    assert all(body.ended is not None for body in history(study.store, study.keys()["lease"].rpartition("/lease/")[0]))


@pytest.mark.parametrize("name", [b"x" * 300, b"loop", b"\xff"])
def test_impossible_store_paths_are_errors(finished: FinishedStudy, tmp_path: Path, name: bytes) -> None:
    place = str(tmp_path / os.fsdecode(name))
    (tmp_path / "loop").symlink_to("loop")
    for call in (api.status, api.report):
        with pytest.raises(StoreError, match=r"not the path of a folder|must be UTF-8|no such folder"):
            call(finished.file, store=place)
    with pytest.raises(StoreError, match=r"not the path of a folder|must be UTF-8|not a folder"):
        api.run(finished.file, api.RunOptions(store=place, tracking=False, plain=True), say=lambda _: None)
    with pytest.raises(StoreError, match=r"not the path of a folder|must be UTF-8|no such file"):
        open_existing(place)


def test_names_of_300_characters_are_errors() -> None:
    with pytest.raises(ScalingStudyError):
        api.status("x" * 300, namespace="none")
    with pytest.raises(ScalingStudyError):
        api.plan("x" * 300)


def test_study_file_that_is_a_pipe_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "study.yaml")
    with pytest.raises(InvalidStudy, match="it is a pipe or a device, not a file"):
        api.plan(tmp_path / "study.yaml")


def test_damaged_store_error_is_a_store_error(finished: FinishedStudy, tmp_path: Path) -> None:
    study = finished.copy(tmp_path / "store")
    shutil.rmtree(study.folder / "done")
    (study.folder / "done").write_text("a file in place of a folder")
    with pytest.raises(StoreError, match="a file exists where a folder is expected"):
        api.report(study.file, store=str(study.folder), out=tmp_path / "report")


# --- the command line


def test_commands_name_damage_and_its_fix(finished: FinishedStudy, tmp_path: Path) -> None:
    study = finished.copy(tmp_path / "store")
    DAMAGES["200,000 brackets"](study.folder / study.keys()["record of evaluate"])
    reported = command("report", study.file, "--store", study.folder, "--out", tmp_path / "report")
    assert (reported.returncode, "Traceback" in reported.stderr) == (1, False)
    assert "missing in the report: evaluate scratch/0.03M/c50/s1 pretrain bpb code: tasks/" in reported.stderr
    assert "repeats these tasks" in reported.stderr
    assert (tmp_path / "report/report.html").is_file()
    checked = command("store", "verify", study.folder)
    assert (checked.returncode, "1 damaged, 0 repaired" in checked.stdout) == (1, True)
    DAMAGES["200,000 brackets"](study.folder / study.keys()["version"])
    shown = command("status", study.file, "--store", study.folder)
    assert (shown.returncode, "Traceback" in shown.stderr) == (1, False)
    assert "studies/small/1.json is not a version of a study" in shown.stderr
    assert "`scaling-study run FILE` writes it again" in shown.stderr


def test_verify_exits_0_for_damage_to_unneeded_files(finished: FinishedStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = finished.copy(tmp_path / "store")
    DAMAGES["truncated"](study.folder / study.keys()["pointer, not needed"])
    verify_command(str(study.folder))
    shown = capsys.readouterr().out
    assert "note      trajectories/" in shown
    assert "nothing needs it any more" in shown
    assert "0 damaged, 0 repaired, 1 notes" in shown


def test_status_shows_why_a_finished_task_is_open(study: FinishedStudy) -> None:
    DAMAGES["emptied"](study.folder / study.keys()["record of evaluate"])
    view = api.status(study.file, store=str(study.folder))
    (line,) = damaged_tasks(view)
    assert line.startswith("evaluate scratch/0.03M/c50/s1 pretrain bpb code: tasks/")
    assert ("not done, because the record is damaged; the next run repeats these tasks:", [line]) in list(sections(view))
