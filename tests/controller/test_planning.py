"""Run numbers."""

from typing import Any

import pytest

from orchestrator.controller.planning import run_number


@pytest.mark.parametrize(
    ("status", "asked", "is_paused", "expected"),
    [
        ({}, "", False, 1),
        ({"runNumber": 3, "phase": "Running"}, "", False, 3),
        ({"runNumber": 3, "phase": "Paused"}, "", True, 3),
        ({"runNumber": 3, "phase": "Paused"}, "", False, 4),
        ({"runNumber": 3, "phase": "Stopping"}, "", False, 4),
        ({"runNumber": 3, "phase": "Failed"}, "4", False, 4),
        ({"runNumber": 3, "phase": "Failed"}, "2", False, 3),
        ({"runNumber": 3, "phase": "Failed"}, "soon", False, 3),
    ],
)
def test_a_resume_or_a_retry_increases_the_run_number(status: dict[str, Any], asked: str, is_paused: bool, expected: int) -> None:
    assert run_number(status, asked, is_paused) == expected
