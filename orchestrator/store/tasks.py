"""Identities of tasks in the store: created once, and checked against their digest at every read.

The command line and the controller create them before anything runs; the trainer reads the identity of its task.
"""

import hashlib

from orchestrator.contract.identity import canonical, digest_of_text
from orchestrator.contract.tasks import Task, read_identity
from orchestrator.errors import Damaged, KeyExists, KeyMissing
from orchestrator.store.addresses import task_key
from orchestrator.store.documents import parse_object
from orchestrator.store.objects import Store


def create_task(store: Store, task: Task) -> str:
    """Write the task's identity and return its digest. Idempotent; a damaged identity is overwritten."""
    text = canonical(task.identity())
    digest = digest_of_text(text)
    try:
        store.objects.create(task_key(digest), text.encode())
    except KeyExists:
        if not _holds(store, task_key(digest), text.encode()):
            store.objects.put(task_key(digest), text.encode())
    return digest


def _holds(store: Store, key: str, body: bytes) -> bool:
    try:
        return store.objects.get(key) == body
    except (KeyMissing, Damaged):
        return False


def read_task(store: Store, digest: str) -> Task:
    """Return the task with this digest. Raises KeyMissing, Damaged, or ContractError for a task of another contract version."""
    body = store.objects.get(task_key(digest))
    if hashlib.sha256(body).hexdigest() != digest:
        raise Damaged(f"{task_key(digest)} does not match its digest; `scaling-study run` or `apply` writes it again")
    return read_identity(parse_object(body, task_key(digest), "the identity of a task"))
