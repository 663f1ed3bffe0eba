"""Submitting a study file: what is changed in an existing object, and what is kept."""

import copy
from typing import Any

import pytest

from orchestrator.cluster.memory import ClusterFault, InMemoryCluster
from orchestrator.cluster.port import Document
from orchestrator.cluster.submission import changed_paths, changes_to, merge_patch, object_to_send, submit
from orchestrator.errors import Conflict, NotFound, Refused
from tests.controller.simulated_cluster import SPEC


def file(name: str = "mine", **changes: Any) -> Document:
    return {"apiVersion": "scaling-study.dev/v1alpha1", "kind": "ScalingStudy", "metadata": {"name": name}, "spec": SPEC | changes}


def sent(**changes: Any) -> Document:
    return object_to_send(file(**changes), "studies")


def existing(cluster: InMemoryCluster, name: str = "mine") -> Document:
    body = cluster.get("scalingstudies", name)
    assert body is not None
    return body


@pytest.mark.parametrize(
    ("before", "after", "patch", "paths"),
    [
        ({}, {}, {}, []),
        ({"a": 1}, {"a": 1}, {}, []),
        ({"a": 1}, {"a": "1"}, {"a": "1"}, ["a"]),
        ({"a": 1}, {}, {"a": None}, ["a"]),
        ({}, {"a": {"b": 1}}, {"a": {"b": 1}}, ["a"]),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, {"a": {"c": 3}}, ["a.c"]),
        ({"a": {"b": 1}}, {"a": {"c": 1}}, {"a": {"b": None, "c": 1}}, ["a.b", "a.c"]),
        ({"a": [1, 2]}, {"a": [1]}, {"a": [1]}, ["a"]),
        ({"a": {"b": 1}}, {"a": [1]}, {"a": [1]}, ["a"]),
    ],
)
def test_patch_has_only_the_differences(before: Document, after: Document, patch: Document, paths: list[str]) -> None:
    assert merge_patch(before, after) == patch
    assert sorted(changed_paths(before, patch)) == paths


def test_object_has_no_server_side_fields() -> None:
    metadata = {"name": "mine", "labels": {"team": "a"}, "uid": "1", "resourceVersion": "7", "namespace": "elsewhere"}
    body = object_to_send({**file(), "metadata": metadata, "status": {"phase": "Succeeded"}}, "studies")
    assert body["metadata"] == {"name": "mine", "labels": {"team": "a"}, "namespace": "studies"}
    assert "status" not in body


def test_outcome_is_created_then_unchanged_then_changed() -> None:
    cluster = InMemoryCluster()
    assert submit(cluster, sent()).outcome == "created"
    again = submit(cluster, sent())
    assert (again.outcome, again.changes, again.body["metadata"]["generation"]) == ("unchanged", (), 1)
    changed = submit(cluster, sent(budget={"gpuHours": 5}))
    assert (changed.outcome, changed.changes) == ("changed", ("spec.budget",))
    assert existing(cluster)["spec"]["budget"] == {"gpuHours": 5}


def test_fields_missing_in_the_file_are_removed() -> None:
    cluster = InMemoryCluster()
    submit(cluster, sent(budget={"gpuHours": 5}))
    assert submit(cluster, sent()).changes == ("spec.budget",)
    assert existing(cluster)["spec"] == SPEC


@pytest.mark.parametrize(("in_file", "afterwards"), [({}, True), ({"paused": False}, False), ({"paused": True}, True)])
def test_pause_is_kept_unless_the_file_sets_it(in_file: dict[str, Any], afterwards: bool) -> None:
    cluster = InMemoryCluster()
    submit(cluster, sent())
    cluster.patch("scalingstudies", "mine", {"spec": {"paused": True}})
    submit(cluster, sent(budget={"gpuHours": 5}, **in_file))
    assert existing(cluster)["spec"]["paused"] is afterwards


def test_metadata_of_other_clients_is_kept() -> None:
    cluster = InMemoryCluster()
    submit(cluster, sent())
    cluster.patch("scalingstudies", "mine", {"metadata": {"annotations": {"scaling-study.dev/retry": "3"}, "labels": {"kept": "yes"}}})
    body = sent()
    body["metadata"]["labels"] = {"team": "a"}
    assert submit(cluster, body).changes == ("metadata.labels.team",)
    metadata = existing(cluster)["metadata"]
    assert (metadata["labels"], metadata["annotations"]) == ({"kept": "yes", "team": "a"}, {"scaling-study.dev/retry": "3"})


def test_dry_run_is_validated_and_persists_nothing() -> None:
    cluster = InMemoryCluster()
    assert submit(cluster, sent(), dry_run=True).outcome == "created"
    assert cluster.get("scalingstudies", "mine") is None
    submit(cluster, sent())
    before = existing(cluster)
    assert submit(cluster, sent(budget={"gpuHours": 5}), dry_run=True).changes == ("spec.budget",)
    assert existing(cluster) == before
    cluster.admission.append(lambda _, body: "too much" if body["metadata"]["name"] == "other" else None)
    with pytest.raises(Refused, match="too much"):
        submit(cluster, object_to_send(file("other"), "studies"), dry_run=True)


def test_concurrently_created_study_is_changed_instead() -> None:
    cluster = InMemoryCluster()
    submit(cluster, sent())
    racing = _Racing(cluster)
    assert submit(racing, sent(budget={"gpuHours": 5})).outcome == "changed"


class _Racing(InMemoryCluster):
    """Another client creates the study between the first `get` and `create`."""

    def __init__(self, real: InMemoryCluster) -> None:
        super().__init__()
        self._first = True
        self._real = real

    def get(self, kind: Any, name: str) -> Document | None:
        found = None if self._first else self._real.get(kind, name)
        self._first = False
        return found

    def create(self, kind: Any, body: Document, *, dry_run: bool = False) -> Document:
        return self._real.create(kind, body, dry_run=dry_run)

    def patch(self, kind: Any, name: str, changes: Document, *, dry_run: bool = False) -> Document:
        return self._real.patch(kind, name, changes, dry_run=dry_run)


def test_repeated_concurrent_changes_raise_conflict() -> None:
    class Stubborn(InMemoryCluster):
        def patch(self, kind: Any, name: str, changes: Document, *, dry_run: bool = False) -> Document:
            super().patch(kind, name, changes, dry_run=dry_run)
            return super().patch(kind, name, {"spec": {"budget": {"gpuHours": 1}}})

    cluster = Stubborn()
    submit(cluster, sent())
    with pytest.raises(Conflict, match="changed by another client"):
        submit(cluster, sent(budget={"gpuHours": 5}))


def test_missing_namespace_is_not_mistaken_for_a_deleted_study() -> None:
    cluster = InMemoryCluster()
    cluster.faults.append(ClusterFault("create", error=lambda: NotFound('namespaces "studies" not found')))
    with pytest.raises(NotFound, match="namespaces"):
        submit(cluster, sent())


def test_arguments_are_not_modified() -> None:
    cluster = InMemoryCluster()
    submit(cluster, sent())
    cluster.patch("scalingstudies", "mine", {"spec": {"paused": True}})
    body = sent()
    before = copy.deepcopy(body)
    changes_to(existing(cluster), body)
    assert body == before
