"""`python -m orchestrator.controller.jobset_waiter`: represents multi-node training in an Argo Workflow.

Argo runs one pod per task. For a multi-node task this program is that pod: it creates the JobSet, prints the log and the progress of the
pod with index 0, forwards stop requests, and exits with the exit code of that pod, so that Argo applies its usual retry rules. This pod
owns the JobSet, so Kubernetes deletes the training pods with it.

`workflow.jobset` sets its environment: JOBSET, the object as JSON; POD_NAME and POD_UID, the owner.
"""

import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any, Final

from orchestrator.cluster.port import Cluster, Document
from orchestrator.contract.exits import KILLED, RETRIED_WITHOUT_COUNTING, ExitCode
from orchestrator.contract.vocabulary import LABEL_JOBSET
from orchestrator.errors import AlreadyExists, ClusterError, NotFound, ScalingStudyError

LABEL_INDEX: Final = "batch.kubernetes.io/job-completion-index"
"""Label that Kubernetes sets on the pods of an indexed job."""

ROUND_SECONDS: Final = 2
"""Duration of one watch; a stop request is handled after at most this time."""
CLEARING_SECONDS: Final = 90.0
"""Time limit for the deletion of a JobSet of this name that another pod owns."""
SILENT_NODE: Final = timedelta(seconds=60)
"""A pod counts as lost this long after its grace period: its node is unreachable and cannot confirm the end."""
_PROGRESS: Final = re.compile(r"(\d+) / (\d+) \w+")
_TERMINATION_LOG: Final = Path("/dev/termination-log")
"""Kubernetes shows its content as the message of the container, and Argo as that of the task."""


class Waiter:
    """One JobSet from its creation to its end. `body`: the JobSet without an owner; `owner`: name and uid of the owning pod.

    `show`: called with each log line of the pod with index 0. `patience`: seconds after which creating the JobSet fails.
    """

    def __init__(
        self, cluster: Cluster, body: Document, owner: tuple[str, str], show: Callable[[str], None], patience: float = CLEARING_SECONDS
    ) -> None:
        name, uid = owner
        reference = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}
        self.reason = ""
        """Reason why the exit code differs from that of the pod with index 0."""
        self._cluster = cluster
        self._body = {**body, "metadata": {**body["metadata"], "ownerReferences": [reference]}}
        self._name: str = body["metadata"]["name"]
        self._uid = uid
        self._show = show
        self._patience = patience
        self._pods: dict[str, Document] = {}
        self._deleted: set[str] = set()
        self._stop_requested = threading.Event()
        self._has_stopped_pods = False
        self._reader: threading.Thread | None = None

    def stop(self) -> None:
        """Request a stop with a checkpoint. Safe in a signal handler."""
        self._stop_requested.set()

    def run(self) -> int:
        """Create the JobSet, wait for its end, and return the exit code for this process. Raises ClusterError if the API rejects it."""
        why = self._create()
        if self._stop_requested.is_set() and why:
            self.reason = "a stop was requested before the JobSet was created"
            with suppress(ClusterError):  # it may exist if the response was lost
                self._cluster.delete("jobsets", self._name)
            return ExitCode.STOPPED
        if why:
            self.reason = why
            return ExitCode.HELD
        code: int | None = None
        while code is None:
            try:
                code = self._poll()
            except ClusterError as problem:
                print(f"waiter: {problem}", file=sys.stderr, flush=True)
                time.sleep(ROUND_SECONDS)
        if self._reader is not None:
            self._reader.join(ROUND_SECONDS * 2)
        with suppress(ClusterError):  # Kubernetes deletes it with this pod
            self._cluster.delete("jobsets", self._name)
        return self._final_code(code)

    def _create(self) -> str:
        """Create the JobSet and return "", or the reason why it does not exist. Raises ClusterError if a retry cannot help."""
        end, why = time.monotonic() + self._patience, f"JobSet {self._name} was not created"
        while time.monotonic() < end and not self._stop_requested.is_set():
            try:
                if self._create_once():
                    return ""
                why = f"JobSet {self._name} still exists and belongs to another pod"
            except ClusterError as problem:
                if not problem.retryable:
                    raise
                why = str(problem)
            self._stop_requested.wait(ROUND_SECONDS)
        return why

    def _create_once(self) -> bool:
        """Return whether the JobSet exists and belongs to this pod. One that belongs to another pod is deleted."""
        try:
            self._cluster.create("jobsets", self._body)
        except NotFound as problem:
            raise ClusterError(f"the JobSet API, which multi-node training needs, is not installed in this cluster: {problem}") from problem
        except AlreadyExists:
            existing = self._cluster.get("jobsets", self._name)
            if existing is None or self._uid not in _owners(existing):
                self._cluster.delete("jobsets", self._name)
                return False
        return True

    def _poll(self) -> int | None:
        """List and watch the pods once; return the exit code of the pod with index 0 if it has ended."""
        if self._stop_requested.is_set() and not self._has_stopped_pods:
            self._stop_pods()
        mine = {LABEL_JOBSET: self._name}
        listing = self._cluster.list("pods", mine)
        existing = {pod["metadata"]["name"] for pod in listing.items}
        self._deleted |= self._pods.keys() - existing
        self._see(listing.items)
        if (code := self._code()) is not None:
            return code
        if not existing and self._cluster.get("jobsets", self._name) is None:
            return ExitCode.STOPPED if self._stop_requested.is_set() else KILLED
        for change, pod in self._cluster.watch("pods", listing.resource_version, mine, ROUND_SECONDS):
            if change == "DELETED":
                self._deleted.add(pod["metadata"]["name"])
            if change != "BOOKMARK":
                self._see([pod])
            if (code := self._code()) is not None:
                return code
        return None

    def _see(self, pods: Iterable[Document]) -> None:
        for pod in pods:
            self._pods[pod["metadata"]["name"]] = pod
            if _index(pod) == 0 and self._reader is None and _has_begun(pod):
                self._reader = threading.Thread(target=self._read, args=(pod["metadata"]["name"],), name="log", daemon=True)
                self._reader.start()

    def _stop_pods(self) -> None:
        """Stop every rank with SIGTERM and its grace period. The JobSet is deleted first, so that no pod is replaced."""
        self._cluster.delete("jobsets", self._name)
        for pod in self._cluster.list("pods", {LABEL_JOBSET: self._name}).items:
            self._cluster.delete("pods", pod["metadata"]["name"])
        self._has_stopped_pods = True

    def _code(self) -> int | None:
        """Return the exit code of the pod with index 0, None while it runs."""
        first = next((pod for pod in self._pods.values() if _index(pod) == 0), None)
        if first is None:
            return None
        code = _exit_code(first)
        if code is None and (first["metadata"]["name"] in self._deleted or _is_over(first) or _is_lost(first)):
            return KILLED
        return code

    def _final_code(self, code: int) -> int:
        """Return the exit code for Argo. If rank 0 stopped because another rank failed, that rank's code decides about a retry."""
        if code in (ExitCode.DONE, ExitCode.REFUSED):
            return code
        others: list[int] = []
        for name, pod in self._pods.items():
            if _ran_out_of_memory(pod):
                self.reason = f"pod {name}: OOMKilled; not retried"
                return ExitCode.REFUSED
            others += [other] if _index(pod) and (other := _exit_code(pod)) else []
        if ExitCode.REFUSED in others:
            return ExitCode.REFUSED
        bad = [other for other in others if other not in RETRIED_WITHOUT_COUNTING]
        return bad[0] if bad and code == ExitCode.STOPPED and not self._stop_requested.is_set() else code

    def _read(self, pod: str) -> None:
        """Show each line of a pod's log once, across lost connections."""
        seen = 0
        while True:
            known = self._pods[pod]
            was_over = pod in self._deleted or _exit_code(known) is not None
            with suppress(ClusterError):
                for line in islice(self._cluster.logs(pod, follow=True), seen, None):
                    seen += 1
                    self._show(line)
            if was_over:
                return
            time.sleep(0.5)


def show(line: str) -> None:
    """Print a log line, and write the progress it contains to ARGO_PROGRESS_FILE."""
    print(line, flush=True)
    file, found = os.environ.get("ARGO_PROGRESS_FILE"), _PROGRESS.match(line)
    if file and found:
        Path(file).write_text(f"{found[1]}/{found[2]}")


def main() -> int:
    """Run the waiter and return one of the exit codes of `contract.exits`."""
    from orchestrator.cluster.kubernetes_api import connect

    if missing := [name for name in ("POD_NAME", "POD_UID", "JOBSET") if name not in os.environ]:
        print(f"{__doc__}\nMissing in the environment: {', '.join(missing)}", file=sys.stderr)
        return ExitCode.FAILED
    owner = os.environ["POD_NAME"], os.environ["POD_UID"]
    try:
        waiter = Waiter(connect(), json.loads(os.environ["JOBSET"]), owner, show)

        def request_stop(number: int, frame: FrameType | None) -> None:
            del number, frame
            waiter.stop()

        signal.signal(signal.SIGTERM, request_stop)
        signal.signal(signal.SIGINT, request_stop)
        code, reason = waiter.run(), waiter.reason
    except ScalingStudyError as problem:
        code, reason = ExitCode.FAILED, str(problem)
    if reason:
        print(f"waiter: {reason}", file=sys.stderr, flush=True)
        with suppress(OSError):
            _TERMINATION_LOG.write_text(reason[:1024])
    return int(code)


# Fields of a pod in the API


def _index(pod: Document) -> int:
    return int(pod["metadata"]["labels"].get(LABEL_INDEX, "-1"))


def _main(pod: Document) -> dict[str, Any]:
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return next((status.get("state") or {} for status in statuses if status["name"] == "main"), {})


def _has_begun(pod: Document) -> bool:
    return "running" in _main(pod) or "terminated" in _main(pod)


def _exit_code(pod: Document) -> int | None:
    ended = _main(pod).get("terminated")
    return None if ended is None else int(ended["exitCode"])


def _is_over(pod: Document) -> bool:
    """Return whether the pod has ended, possibly before its container started, for example by eviction."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _is_lost(pod: Document) -> bool:
    deadline = pod["metadata"].get("deletionTimestamp")
    return bool(deadline) and datetime.fromisoformat(deadline.replace("Z", "+00:00")) + SILENT_NODE < datetime.now(UTC)


def _ran_out_of_memory(pod: Document) -> bool:
    return (_main(pod).get("terminated") or {}).get("reason") == "OOMKilled"


def _owners(body: Document) -> list[str]:
    return [reference["uid"] for reference in body["metadata"].get("ownerReferences") or ()]


if __name__ == "__main__":
    sys.exit(main())
