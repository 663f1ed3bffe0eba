"""The behaviour that all stores share, whatever their backend."""

import errno
from datetime import timedelta
from pathlib import Path

import pytest
from obstore.exceptions import GenericError, PermissionDeniedError

from orchestrator.errors import KeyExists, KeyMissing, StoreError, StoreUnavailable
from orchestrator.store import Store, open_store
from orchestrator.store.bucket import cause
from orchestrator.store.memory import Fault, InMemoryObjects, clock_off_by, in_memory_store
from orchestrator.store.objects import create_once, utc_now


def test_written_object_is_read_and_listed(store: Store) -> None:
    store.objects.put("a/b.json", b"one")
    store.objects.put("a/b.json", b"three")
    assert store.objects.get("a/b.json") == b"three"
    assert store.objects.stat("a/b.json").size == 5
    assert [(stat.key, stat.size) for stat in store.objects.list("a")] == [("a/b.json", 5)]


def test_empty_object_is_listed(store: Store) -> None:
    store.objects.create("done/x", b"")
    assert store.objects.get("done/x") == b""
    assert [stat.key for stat in store.objects.list("done")] == ["done/x"]


def test_prefix_matches_whole_path_segments(store: Store) -> None:
    for key in ("tasks/a/1", "tasks/ab/1", "tasks/a/2/3"):
        store.objects.put(key, b"")
    assert sorted(stat.key for stat in store.objects.list("tasks/a")) == ["tasks/a/1", "tasks/a/2/3"]
    assert sorted(stat.key for stat in store.objects.list("tasks/a/")) == ["tasks/a/1", "tasks/a/2/3"]
    assert len(list(store.objects.list(""))) == 3
    assert list(store.objects.list("nothing")) == []


def test_listing_of_many_objects_is_complete(store: Store) -> None:
    for number in range(60):
        store.objects.put(f"done/{number}", b"")
    assert len({stat.key for stat in store.objects.list("done")}) == 60


def test_create_succeeds_once(store: Store) -> None:
    store.objects.create("k", b"first")
    with pytest.raises(KeyExists, match="already has k"):
        store.objects.create("k", b"second")
    assert store.objects.get("k") == b"first"


def test_missing_object_raises_key_missing(store: Store, tmp_path: Path) -> None:
    with pytest.raises(KeyMissing, match="has no a/x"):
        store.objects.get("a/x")
    with pytest.raises(KeyMissing):
        store.objects.stat("a/x")
    with pytest.raises(KeyMissing):
        store.objects.fetch("a/x", tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("key", ["a//b", "../b", "a/../b", "tasks//task.json"])
def test_invalid_key_is_rejected(store: Store, key: str) -> None:
    for act in (store.objects.get, store.objects.stat, lambda key: store.objects.put(key, b"")):
        with pytest.raises(StoreError, match="is not a valid store key"):
            act(key)


def test_delete_is_idempotent(store: Store) -> None:
    store.objects.put("k", b"")
    store.objects.delete("k")
    store.objects.delete("k")
    assert list(store.objects.list("")) == []


def test_large_file_is_read_back_unchanged(store: Store, tmp_path: Path) -> None:
    body = bytes(range(256)) * 50_000  # 12.8 MB: several parts of a multipart upload
    (tmp_path / "up").write_bytes(body)
    store.objects.put_file("big", tmp_path / "up")
    store.objects.fetch("big", tmp_path / "deep" / "down")
    assert (tmp_path / "deep" / "down").read_bytes() == body
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["down"]


def test_only_a_folder_store_has_local_paths(store: Store, url: str) -> None:
    store.objects.put("k", b"x")
    path = store.objects.local_path("k")
    assert (path is not None) == ("://" not in url)
    assert path is None or path.read_bytes() == b"x"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(None, id="no fault"),
        pytest.param(Fault("create", "k", "lost reply"), id="the client's own retry reports AlreadyExists"),
        pytest.param(Fault("create", "k", "after"), id="the reply is lost"),
        pytest.param(Fault("create", "k", "before"), id="the request is lost"),
        pytest.param(Fault("create", "k", "before", times=3), id="three requests are lost"),
        pytest.param(Fault("create", "k", "delay", seconds=0.01), id="slow"),
    ],
)
def test_creator_is_recognised_after_a_lost_reply(fault: Fault | None) -> None:
    store = in_memory_store([fault] if fault else [])
    assert create_once(store.objects, "k", b"ours") == b"ours"
    assert create_once(store.objects, "k", b"theirs") == b"ours"


def test_create_once_reports_why_the_store_rejects_writes() -> None:
    store = in_memory_store([Fault("create", "k", "before", times=-1, message="No space left on device")])
    with pytest.raises(StoreUnavailable, match="No space left") as caught:
        create_once(store.objects, "k", b"ours")
    assert caught.value.retryable


def test_create_once_survives_quarantine_of_the_rival() -> None:
    assert create_once(Vanishing(), "k", b"ours") == b"ours"


class Vanishing(InMemoryObjects):
    """Raises KeyExists for an object that is deleted immediately afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.rivals = 2

    def create(self, key: str, body: bytes) -> None:
        if self.rivals:
            self.rivals -= 1
            raise KeyExists(key)
        super().create(key, body)


def test_fault_after_a_write_keeps_the_write() -> None:
    store = in_memory_store([Fault("put", "a*", "after"), Fault("put", "b*", "before", skip=1)])
    with pytest.raises(StoreUnavailable):
        store.objects.put("a1", b"x")
    assert store.objects.get("a1") == b"x"
    store.objects.put("b1", b"x")
    with pytest.raises(StoreUnavailable):
        store.objects.put("b1", b"y")
    assert store.objects.get("b1") == b"x"


def test_in_memory_objects_are_shared_between_clocks() -> None:
    ours = in_memory_store()
    assert isinstance(ours.objects, InMemoryObjects)
    theirs = in_memory_store(objects=ours.objects, clock=clock_off_by(timedelta(hours=1)))
    ours.objects.put("k", b"x")
    assert theirs.objects.get("k") == b"x"
    assert theirs.clock() - utc_now() > timedelta(minutes=59)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (GenericError("Unable to copy data to file: No space left on device (os error 28)"), "the disk is full"),
        (GenericError("Disk quota exceeded (os error 122)"), "quota"),
        (OSError(errno.EROFS, "Read-only file system"), "read-only"),
        (GenericError("Unable to create file: Read-only file system (os error 30)"), "read-only"),
        (OSError(errno.EACCES, "Permission denied"), "permissions of the folder"),
        (PermissionDeniedError("403 Forbidden"), "credentials in the environment"),
        (GenericError("list request: 403 Forbidden: SignatureDoesNotMatch"), "credentials in the environment"),
        (GenericError("Error performing PUT http://169.254.169.254/latest/api/token"), "credentials in the environment"),
        (FileNotFoundError("404 Not Found: <Code>NoSuchBucket</Code>"), "the bucket does not exist"),
        (GenericError("error sending request: connection refused (os error 111)"), "unreachable or timed out"),
    ],
)
def test_cause_describes_the_error_and_the_fix(problem: Exception, message: str) -> None:
    assert message in cause(problem)


@pytest.mark.parametrize("url", ["http://x/y", "ftp://x", "S4://x"])
def test_unsupported_scheme_is_rejected(url: str) -> None:
    with pytest.raises(StoreError, match="allowed are a folder, file://, s3://"):
        open_store(url)


@pytest.mark.parametrize("url", ["s3://B D/x", "s3://", "gs://", "s3://b[x"])
def test_invalid_bucket_url_raises_store_error(url: str) -> None:
    """One study of a namespace may have such a URL: code that iterates over all studies handles StoreError only."""
    with pytest.raises(StoreError, match=r"not a valid bucket URL|not a valid URL") as caught:
        open_store(url)
    assert "\n" not in str(caught.value)


def test_memory_urls_with_one_name_share_a_store() -> None:
    open_store("memory://shared").objects.put("k", b"x")
    assert open_store("memory://shared").objects.get("k") == b"x"
    assert list(open_store("memory://").objects.list("")) == []
