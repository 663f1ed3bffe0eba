"""The interface that every kind of task implements.

The planner, the store, the trainer and the controller call these methods and do not branch on the kind, so that a new kind needs one new
module in this package and no branch elsewhere.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeAlias

from orchestrator.contract.vocabulary import TaskKind

Document: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Need:
    """An input made by another task: a prepared result (`tokens` is None), or the state of a trajectory after `tokens`.

    `digest`: of the task for a prepared result, of the trajectory for a state.
    """

    digest: str
    tokens: int | None = None

    @property
    def kind(self) -> TaskKind:
        """The kind of task that makes this input."""
        return TaskKind.PREPARE if self.tokens is None else TaskKind.TRAIN

    def __str__(self) -> str:
        return f"task {self.digest[:12]}" if self.tokens is None else f"trajectory {self.digest[:12]} at {self.tokens} tokens"


class TaskIdentity(ABC):
    """The identity of a task: everything that determines its result, and nothing else.

    `kind` and `output` are the keys under which `read` is registered; `output` is None unless a kind has several.
    """

    __slots__ = ()
    kind: ClassVar[TaskKind]
    output: ClassVar[str | None] = None

    @abstractmethod
    def identity(self) -> Document:
        """Return the content of `task.json`."""

    @classmethod
    @abstractmethod
    def read(cls, document: Document) -> Self:
        """Return the task with this identity. Raises KeyError, TypeError or ValueError when it is malformed."""

    @abstractmethod
    def needs(self) -> Iterator[Need]:
        """Yield every input that other tasks make."""

    def result(self) -> Need | None:
        """Return the state of the trajectory that this task makes, None if it makes no state."""
        return None

    def work_digest(self, digest: str) -> str:
        """Return the digest that names the folder of leases and attempts. Tasks with the same work digest share the folder."""
        return digest

    def required_numerics(self) -> int | None:
        """Return the NUMERICS that the trainer must have, None when the result does not depend on it."""
        return None

    def fingerprints(self) -> tuple[str, ...]:
        """Return the fingerprints of the files that this task reads directly."""
        return ()
