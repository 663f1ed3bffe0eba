"""A small study file with two sources, and a process that runs the command line."""

import os
import subprocess
import sys

STUDY = """\
apiVersion: scaling-study.dev/v1alpha1
kind: ScalingStudy
metadata: {name: kleine-studie}
spec:
  store: store
  grid: {sizes: ["0.03M", "0.09M"], codePercent: [0, 50], seeds: [1]}
  data:
    tokenizer: {train: {vocabulary: 1024, bytes: 1M, weights: {text: 50, code: 50}}}
    sources:
    - {name: text, group: text, path: text, tokens: 60K}
    - {name: code, group: code, path: code}
    heldOut: {oneIn: 50, documents: 20}
  training: {sequenceLength: 128, precision: fp32, schedule: {warmup: 8K}}
  recipes:
  - name: scratch
    stages:
    - {name: pretrain, tokens: 100K, mixture: {codePercent: grid, code: {code: 100}, text: {text: 100}}}
    - {name: cooldown, tokens: 25K, mixture: {codePercent: 20, code: {code: 100}, text: {text: 100}}}
  evaluation: {after: [cooldown], suites: [bpb]}
"""


def command(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process, with `environment` added to its variables."""
    line = [sys.executable, "-c", "from orchestrator.cli import main; main()", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment})
