"""What the tests see of the cluster: kubectl in one namespace, and waiting."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

Document = dict[str, Any]
T = TypeVar("T")

# A pod starts within seconds; on two cores that others use as well it may take a minute
PATIENCE = 240
# The longest that a trial keeps the API server away, and what kubectl says meanwhile when it never reached it
AWAY = 60
UNREACHABLE = ("Unable to connect to the server", "was refused")


class Failed(AssertionError):
    """kubectl refused; its words are the message."""


@dataclass(frozen=True)
class Kubectl:
    """kubectl, speaking of one namespace."""

    namespace: str

    def run(self, *arguments: str, given: str | None = None) -> str:
        """What kubectl prints. An API server that cannot be reached, because of a trial beside this one, is asked again."""
        command = ["kubectl", "--namespace", self.namespace, *arguments]
        end = time.monotonic() + AWAY
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
        how = ["--validate=strict", *(["--dry-run=server"] if dry_run else [])]
        self.run("create", *how, "-f", "-", given=_stream(bodies))

    def apply(self, *bodies: Document, dry_run: bool = False) -> None:
        how = ["--server-side", "--force-conflicts", *(["--dry-run=server"] if dry_run else [])]
        self.run("apply", *how, "-f", "-", given=_stream(bodies))

    def workflow(self, name: str) -> Document:
        return self.json("get", "workflow", name)

    def pods_of(self, workflow: str) -> list[Document]:
        """In the order in which they were made."""
        items: list[Document] = self.json("get", "pods", "-l", f"workflows.argoproj.io/workflow={workflow}")["items"]
        return sorted(items, key=lambda pod: pod["metadata"]["creationTimestamp"])

    def finished(self, workflow: str, seconds: float = PATIENCE) -> Document:
        """The Workflow when it is over."""
        return eventually(lambda: _over(self.workflow(workflow)), f"{workflow} is over", seconds)


def _stream(bodies: Iterable[Document]) -> str:
    return "\n---\n".join(json.dumps(body) for body in bodies)


def _over(workflow: Document) -> Document | None:
    return workflow if workflow.get("status", {}).get("phase") in ("Succeeded", "Failed", "Error") else None


def eventually(look: Callable[[], T | None], what: str, seconds: float = PATIENCE) -> T:
    """The first answer that is not None or False. Fails when there is none for so long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(0.5)
    raise AssertionError(f"not within {seconds} s: {what}")


def attempts(workflow: Document) -> list[Document]:
    """The pods that Argo started for a Workflow, as it tells of them, in order."""
    nodes: Mapping[str, Document] = workflow.get("status", {}).get("nodes") or {}
    return sorted((node for node in nodes.values() if node["type"] == "Pod"), key=lambda node: node["startedAt"] or "")


def exit_code(attempt: Document) -> str:
    return str((attempt.get("outputs") or {}).get("exitCode", ""))


def golden_is_written() -> bool:
    return os.environ.get("GOLDEN") == "write"
