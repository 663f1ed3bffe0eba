"""The README's table of commands, and commands named in code and documents, match the command line."""

import re
from pathlib import Path
from typing import Final

import typer

from orchestrator.cli import ON_CLUSTER, build_app

ROOT: Final = Path(__file__).parents[2]
NAMED: Final = re.compile(r"(?:scaling-study|kubectl sstudy) ([a-z][a-z-]*)(?: ([a-z-]+))?")
# First words of prose such as "scaling-study plans it", and of `kubectl -n scaling-study create secret`
PROSE: Final = ("is", "plans", "create")
SUFFIXES: Final = (".py", ".yaml", ".md", ".html", ".j2", ".txt", ".Dockerfile", "")
TEXTS: Final = sorted(
    path
    for folder in ("orchestrator", "analysis", "trainer_image", "manifests", "tests", ".ci")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in SUFFIXES and path.is_file() and "__pycache__" not in path.parts
)


def commands(app: typer.Typer) -> set[str]:
    """Return the names of all commands, such as `run` and `store verify`."""
    return set(_leaves(typer.main.get_command(app), ""))


def _leaves(command: object, prefix: str) -> list[str]:
    inner = getattr(command, "commands", None)
    if inner is None:
        return [prefix.strip()]
    return [leaf for name, each in inner.items() for leaf in _leaves(each, f"{prefix} {name}")]


COMMANDS: Final = commands(build_app())
GROUPS: Final = {name.split()[0] for name in COMMANDS if " " in name}


def named_command(first: str, second: str) -> str:
    """Return the command that two words name: the first alone unless it is a group."""
    return f"{first} {second}" if first in GROUPS else first


def commands_in_table(readme: str) -> list[str]:
    """Return the commands in the first column of the README's table."""
    rows = [row for row in readme.split("## Commands")[1].split("\n\n")[1].splitlines() if row.startswith("| `scaling-study")]
    found = []
    for row in rows:
        for code in re.findall(r"`([^`]+)`", row.split("|")[1]):
            first, _, rest = code.removeprefix("scaling-study ").partition(" ")
            found.append(named_command(first, rest.partition(" ")[0]))
    return found


def test_the_readmes_table_lists_every_command_once() -> None:
    found = commands_in_table((ROOT / "README.md").read_text())
    assert sorted(found) == sorted(COMMANDS)


def test_the_plugin_has_the_cluster_commands() -> None:
    assert commands(build_app(ON_CLUSTER)) == set(ON_CLUSTER)
    assert set(ON_CLUSTER) <= COMMANDS


def test_every_command_named_in_code_or_documents_exists() -> None:
    unknown = {
        f"{path.relative_to(ROOT)}: {command}"
        for path in [ROOT / "README.md", *TEXTS]
        for command in commands_named(path)
        if command not in COMMANDS
    }
    assert not unknown


def commands_named(path: Path) -> list[str]:
    """Return the commands that a file names, such as `store verify`."""
    text = path.read_text(errors="replace")
    return [named_command(*match) for match in NAMED.findall(text) if match[0] not in PROSE]
