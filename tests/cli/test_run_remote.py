"""`run --argo-server` up to the first request: option conflicts, tokens, and studies that cannot run on a cluster."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.api import ArgoServer, RemoteRunOptions
from orchestrator.cli import build_app
from orchestrator.cli.run import remote_command
from orchestrator.errors import ClusterError, ClusterUnavailable, PlanRefused
from orchestrator.remote.token import token_source
from tests.cli.test_run import STUDY

# The study of the local tests, changed to run on a cluster
CLUSTERS = (
    STUDY.replace("store: store", "store: s3://studies/none").replace("corpus/", "s3://studies/corpus/") + "  execution: {image: a}\n"
)
THERE = ["--argo-server", "http://127.0.0.1:9", "-n", "here", "--token", "t"]


@pytest.fixture
def study(tmp_path: Path) -> Path:
    file = tmp_path / "study.yaml"
    file.write_text(CLUSTERS)
    return file


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*THERE, "--workers", "2"], "--workers is for a run on this machine"),
        ([*THERE, "--only", "a"], "--only is for a run on this machine"),
        ([*THERE, "--dry-run"], "--dry-run is for a run on this machine"),
        ([*THERE, "--replan"], "--replan is for a run on this machine"),
        ([*THERE, "--checkpoint-seconds", "9"], "--checkpoint-seconds is for a run on this machine"),
        (["--token", "t"], "--token needs --argo-server"),
        (["--insecure-skip-verify"], "--insecure-skip-verify needs --argo-server"),
        (["-n", "here"], "--namespace needs --argo-server"),
        (["--argo-server", "http://127.0.0.1:9"], "--argo-server needs --namespace"),
    ],
)
def test_options_of_local_and_remote_runs_cannot_be_combined(study: Path, words: list[str], message: str) -> None:
    said = CliRunner(env={"COLUMNS": "200"}).invoke(build_app(), ["run", str(study), *words])
    assert said.exit_code == 2
    assert message in said.output


def test_argo_environment_variables_alone_do_not_start_a_remote_run(study: Path) -> None:
    environment = {"ARGO_TOKEN": "t", "ARGO_NAMESPACE": "here", "ARGO_SERVER": "127.0.0.1:9"}
    study.write_text(STUDY)
    said = CliRunner(env=environment).invoke(build_app(), ["run", str(study), "--dry-run"])
    assert not isinstance(said.exception, ClusterError), said.output
    assert "needs --argo-server" not in said.output


@pytest.mark.parametrize("text", ["t0k.en", "Bearer t0k.en", " Bearer  t0k.en\n"])
def test_a_token_is_read_with_and_without_the_bearer_prefix(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    assert token_source(text, None, "here")() == "t0k.en"
    read = token_source("other", file, "here")
    assert read() == "t0k.en"
    file.write_text("renewed")
    assert read() == "renewed"


def test_a_missing_token_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="set ARGO_TOKEN"):
        token_source("", None, "here")
    with pytest.raises(ClusterError, match="No such file"):
        token_source("", tmp_path / "none", "here")


def test_an_invalid_token_is_not_printed_and_an_empty_file_keeps_the_last_token(tmp_path: Path) -> None:
    with pytest.raises(ClusterError) as caught:
        token_source("secret\nsecret", None, "here")
    assert "secret" not in str(caught.value)
    file = tmp_path / "token"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ClusterError, match="does not hold a token"):
        token_source("", file, "here")
    file.write_text("first")
    read = token_source("", file, "here")
    file.write_text("")
    assert read() == "first"
    file.write_text("second")
    assert read() == "second"


def test_the_attach_command_holds_no_token() -> None:
    server = ArgoServer("http://a", "here", token="secret", ca_file=Path("ca.pem"), insecure=True)
    options = "--argo-server http://a -n here --ca-file ca.pem --insecure-skip-verify"
    assert remote_command(Path("a.yaml"), server, RemoteRunOptions()) == f"scaling-study run a.yaml {options}"


def test_the_attach_command_keeps_every_option_and_masks_passwords() -> None:
    server = ArgoServer("http://a", "here", token="secret")
    options = RemoteRunOptions(store="s3://b", out=Path("out folder"), tracking_uri="http://me:secret@mlflow:5000", plain=True, logs=True)
    words = "--store s3://b --out 'out folder' --tracking-uri 'http://me:***@mlflow:5000' --plain --logs"
    assert remote_command(Path("a.yaml"), server, options) == f"scaling-study run a.yaml --argo-server http://a -n here {words}"
    assert remote_command(Path("a.yaml"), server, RemoteRunOptions()) == "scaling-study run a.yaml --argo-server http://a -n here"
    assert remote_command(Path("a.yaml"), server, RemoteRunOptions(tracking=False)).endswith("-n here --no-tracking")


def test_a_paused_study_does_not_run_remotely(study: Path) -> None:
    study.write_text(CLUSTERS + "  paused: true\n")
    said = CliRunner().invoke(build_app(), ["run", str(study), *THERE])
    assert isinstance(said.exception, PlanRefused)


def test_an_unreachable_server_is_an_error(study: Path) -> None:
    said = CliRunner().invoke(build_app(), ["run", str(study), *THERE])
    assert isinstance(said.exception, ClusterUnavailable)
    assert "the Argo Server at http://127.0.0.1:9 is unreachable" in str(said.exception)


def test_a_study_that_cannot_run_on_a_cluster_is_rejected_before_any_request(study: Path) -> None:
    study.write_text(STUDY)
    said = CliRunner().invoke(build_app(), ["run", str(study), *THERE])
    assert isinstance(said.exception, PlanRefused)
    for message in ("a cluster needs the trainer's image", "'store' is a folder on one machine", "is a relative path"):
        assert message in str(said.exception)
    assert [path.name for path in study.parent.iterdir()] == ["study.yaml"]
    over = CliRunner().invoke(build_app(), ["run", str(study), *THERE, "--store", "s3://studies/none"])
    assert "is a folder on one machine" not in str(over.exception)
