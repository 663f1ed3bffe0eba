"""How a run ends where something that it does not need cannot be had."""

from pathlib import Path

import pytest

from orchestrator.cli.finish import start_mirror
from orchestrator.store import open_store


def test_a_mirror_whose_log_cannot_be_written_is_told_and_costs_the_run_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs").write_text("a file where the folder of the log would be, as a disk that cannot be written")
    assert start_mirror(open_store(str(tmp_path)), "small", "") is None
    assert "nothing is mirrored to MLflow: " in capsys.readouterr().out
