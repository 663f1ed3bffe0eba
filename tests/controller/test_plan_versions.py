"""The GPU-hours of a study are read from the work roots of all versions of its plan."""

import copy
from typing import Any

from orchestrator.controller.planning import Planned, plan, roots_of_all_versions
from orchestrator.spec import read_object
from orchestrator.store import Store
from orchestrator.store.addresses import plan_key, work_root
from orchestrator.store.memory import in_memory_store
from tests.controller.simulated_cluster import SPEC


def planned(store: Store, **changes: Any) -> Planned:
    spec = copy.deepcopy(SPEC) | changes
    study = read_object({"apiVersion": "scaling-study.dev/v1alpha1", "kind": "ScalingStudy", "metadata": {"name": "mine"}, "spec": spec})
    found = plan(study, "uid", store)
    assert isinstance(found, Planned)
    return found


def own_roots(version: Planned) -> set[str]:
    return {work_root(task.kind, task.work) for task in version.plan.tasks.values()}


def test_an_edit_keeps_the_costs_of_all_earlier_plans() -> None:
    store = in_memory_store()
    versions = [planned(store, grid={"sizes": [size], "codePercent": [50], "seeds": [1]}) for size in ("0.03M", "0.09M", "0.25M")]
    everything = set().union(*map(own_roots, versions))
    assert [version.version for version in versions] == [1, 2, 3]
    assert own_roots(versions[2]) < everything
    assert versions[0].roots == own_roots(versions[0])
    assert versions[2].roots == everything
    assert roots_of_all_versions(store, "mine") == everything


def test_a_removed_earlier_plan_does_not_prevent_planning() -> None:
    store = in_memory_store()
    first = planned(store, grid={"sizes": ["0.03M"], "codePercent": [50], "seeds": [1]})
    store.objects.delete(plan_key(first.digest))
    second = planned(store, grid={"sizes": ["0.09M"], "codePercent": [50], "seeds": [1]})
    assert second.roots == own_roots(second)
    assert (second.version, second.digest != first.digest) == (2, True)
