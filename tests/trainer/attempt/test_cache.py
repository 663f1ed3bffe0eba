"""The default cache lies in the folder for temporary files, where every user may create a folder of its name."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from trainer.attempt.perform import run_task
from trainer.context import Context, Outcome

from orchestrator.contract.events import End, Event, Placement
from orchestrator.contract.exits import ExitCode
from orchestrator.store.leases import history
from orchestrator.store.memory import in_memory_store
from orchestrator.store.records import create_task
from tests.store.samples import ROOT, train


def work(context: Context) -> Outcome:
    assert context.cache.stat().st_mode & 0o777 == 0o700
    return Outcome({}, {})


def attempt(placement: Placement) -> tuple[ExitCode, str, int]:
    """Return the exit code and message of an attempt, and the number of leases it took."""
    store, events = in_memory_store(), list[Event]()
    digest = create_task(store, train(512))
    code = run_task(store, digest, placement, events.append, lambda: False, work)
    assert isinstance(events[-1], End)
    return code, events[-1].message, len(history(store, ROOT))


def make_link(path: Path) -> None:
    path.rmdir()
    path.with_name("elsewhere").mkdir()
    path.symlink_to("elsewhere")


def give_away(path: Path) -> None:
    if os.getuid():
        pytest.skip("only root can give a folder to another user")
    os.chown(path, 12345, -1)


@pytest.fixture
def default_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / f"scaling-study-{os.getuid()}"


def test_default_cache_is_created_for_the_user_alone(default_cache: Path) -> None:
    assert attempt(Placement())[0] == ExitCode.DONE
    assert attempt(Placement())[0] == ExitCode.DONE
    assert default_cache.is_dir()


@pytest.mark.parametrize("change", [lambda path: path.chmod(0o777), lambda path: path.chmod(0o770), make_link, give_away])
def test_default_cache_that_others_can_write_is_refused(default_cache: Path, change: Callable[[Path], None]) -> None:
    default_cache.mkdir(mode=0o700)
    change(default_cache)
    code, message, leases = attempt(Placement())
    assert (code, leases) == (ExitCode.REFUSED, 0)
    assert f"the cache {default_cache} belongs to user" in message
    assert "name another folder with --cache" in message


def test_named_cache_may_be_shared(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    store = in_memory_store()
    digest = create_task(store, train(512))
    placement = Placement(cache=str(tmp_path / "shared"))
    assert run_task(store, digest, placement, lambda _: None, lambda: False, lambda _: Outcome({}, {})) == ExitCode.DONE
