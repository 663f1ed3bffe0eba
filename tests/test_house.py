"""The structure of the code: few packages, layers without import cycles, and import contracts that name every package."""

import ast
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Final

import pytest

ROOT: Final = Path(__file__).parents[1]
CODE: Final = {"orchestrator": ROOT / "orchestrator", "analysis": ROOT / "analysis", "trainer": ROOT / "trainer_image" / "trainer"}
CONTRACTS: Final[list[dict[str, Any]]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def modules(package: str) -> dict[str, Path]:
    folder = CODE[package]
    return {
        ".".join((package, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in folder.rglob("*.py")
    }


def imports(path: Path) -> Iterator[str]:
    """Every absolute import of a module: `from a.b import c` gives a.b.c and a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def module_graph(package: str) -> dict[str, set[str]]:
    """Module -> modules of the same package that it imports; `__init__` modules are excluded, because they import their package."""
    known = {name: path for name, path in modules(package).items() if path.name != "__init__.py"}
    return {name: {target for target in imports(path) if target in known and target != name} for name, path in known.items()}


@pytest.mark.parametrize("package", CODE)
def test_modules_have_no_import_cycles(package: str) -> None:
    try:
        TopologicalSorter(module_graph(package)).prepare()
    except CycleError as problem:
        pytest.fail(f"import cycle: {' -> '.join(problem.args[1])}")


def test_no_two_packages_of_orchestrator_import_each_other() -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for name, path in modules("orchestrator").items():
        room = name.split(".")[1] if "." in name else ""
        targets = {target.split(".")[1] for target in imports(path) if target.startswith("orchestrator.")}
        if room not in ("", "__init__"):
            graph[room] |= targets - {room}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as problem:
        pytest.fail(f"import cycle of packages: {' -> '.join(problem.args[1])}")


def test_orchestrator_has_at_most_twenty_entries() -> None:
    entries = {path.name for path in CODE["orchestrator"].iterdir() if path.name != "__pycache__" and not path.name.startswith(".")}
    assert len(entries) <= 20, sorted(entries)


def test_the_import_layers_list_every_top_level_package_and_module() -> None:
    layers = next(contract for contract in CONTRACTS if contract["type"] == "layers")["layers"]
    named = {name.strip() for layer in layers for name in layer.split("|")}
    entries = [path for path in CODE["orchestrator"].iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    assert {f"orchestrator.{path.stem}" for path in entries} - {"orchestrator.__init__"} <= named
