"""Render the Workflow that fingerprints a study's input files, for files that only pods, not the controller, can read."""

from collections.abc import Mapping
from typing import Any, Final

from orchestrator.contract.vocabulary import TaskKind
from orchestrator.workflow.build import BACKOFF, PodSettings, container_of, labels_of, workflow_of

Document = dict[str, Any]

# Two days at the maximum backoff of two minutes: a missing source may still be uploaded
MAX_ATTEMPTS: Final = 1500


def fingerprint_workflow(name: str, key: str, sources: Mapping[str, str], tokenizer: str, image: str, settings: PodSettings) -> Document:
    """Render the Workflow. `key`: the store key of the result. `sources`: name -> path. `tokenizer`: a path, "" for none."""
    arguments = [
        "fingerprint",
        f"--store={settings.store}",
        f"--key={key}",
        *(f"--source={source}={path}" for source, path in sources.items()),
        *([f"--tokenizer={tokenizer}"] if tokenizer else []),
    ]
    template: Document = {
        "name": "fingerprint",
        "retryStrategy": {"limit": str(MAX_ATTEMPTS), "retryPolicy": "Always", "backoff": dict(BACKOFF)},
        "container": container_of(image, ["python", "-m", "orchestrator.cli"], arguments, settings),
    }
    labels = labels_of(settings, TaskKind.PREPARE)
    return workflow_of(name, labels, {"scaling-study.dev/what": "fingerprints"}, "fingerprint", [template], settings)
