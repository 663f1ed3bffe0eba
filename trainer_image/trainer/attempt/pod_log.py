"""What a pod prints, kept in the store too: a pod and its log go when the cluster clears up, an attempt's log stays with the attempt.

`__main__` captures its own process; everything that is printed still reaches the pod's log, by whatever library or child it is.
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
"""Between two writes while it grows: what a process that is killed has said may be lost for so long."""
FIRST_BYTES: Final = 64 * 1024
LAST_BYTES: Final = 512 * 1024
"""Of a longer log the first and the last bytes are kept: how it began, and how it ended."""


class PodLog:
    """Stdout and stderr of this process, passed on and kept. Use as a context; `attach` says where to keep it."""

    def __init__(self, store: Store, seconds: float = KEEP_SECONDS) -> None:
        self._store = store
        self._seconds = seconds
        self._first, self._last, self._left_out = bytearray(), bytearray(), 0
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
        self._reader = threading.Thread(target=self._pass_on, args=(read,), name="log", daemon=True)
        self._reader.start()
        return self

    def __exit__(self, _type: type[BaseException] | None, _value: BaseException | None, _trace: TracebackType | None) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        for saved, descriptor in zip(self._saved, (1, 2), strict=True):
            os.dup2(saved, descriptor)
        self._over.set()
        # a child that outlives us holds the other end: it is not waited for
        self._reader.join(timeout=2.0)
        self._keep()

    def attach(self, lease: Lease) -> None:
        """From now on keep it in the attempt's folder."""
        self._key = lease.key(LOG)
        threading.Thread(target=self._keep_now_and_then, name="log to store", daemon=True).start()

    def _pass_on(self, descriptor: int) -> None:
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
            self._left_out += over

    def _keep_now_and_then(self) -> None:
        while not self._over.wait(self._seconds):
            if self._grown.is_set():
                self._grown.clear()
                self._keep()

    def _keep(self) -> None:
        """The log is for people: a store that is away loses some of it and nothing else."""
        if not self._key:
            return
        with self._lock:
            gap = f"\n... {self._left_out} bytes left out ...\n".encode() if self._left_out else b""
            text = bytes(self._first) + gap + bytes(self._last)
        try:
            self._store.objects.put(self._key, text)
        except StoreError as problem:
            os.write(self._saved[1], f"trainer: the log is not kept: {problem}\n".encode())
