"""Measure the time and memory of planning a grid of 10,000 cells and over 50,000 tasks, and the paper's example.

    python tests/bench/bench_plan.py

Each measurement uses a new process. The limits in the README are 3 s and 500 MB on 2 cores, and 1 s for the example's first line.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEEDS = 329

STUDY = """\
apiVersion: scaling-study.dev/v1alpha1
kind: ScalingStudy
metadata: {name: ten-thousand}
spec:
  store: /nonexistent/store
  grid:
    sizes: [60M, 150M, 470M, 1B, 2.8B]
    codePercent: [0, 25, 50, 75, 90, 100]
    seeds: [%s]
  data:
    tokenizer: {train: {vocabulary: 50304, bytes: 10G, weights: {web: 50, stack: 50}}}
    sources:
    - {name: web, group: text, path: "s3://corpora/web/*.jsonl.zst", fingerprint: %s}
    - {name: stack, group: code, path: "s3://corpora/stack/*.parquet", fingerprint: %s}
    - {name: curated, group: text, path: "s3://corpora/curated/*.jsonl.zst", fingerprint: %s}
  training: {sequenceLength: 4096, precision: bf16}
  recipes:
  - name: from-scratch
    stages:
    - {name: pretrain, tokens: 200B, mixture: {codePercent: grid, code: {stack: 100}, text: {web: 100}}}
    - {name: cooldown, tokens: 40B, mixture: {codePercent: 20, code: {stack: 100}, text: {curated: 100}}}
  - name: balanced-to-text
    sizes: [470M, 2.8B]
    stages:
    - {name: init, tokens: 200B, mixture: {codePercent: 50, code: {stack: 100}, text: {web: 100}}}
    - {name: continue, tokens: 200B, mixture: {codePercent: 10, code: {stack: 100}, text: {web: 100}}}
    - {name: cooldown, tokens: 40B, mixture: {codePercent: 20, code: {stack: 100}, text: {curated: 100}}}
  evaluation: {after: [cooldown], suites: [bpb]}
"""

PLAN = """\
import sys, time
from orchestrator.spec import read_study
from orchestrator.planning import plan_study
begin = time.perf_counter()
study = read_study(sys.argv[1])
read = time.perf_counter()
plan = plan_study(study, {})
end = time.perf_counter()
print(f"{len(plan.cells):,} cells, {len(plan.tasks):,} tasks: read {read - begin:.2f} s, planned {end - read:.2f} s", end="")
"""


def measured(*command: str) -> tuple[str, float, float]:
    """Run a process and return its output, seconds and peak memory in MB."""
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True, cwd=ROOT)
    seconds = time.perf_counter() - begin
    return done.stdout, seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000


def first_line(*command: str) -> float:
    """Return the seconds until a process prints its first line."""
    begin = time.perf_counter()
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seconds = time.perf_counter() - begin
        process.stdout.read()
    return seconds


def main() -> None:
    main_of = "from orchestrator.cli import main; main()"
    example = "manifests/examples/to-code.yaml"
    first_line("-c", main_of, "plan", example)
    warm = [first_line("-c", main_of, "plan", example) for _ in range(5)]
    print(f"plan of {example}: first line after {min(warm):.2f} to {max(warm):.2f} s (5 warm runs)")
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder) / "study.yaml"
        study.write_text(STUDY % (", ".join(map(str, range(1, SEEDS + 1))), "a" * 64, "b" * 64, "c" * 64))
        for _ in range(3):
            output, seconds, memory = measured("-c", PLAN, str(study))
            print(f"{output}, whole process {seconds:.2f} s, {memory:.0f} MB")
        _, seconds, memory = measured("-c", main_of, "plan", str(study))
        print(f"scaling-study plan of it: {seconds:.2f} s, {memory:.0f} MB")


if __name__ == "__main__":
    main()
