"""Apply the actions of a decision to the cluster and the store.

`study_reconciler` calls it. Every call may be repeated, and the controller may be killed between any two.
"""

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from orchestrator.cluster.port import Cluster
from orchestrator.contract.plan import Plan
from orchestrator.controller.lease_cache import LeaseCache
from orchestrator.controller.snapshot import Snapshot
from orchestrator.errors import AlreadyExists, Refused
from orchestrator.reconcile import Action, Delete, ForceDelete, RecordFailure, Restart, Stop, Submit
from orchestrator.reconcile.observed import parse_workflow
from orchestrator.store.addresses import work_root
from orchestrator.store.records import create_task
from orchestrator.workflow import PodSettings, build_workflow, workflow_name

LOG: Final = logging.getLogger(__name__)

_THREADS: Final = 16


class Applier:
    """Applies the actions of one study. `rejections`: messages of the API for rejected Workflows."""

    def __init__(self, cluster: Cluster, cache: LeaseCache, snapshot: Snapshot, plan: Plan, settings: PodSettings) -> None:
        self.rejections: list[str] = []
        self._cluster = cluster
        self._cache = cache
        self._snapshot = snapshot
        self._plan = plan
        self._settings = settings

    def apply(self, actions: Iterable[Action]) -> None:
        """Apply the actions in order. Raises ClusterUnavailable, StoreError; actions not applied then are decided again."""
        for action in actions:
            if isinstance(action, Submit):
                self._submit(action)
            elif isinstance(action, Stop):
                LOG.info("study %s: stopping Workflow %s: %s", self._settings.study, action.workflow, action.reason)
                self._cluster.stop_workflow(action.workflow)
            elif isinstance(action, Delete):
                self._delete(action.workflow)
            elif isinstance(action, Restart):
                LOG.info("study %s: restarting pod %s: %s", self._settings.study, action.pod, action.reason)
                self._cluster.delete("pods", action.pod)
            elif isinstance(action, ForceDelete):
                LOG.info("study %s: force-deleting pod %s, because its node is not ready", self._settings.study, action.pod)
                self._cluster.delete("pods", action.pod, force=True)
            elif isinstance(action, RecordFailure):
                task = self._plan.tasks[action.digest]
                LOG.info("study %s: %s failed and is not retried: %s", self._settings.study, task.label, action.reason)
                self._cache.record_failure(work_root(task.kind, task.work), action.attempt, action.reason)

    def _submit(self, action: Submit) -> None:
        if self.rejections:
            # the quota or admission rule that rejected one Workflow would reject the next
            return
        self._create_tasks(action.unit.tasks)
        body = build_workflow(action.unit, self._plan, self._settings)
        name = workflow_name(action.unit, action.run_number, self._settings.store)
        try:
            created = self._cluster.create("workflows", body)
        except AlreadyExists:
            self._adopt_existing(name)
        except Refused as problem:
            self.rejections.append(str(problem))
        else:
            count = len(action.unit.tasks)
            LOG.info("study %s: submitted Workflow %s with %d tasks: %s", self._settings.study, name, count, action.unit.label)
            self._snapshot.add(parse_workflow(created))

    def _create_tasks(self, digests: Sequence[str]) -> None:
        missing = [digest for digest in digests if digest not in self._cache.created]
        if missing:
            with ThreadPoolExecutor(min(_THREADS, len(missing))) as threads:
                list(threads.map(lambda digest: create_task(self._cache.store, self._plan.tasks[digest].task), missing))
            self._cache.created.update(missing)

    def _adopt_existing(self, name: str) -> None:
        """Add a Workflow of the same tasks and run number to the snapshot; delete it if it has ended.

        It was submitted by an earlier process of this controller or for another study.
        """
        body = self._cluster.get("workflows", name)
        if body is None:
            return
        # tasks that completed after this round read the store are left to the next round
        seen = replace(parse_workflow(body), succeeded=frozenset())
        self._snapshot.add(seen)
        if seen.is_over and not seen.is_deleted:
            self._delete(name)

    def _delete(self, workflow: str) -> None:
        """Delete a Workflow, also from the snapshot, so that no later study of this round waits for it."""
        self._cluster.delete("workflows", workflow)
        self._snapshot.remove(workflow)
