"""A study with two prepared sources of synthetic text and a trajectory that trains hundreds of steps per second."""

import json
import random
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.attempt.perform import run_task

from orchestrator.contract.events import Placement
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.identity import NUMERICS, digest_of
from orchestrator.contract.record import Record
from orchestrator.contract.tasks import (
    EvaluateTask,
    FromInitialisation,
    Optimizer,
    PrepareTask,
    Reader,
    Schedule,
    Shape,
    Task,
    TokenizerTask,
    TrainTask,
    Trajectory,
)
from orchestrator.contract.vocabulary import TaskKind
from orchestrator.store import Store, addresses, checkpoints, open_store, records
from orchestrator.study.sources import fingerprint

WORDS = "of the moon and a river that ran to every sea in light or shade while nobody came".split()  # noqa: SIM905
CODE = "def return if else for in range ( ) : [ ] = + x y print self None".split()  # noqa: SIM905
DOCUMENTS = 120
WINDOW = 32
BATCH = 4
READER = Reader("text", 1 << 20)


@dataclass(frozen=True)
class SmallStudy:
    """A study in a folder. `sources`: digests of the finished prepare tasks of text and code."""

    folder: Path
    placement: Placement
    sources: tuple[str, str]
    tokenizer: str

    @property
    def store(self) -> Store:
        return open_store(str(self.folder))

    def trajectory(self, seed: int = 1) -> Trajectory:
        shape = Shape(width=16, layers=1, heads=2, feed_forward=32, vocabulary=300, tied=True, rope_theta=10000, norm_eps="1e-5")
        return Trajectory(
            start=FromInitialisation(shape, seed, "0.06"),
            shares=tuple((digest, share) for digest, share in zip(sorted(self.sources), (1, 3), strict=True)),
            already_read=(),
            data_seed=seed,
            sequence_length=WINDOW,
            batch=BATCH,
            optimizer=Optimizer("0.9", "0.99", "1e-8", "0.1", "0", "1", "1e-5"),
            schedule=Schedule("constant", 10 * WINDOW * BATCH, "0.006"),
            precision="fp32",
            numerics=NUMERICS,
        )

    def train(self, steps: int, seed: int = 1) -> TrainTask:
        return TrainTask(self.trajectory(seed), steps * WINDOW * BATCH)

    def plan(self, task: Task) -> str:
        """Write the task to the store and return its digest."""
        return records.create_task(self.store, task)

    def run(self, digest: str) -> ExitCode:
        """Run the task in this process and return its exit code."""
        return run_task(self.store, digest, self.placement, lambda _: None, lambda: False)

    def record(self, digest: str) -> Record:
        found = records.read_record(self.store, digest)
        assert found is not None
        return found

    def last_checkpoint(self, task: TrainTask) -> int:
        """Return the tokens of the highest checkpoint of the task's trajectory, 0 if it has none."""
        return max(checkpoints.list_checkpoints(self.store, work_root(task)), default=0)

    def copy(self, folder: Path) -> "SmallStudy":
        """Copy the study to `folder`, with a download cache of its own."""
        shutil.copytree(self.folder, folder / "store")
        return replace(self, folder=folder / "store", placement=replace(self.placement, cache=str(folder / "cache")))


def work_root(task: TrainTask) -> str:
    """Return the store prefix of the task's trajectory."""
    return addresses.work_root(TaskKind.TRAIN, digest_of(task.trajectory.identity()))


def make_small_study(folder: Path) -> SmallStudy:
    """Write the corpus, train the tokenizer, prepare both sources, and return the study."""
    paths = {"text": _corpus(folder / "text.jsonl", WORDS), "code": _corpus(folder / "code.jsonl", CODE)}
    fingerprints = {name: fingerprint(str(path), folder, folder / "hashes").fingerprint for name, path in paths.items()}
    inputs = {fingerprints[name]: [str(path)] for name, path in paths.items()}
    placement = Placement(study="small", cache=str(folder / "cache"), inputs=inputs)
    study = SmallStudy(folder / "store", placement, ("", ""), "")
    weighted_sources = tuple(sorted(((each, READER, 1) for each in fingerprints.values()), key=lambda entry: entry[0]))
    tokenizer = study.plan(TokenizerTask(300, 20_000, 5, weighted_sources))
    sources = [study.plan(PrepareTask(fingerprints[name], READER, tokenizer, 5, None)) for name in ("text", "code")]
    for digest in (tokenizer, *sources):
        code = study.run(digest)
        assert code == ExitCode.DONE, code
    return replace(study, sources=(sources[0], sources[1]), tokenizer=tokenizer)


def bits_per_byte(state: TrainTask, trajectory: str, source: str) -> EvaluateTask:
    return EvaluateTask(trajectory, state.tokens, "bpb", {"source": source, "documents": 10, "window": WINDOW}, NUMERICS)


def continuation(state: TrainTask, trajectory: str, source: str) -> EvaluateTask:
    items = {"source": source, "documents": 50, "context": 16, "continuation": 8, "choices": 4, "seed": 1}
    return EvaluateTask(trajectory, state.tokens, "continuation", items, NUMERICS)


def _corpus(path: Path, words: list[str]) -> Path:
    """Write documents in which only three words can follow each word, so that a model can learn to predict them."""
    draw = random.Random(path.name)
    follows = {word: draw.sample(words, 3) for word in words}
    with path.open("w") as file:
        for _ in range(DOCUMENTS):
            word, text = draw.choice(words), list[str]()
            for _ in range(draw.randint(40, 120)):
                text.append(word)
                word = draw.choice(follows[word])
            file.write(json.dumps({"text": " ".join(text)}) + "\n")
    return path
