"""Open a store by its address. Called by the command line, the workers and the controller."""

import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, LocalStore, S3Store, from_url

from orchestrator.errors import StoreError, StoreUnavailable
from orchestrator.store.bucket import BucketObjects, cause
from orchestrator.store.memory import named_memory
from orchestrator.store.objects import Store, utc_now

_CLOUDS: Final = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl")

# The library's default of three minutes makes a command look hung. The trainer tolerates longer outages by itself.
_RETRY: Final = timedelta(seconds=40)
_REQUEST: Final = timedelta(seconds=120)


def open_store(url_or_path: str, *, clock: Callable[[], datetime] = utc_now) -> Store:
    """Open the store at a folder, `file://`, `s3://`, `gs://`, `az://`, or `memory://NAME` (for tests, shared within the process).

    Credentials and endpoint come from the cloud's usual environment variables. Creates a missing folder. Raises StoreError.
    """
    scheme = _scheme(url_or_path) if "://" in url_or_path else ""
    if (root := _folder(url_or_path, scheme)) is not None:
        return _open_folder(root, url_or_path, clock)
    if scheme == "memory":
        return Store(named_memory(url_or_path.removeprefix("memory://").strip("/")), url_or_path, clock)
    if scheme in _CLOUDS:
        return Store(BucketObjects(cloud(url_or_path), url_or_path), url_or_path, clock)
    raise StoreError(f"{url_or_path}: unsupported scheme {scheme}://; allowed are a folder, file://, s3://, gs:// and az://")


def store_exists(url_or_path: str) -> bool:
    """Return whether a folder store exists; always True for buckets, which are not contacted. Raises StoreError."""
    root = _folder(url_or_path, _scheme(url_or_path) if "://" in url_or_path else "")
    try:
        return root is None or root.exists()
    except OSError as problem:
        raise StoreError(f"{url_or_path}: not the path of a folder: {cause(problem)}") from problem


def _folder(url_or_path: str, scheme: str) -> Path | None:
    """Return the folder of a folder store, None for other schemes."""
    if scheme not in ("", "file"):
        return None
    if scheme and (host := urlsplit(url_or_path).netloc):
        wrong = f"file:// reads only this machine, but the address names the machine {host!r}"
        raise StoreError(f"{url_or_path}: {wrong}; write file:///{url_or_path.partition(host)[2].strip('/')}, or mount its folder")
    try:
        root = Path(unquote(urlsplit(url_or_path).path) if scheme else url_or_path).expanduser().absolute()
        str(root).encode()
    except UnicodeEncodeError:
        # obstore panics at such a path, and a panic looks like an outage, which is retried
        shown = os.fsencode(url_or_path).decode(errors="backslashreplace")
        raise StoreError(f"{shown}: the path of a store must be UTF-8; rename the folder") from None
    except RuntimeError as problem:  # ~unknown-user
        raise StoreError(f"{url_or_path}: not the path of a folder: {problem}") from problem
    if "\0" in str(root):
        raise StoreError(f"{url_or_path!r}: not the path of a folder: it has a null character")
    return root


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError as problem:
        raise StoreError(f"{url}: not a valid URL: {problem}") from problem


def _open_folder(root: Path, url: str, clock: Callable[[], datetime]) -> Store:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise StoreError(f"the store {url} is a file and not a folder; choose another address, in the study file or with --store") from None
    except OSError as problem:
        message = f"could not open the store {url} as a folder: {cause(problem)}"
        raise StoreUnavailable(message) from problem
    return Store(BucketObjects(LocalStore(root), url, root), url, clock)


def cloud(url: str) -> S3Store | GCSStore | AzureStore:
    """Return the client of a bucket, for stores and corpora. Raises StoreError for an unsupported scheme or invalid URL."""
    if _scheme(url) not in _CLOUDS:
        raise StoreError(f"{url}: not a supported bucket; allowed are s3://, gs:// and az://")
    # a self-hosted endpoint often uses plain HTTP, which the library rejects by default
    plain = os.environ.get("AWS_ENDPOINT_URL", os.environ.get("AWS_ENDPOINT", "")).startswith("http://")
    try:
        backend = from_url(
            url,
            client_options={"timeout": _REQUEST, "connect_timeout": timedelta(seconds=5), "allow_http": plain},
            retry_config={"max_retries": 8, "retry_timeout": _RETRY},
        )
    except (BaseError, ValueError) as problem:
        # the lines after the first are internals of the client
        raise StoreError(f"{url}: not a valid bucket URL: {str(problem).splitlines()[0]}") from problem
    if not isinstance(backend, (S3Store, GCSStore, AzureStore)):
        raise StoreError(f"{url}: not a supported bucket; allowed are s3://, gs:// and az://")
    return backend
