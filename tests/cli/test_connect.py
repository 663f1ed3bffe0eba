"""Commands find a study by file or name. The tests run them as processes, without a cluster."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.errors import ClusterError, InvalidStudy, StoreUnavailable
from orchestrator.monitor.connect import resolve_namespace, resolve_study, with_timeout
from tests.cli.study_file import STUDY

CLUSTER_VERBS = ("submit", "status", "watch", "logs", "stop", "resume", "retry", "delete")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    return file


def command(*words: object, entry: str = "main", before: str = "pass", folder: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run the command line in a process without a cluster and without credentials."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "KUBE"))}
    line = [sys.executable, "-c", f"{before}; from orchestrator.cli import {entry}; {entry}()", *map(str, words)]
    return subprocess.run(
        line,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=folder,
        env={**environment, "KUBECONFIG": "/nowhere/config", "HOME": "/nowhere"},
    )


def test_a_file_with_other_mistakes_still_names_its_study(study: Path) -> None:
    assert resolve_study(str(study)).name == "kleine-studie"
    study.write_text(STUDY.replace("0.09M", "nonsense").replace("{name: kleine-studie}", "{name: kleine-studie, namespace: team}"))
    named = resolve_study(str(study))
    assert (named.name, named.namespace, named.file) == ("kleine-studie", "team", study)
    study.write_text("- 1\n")
    with pytest.raises(InvalidStudy):
        resolve_study(str(study))
    assert resolve_study("no-file").file is None


def test_conflicting_namespaces_are_rejected(study: Path) -> None:
    study.write_text(STUDY.replace("{name: kleine-studie}", "{name: kleine-studie, namespace: team}"))
    named = resolve_study(str(study))
    assert resolve_namespace(named, "") == "team"
    assert resolve_namespace(named, "team") == "team"
    assert resolve_namespace(resolve_study("x"), "other") == "other"
    with pytest.raises(ClusterError, match=r"metadata\.namespace is 'team' but -n is 'other'"):
        resolve_namespace(named, "other")


def test_a_store_that_does_not_answer_times_out() -> None:
    import threading

    with pytest.raises(StoreUnavailable, match="has not answered"):
        with_timeout(0.05, threading.Event().wait)
    with pytest.raises(ZeroDivisionError):
        with_timeout(5, lambda: 1 // 0)
    assert with_timeout(5, lambda: 3) == 3


@pytest.mark.parametrize("verb", ["stop", "watch"])
def test_without_a_cluster_the_message_names_what_to_set(verb: str, tmp_path: Path) -> None:
    done = command(verb, "nobody", folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no cluster is configured" in done.stderr
    assert "set KUBECONFIG" in done.stderr
    assert "Traceback" not in done.stderr
    assert ("A study's name needs a cluster or --store URL" in done.stderr) == (verb == "watch"), "watch can also read a store"


@pytest.mark.parametrize("verb", ["status", "logs"])
def test_a_study_in_a_folder_needs_no_cluster(verb: str, study: Path) -> None:
    done = command(verb, study)
    assert done.returncode == 1
    assert "no study called kleine-studie. Create it with `scaling-study run FILE`" in done.stderr


def test_the_file_is_checked_before_the_cluster_is_contacted(study: Path) -> None:
    study.write_text(STUDY.replace("0.09M", "0.08M").replace("[0, 50]", "[0, 150]"))
    done = command("submit", study)
    assert done.returncode == 2
    assert 'study.yaml:6: spec.grid.sizes[1]: "0.08M"' in done.stderr
    assert "codePercent" in done.stderr, "all mistakes at once"
    assert "KUBECONFIG" not in done.stderr


def test_a_study_that_cannot_run_on_a_cluster_is_rejected_before_contacting_one(study: Path) -> None:
    done = command("submit", study)
    assert done.returncode == 1
    for message in (
        "spec.execution.image: a cluster needs",
        "spec.store: 'store' is a folder",
        "spec.data.sources[0].path: 'text' is a relative path",
    ):
        assert message in done.stderr
    assert "it can run on this machine: scaling-study run" in done.stderr


def test_a_missing_client_package_is_reported_with_its_install_command(tmp_path: Path) -> None:
    done = command("stop", "mine", before="import sys; sys.modules['kubernetes'] = None", folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "a cluster needs the package `kubernetes`: pip install 'scaling-study[cluster]'\n"


def test_the_plugin_has_the_cluster_commands_and_the_name_kubectl_uses() -> None:
    done = command("--help", entry="plugin")
    assert done.returncode == 0
    assert "kubectl sstudy [OPTIONS] COMMAND" in done.stdout
    for verb in CLUSTER_VERBS:
        assert f" {verb} " in done.stdout
    assert " fingerprint " not in done.stdout


def test_the_plugin_reads_the_cluster_even_if_a_file_is_given(study: Path) -> None:
    done = command("status", study, entry="plugin")
    assert done.returncode == 1
    assert "no cluster is configured" in done.stderr


def test_help_of_every_cluster_command_imports_no_client(tmp_path: Path) -> None:
    program = (
        "import sys; from orchestrator.cli import build_app\n"
        f"for verb in {CLUSTER_VERBS}:\n"
        "    build_app()([verb, '--help'], standalone_mode=False)\n"
        "print('HEAVY', sorted({'kubernetes', 'obstore', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("HEAVY []\n")
    assert done.stdout.count("--namespace") == len(CLUSTER_VERBS)


def test_status_creates_no_store(study: Path) -> None:
    done = command("status", study, "--store", study.parent / "elsewhere")
    assert done.returncode == 1
    assert "no study called kleine-studie" in done.stderr
    assert not (study.parent / "elsewhere").exists()
    assert not (study.parent / "store").exists()
