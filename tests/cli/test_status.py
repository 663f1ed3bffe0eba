from pathlib import Path

import pytest

from orchestrator.cli.status import look, show
from orchestrator.contract.plan import PlannedTask
from orchestrator.contract.words import ExitCode, TaskKind
from orchestrator.store import Store, open_store
from orchestrator.store.addresses import work_root
from orchestrator.store.leases import Holder, Lease, take
from orchestrator.store.records import publish_record
from tests.analysis.made_up import MadeUpRecipe, MadeUpStage, MadeUpStudy

STAGES = (MadeUpStage("pretrain", "pretrain", 100), MadeUpStage("cooldown", "cooldown", 20, "20"))
STUDY = MadeUpStudy(sizes=("0.03M",), code_percents=("0", "50"), seeds=(1,), suites=("bpb",), recipes=(MadeUpRecipe("r", STAGES),))
PLAN = STUDY.plan()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def publish(store: Store, *kinds: TaskKind) -> None:
    for digest, record in STUDY.records(PLAN).items():
        if PLAN.tasks[digest].kind in kinds:
            publish_record(store, record)


def trunks() -> list[PlannedTask]:
    return [PLAN.tasks[cell.stages[0].trains[0]] for cell in PLAN.cells]


def at_work(store: Store, planned: PlannedTask) -> Lease:
    return take(store, work_root(planned.kind, planned.work), planned.digest, Holder(study="made-up"))


def test_nothing_is_done_before_anything_ran(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    show(PLAN, look(store, PLAN), store)
    shown = capsys.readouterr().out
    assert shown.startswith(f"made-up: 0/2 cells, 0/{len(PLAN.tasks)} tasks done in {store.url}\n")
    assert "at work" not in shown


def test_who_is_at_work_and_what_no_retry_can_mend(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    publish(store, TaskKind.PREPARE)
    working, refused = trunks()
    lease = at_work(store, working)
    at_work(store, refused).end("refused", ExitCode.REFUSED, "shard 3 has another hash")
    standing = look(store, PLAN)
    assert [(planned.digest, body.number) for planned, body in standing.working] == [(working.digest, lease.number)]
    assert standing.refused == {refused.digest: "shard 3 has another hash"}
    show(PLAN, standing, store)
    shown = capsys.readouterr().out
    assert f"train {working.label}: process {lease.body.pid} on " in shown
    assert f"{PLAN.cells[1].name}: no pretrain, cooldown; " in shown
    assert "shard 3 has another hash" in shown


@pytest.mark.parametrize("code", [ExitCode.FAILED, ExitCode.STOPPED])
def test_an_attempt_that_may_be_made_again_is_neither_at_work_nor_refused(store: Store, code: ExitCode) -> None:
    publish(store, TaskKind.PREPARE)
    at_work(store, trunks()[0]).end("ended", code)
    standing = look(store, PLAN)
    assert (standing.working, standing.refused) == ((), {})


def test_a_finished_study_is_whole(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    publish(store, *TaskKind)
    show(PLAN, look(store, PLAN), store)
    assert "made-up: 2/2 cells" in capsys.readouterr().out
