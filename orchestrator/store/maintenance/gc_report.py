"""What the last `gc` found, noted in its store: the status of every study there tells it.

`orchestrator.controller.retention` writes it, the controller reads it. A note for people:
nothing rests on it, so the newest may overwrite it.
"""

from collections.abc import Iterable
from datetime import datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.errors import KeyMissing
from orchestrator.store.addresses import RETENTION
from orchestrator.store.maintenance.gc import Removal
from orchestrator.store.objects import Store


class Look(BaseModel):
    """`count` objects of `size` bytes that nobody needs were found at `at`; `removed`: they are gone."""

    model_config = ConfigDict(frozen=True)
    at: datetime
    count: int
    size: int
    removed: bool


def note_look(store: Store, removals: Iterable[Removal], *, removed: bool) -> Look:
    """Note what `gc` has returned. Raises StoreUnavailable."""
    found = list(removals)
    look = Look(at=store.clock(), count=len(found), size=sum(removal.bytes for removal in found), removed=removed)
    store.objects.put(RETENTION, look.model_dump_json().encode())
    return look


def last_look(store: Store) -> Look | None:
    """The newest note, None where nobody has looked yet. Raises StoreUnavailable."""
    try:
        return Look.model_validate_json(store.objects.get(RETENTION))
    except (KeyMissing, ValidationError):
        return None
