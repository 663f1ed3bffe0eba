"""Status of a study: the status before there is a plan, errors of the controller, and the write to the API.

`study_reconciler` calls it. The status of a planned study is computed by `orchestrator.reconcile` and completed here.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

from orchestrator.cluster.port import Cluster
from orchestrator.controller.planning import Unplanned
from orchestrator.errors import Conflict, NotFound
from orchestrator.reconcile import StudyFacts
from orchestrator.reconcile.status import VALID_MESSAGE, condition_of
from orchestrator.store.maintenance import GcReport

Document: TypeAlias = dict[str, Any]

MAX_MESSAGE_LENGTH: Final = 1024


class StatusWriter:
    """Writes the statuses of a namespace's studies."""

    def __init__(self, cluster: Cluster, clock: Callable[[], datetime]) -> None:
        self._cluster = cluster
        self._clock = clock

    def report_failure(self, body: Document, problem: Exception) -> None:
        """Set the Degraded condition after an error that ended a reconcile. Raises ClusterError."""
        before = body.get("status") or {}
        conditions = {condition["type"]: condition for condition in before.get("conditions") or ()}
        known, reason = conditions.get("Degraded"), type(problem).__name__
        if known is not None and (known["status"], known["reason"]) == ("True", reason):
            return
        stamp, generation = _timestamp(self._clock()), body["metadata"].get("generation", 1)
        conditions["Degraded"] = condition_of("Degraded", True, reason, str(problem)[:MAX_MESSAGE_LENGTH], generation, known, stamp)
        self.write(body, {"phase": "Planning", **before, "conditions": list(conditions.values())})

    def write(self, body: Document, status: Document) -> None:
        """Write the status if it differs from that in `body`, and update `body`. Raises ClusterError.

        Nothing is written if the study was deleted or its spec edited meanwhile: it is then reconciled again.
        """
        metadata = body["metadata"]
        if status == body.get("status"):
            return
        try:
            written = self._cluster.patch_status(metadata["name"], status, metadata["resourceVersion"])
        except NotFound:
            return
        except Conflict:
            newest = self._cluster.get("scalingstudies", metadata["name"])
            if newest is None or newest["metadata"].get("generation") != metadata.get("generation"):
                return
            written = self._cluster.patch_status(metadata["name"], status, newest["metadata"]["resourceVersion"])
        body["status"], metadata["resourceVersion"] = status, written["metadata"]["resourceVersion"]


def unplanned_status(body: Document, why: Unplanned, now: datetime, *, is_stopping: bool = False) -> Document:
    """Return the status of a study without a plan. Entries of its previous plan, before an edit, are kept.

    `is_stopping`: Workflows of the previous plan are still running and were requested to stop.
    """
    before = body.get("status") or {}
    generation = body["metadata"].get("generation", 1)
    conditions = {condition["type"]: condition for condition in before.get("conditions") or ()}
    stamp = _timestamp(now)
    if why.condition == "Planned":
        conditions["Accepted"] = condition_of("Accepted", True, "Valid", VALID_MESSAGE, generation, conditions.get("Accepted"), stamp)
    conditions[why.condition] = condition_of(
        why.condition, False, why.reason, why.message, generation, conditions.get(why.condition), stamp
    )
    if why.phase == "Refused":
        text = "its Workflows are being stopped after a checkpoint; they resume" if is_stopping else "no Workflow runs; the study starts"
        conditions["Progressing"] = condition_of(
            "Progressing", is_stopping, "Refused", f"{text} once the study is accepted", generation, conditions.get("Progressing"), stamp
        )
    return {**before, "observedGeneration": generation, "phase": why.phase, "conditions": list(conditions.values())}


def with_rejection(status: Document, rejections: Sequence[str], facts: StudyFacts, now: datetime) -> Document:
    """Return the status with the first rejection of a Workflow as Degraded; no other object shows it, since the Workflow does not exist."""
    if not rejections:
        return status
    before = next((entry for entry in facts.status.get("conditions") or () if entry["type"] == "Degraded"), None)
    message = rejections[0][:MAX_MESSAGE_LENGTH]
    degraded = condition_of("Degraded", True, "SubmitRefused", message, facts.generation, before, _timestamp(now))
    return {**status, "conditions": [degraded if entry["type"] == "Degraded" else entry for entry in status["conditions"]]}


def retention_status(report: GcReport | None) -> Document:
    """Return the `retention` entry of the status, from the last garbage collection of the store; empty without one."""
    if report is None:
        return {}
    return {"retention": {"lookedAt": _timestamp(report.at), "objects": report.count, "bytes": report.size, "removed": report.removed}}


def _timestamp(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
