"""Two small sources made of words, really prepared, and a trajectory over them that makes hundreds of steps a second."""

import json
import random
from dataclasses import dataclass, replace
from pathlib import Path

from trainer.attempt.perform import run_task

from orchestrator.contract.events import Placement
from orchestrator.contract.exits import ExitCode
from orchestrator.contract.identity import NUMERICS
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
from orchestrator.store import Store, open_store, records
from orchestrator.study.sources import fingerprint

WORDS = "of the moon and a river that ran to every sea in light or shade while nobody came".split()  # noqa: SIM905
CODE = "def return if else for in range ( ) : [ ] = + x y print self None".split()  # noqa: SIM905
DOCUMENTS = 120
WINDOW = 32
BATCH = 4
READER = Reader("text", 1 << 20)


@dataclass(frozen=True)
class SmallStudy:
    """`store` is a folder. `sources`: the prepare digests of text and code, both done."""

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
        """Its digest, once it is in the store."""
        return records.create_task(self.store, task)

    def run(self, digest: str) -> ExitCode:
        """In this process."""
        return run_task(self.store, digest, self.placement, lambda _: None, lambda: False)


def make_small_study(folder: Path) -> SmallStudy:
    """Write the corpus, train the tokenizer, prepare both sources."""
    paths = {"text": _corpus(folder / "text.jsonl", WORDS), "code": _corpus(folder / "code.jsonl", CODE)}
    prints = {name: fingerprint(str(path), folder, folder / "hashes").fingerprint for name, path in paths.items()}
    inputs = {prints[name]: [str(path)] for name, path in paths.items()}
    placement = Placement(study="small", cache=str(folder / "cache"), inputs=inputs)
    study = SmallStudy(folder / "store", placement, ("", ""), "")
    weighted = tuple(sorted(((each, READER, 1) for each in prints.values()), key=lambda entry: entry[0]))
    tokenizer = study.plan(TokenizerTask(300, 20_000, 5, weighted))
    sources = [study.plan(PrepareTask(prints[name], READER, tokenizer, 5, None)) for name in ("text", "code")]
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
    """Sentences of a small grammar: each word has a few that may follow it, so that there is something to learn."""
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
