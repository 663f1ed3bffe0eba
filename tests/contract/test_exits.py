"""The meaning of exit codes, as a table."""

import pytest

from orchestrator.contract.exits import KILLED, RETRIED_WITHOUT_COUNTING, TERMINATED, ExitCode, Reaction, meaning_of


@pytest.mark.parametrize(
    ("code", "reaction", "is_failure"),
    [
        (ExitCode.DONE, Reaction.NEXT, False),
        (ExitCode.FAILED, Reaction.AGAIN, True),
        (2, Reaction.AGAIN, True),
        (64, Reaction.AGAIN, True),
        (ExitCode.HELD, Reaction.WAIT, False),
        (ExitCode.STOPPED, Reaction.AGAIN, False),
        (ExitCode.REFUSED, Reaction.NEVER, True),
        (KILLED, Reaction.AGAIN, False),
        (TERMINATED, Reaction.AGAIN, False),
        (139, Reaction.AGAIN, True),
    ],
)
def test_every_exit_code_has_one_meaning(code: int, reaction: Reaction, is_failure: bool) -> None:
    meaning = meaning_of(code)
    assert (meaning.reaction, meaning.is_failure) == (reaction, is_failure)


def test_every_code_of_the_trainer_is_in_the_table() -> None:
    assert {meaning_of(code).cause for code in ExitCode} == {"done", "stopped", "failed"}


def test_held_stopped_and_killed_attempts_are_retried_without_counting() -> None:
    assert RETRIED_WITHOUT_COUNTING == (69, 75, 137, 143)
