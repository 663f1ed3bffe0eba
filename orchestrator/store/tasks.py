"""Identities of tasks in the store: created once, checked against their digest by every reader.

Command line and controller create them before anything runs; the trainer reads what it is to do, and nothing else.
"""

import hashlib
import json

from orchestrator.contract.identity import canonical, digest_of_text
from orchestrator.contract.tasks import Task, read_identity
from orchestrator.errors import AlreadyThere, Damaged
from orchestrator.store.addresses import task_key
from orchestrator.store.objects import Store


def create_task(store: Store, task: Task) -> str:
    """Put the task's identity there; its digest. Idempotent; a damaged identity is written again, since only one content is right."""
    text = canonical(task.identity())
    digest = digest_of_text(text)
    try:
        store.objects.create(task_key(digest), text.encode())
    except AlreadyThere:
        if store.objects.get(task_key(digest)) != text.encode():
            store.objects.put(task_key(digest), text.encode())
    return digest


def read_task(store: Store, digest: str) -> Task:
    """What is to be done. Raises KeyMissing, Damaged, and ContractError for a task of another version of the contract."""
    body = store.objects.get(task_key(digest))
    if hashlib.sha256(body).hexdigest() != digest:
        raise Damaged(f"{task_key(digest)} does not have the digest it is named after; `scaling-study run` or `apply` writes it again")
    return read_identity(json.loads(body))
