"""Errors specific to buckets, against the S3 server in STORE_TEST_S3."""

import os
from collections.abc import Callable

import pytest

from orchestrator.errors import StoreUnavailable
from orchestrator.store import Store, open_store

pytestmark = pytest.mark.cluster


@pytest.fixture(autouse=True)
def server() -> None:
    if "STORE_TEST_S3" not in os.environ:
        pytest.skip("STORE_TEST_S3 is not set")


CALLS: list[Callable[[Store], object]] = [
    lambda store: store.objects.get("x"),
    lambda store: store.objects.put("x", b""),
    lambda store: store.objects.create("x", b""),
    lambda store: list(store.objects.list("")),
]


@pytest.mark.parametrize("call", CALLS)
def test_missing_bucket_is_reported(call: Callable[[Store], object]) -> None:
    with pytest.raises(StoreUnavailable, match="the bucket does not exist; create it, or check the address"):
        call(open_store("s3://no-such-bucket-here/x"))


@pytest.mark.parametrize("call", CALLS)
def test_wrong_credentials_are_reported(call: Callable[[Store], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreUnavailable, match="check the credentials in the environment"):
        call(open_store(os.environ["STORE_TEST_S3"]))


def test_unreachable_server_is_reported_as_retryable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreUnavailable, match="unreachable or timed out") as caught:
        open_store("s3://studies").objects.get("x")
    assert caught.value.retryable
