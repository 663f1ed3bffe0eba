"""Stores under test: a folder, memory, and the S3 server in STORE_TEST_S3 (marked `cluster`)."""

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.store import Store, open_store
from orchestrator.store.memory import in_memory_store
from tests.store.samples import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["folder", "memory", pytest.param("s3", marks=pytest.mark.cluster)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of an empty store; other processes can open it unless it is in memory."""
    if request.param == "folder":
        yield str(tmp_path / "store")
    elif request.param == "memory":
        yield "memory://"
    else:
        yield _new_prefix()


def _new_prefix() -> str:
    if "STORE_TEST_S3" not in os.environ:
        pytest.skip("STORE_TEST_S3 is not set (s3://studies, with AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)")
    return f"{os.environ['STORE_TEST_S3'].rstrip('/')}/store-tests/{uuid.uuid4().hex[:12]}"


@pytest.fixture
def store(url: str, clock: Clock) -> Store:
    return in_memory_store(clock=clock) if url == "memory://" else open_store(url, clock=clock)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"
