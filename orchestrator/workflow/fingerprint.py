"""A Workflow that computes what a study's files are, where the study does not declare it: the controller cannot reach them, a pod can."""

from collections.abc import Mapping
from typing import Any, Final

from orchestrator.contract.vocabulary import TaskKind
from orchestrator.workflow.build import BACKOFF, PodSettings, container_of, labels_of, workflow_of

Document = dict[str, Any]

# A source that is not there yet may come: asked again with the backoff's cap of two minutes, for two days
TRIES: Final = 1500


def fingerprint_workflow(name: str, key: str, sources: Mapping[str, str], tokenizer: str, image: str, settings: PodSettings) -> Document:
    """`key`: where in the store the pod leaves what it found. `sources`: name -> path; `tokenizer`: a path, "" for none."""
    arguments = [
        "fingerprint",
        f"--store={settings.store}",
        f"--key={key}",
        *(f"--source={source}={path}" for source, path in sources.items()),
        *([f"--tokenizer={tokenizer}"] if tokenizer else []),
    ]
    template: Document = {
        "name": "fingerprint",
        "retryStrategy": {"limit": str(TRIES), "retryPolicy": "Always", "backoff": dict(BACKOFF)},
        "container": container_of(image, ["python", "-m", "orchestrator.cli"], arguments, settings),
    }
    labels = labels_of(settings, TaskKind.PREPARE)
    return workflow_of(name, labels, {"scaling-study.dev/what": "fingerprints"}, "fingerprint", [template], settings)
