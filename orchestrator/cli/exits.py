"""Exit codes of the command line. Workers and pods have their own: orchestrator.contract.exits.ExitCode."""

from typing import Final

FAILED: Final = 1
"""Something failed, is missing, or was rejected."""
MISTAKES: Final = 2
"""The command line or the study file is invalid."""
STOPPED: Final = 75
"""Stopped on request."""
