"""The CustomResourceDefinition: matches the models, bounds every value, and accepts every valid study."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.crd import definition, to_yaml
from orchestrator.spec import read_bytes, read_object
from orchestrator.spec.model_tree import entries_at

ROOT = Path(__file__).parents[2]
HERE = ROOT / "tests" / "spec"
GOOD = (HERE / "good_study.yaml").read_text()
EXAMPLES = sorted((ROOT / "manifests" / "examples").glob("*.yaml"))

# Minimum number of invalid studies of the table that the API server rejects without the controller
MIN_REJECTED_BY_SERVER = 90

Schema = dict[str, Any]


def schema() -> Schema:
    (version,) = definition()["spec"]["versions"]
    found: Schema = version["schema"]["openAPIV3Schema"]
    return found


def parts(of: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Yield every schema inside a schema, with its path."""
    yield path, of
    for key, inner in of.get("properties", {}).items():
        yield from parts(inner, f"{path}.{key}")
    for key in ("items", "additionalProperties"):
        if key in of:
            yield from parts(of[key], f"{path}[]")


def test_manifest_matches_the_models() -> None:
    assert (ROOT / "manifests/base/crd.yaml").read_text() == to_yaml(), "run: python -m orchestrator.crd"


def test_command_writes_the_manifest(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "crd.yaml"
    subprocess.run([sys.executable, "-m", "orchestrator.crd", str(target)], check=True, capture_output=True)
    assert target.read_text() == to_yaml()


def test_manifest_fits_into_a_kubernetes_object() -> None:
    assert len(to_yaml()) < 256 * 1024


def test_every_list_map_and_text_is_bounded() -> None:
    for path, part in parts(schema()):
        if path.startswith(".metadata") or path in (".apiVersion", ".kind", ""):
            continue
        if part.get("type") == "string":
            assert "maxLength" in part or "enum" in part or "format" in part, path
        if part.get("type") == "array":
            assert "maxItems" in part, path
        if "additionalProperties" in part:
            assert "maxProperties" in part, path
        if part.get("x-kubernetes-int-or-string"):
            assert {"maxLength", "pattern", "maximum"} <= part.keys(), path


def test_every_field_has_a_description() -> None:
    for path, part in parts(schema()):
        for key, inner in part.get("properties", {}).items():
            assert inner.get("description") or path == "" or path.startswith(".metadata"), f"{path}.{key}"


def test_schema_has_no_construct_that_the_api_server_rejects() -> None:
    text = to_yaml()
    assert "$ref" not in text
    assert "additionalProperties: false" not in text
    assert not any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader))


def test_every_rule_has_a_path_that_exists_in_the_models() -> None:
    ruled = [path for path, part in parts(schema()) if "x-kubernetes-validations" in part]
    assert len(ruled) > 12
    for path in ruled:
        names = [0 if name == "[]" else name for name in path.replace("[]", ".[]").split(".")[1:]]
        assert entries_at(tuple("x" if name == 0 and "models" in names else name for name in names)), path


def test_keys_of_the_models_are_keys_of_the_schema() -> None:
    spec = schema()["properties"]["spec"]
    assert set(yaml.safe_load(GOOD)["spec"]) <= set(spec["properties"])
    assert spec["properties"]["grid"]["required"] == ["sizes", "seeds"]


# The tests below need a real API server, selected by KUBECONFIG


def kubectl(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    program = shutil.which("kubectl")
    assert program is not None, "kubectl is not on PATH"
    return subprocess.run([program, *arguments], input=stdin, capture_output=True, text=True, check=False)


def create(text: str) -> subprocess.CompletedProcess[str]:
    return kubectl("create", "--dry-run=server", "--validate=strict", "-n", "default", "-o", "yaml", "-f", "-", stdin=text)


@pytest.fixture(scope="module")
def installed() -> None:
    if "KUBECONFIG" not in os.environ:
        pytest.skip("KUBECONFIG is not set")
    applied = kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=to_yaml())
    assert applied.returncode == 0, applied.stderr
    ready = kubectl("wait", "--for=condition=Established", "--timeout=60s", f"crd/{definition()['metadata']['name']}")
    assert ready.returncode == 0, ready.stderr


@pytest.mark.cluster
@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("text", [GOOD, *(path.read_text() for path in EXAMPLES)], ids=["good", *(path.stem for path in EXAMPLES)])
def test_api_server_accepts_a_valid_study_unchanged(text: str) -> None:
    answer = create(text)
    assert answer.returncode == 0, answer.stderr
    assert read_object(yaml.safe_load(answer.stdout)).spec == read_bytes(text.encode(), "study.yaml").spec


@pytest.mark.cluster
@pytest.mark.usefixtures("installed")
def test_api_server_rejects_most_invalid_studies_and_shows_no_credentials() -> None:
    blocks = (HERE / "bad_studies.txt").read_text().split("=== ")[1:]
    with ThreadPoolExecutor(4) as pool:
        answers = dict(zip((block.split("\n", 1)[0] for block in blocks), pool.map(create, map(_invalid_study, blocks)), strict=True))
    assert sum(answer.returncode != 0 for answer in answers.values()) >= MIN_REJECTED_BY_SERVER
    assert not [name for name, answer in answers.items() if "hunter2" in answer.stderr]


def _invalid_study(block: str) -> str:
    lines = [line.replace("\\n", "\n").replace("\\t", "\t") for line in block.split("\n")]
    text = GOOD
    for old, new in zip(
        (line[4:] for line in lines if line.startswith("--- ")), (line[4:] for line in lines if line.startswith("+++ ")), strict=True
    ):
        text = text.replace(old, new)
    return text


@pytest.mark.cluster
@pytest.mark.usefixtures("installed")
def test_kubectl_explain_lists_every_field() -> None:
    answer = kubectl("explain", "scalingstudy.spec", "--recursive")
    assert answer.returncode == 0, answer.stderr
    assert "gpusPerPod" in answer.stdout
