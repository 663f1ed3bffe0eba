"""What only a bucket can do wrong, against the S3 server that STORE_TEST_S3 names."""

import os
from collections.abc import Callable

import pytest

from orchestrator.errors import StoreUnavailable
from orchestrator.store import Store, open_store

pytestmark = pytest.mark.cluster


@pytest.fixture(autouse=True)
def server() -> None:
    if "STORE_TEST_S3" not in os.environ:
        pytest.skip("STORE_TEST_S3 names no bucket")


CALLS: list[Callable[[Store], object]] = [
    lambda store: store.objects.get("x"),
    lambda store: store.objects.put("x", b""),
    lambda store: store.objects.create("x", b""),
    lambda store: list(store.objects.list("")),
]


@pytest.mark.parametrize("call", CALLS)
def test_a_bucket_that_is_not_there_is_told(call: Callable[[Store], object]) -> None:
    with pytest.raises(StoreUnavailable, match="there is no such bucket; make it, or look at the address"):
        call(open_store("s3://no-such-bucket-here/x"))


@pytest.mark.parametrize("call", CALLS)
def test_credentials_that_are_wrong_are_told(call: Callable[[Store], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreUnavailable, match="look at the credentials in the environment"):
        call(open_store(os.environ["STORE_TEST_S3"]))


def test_a_server_that_is_away_is_told_and_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreUnavailable, match="away or slow") as caught:
        open_store("s3://studies").objects.get("x")
    assert caught.value.retryable
