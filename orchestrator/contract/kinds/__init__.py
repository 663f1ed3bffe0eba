"""The kinds of tasks, one module per kind, and their registry.

To add a kind: a module here with its identity, a member of `TaskKind`, an entry in `KINDS`, its class in `contract.tasks`. A test lists
every consumer that has to know the new kind.
"""

from dataclasses import dataclass
from typing import Final

from orchestrator.contract.vocabulary import TaskKind


@dataclass(frozen=True, slots=True)
class Kind:
    """Properties that all tasks of a kind share.

    `root`: folder of the store that holds leases and attempts. `has_model`: the task loads a model, so its pod requests a GPU if the
    study's pods have GPUs. `colour`: of its tasks in a drawn plan (Okabe and Ito 2008).
    """

    root: str
    has_model: bool
    colour: str


KINDS: Final[dict[TaskKind, Kind]] = {
    TaskKind.PREPARE: Kind(root="tasks", has_model=False, colour="#999999"),
    TaskKind.TRAIN: Kind(root="trajectories", has_model=True, colour="#0072B2"),
    TaskKind.EVALUATE: Kind(root="tasks", has_model=True, colour="#E69F00"),
}
