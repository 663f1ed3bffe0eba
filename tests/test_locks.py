"""The lock files satisfy pyproject.toml, pin every package with hashes, and exclude torch, whose build depends on the machine."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[1]
OURS: Final = "scaling-study"
ENTRY: Final = re.compile(r"(?P<name>[a-z0-9._-]+)==(?P<version>[^ ]+) \\\n(?P<hashes>(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)")
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TRAINER: Final[dict[str, Any]] = tomllib.loads((ROOT / "trainer_image" / "pyproject.toml").read_text())["project"]


def closure(requirements: list[str]) -> Iterator[Requirement]:
    for requirement in map(Requirement, requirements):
        if requirement.name == OURS:
            for extra in requirement.extras:
                yield from closure(PROJECT["optional-dependencies"][extra])
        else:
            yield requirement


def wanted(*extras: str, trainer: bool) -> list[Requirement]:
    own = [*PROJECT["dependencies"], *(TRAINER["dependencies"] if trainer else ())]
    return list(closure([*own, *(entry for extra in extras for entry in PROJECT["optional-dependencies"][extra])]))


def locked(path: str) -> dict[str, str]:
    text = (ROOT / path).read_text()
    assert ENTRY.sub("", text) == "", "a line is not a package with its version and hashes"
    return {match["name"]: match["version"] for match in ENTRY.finditer(text)}


@pytest.mark.parametrize(
    ("path", "extras", "trainer"),
    [
        ("requirements-dev.txt", ("dev",), True),
        ("trainer_image/requirements.txt", (), True),
        ("manifests/images/controller.txt", ("cluster",), False),
        ("manifests/images/tracking.txt", (), False),
    ],
)
def test_lock_satisfies_pyproject(path: str, extras: tuple[str, ...], trainer: bool) -> None:
    versions = locked(path)
    missing = [
        str(requirement)
        for requirement in wanted(*extras, trainer=trainer)
        if requirement.name != "torch" and not requirement.specifier.contains(versions.get(canonicalize_name(requirement.name), "0"))
    ]
    assert missing == [], "run .ci/lock"
    assert "torch" not in versions


@pytest.mark.parametrize(
    "dockerfile", ["trainer_image/Dockerfile", "manifests/images/controller.Dockerfile", "manifests/images/tracking.Dockerfile"]
)
def test_images_install_from_their_lock(dockerfile: str) -> None:
    assert "--no-deps --require-hashes -r /tmp/requirements.txt" in (ROOT / dockerfile).read_text()
