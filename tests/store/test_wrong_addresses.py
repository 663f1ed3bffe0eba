"""Addresses of stores that cannot be opened: the error says why, and that a retry does not help."""

from pathlib import Path

import pytest

from orchestrator.errors import StoreError, StoreUnavailable
from orchestrator.store import open_store, store_exists


def test_file_as_a_store_is_described_as_a_file_and_not_as_unreachable(tmp_path: Path) -> None:
    path = tmp_path / "passwd"
    path.write_text("root")
    with pytest.raises(StoreError, match=f"the store {path} is a file and not a folder") as raised:
        open_store(str(path))
    assert not isinstance(raised.value, StoreUnavailable)
    assert path.read_text() == "root"


@pytest.mark.parametrize("host", ["server", "localhost", "server:80"])
def test_host_of_a_file_address_is_not_dropped(host: str, tmp_path: Path) -> None:
    url = f"file://{host}{tmp_path}/store"
    for opens in (open_store, store_exists):
        with pytest.raises(StoreError, match=rf"names the machine '{host}'; write file://{tmp_path}/store"):
            opens(url)
    assert not (tmp_path / "store").exists()
