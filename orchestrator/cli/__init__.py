"""The commands `scaling-study` and `kubectl sstudy`: one thin module per command, each with a `register(app)`.

A command's module imports at its top only what `--help` needs. Plan, store, analysis and mlflow are imported inside the command, so that
help and usage errors appear immediately. A command reports failure by raising a ScalingStudyError; `main` prints it without a traceback.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated, Final

import typer

from orchestrator.cli import exits
from orchestrator.cli.connect import PLUGIN
from orchestrator.errors import InvalidStudy, ScalingStudyError, UsageError

# Commands for a study on a cluster: the verbs of the kubectl plugin
ON_CLUSTER: Final = ("submit", "status", "watch", "logs", "stop", "resume", "retry", "delete", "account")
# In the order of --help: from study file to report, then maintenance
COMMANDS: Final = ("plan", "explain", "render", "run", *ON_CLUSTER, "report", "tracking", "store", "fingerprint", "demo_corpus")

HELP: Final = """Plan, price and run scaling studies, and report their results.

Exit codes: 0 done; 1 something failed or is missing; 2 the command line or the study file is invalid; 75 stopped on request.
"""


PLUGIN_HELP: Final = """Submit, inspect, stop and resume scaling studies on a cluster.

STUDY is the study's name or the path of its file. The namespace is the one given with -n, else the one in the file, else that of the
kubeconfig context. `scaling-study` has the same commands, and more that need no cluster.

Exit codes: 0 done; 1 something failed, is missing or was rejected; 2 the command line or the file is invalid; 75 stopped on request.
"""


def build_app(commands: Sequence[str] = COMMANDS, text: str = HELP, *, completion: bool = False) -> typer.Typer:
    """Return the app with these commands. `completion`: with options that install shell completion. Does not import large packages."""
    app = typer.Typer(help=text, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=completion)
    app.callback()(_global_options)
    for name in commands:
        import_module(f"orchestrator.cli.{name}").register(app)
    return app


def main() -> None:
    """Run the command line; print expected errors as one message on stderr."""
    _run(build_app(completion=True), "scaling-study")


def plugin() -> None:
    """Run the cluster commands as a plugin of kubectl, which finds the executable `kubectl-sstudy` on the PATH."""
    _run(build_app(ON_CLUSTER, PLUGIN_HELP), PLUGIN)


def _run(app: typer.Typer, program: str) -> None:
    if isinstance(sys.stdout, TextIOWrapper):
        # line buffering: a pipe gets every line of `watch` and `logs --follow` at once; backslashreplace: terminals without UTF-8
        sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        app(prog_name=program)
    except (InvalidStudy, UsageError) as problem:
        _print_error(problem)
        sys.exit(exits.MISTAKES)
    except ScalingStudyError as problem:
        _print_error(problem)
        sys.exit(exits.FAILED)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        from orchestrator import __version__

        print(f"scaling-study {__version__}")
        raise typer.Exit


def _global_options(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)] = False,
) -> None:
    """Declare the options before the command. Without this callback, an app with one command would not accept its name."""


def _print_error(problem: ScalingStudyError) -> None:
    print(problem, file=sys.stderr)
