"""`python -m orchestrator.controller.jobset_waiter`: stands in a Workflow for training over several nodes.

Argo knows one pod a task. For a task over nodes that pod is this program: it creates the JobSet that it is given, shows the log and the
progress of the pod of index 0, passes a wish to stop on, and ends with the code of that pod, so that Argo restarts or gives up by the same
rules as ever. The JobSet is owned by this pod: whatever happens to it, the training pods go with it.

`workflow.jobset` writes what is in its environment: JOBSET, the object as JSON; POD_NAME and POD_UID, who owns it.
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
from orchestrator.contract.vocabulary import ExitCode
from orchestrator.errors import AlreadyExists, ClusterError, NotThere, ScalingStudyError

LABEL_JOBSET: Final = "jobset.sigs.k8s.io/jobset-name"
LABEL_INDEX: Final = "batch.kubernetes.io/job-completion-index"
"""JobSet and Kubernetes put them on the pods."""

KILLED: Final = 137
"""For a pod that has gone without anybody having seen how it ended: run again."""
ROUND_SECONDS: Final = 2
"""How long a look lasts: a wish to stop is heard after so long."""
CLEARING_SECONDS: Final = 90.0
"""How long a JobSet of this name that another pod left behind may take to go."""
SILENT_NODE: Final = timedelta(seconds=60)
"""So long after its grace period a pod has gone with its node, which alone could say so."""
_PROGRESS: Final = re.compile(r"(\d+) / (\d+) \w+")
_LAST_WORDS: Final = Path("/dev/termination-log")
"""What is written there Kubernetes shows as the message of the container, and Argo as that of the task."""


class Waiter:
    """One JobSet from its creation to its end. `body`: without an owner; `owner`: name and uid of the pod that it goes with.

    `show`: takes the lines of the pod of index 0. `patience`: seconds until it gives up to create it.
    """

    def __init__(
        self, cluster: Cluster, body: Document, owner: tuple[str, str], show: Callable[[str], None], patience: float = CLEARING_SECONDS
    ) -> None:
        name, uid = owner
        reference = {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}
        self.reason = ""
        """Why it ends with another code than the pod of index 0, for people."""
        self._cluster = cluster
        self._body = {**body, "metadata": {**body["metadata"], "ownerReferences": [reference]}}
        self._name: str = body["metadata"]["name"]
        self._uid = uid
        self._show = show
        self._patience = patience
        self._pods: dict[str, Document] = {}
        self._gone: set[str] = set()
        self._is_asked = threading.Event()
        self._has_passed_on = False
        self._reader: threading.Thread | None = None

    def stop(self) -> None:
        """Ask for an end with a checkpoint; for a signal handler."""
        self._is_asked.set()

    def run(self) -> int:
        """Create it and wait for its end; the exit code that this process should have. Raises ClusterError when it cannot be created."""
        why = self._create()
        if self._is_asked.is_set() and why:
            self.reason = "asked to stop before it had begun"
            with suppress(ClusterError):  # it may be there all the same, when an answer was lost
                self._cluster.delete("jobsets", self._name)
            return ExitCode.STOPPED
        if why:
            self.reason = why
            return ExitCode.HELD
        code: int | None = None
        while code is None:
            try:
                code = self._look()
            except ClusterError as problem:
                print(f"waiter: {problem}", file=sys.stderr, flush=True)
                time.sleep(ROUND_SECONDS)
        if self._reader is not None:
            self._reader.join(ROUND_SECONDS * 2)
        with suppress(ClusterError):  # then it goes with this pod
            self._cluster.delete("jobsets", self._name)
        return self._spoken(code)

    def _create(self) -> str:
        """Why it is not there, or "" when it is. Raises ClusterError for what no waiting mends."""
        end, why = time.monotonic() + self._patience, f"no JobSet {self._name} was made"
        while time.monotonic() < end and not self._is_asked.is_set():
            try:
                if self._is_made():
                    return ""
                why = f"JobSet {self._name} of another pod is still there"
            except ClusterError as problem:
                if not problem.retryable:
                    raise
                why = str(problem)
            self._is_asked.wait(ROUND_SECONDS)
        return why

    def _is_made(self) -> bool:
        """Whether it is there and ours: it may be from before an answer was lost, or left by a pod of the same name, and then goes."""
        try:
            self._cluster.create("jobsets", self._body)
        except NotThere as problem:
            raise ClusterError(f"this cluster has no JobSet, which training over several nodes needs: {problem}") from problem
        except AlreadyExists:
            standing = self._cluster.get("jobsets", self._name)
            if standing is None or self._uid not in _owners(standing):
                self._cluster.delete("jobsets", self._name)
                return False
        return True

    def _look(self) -> int | None:
        """One round; the code of the pod of index 0 if it has ended."""
        if self._is_asked.is_set() and not self._has_passed_on:
            self._pass_on()
        mine = {LABEL_JOBSET: self._name}
        listing = self._cluster.list("pods", mine)
        there = {pod["metadata"]["name"] for pod in listing.items}
        self._gone |= self._pods.keys() - there
        self._see(listing.items)
        if (code := self._code()) is not None:
            return code
        if not there and self._cluster.get("jobsets", self._name) is None:
            return ExitCode.STOPPED if self._is_asked.is_set() else KILLED
        for change, pod in self._cluster.watch("pods", listing.resource_version, mine, ROUND_SECONDS):
            if change == "DELETED":
                self._gone.add(pod["metadata"]["name"])
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

    def _pass_on(self) -> None:
        """SIGTERM to every rank, with the grace period of its pod. Without its JobSet none comes after them."""
        self._cluster.delete("jobsets", self._name)
        for pod in self._cluster.list("pods", {LABEL_JOBSET: self._name}).items:
            self._cluster.delete("pods", pod["metadata"]["name"])
        self._has_passed_on = True

    def _code(self) -> int | None:
        """How the pod of index 0 has ended, None while it has not."""
        first = next((pod for pod in self._pods.values() if _index(pod) == 0), None)
        if first is None:
            return None
        code = _exit_code(first)
        if code is None and (first["metadata"]["name"] in self._gone or _is_over(first) or _is_lost(first)):
            return KILLED
        return code

    def _spoken(self, code: int) -> int:
        """Rank 0 calls it a stop when another rank has gone; why that one went says whether a retry may help."""
        if code in (ExitCode.DONE, ExitCode.REFUSED):
            return code
        others: list[int] = []
        for name, pod in self._pods.items():
            if _ran_out_of_memory(pod):
                self.reason = f"pod {name}: OOMKilled: no retry can mend it"
                return ExitCode.REFUSED
            others += [other] if _index(pod) and (other := _exit_code(pod)) else []
        if ExitCode.REFUSED in others:
            return ExitCode.REFUSED
        bad = [other for other in others if other not in (ExitCode.STOPPED, ExitCode.HELD, KILLED, 143)]
        return bad[0] if bad and code == ExitCode.STOPPED and not self._is_asked.is_set() else code

    def _read(self, pod: str) -> None:
        """The lines of a pod's log, each once, however often the connection breaks off."""
        seen = 0
        while True:
            known = self._pods[pod]
            was_over = pod in self._gone or _exit_code(known) is not None
            with suppress(ClusterError):
                for line in islice(self._cluster.logs(pod, follow=True), seen, None):
                    seen += 1
                    self._show(line)
            if was_over:
                return
            time.sleep(0.5)


def show(line: str) -> None:
    """Print it, and tell Argo how far the task is, by the file that it names."""
    print(line, flush=True)
    file, found = os.environ.get("ARGO_PROGRESS_FILE"), _PROGRESS.match(line)
    if file and found:
        Path(file).write_text(f"{found[1]}/{found[2]}")


def main() -> int:
    """Returns the exit code of the contract."""
    from orchestrator.cluster.kubernetes_api import connect

    owner = os.environ["POD_NAME"], os.environ["POD_UID"]
    try:
        waiter = Waiter(connect(), json.loads(os.environ["JOBSET"]), owner, show)

        def pass_on(number: int, frame: FrameType | None) -> None:
            del number, frame
            waiter.stop()

        signal.signal(signal.SIGTERM, pass_on)
        signal.signal(signal.SIGINT, pass_on)
        code, reason = waiter.run(), waiter.reason
    except ScalingStudyError as problem:
        code, reason = ExitCode.FAILED, str(problem)
    if reason:
        print(f"waiter: {reason}", file=sys.stderr, flush=True)
        with suppress(OSError):
            _LAST_WORDS.write_text(reason[:1024])
    return int(code)


# A pod as the API shows it


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
    """One that was evicted, say, before its container began."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def _is_lost(pod: Document) -> bool:
    gone_by = pod["metadata"].get("deletionTimestamp")
    return bool(gone_by) and datetime.fromisoformat(gone_by.replace("Z", "+00:00")) + SILENT_NODE < datetime.now(UTC)


def _ran_out_of_memory(pod: Document) -> bool:
    return (_main(pod).get("terminated") or {}).get("reason") == "OOMKilled"


def _owners(body: Document) -> list[str]:
    return [reference["uid"] for reference in body["metadata"].get("ownerReferences") or ()]


if __name__ == "__main__":
    sys.exit(main())
