"""Compute the fingerprints that a study file does not declare.

On one machine, `study.opening` computes them directly. On a cluster, a pod computes them and writes the result to the store; the
controller, which cannot reach a corpus, plans as soon as the result exists.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from orchestrator.contract.identity import digest_of
from orchestrator.errors import Damaged, KeyMissing, StoreError
from orchestrator.spec import Study, TokenizerFile
from orchestrator.store import Store
from orchestrator.store.addresses import fingerprints_key
from orchestrator.store.corpora import expand, hash_of
from orchestrator.store.documents import parse_object
from orchestrator.study.sources import fingerprint


@dataclass(frozen=True, slots=True)
class FingerprintRequest:
    """The paths to fingerprint: of sources by name, and of the tokenizer ("" for none)."""

    sources: Mapping[str, str]
    tokenizer: str = ""

    @property
    def is_empty(self) -> bool:
        return not self.sources and not self.tokenizer


@dataclass(frozen=True, slots=True)
class FingerprintResult:
    """`fingerprints` and `bytes_of` by source; `tokenizer`: SHA-256 of its file. `unreachable`: source or `tokenizer` -> reason."""

    fingerprints: dict[str, str] = field(default_factory=dict)
    bytes_of: dict[str, int] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)
    tokenizer: str = ""


def fingerprint_request(study: Study) -> FingerprintRequest:
    """Return the paths whose fingerprints are not declared. A declared fingerprint is accepted here; `prepare` checks it."""
    tokenizer = study.spec.data.tokenizer
    undeclared = {source.name: source.path for source in study.spec.data.sources if source.fingerprint is None}
    return FingerprintRequest(undeclared, tokenizer.file if isinstance(tokenizer, TokenizerFile) else "")


def fingerprint_paths(paths: FingerprintRequest, base: Path) -> FingerprintResult:
    """Return the fingerprints of the files. Relative paths start at `base`. Unreadable paths are listed in `unreachable`."""
    fingerprints, bytes_of, unreachable, tokenizer = {}, {}, {}, ""
    for name, path in paths.sources.items():
        try:
            facts = fingerprint(path, base)
        except StoreError as problem:
            unreachable[name] = str(problem)
        else:
            fingerprints[name], bytes_of[name] = facts.fingerprint, facts.bytes
    if paths.tokenizer:
        try:
            tokenizer = hash_of(expand(paths.tokenizer, base)[0], lambda _: None)
        except StoreError as problem:
            unreachable["tokenizer"] = str(problem)
    return FingerprintResult(fingerprints, bytes_of, unreachable, tokenizer)


def result_key(uid: str, paths: FingerprintRequest) -> str:
    """Return the store key of the result. A recreated study has another uid, so its files are hashed again."""
    return fingerprints_key(digest_of({"study": uid, "sources": dict(paths.sources), "tokenizer": paths.tokenizer}))


def write_result(store: Store, key: str, found: FingerprintResult) -> None:
    """Write the result for the controller; a later result replaces an earlier one. Raises StoreUnavailable."""
    store.objects.put(key, json.dumps(asdict(found), indent=1).encode())


def read_result(store: Store, key: str) -> FingerprintResult | None:
    """Return the result, or None if there is none yet. Raises Damaged, StoreUnavailable."""
    try:
        found = parse_object(store.objects.get(key), key, "a result of fingerprinting; delete it, and the files are hashed again")
        return TypeAdapter(FingerprintResult).validate_python(found)
    except KeyMissing:
        return None
    except ValidationError as problem:
        raise Damaged(f"{key} is not a valid result of fingerprinting; delete it, and the files are hashed again") from problem
