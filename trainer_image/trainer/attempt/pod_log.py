"""Copy the output of a pod to the store, where it is kept with the attempt. The cluster deletes the log with the pod.

`__main__` captures its own process, including libraries and child processes. The output still reaches the pod's log.
"""

import os
import sys
import threading
from types import TracebackType
from typing import Final

from orchestrator.errors import StoreError
from orchestrator.store import Store
from orchestrator.store.addresses import LOG
from orchestrator.store.leases import Lease

KEEP_SECONDS: Final = 30.0
"""Interval between writes of a growing log; a killed process loses at most the output of this time."""
FIRST_BYTES: Final = 64 * 1024
LAST_BYTES: Final = 512 * 1024
"""A longer log is truncated in the middle: its first `FIRST_BYTES` and last `LAST_BYTES` are kept."""


class PodLog:
    """Context manager that forwards stdout and stderr of this process and writes a copy once `attach` was called."""

    def __init__(self, store: Store, seconds: float = KEEP_SECONDS) -> None:
        self._store = store
        self._seconds = seconds
        self._first, self._last, self._omitted = bytearray(), bytearray(), 0
        self._key = ""
        self._grown = threading.Event()
        self._over = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> "PodLog":
        sys.stdout.flush()
        sys.stderr.flush()
        self._saved = os.dup(1), os.dup(2)
        read, write = os.pipe()
        os.dup2(write, 1)
        os.dup2(write, 2)
        os.close(write)
        self._reader = threading.Thread(target=self._forward, args=(read,), name="log", daemon=True)
        self._reader.start()
        return self

    def __exit__(self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        for saved, descriptor in zip(self._saved, (1, 2), strict=True):
            os.dup2(saved, descriptor)
        self._over.set()
        # a child that outlives this process holds the other end open, so the wait is bounded
        self._reader.join(timeout=2.0)
        self._write()

    def attach(self, lease: Lease) -> None:
        """Write the log to the attempt's folder from now on."""
        self._key = lease.key(LOG)
        threading.Thread(target=self._write_periodically, name="log to store", daemon=True).start()

    def _forward(self, descriptor: int) -> None:
        while chunk := os.read(descriptor, 65536):
            os.write(self._saved[0], chunk)
            with self._lock:
                self._add(chunk)
            self._grown.set()
        os.close(descriptor)

    def _add(self, chunk: bytes) -> None:
        room = FIRST_BYTES - len(self._first)
        self._first += chunk[:room]
        self._last += chunk[room:] if room > 0 else chunk
        over = len(self._last) - LAST_BYTES
        if over > 0:
            del self._last[:over]
            self._omitted += over

    def _write_periodically(self) -> None:
        while not self._over.wait(self._seconds):
            if self._grown.is_set():
                self._grown.clear()
                self._write()

    def _write(self) -> None:
        """Write the log. An unavailable store is only reported: the log is not needed for results."""
        if not self._key:
            return
        with self._lock:
            gap = f"\n... {self._omitted} bytes omitted ...\n".encode() if self._omitted else b""
            text = bytes(self._first) + gap + bytes(self._last)
        try:
            self._store.objects.put(self._key, text)
        except StoreError as problem:
            os.write(self._saved[1], f"trainer: could not write the log to the store: {problem}\n".encode())
