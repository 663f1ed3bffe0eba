"""Find damage that affects no result: damaged leases, damaged informational files, and file names that are not keys.

Called by `verify`. A bucket takes tens of milliseconds per object, so the files are read concurrently.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeAlias

from orchestrator.errors import Damaged, KeyMissing
from orchestrator.store.addresses import FINGERPRINTS, GC_REPORT, lease_key, lease_number
from orchestrator.store.documents import parse_model, parse_object
from orchestrator.store.folder import unreadable_names
from orchestrator.store.leases import parse_lease
from orchestrator.store.maintenance.gc_report import GcReport
from orchestrator.store.objects import Store

ATTEMPT_FILE: Final = re.compile(r"((?:tasks|trajectories)/[^/]+)/attempts/(\d+)/(.+)")
_THREADS: Final = 16
_NOT_COUNTED: Final = "its GPU-hours are not counted"

Parse: TypeAlias = Callable[[bytes, str], object]


@dataclass(frozen=True, slots=True)
class Finding:
    """A damaged object. `repaired`: fixed, or quarantined so that the next run makes it again. `advice`: what else to do.

    `counts`: whether a plan, record, run or report needs the object.
    """

    key: str
    problem: str
    repaired: bool = False
    advice: str = ""
    counts: bool = True


def notes(store: Store, keys: Iterable[str]) -> Iterator[Finding]:
    """Yield damaged documents among `keys` that do not affect results, attempts without a lease, and names that are not UTF-8."""
    found = list(keys)
    documents = [(key, *how) for key in found if (how := _how_to_read(key)) is not None]
    with ThreadPoolExecutor(_THREADS) as threads:
        yield from filter(None, threads.map(lambda document: _note(store, *document), documents))
    yield from _lost_leases(found)
    root = store.objects.local_path("")
    for name in unreadable_names(root) if root is not None else ():
        advice = "it is ignored; rename or remove it"
        yield Finding(name, "the name is not UTF-8, so it is not an object of a store", advice=advice, counts=False)


def _how_to_read(key: str) -> tuple[Parse, str] | None:
    """Return the parser of a document and what its damage means."""
    match = ATTEMPT_FILE.fullmatch(key)
    if lease_number(key) is not None:
        return parse_lease, _NOT_COUNTED
    if match and match[3] in ("failure.json", "attempt.json"):
        return _parse_document, "for information only"
    if key == GC_REPORT:
        return _parse_gc_report, "the next garbage collection writes it again"
    return (_parse_document, "the files are hashed again") if key.startswith(f"{FINGERPRINTS}/") else None


def _note(store: Store, key: str, parse: Parse, advice: str) -> Finding | None:
    try:
        parse(store.objects.get(key), key)
    except KeyMissing:  # deleted since the listing
        return None
    except Damaged as problem:
        return Finding(key, str(problem), advice=advice, counts=False)
    return None


def _lost_leases(keys: Iterable[str]) -> Iterator[Finding]:
    attempts: dict[str, set[int]] = {}
    leases: dict[str, set[int]] = {}
    for key in keys:
        if (number := lease_number(key)) is not None:
            leases.setdefault(key.rpartition("/lease/")[0], set()).add(number)
        elif match := ATTEMPT_FILE.fullmatch(key):
            attempts.setdefault(match[1], set()).add(int(match[2]))
    for root, numbers in sorted(attempts.items()):
        for number in sorted(numbers - leases.get(root, set())):
            problem = f"attempt {number} has files but no lease, which was deleted"
            yield Finding(lease_key(root, number), problem, advice=_NOT_COUNTED, counts=False)


def _parse_document(body: bytes, key: str) -> object:
    return parse_object(body, key, "a JSON document")


def _parse_gc_report(body: bytes, key: str) -> object:
    return parse_model(GcReport, body, key, "a report of a garbage collection")
