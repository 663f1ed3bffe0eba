"""The command `scaling-study`, and `kubectl sstudy`: one module a command, each thin, each with a `register(app)`.

A command's module imports at its top only what `--help` needs; plan, store, analysis and mlflow are imported inside the command, so that
help and a wrong flag answer at once. What a command cannot do, it raises as a ScalingStudyError; `main` prints that without a traceback.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import Final

import typer

from orchestrator.cli.connect import PLUGIN
from orchestrator.errors import CommandMistake, ScalingStudyError, StudyMistakes

# What is done to a study on a cluster: the verbs of the kubectl plugin
ON_CLUSTER: Final = ("submit", "status", "watch", "logs", "stop", "resume", "retry", "delete")
# In the order in which --help shows them: the way of a study from file to report, then upkeep.
COMMANDS: Final = ("plan", "explain", "render", "run", *ON_CLUSTER, "report", "tracking", "store", "fingerprint", "demo_corpus")

# Exit codes of the command line itself. Workers and pods have their own: orchestrator.contract.vocabulary.ExitCode.
EXIT_FAILED: Final = 1
EXIT_MISTAKES: Final = 2
EXIT_STOPPED: Final = 75

HELP: Final = """Plans a scaling study, prices it, runs it, and reports what it shows.

Exit codes: 0 done; 1 something failed or is missing at the end; 2 the command or the study file has mistakes; 75 stopped on request.
"""


PLUGIN_HELP: Final = """Submits scaling studies to a cluster, shows them, stops them and lets them go on.

STUDY is the study's name, or its file. The namespace is that of -n, else the file's, else the context's. `scaling-study` has the same
verbs, and those that need no cluster.

Exit codes: 0 done; 1 something failed, is missing or was refused; 2 the command or the file has mistakes; 75 stopped on request.
"""


def build_app(commands: Sequence[str] = COMMANDS, text: str = HELP) -> typer.Typer:
    """The app with these commands. Imports nothing heavy."""
    app = typer.Typer(help=text, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
    app.callback()(_no_options)
    for name in commands:
        import_module(f"orchestrator.cli.{name}").register(app)
    return app


def main() -> None:
    """Runs the command line. Errors of ours end in one message on stderr."""
    _run(build_app(), "scaling-study")


def plugin() -> None:
    """The same as a plugin of kubectl, which finds the executable `kubectl-sstudy` on the PATH: the verbs that are about a cluster."""
    _run(build_app(ON_CLUSTER, PLUGIN_HELP), PLUGIN)


def _run(app: typer.Typer, program: str) -> None:
    if isinstance(sys.stdout, TextIOWrapper):
        # a pipe gets every line of `watch` and `logs --follow` as it comes; a letter that a terminal does not know is spelt out
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        app(prog_name=program)
    except (StudyMistakes, CommandMistake) as problem:
        _complain(problem)
        sys.exit(EXIT_MISTAKES)
    except ScalingStudyError as problem:
        _complain(problem)
        sys.exit(EXIT_FAILED)


def _no_options() -> None:
    """Keeps commands as subcommands even while there is only one."""


def _complain(problem: ScalingStudyError) -> None:
    print(problem, file=sys.stderr)
