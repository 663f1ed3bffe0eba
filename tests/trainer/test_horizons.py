"""Longer and shorter horizons added to a finished study train only tokens that no kept checkpoint covers."""

from pathlib import Path
from typing import Final

import pyarrow.parquet as pq
import pytest
from trainer.attempt.perform import run_task

from orchestrator.contract.events import Placement
from orchestrator.contract.exits import ExitCode
from orchestrator.local import in_order
from orchestrator.store import records
from orchestrator.study.opening import OpenedStudy, freeze_plan, open_study, paths_by_fingerprint

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


def run(file: Path) -> OpenedStudy:
    """Run the tasks of the study that have no record, in this process, and return the study."""
    opened = open_study(file)
    freeze_plan(opened)
    store, plan = opened.store, opened.plan
    cache = file.parent / "cache"
    placement = Placement(study=plan.study, cache=str(cache), inputs=paths_by_fingerprint(opened.study, plan), checkpoint_seconds=600)
    for planned in in_order(plan, plan.tasks, records.done(store)):
        assert run_task(store, records.create_task(store, planned.task), placement, lambda _: None, lambda: False) == ExitCode.DONE
    return opened


def trained_steps(store: Path) -> int:
    """Return the number of steps of all attempts; repeated steps count each time."""
    tables = store.glob("trajectories/*/attempts/*/metrics/*.parquet")
    return sum(pq.read_table(table, filters=[("name", "=", "loss")]).num_rows for table in tables)


def record_files(store: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in store.glob("tasks/*/record.json")}


def test_added_horizons_train_only_tokens_that_no_kept_checkpoint_covers(study: Path) -> None:
    run(study)
    store = study.parent / "store"
    before, steps_before = record_files(store), trained_steps(store)
    # 156 steps, the last 16 with a decaying rate: stable part to 140, decay of 16, stable part to 156, and 19 steps of cooldown
    assert steps_before == 140 + 16 + 16 + 19

    study.write_text(STUDY + recipe("middle", "40K") + recipe("long", "60K") + recipe("short", "20K") + END)
    opened = run(study)
    after = record_files(store)
    assert {digest: after[digest] for digest in before} == before
    assert set(after) == set(opened.plan.tasks)
    # long: 234 steps, continues the stable part at 156: to 211, decay of 23, to 234, cooldown. short: 78 steps, and no checkpoint before
    # its branch at 70: to 70, decay of 8, to 78, cooldown
    assert trained_steps(store) - steps_before == (55 + 23 + 23 + 19) + (70 + 8 + 8 + 19)
