"""Evaluate tasks: score the state of a trajectory on one suite."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from orchestrator.contract.kinds.base import Document, Need, TaskIdentity
from orchestrator.contract.vocabulary import TaskKind


@dataclass(frozen=True, slots=True)
class EvaluateTask(TaskIdentity):
    """Score the state (trajectory, tokens) on one suite. `items` describes the questions, as the suite defines them."""

    kind: ClassVar = TaskKind.EVALUATE

    trajectory: str
    tokens: int
    suite: str
    items: Mapping[str, Any]
    numerics: int

    def identity(self) -> Document:
        return {
            "kind": "evaluate",
            "state": {"trajectory": self.trajectory, "tokens": self.tokens},
            "suite": self.suite,
            "items": dict(self.items),
            "numerics": self.numerics,
        }

    @classmethod
    def read(cls, document: Document) -> Self:
        state = document["state"]
        return cls(state["trajectory"], state["tokens"], document["suite"], document["items"], document["numerics"])

    def needs(self) -> Iterator[Need]:
        yield Need(self.trajectory, self.tokens)
        if "source" in self.items:
            yield Need(self.items["source"])

    def required_numerics(self) -> int:
        return self.numerics


def evaluate_text(items: str, numerics: int, trajectory: str, tokens: int, suite: str) -> str:
    """Return the canonical JSON of an evaluate task. `items`: canonical JSON of its items."""
    state = f'{{"tokens":{tokens},"trajectory":"{trajectory}"}}'
    return f'{{"items":{items},"kind":"evaluate","numerics":{numerics},"state":{state},"suite":"{suite}"}}'
