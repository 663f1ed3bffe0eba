"""The versions of all build inputs of the images are pinned."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("project", [".", "trainer_image"])
def test_build_backends_are_pinned(project: str) -> None:
    build = tomllib.loads((ROOT / project / "pyproject.toml").read_text())["build-system"]
    assert [re.fullmatch(r"[\w-]+==[\d.]+", requirement) is not None for requirement in build["requires"]] == [True]


def test_torch_is_pinned_by_its_build_argument() -> None:
    assert re.search(r"^ARG TORCH_VERSION=\d+\.\d+\.\d+$", (ROOT / "trainer_image" / "Dockerfile").read_text(), re.MULTILINE)
