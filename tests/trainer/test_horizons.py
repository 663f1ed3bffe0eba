"""Longer and shorter horizons added to a finished study train only tokens that no kept checkpoint covers. Runs the real trainer."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pyarrow.parquet as pq
import pytest

from orchestrator.study.opening import open_study

STAGE: Final = (
    "{name: pretrain, tokens: TOKENS, mixture: {codePercent: grid, text: {english: 100}, code: {python: 100}}}\n"
    "    - {name: cooldown, tokens: 5K, mixture: {codePercent: 20, text: {english: 100}, code: {python: 100}}}"
)
STUDY: Final = """\
apiVersion: scaling-study.dev/v1alpha1
kind: ScalingStudy
metadata: {name: horizons}
spec:
  store: store
  grid: {sizes: [0.01M], codePercent: [50], seeds: [1]}
  data:
    tokenizer: {train: {vocabulary: 300, bytes: 50k, weights: {english: 50, python: 50}}}
    sources:
    - {name: english, group: text, path: text.jsonl}
    - {name: python, group: code, path: code}
    heldOut: {oneIn: 10, documents: 4}
  training: {sequenceLength: 64, precision: fp32, batch: 4, schedule: {warmup: 1K}}
  recipes:
"""
TOKENS_A_STEP: Final = 4 * 64


def recipe(name: str, tokens: str) -> str:
    return f"  - name: {name}\n    stages:\n    - {STAGE.replace('TOKENS', tokens)}\n"


END: Final = "  evaluation: {after: [pretrain, cooldown], suites: [bpb]}\n"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    lines = (f'{{"text": "{number} ' + f"words that go on {number * 7} times and on " * 20 + '"}\n' for number in range(300))
    (tmp_path / "text.jsonl").write_text("".join(lines))
    (tmp_path / "code").mkdir()
    for number in range(200):
        (tmp_path / "code" / f"m{number}.py").write_text(f"def f{number}(x):\n" + f"    x = x * {number} + 1\n" * 30 + "    return x\n")
    file = tmp_path / "study.yaml"
    file.write_text(STUDY + recipe("middle", "40K") + END)
    return file


def run(study: Path) -> None:
    words = ["run", str(study), "--workers", "1", "--no-tracking", "--checkpoint-seconds", "600"]
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def trained_steps(store: Path) -> int:
    """Return the number of steps of all attempts; repeated steps count each time."""
    tables = store.glob("trajectories/*/attempts/*/metrics/*.parquet")
    return sum(pq.read_table(table, filters=[("name", "=", "loss")]).num_rows for table in tables)


def records(store: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in store.glob("tasks/*/record.json")}


def test_added_horizons_train_only_tokens_without_a_kept_checkpoint(study: Path) -> None:
    run(study)
    store = study.parent / "store"
    before, steps_before = records(store), trained_steps(store)
    # 156 steps, the last 16 with a falling rate: trunk to 140, leaf of 16, trunk to 156, and 19 steps of cooldown
    assert steps_before == 140 + 16 + 16 + 19

    study.write_text(STUDY + recipe("middle", "40K") + recipe("long", "60K") + recipe("short", "20K") + END)
    run(study)
    after = records(store)
    assert {digest: after[digest] for digest in before} == before
    assert set(after) == set(open_study(study).plan.tasks)
    # long: 234 steps, continues the trunk at 156: to 211, leaf of 23, to 234, cooldown. short: 78 steps, and no checkpoint before its
    # branch at 70: to 70, leaf of 8, to 78, cooldown
    assert trained_steps(store) - steps_before == (55 + 23 + 23 + 19) + (70 + 8 + 8 + 19)
