"""How a study is reached by the words that a person gives, seen from outside: processes without a cluster, and what they say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.connect import name_of, namespace_of
from orchestrator.cli.status_readers import within
from orchestrator.errors import ClusterError, StoreUnavailable, StudyMistakes
from tests.cli.test_plan_command import STUDY

CLUSTER_VERBS = ("submit", "status", "watch", "logs", "stop", "resume", "retry", "delete")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    return file


def command(*words: object, entry: str = "main", before: str = "pass", folder: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """The command line in a process that finds no cluster and no credentials."""
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


def test_a_file_names_its_study_whatever_else_is_wrong_with_it(study: Path) -> None:
    assert name_of(str(study)).name == "kleine-studie"
    study.write_text(STUDY.replace("0.09M", "nonsense").replace("{name: kleine-studie}", "{name: kleine-studie, namespace: team}"))
    named = name_of(str(study))
    assert (named.name, named.namespace, named.file) == ("kleine-studie", "team", study)
    study.write_text("- 1\n")
    with pytest.raises(StudyMistakes):
        name_of(str(study))
    assert name_of("no-file").file is None


def test_two_namespaces_are_one_too_many(study: Path) -> None:
    study.write_text(STUDY.replace("{name: kleine-studie}", "{name: kleine-studie, namespace: team}"))
    named = name_of(str(study))
    assert (namespace_of(named, ""), namespace_of(named, "team"), namespace_of(name_of("x"), "other")) == ("team", "team", "other")
    with pytest.raises(ClusterError, match=r"metadata\.namespace is 'team' and -n says 'other'"):
        namespace_of(named, "other")


def test_a_store_that_does_not_answer_is_not_waited_for_by_a_person() -> None:
    import threading

    with pytest.raises(StoreUnavailable, match="has not answered"):
        within(0.05, threading.Event().wait)
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)
    assert within(5, lambda: 3) == 3


@pytest.mark.parametrize("verb", ["stop", "watch"])
def test_without_a_cluster_a_verb_says_what_to_set(verb: str, tmp_path: Path) -> None:
    done = command(verb, "nobody", folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no cluster can be reached from here" in done.stderr
    assert "set KUBECONFIG" in done.stderr
    assert "Traceback" not in done.stderr
    assert ("As a name it needs a cluster or --store URL" in done.stderr) == (verb == "watch"), "what a store can tell needs no cluster"


@pytest.mark.parametrize("verb", ["status", "logs"])
def test_a_study_of_a_folder_needs_no_cluster(verb: str, study: Path) -> None:
    done = command(verb, study)
    assert done.returncode == 1
    assert "no study called kleine-studie. `scaling-study run FILE` begins one" in done.stderr


def test_a_file_is_checked_before_any_cluster_is_asked(study: Path) -> None:
    study.write_text(STUDY.replace("0.09M", "0.08M").replace("[0, 50]", "[0, 150]"))
    done = command("submit", study)
    assert done.returncode == 2
    assert 'study.yaml:6: spec.grid.sizes[1]: "0.08M"' in done.stderr
    assert "codePercent" in done.stderr, "every mistake at once"
    assert "KUBECONFIG" not in done.stderr


def test_what_no_cluster_can_run_is_told_before_any_is_asked(study: Path) -> None:
    done = command("submit", study)
    assert done.returncode == 1
    for word in (
        "spec.execution.image: a cluster needs",
        "spec.store: 'store' is a folder",
        "spec.data.sources[0].path: 'text' is relative",
    ):
        assert word in done.stderr
    assert "it can run on this machine: scaling-study run" in done.stderr


def test_without_the_package_for_clusters_the_line_that_installs_it_is_told(tmp_path: Path) -> None:
    done = command("stop", "mine", before="import sys; sys.modules['kubernetes'] = None", folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "a cluster needs the package `kubernetes`: pip install 'scaling-study[cluster]'\n"


def test_the_plugin_has_the_verbs_of_a_cluster_and_calls_itself_as_kubectl_does() -> None:
    done = command("--help", entry="plugin")
    assert done.returncode == 0
    assert "kubectl sstudy [OPTIONS] COMMAND" in done.stdout
    for verb in CLUSTER_VERBS:
        assert f" {verb} " in done.stdout
    assert " fingerprint " not in done.stdout


def test_the_plugin_asks_the_cluster_also_about_a_file(study: Path) -> None:
    done = command("status", study, entry="plugin")
    assert done.returncode == 1
    assert "no cluster can be reached from here" in done.stderr


def test_help_of_every_cluster_verb_teaches_and_imports_no_client(tmp_path: Path) -> None:
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


def test_to_look_makes_no_store(study: Path) -> None:
    done = command("status", study, "--store", study.parent / "elsewhere")
    assert done.returncode == 1
    assert "no study called kleine-studie" in done.stderr
    assert not (study.parent / "elsewhere").exists()
    assert not (study.parent / "store").exists()
