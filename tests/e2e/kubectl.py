"""kubectl in one namespace, and waiting for conditions."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Document = dict[str, Any]
T = TypeVar("T")

# Seconds; a pod starts within seconds, or within a minute if both cores are busy
PATIENCE = 240
# Longest outage of the API server in a trial, in seconds, and kubectl's messages if it could not connect
OUTAGE_SECONDS = 60
UNREACHABLE = ("Unable to connect to the server", "was refused")


class Failed(AssertionError):
    """kubectl failed; the message is its standard error."""


@dataclass(frozen=True)
class Kubectl:
    """kubectl in one namespace."""

    namespace: str

    def run(self, *arguments: str, given: str | None = None) -> str:
        """Return the output of kubectl. Retries while the API server is unreachable because of another trial."""
        command = ["kubectl", "--namespace", self.namespace, *arguments]
        end = time.monotonic() + OUTAGE_SECONDS
        while True:
            done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=300)
            if done.returncode == 0:
                return done.stdout
            if time.monotonic() > end or not any(word in done.stderr for word in UNREACHABLE):
                raise Failed(f"{' '.join(arguments[:4])}: {done.stderr.strip()}")
            time.sleep(1)

    def json(self, *arguments: str) -> Document:
        found: Document = json.loads(self.run(*arguments, "-o", "json"))
        return found

    def create(self, *bodies: Document, dry_run: bool = False) -> None:
        flags = ["--validate=strict", *(["--dry-run=server"] if dry_run else [])]
        self.run("create", *flags, "-f", "-", given=_stream(bodies))

    def apply(self, *bodies: Document, dry_run: bool = False) -> None:
        flags = ["--server-side", "--force-conflicts", *(["--dry-run=server"] if dry_run else [])]
        self.run("apply", *flags, "-f", "-", given=_stream(bodies))

    def workflow(self, name: str) -> Document:
        return self.json("get", "workflow", name)

    def pods_of(self, workflow: str) -> list[Document]:
        """Return the pods of a Workflow in order of creation."""
        items: list[Document] = self.json("get", "pods", "-l", f"workflows.argoproj.io/workflow={workflow}")["items"]
        return sorted(items, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def finished(self, workflow: str, seconds: float = PATIENCE) -> Document:
        """Wait until a Workflow has finished, and return it."""
        return eventually(lambda: _if_finished(self.workflow(workflow)), f"{workflow} has finished", seconds)


def _stream(bodies: Iterable[Document]) -> str:
    return "\n---\n".join(json.dumps(body) for body in bodies)


def _if_finished(workflow: Document) -> Document | None:
    return workflow if workflow.get("status", {}).get("phase") in ("Succeeded", "Failed", "Error") else None


def eventually(look: Callable[[], T | None], what: str, seconds: float = PATIENCE) -> T:
    """Return the first truthy result of `look`. Fails after `seconds`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.5)
    raise AssertionError(f"timed out after {seconds} s: {what}")


def attempts(workflow: Document) -> list[Document]:
    """Return the pod nodes of a Workflow in order of start."""
    nodes: Mapping[str, Document] = workflow.get("status", {}).get("nodes") or {}
    return sorted((node for node in nodes.values() if node["type"] == "Pod"), key=lambda node: node["startedAt"] or "")


def exit_code(attempt: Document) -> str:
    return str((attempt.get("outputs") or {}).get("exitCode", ""))


def golden_is_written() -> bool:
    return os.environ.get("GOLDEN") == "write"
