"""Workflows that read the files of a study and store their fingerprints, for studies whose file declares none.

`study_reconciler` calls it while a study has no plan, and removes outdated Workflows once it has one.
"""

import logging
from typing import Final

from orchestrator.cluster.port import Cluster
from orchestrator.controller.planning import Unplanned
from orchestrator.controller.snapshot import Snapshot
from orchestrator.errors import AlreadyExists
from orchestrator.reconcile.observed import parse_workflow
from orchestrator.workflow import PodSettings, fingerprint_workflow

LOG: Final = logging.getLogger(__name__)

# Followed by the first characters of the key under which the fingerprints are stored
PREFIX: Final = "ss-files-"


class FileFingerprints:
    """Submits and deletes the Workflows that fingerprint files. `image`: image of the pods, "" for the study's own."""

    def __init__(self, cluster: Cluster, image: str) -> None:
        self._cluster = cluster
        self._image = image

    def submit(self, why: Unplanned, settings: PodSettings, snapshot: Snapshot) -> None:
        """Submit the Workflow of an unplanned study. One that has ended is deleted first and submitted again at the next reconcile."""
        assert why.study is not None
        assert why.files is not None
        name = fingerprint_workflow_name(why)
        existing = snapshot.workflows.get(name)
        if existing is not None and not existing.is_over:
            return
        if existing is not None:
            self._cluster.delete("workflows", name)
            snapshot.remove(name)
            return
        image = self._image or why.study.spec.execution.image or ""
        workflow = fingerprint_workflow(name, why.key, why.files.sources, why.files.tokenizer, image, settings)
        try:
            snapshot.add(parse_workflow(self._cluster.create("workflows", workflow)))
        except AlreadyExists:
            LOG.info("study %s: Workflow %s already exists", why.study.name, name)

    def delete_outdated(self, study: str, current: str, snapshot: Snapshot) -> None:
        """Delete the running Workflows of a study except `current`. Otherwise Argo would retry them for days after an edit."""
        for workflow in snapshot.workflows_of_study(study):
            if workflow.name.startswith(PREFIX) and workflow.name != current and not workflow.is_over:
                self._cluster.delete("workflows", workflow.name)
                snapshot.remove(workflow.name)


def fingerprint_workflow_name(why: Unplanned) -> str:
    """Return the name of the Workflow that fingerprints the files, "" if none is needed."""
    return f"{PREFIX}{why.key.rpartition('/')[2][:20]}" if why.files is not None else ""
