"""`run --argo-server` before anything is asked of a server: options that do not go together, tokens, files that cannot run there."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from orchestrator.cli import build_app
from orchestrator.cli.run_remote import Server, Wishes, _again, token_source
from orchestrator.errors import ClusterError, ClusterUnavailable, PlanRefused
from tests.cli.test_run import STUDY

# The study of local runs as a cluster can run it
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
    ("words", "told"),
    [
        ([*THERE, "--workers", "2"], "--workers is for a run on this machine"),
        ([*THERE, "--only", "a"], "--only is for a run on this machine"),
        ([*THERE, "--dry-run"], "--dry-run is for a run on this machine"),
        ([*THERE, "--replan"], "--replan is for a run on this machine"),
        ([*THERE, "--checkpoint-seconds", "9"], "--checkpoint-seconds is for a run on this machine"),
        (["--token", "t"], "--token is for a run by --argo-server"),
        (["--insecure-skip-verify"], "--insecure-skip-verify is for a run by --argo-server"),
        (["-n", "here"], "--namespace is for a run by --argo-server"),
        (["--argo-server", "http://127.0.0.1:9"], "--argo-server needs --namespace"),
    ],
)
def test_options_that_do_not_go_together_are_a_mistake(study: Path, words: list[str], told: str) -> None:
    said = CliRunner(env={"COLUMNS": "200"}).invoke(build_app(), ["run", str(study), *words])
    assert said.exit_code == 2
    assert told in said.output


def test_variables_of_argo_alone_make_no_run_elsewhere_and_no_mistake(study: Path) -> None:
    environment = {"ARGO_TOKEN": "t", "ARGO_NAMESPACE": "here", "ARGO_SERVER": "127.0.0.1:9"}
    study.write_text(STUDY)
    said = CliRunner(env=environment).invoke(build_app(), ["run", str(study), "--dry-run"])
    assert not isinstance(said.exception, ClusterError), said.output
    assert "is for a run" not in said.output


@pytest.mark.parametrize("text", ["t0k.en", "Bearer t0k.en", " Bearer  t0k.en\n"])
def test_a_token_is_read_with_and_without_its_bearer(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    assert token_source(Server("http://a", "here", token=text))() == "t0k.en"
    read = token_source(Server("http://a", "here", token="other", token_file=file))
    assert read() == "t0k.en"
    file.write_text("renewed")
    assert read() == "renewed"


def test_a_token_that_is_missing_is_a_clear_word(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="set ARGO_TOKEN"):
        token_source(Server("http://a", "here"))
    with pytest.raises(ClusterError, match="No such file"):
        token_source(Server("http://a", "here", token_file=tmp_path / "none"))


def test_a_token_that_is_none_is_told_without_its_text_and_one_that_is_being_renewed_is_waited_for(tmp_path: Path) -> None:
    with pytest.raises(ClusterError) as told:
        token_source(Server("http://a", "here", token="secret\nsecret"))
    assert "secret" not in str(told.value)
    file = tmp_path / "token"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ClusterError, match="is no token"):
        token_source(Server("http://a", "here", token_file=file))
    file.write_text("first")
    read = token_source(Server("http://a", "here", token_file=file))
    file.write_text("")
    assert read() == "first"
    file.write_text("second")
    assert read() == "second"


def test_the_words_that_lead_here_again_hold_no_secret() -> None:
    server = Server("http://a", "here", token="secret", ca_file=Path("ca.pem"), insecure=True)
    assert server.words() == ["--argo-server", "http://a", "-n", "here", "--ca-file", "ca.pem", "--insecure-skip-verify"]


def test_what_was_asked_for_is_asked_for_again_without_a_password() -> None:
    server = Server("http://a", "here", token="secret")
    wishes = Wishes("s3://b", Path("out folder"), "http://me:secret@mlflow:5000", plain=True, logs=True)
    words = "--store s3://b --out 'out folder' --tracking-uri 'http://me:***@mlflow:5000' --plain --logs"
    assert _again(Path("a.yaml"), server, wishes) == f"scaling-study run a.yaml --argo-server http://a -n here {words}"
    assert _again(Path("a.yaml"), server, Wishes()) == "scaling-study run a.yaml --argo-server http://a -n here"
    assert _again(Path("a.yaml"), server, Wishes(tracking_uri=None)).endswith("-n here --no-tracking")


def test_a_paused_study_does_not_run_elsewhere_either(study: Path) -> None:
    study.write_text(CLUSTERS + "  paused: true\n")
    said = CliRunner().invoke(build_app(), ["run", str(study), *THERE])
    assert isinstance(said.exception, PlanRefused)


def test_a_server_that_is_not_there_is_told_and_not_waited_for(study: Path) -> None:
    said = CliRunner().invoke(build_app(), ["run", str(study), *THERE])
    assert isinstance(said.exception, ClusterUnavailable)
    assert "the Argo Server at http://127.0.0.1:9 does not answer" in str(said.exception)


def test_a_study_that_no_cluster_can_run_is_refused_before_anything_is_made_or_asked(study: Path) -> None:
    study.write_text(STUDY)
    said = CliRunner().invoke(build_app(), ["run", str(study), *THERE])
    assert isinstance(said.exception, PlanRefused)
    for told in ("a cluster needs the trainer's image", "'store' is a folder of one machine", "is relative to a file"):
        assert told in str(said.exception)
    assert [path.name for path in study.parent.iterdir()] == ["study.yaml"]
    over = CliRunner().invoke(build_app(), ["run", str(study), *THERE, "--store", "s3://studies/none"])
    assert "is a folder of one machine" not in str(over.exception)
