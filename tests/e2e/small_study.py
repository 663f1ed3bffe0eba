"""A study that trains for seconds, its corpus in the store, and its Workflows."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from orchestrator.spec import Execution
from orchestrator.store import Store, open_store
from orchestrator.store.records import read_record
from orchestrator.store.tasks import create_task
from orchestrator.study.opening import OpenedStudy, freeze_plan, open_study, paths_by_fingerprint
from orchestrator.workflow import PodSettings, Unit, build_workflow, units
from tests.e2e.installation import STORE_SECRET, TRAINER_IMAGE
from tests.e2e.kubectl import Document

# enough different syllables for the requested size of the vocabulary
SYLLABLES: Final = [consonant + vowel for consonant in "bdfgklmnprst" for vowel in "aeiou"]
WORDS: Final = 2000
CODE: Final = "def return if else for in range ( ) : [ ] = + x y print self None".split()  # noqa: SIM905
FILES: Final = 200

STUDY: Final = """\
apiVersion: scaling-study.dev/v1alpha1
kind: ScalingStudy
metadata: {{name: {name}}}
spec:
  store: {store}
  grid: {{sizes: [0.01M], codePercent: [25], seeds: {seeds}}}
  data:
    tokenizer: {{train: {{vocabulary: 512, bytes: 100k, weights: {{english: 50, python: 50}}}}}}
    sources:
    - {{name: english, group: text, path: "{corpus}/text/*.txt"}}
    - {{name: python, group: code, path: "{corpus}/code/*.py"}}
    heldOut: {{oneIn: 20, documents: 4}}
  training: {{sequenceLength: 64, precision: fp32, schedule: {{shape: wsd, decay: 20%, warmup: 4K}}}}
  recipes:
  - name: plain
    stages:
    - {{name: pretrain, tokens: {tokens}, mixture: {{codePercent: grid, text: {{english: 100}}, code: {{python: 100}}}}}}
  evaluation: {{after: [pretrain], suites: [bpb]}}
  execution: {{image: {image}, storeSecret: {secret}, gpusPerPod: {{0.01M: 0}}, graceSeconds: 30}}
"""


def write_corpus(store: Store) -> None:
    """Write the same bytes every time below `corpus/`: text as one file per document and as JSON lines, and code."""
    chance = random.Random(1)
    words = ["".join(chance.choices(SYLLABLES, k=chance.randint(1, 4))) for _ in range(WORDS)]
    texts = [" ".join(chance.choices(words, k=400)) for _ in range(FILES)]
    store.objects.put("corpus/text/words.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts).encode())
    for number, text in enumerate(texts):
        store.objects.put(f"corpus/text/{number:03}.txt", text.encode())
        store.objects.put(f"corpus/code/{number:03}.py", " ".join(chance.choices(CODE, k=400)).encode())


@dataclass(frozen=True)
class SmallStudy:
    """A planned and frozen study whose tasks are in its store."""

    file: Path
    opened: OpenedStudy

    @property
    def store(self) -> Store:
        return self.opened.store

    @property
    def execution(self) -> Execution:
        return self.opened.study.spec.execution

    def settings(self, namespace: str, **changes: object) -> PodSettings:
        given: dict[str, object] = {
            "namespace": namespace,
            "study": self.opened.study.name,
            "study_uid": "",
            "store": self.opened.study.spec.store,
            "run_number": 1,
            "execution": self.execution,
            "inputs": paths_by_fingerprint(self.opened.study, self.opened.plan),
            **changes,
        }
        return PodSettings(**given)  # type: ignore[arg-type]

    def units(self) -> tuple[Unit, ...]:
        return units(self.opened.plan)

    def workflow(self, unit: Unit, namespace: str, **changes: object) -> Document:
        return build_workflow(unit, self.opened.plan, self.settings(namespace, **changes))

    def train_units(self) -> list[Unit]:
        return [unit for unit in self.units() if unit.kind == "train"]

    def results(self, store: Store | None = None) -> dict[str, Document]:
        """Return the results of all recorded tasks by digest."""
        found = {digest: read_record(store or self.store, digest) for digest in self.opened.plan.tasks}
        return {digest: dict(record.results) for digest, record in found.items() if record is not None}

    def run_here(self, folder: Path) -> dict[str, Document]:
        """Run the study locally with a separate store and return its results."""
        command = [
            sys.executable,
            "-c",
            "from orchestrator.cli import main; main()",
            "run",
            str(self.file),
            "--store",
            str(folder / "store"),
        ]
        quiet = ["--workers", "1", "--no-tracking", "--plain", "--out", str(folder / "report")]
        subprocess.run([*command, *quiet], check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        return self.results(open_store(str(folder / "store")))


def make_study(
    folder: Path, name: str, root: str, *, seeds: Sequence[int] = (1,), tokens: str = "512K", image: str = TRAINER_IMAGE
) -> SmallStudy:
    """Create a study with the shared store `root`/store and the corpus `root`/corpus."""
    file = folder / f"{name}.yaml"
    text = STUDY.format(
        name=name, store=f"{root}/store", corpus=f"{root}/corpus", seeds=list(seeds), tokens=tokens, image=image, secret=STORE_SECRET
    )
    file.write_text(text)
    opened = open_study(file)
    freeze_plan(opened)
    for planned in opened.plan.tasks.values():
        create_task(opened.store, planned.task)
    return SmallStudy(file, opened)


def open_root(root: str) -> Store:
    return open_store(root)
