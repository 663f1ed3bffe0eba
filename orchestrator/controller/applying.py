"""Actions of a decision -> calls of the cluster and the store. Each may be made twice, and a controller may die between any two."""

import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from orchestrator.cluster.port import Cluster
from orchestrator.contract.plan import Plan
from orchestrator.controller.lease_cache import Ledger
from orchestrator.controller.snapshot import Snapshot
from orchestrator.errors import AlreadyExists, Refused
from orchestrator.reconcile import Action, Delete, ForceDelete, GiveUp, Restart, Stop, Submit
from orchestrator.reconcile.observe import workflow_seen
from orchestrator.store.addresses import work_root
from orchestrator.store.records import create_task
from orchestrator.workflow import PodSettings, build_workflow, workflow_name

LOG: Final = logging.getLogger(__name__)

_THREADS: Final = 16


class Applier:
    """Applies the actions of one study. `refused` holds what the API would not have, in its own words."""

    def __init__(self, cluster: Cluster, ledger: Ledger, snapshot: Snapshot, plan: Plan, settings: PodSettings) -> None:
        self.refused: list[str] = []
        self._cluster = cluster
        self._ledger = ledger
        self._snapshot = snapshot
        self._plan = plan
        self._settings = settings

    def apply(self, actions: Iterable[Action]) -> None:
        """Raises ClusterUnavailable, StoreError; whatever has not happened then is decided anew."""
        for action in actions:
            if isinstance(action, Submit):
                self._submit(action)
            elif isinstance(action, Stop):
                LOG.info("study %s: Workflow %s is stopped: %s", self._settings.study, action.workflow, action.reason)
                self._cluster.stop_workflow(action.workflow)
            elif isinstance(action, Delete):
                self._delete(action.workflow)
            elif isinstance(action, Restart):
                LOG.info("study %s: pod %s is started again: %s", self._settings.study, action.pod, action.reason)
                self._cluster.delete("pods", action.pod)
            elif isinstance(action, ForceDelete):
                LOG.info("study %s: pod %s is deleted without its node", self._settings.study, action.pod)
                self._cluster.delete("pods", action.pod, force=True)
            elif isinstance(action, GiveUp):
                task = self._plan.tasks[action.digest]
                LOG.info("study %s: %s is tried no more: %s", self._settings.study, task.label, action.reason)
                self._ledger.give_up(work_root(task.kind, task.work), action.attempt, action.reason)

    def _submit(self, action: Submit) -> None:
        if self.refused:
            # what refused one, a quota or a rule, would refuse the next
            return
        self._create_tasks(action.unit.tasks)
        body = build_workflow(action.unit, self._plan, self._settings)
        name = workflow_name(action.unit, action.run_number, self._settings.store)
        try:
            created = self._cluster.create("workflows", body)
        except AlreadyExists:
            self._look_at_namesake(name)
        except Refused as problem:
            self.refused.append(str(problem))
        else:
            LOG.info("study %s: Workflow %s does %d tasks: %s", self._settings.study, name, len(action.unit.tasks), action.unit.label)
            self._snapshot.add(workflow_seen(created))

    def _create_tasks(self, digests: Sequence[str]) -> None:
        missing = [digest for digest in digests if digest not in self._ledger.created]
        if missing:
            with ThreadPoolExecutor(min(_THREADS, len(missing))) as threads:
                list(threads.map(lambda digest: create_task(self._ledger.store, self._plan.tasks[digest].task), missing))
            self._ledger.created.update(missing)

    def _look_at_namesake(self, name: str) -> None:
        """The same tasks in a run of the same number: submitted before we died, or by another study. One that is over makes room."""
        body = self._cluster.get("workflows", name)
        if body is None:
            return
        # what it has done since this round's look at the store is for the next one
        seen = replace(workflow_seen(body), succeeded=frozenset())
        self._snapshot.add(seen)
        if seen.is_over and not seen.is_deleted:
            self._delete(name)

    def _delete(self, workflow: str) -> None:
        """Gone from the snapshot too, so that nobody waits for it."""
        self._cluster.delete("workflows", workflow)
        self._snapshot.remove(workflow)
