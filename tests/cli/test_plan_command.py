"""`plan` and `explain` as processes: output, errors and exit codes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.explain_tables import print_task
from orchestrator.contract.record import Artifact, Record
from orchestrator.store import open_store
from orchestrator.store.records import publish_record
from orchestrator.study.opening import freeze_plan, open_study
from tests.cli.study_file import STUDY, command


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for name, text in (("text/über uns.txt", "Ein Satz. " * 500), ("code/a.py", "x = 1\n" * 500)):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    return file


def printed_json(*words: object) -> dict[str, Any]:
    done = command(*words, "--json")
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_plan_prints_grid_cost_and_warnings(study: Path) -> None:
    done = command("plan", study, "--price", "2")
    assert done.returncode == 0, done.stderr
    for expected in (
        "kleine-studie: 4 cells, 19 tasks (3 prepare, 8 train, 8 evaluate), 0 done",
        "0.00601609 (tiny law)",
        "99,840",
        "warning: source text is read ~1.99 times by scratch/0.03M/c0/s1; repeated tokens add less",
        "longest path",
    ):
        assert expected in done.stdout


def test_plan_json_holds_the_same_numbers(study: Path) -> None:
    document = printed_json("plan", study)
    assert document["cells"] == 4
    assert document["stages"][0]["steps"] == [195, 195]
    assert document["sources"][0]["epochs"].startswith("~")
    assert {row["size"] for row in document["sizes"]} == {"0.03M", "0.09M"}


def prepared(study: Path, tokens: int) -> None:
    """Publish the record of a `prepare` task that counted the text source."""
    opened = open_study(study)
    freeze_plan(opened)
    digest = next(source.digest for source in opened.plan.sources if source.name == "text")
    identity = opened.plan.tasks[digest].task.identity()
    artifact = Artifact(key="x", bytes=0, sha256="0" * 64)
    publish_record(
        open_store(opened.store.url),
        Record(digest=digest, identity=identity, results={"tokens": tokens}, artifacts={"x": artifact}, attempts=[], nonce="n"),
    )


def test_counted_tokens_are_exact_and_excessive_repetition_is_rejected(study: Path) -> None:
    prepared(study, 40_000)
    assert printed_json("plan", study)["sources"][0]["epochs"] == "2.99"
    study.write_text(STUDY.replace("tokens: 60K", "maxRepetition: 2"))
    done = command("plan", study)
    assert done.returncode == 1
    assert "source text: scratch/0.03M/c0/s1 reads 119,552 tokens of its 40,000, that is 2.99 times; at most 2 are allowed" in done.stderr
    assert "maxRepetition: 3" in done.stderr


def test_a_missing_source_is_named_and_plan_exits_1(study: Path) -> None:
    study.write_text(STUDY.replace("path: code", "path: nowhere"))
    done = command("plan", study)
    assert done.returncode == 1
    assert "warning: code: nowhere: no such file or folder" in done.stdout


def test_text_of_a_study_is_not_parsed_as_markup(study: Path) -> None:
    study.write_text(STUDY.replace("path: text", 'path: "[a-f]/:x:/[red]"').replace("path: code", 'path: "[/x]"'))
    done = command("plan", study)
    assert done.returncode == 1
    assert "warning: text: [a-f]/:x:/[red]: no such file or folder" in done.stdout
    assert "warning: code: [/x]: no such file or folder" in done.stdout
    assert "Traceback" not in done.stderr


def test_characters_outside_the_terminals_encoding_are_escaped(study: Path) -> None:
    study.write_text(STUDY.replace("path: text", "path: größe ☃"))
    done = command("plan", study, PYTHONIOENCODING="ascii")
    assert done.returncode == 1
    assert r"warning: text: gr\xf6\xdfe \u2603: no such file or folder" in done.stdout


@pytest.mark.parametrize("words", [[], ["--source", "web"], ["--source", "=text"]])
def test_fingerprint_without_sources_is_a_usage_error(words: list[str]) -> None:
    done = command("fingerprint", *words, COLUMNS="200")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--source" in done.stderr


@pytest.mark.parametrize(("words", "message"), [(("--gpu", "tpu"), "--gpu tpu"), (("--mfu", "1.5"), "--mfu 1.5")])
def test_an_invalid_gpu_or_mfu_is_rejected(study: Path, words: tuple[str, str], message: str) -> None:
    done = command("plan", study, *words)
    assert done.returncode == 1
    assert message in done.stderr


def test_an_infinite_price_is_rejected_because_json_cannot_represent_it(study: Path) -> None:
    assert command("plan", study, "--json", "--price", "inf").returncode == 2


def test_an_invalid_study_exits_2_without_a_traceback(study: Path) -> None:
    study.write_text(STUDY.replace("0.09M", "0.08M"))
    done = command("plan", study)
    assert done.returncode == 2
    assert 'study.yaml:6: spec.grid.sizes[1]: "0.08M"' in done.stderr
    assert "Traceback" not in done.stderr


def test_the_graph_shows_every_task(study: Path, tmp_path: Path) -> None:
    file = tmp_path / "graph.svg"
    done = command("plan", study, "--graph", file)
    assert done.returncode == 0, done.stderr
    assert file.read_text().count("scratch/0.03M/c0/s1") >= 4


def test_json_output_stays_one_document_with_a_graph(study: Path, tmp_path: Path) -> None:
    done = command("plan", study, "--json", "--graph", tmp_path / "graph.svg")
    assert json.loads(done.stdout)["cells"] == 4
    assert done.stderr == f"graph: {tmp_path / 'graph.svg'}\n"


def test_explain_shows_tasks_states_and_differences_between_cells(study: Path) -> None:
    prepared(study, 40_000)
    done = command("explain", study, "scratch/0.03M/c50/s1", "--with", "scratch/0.03M/c0/s1")
    assert done.returncode == 0, done.stderr
    assert "train stable 0 - 99,840 tokens, from seed 1" in done.stdout
    assert "evaluate bpb code" in done.stdout
    assert "shares 0 tasks with scratch/0.03M/c0/s1" in done.stdout
    assert "pretrain: shares.code is 1 here, nothing there" in done.stdout


def test_explain_of_a_digest_shows_its_record(study: Path) -> None:
    prepared(study, 40_000)
    digest = next(source.digest for source in open_study(study).plan.sources if source.name == "text")
    done = command("explain", study, digest[:12])
    assert done.returncode == 0, done.stderr
    assert "tokens = 40000" in done.stdout


def test_text_of_a_record_is_not_parsed_as_markup(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opened = open_study(study)
    freeze_plan(opened)
    digest = next(source.digest for source in opened.plan.sources if source.name == "text")
    record = Record(
        digest=digest,
        identity=opened.plan.tasks[digest].task.identity(),
        results={"hash": "[/b] and [a-f]"},
        artifacts={},
        attempts=[],
        nonce="n",
    )
    publish_record(opened.store, record)
    print_task(opened.store, opened.plan, digest)
    assert "hash = [/b] and [a-f]" in capsys.readouterr().out


def test_explain_of_an_unknown_cell_names_existing_cells(study: Path) -> None:
    done = command("explain", study, "scratch/1B/s1")
    assert done.returncode == 1
    assert "'scratch/1B/s1' is not a cell of kleine-studie. Cells are, for example: scratch/0.03M/c0/s1" in done.stderr


def test_plan_does_not_import_large_packages(study: Path) -> None:
    code = (
        "import sys; from orchestrator.cli import build_app; build_app()(sys.argv[1:], standalone_mode=False);"
        "heavy = {'torch', 'transformers', 'mlflow', 'pandas', 'pyarrow', 'scipy', 'matplotlib', 'numpy'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code, "plan", str(study)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_small_sizes_are_priced_on_this_machine_with_the_origin_of_its_speed(study: Path) -> None:
    priced = printed_json("plan", study)
    assert (priced["gpu"], priced["total"]["gpu_hours"]) == ("cpu", 0.0)
    assert priced["total"]["seconds"] > 0
    assert priced["workers"] >= 1
    assert priced["rate_from"].startswith("assumed: 24 GFLOP/s")
    assert "this machine's CPU (speed assumed" in command("plan", study).stdout


def test_small_sizes_are_priced_in_gpu_hours_if_a_gpu_is_given(study: Path) -> None:
    priced = printed_json("plan", study, "--gpu", "h100")
    assert (priced["gpu"], priced["workers"], priced["rate_from"]) == ("h100", 0, "")
    assert priced["total"]["gpu_hours"] > 0


def test_every_task_is_listed_after_its_dependencies(study: Path) -> None:
    document = printed_json("plan", study, "--tasks")
    assert len(document["task_list"]) == sum(document["tasks"].values())
    seen: set[str] = set()
    for task in document["task_list"]:
        assert set(task["needs"]) <= seen, task["label"]
        seen.add(task["digest"])
    assert {task["kind"] for task in document["task_list"]} == {"prepare", "train", "evaluate"}
    assert {task["state"] for task in document["task_list"]} == {"pending"}
    assert sum(task["tokens"] for task in document["task_list"]) == document["trained_tokens"]
    assert "task_list" not in printed_json("plan", study)
