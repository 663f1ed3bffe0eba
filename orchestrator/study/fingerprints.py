"""Compute the fingerprints that a study file does not declare.

On one machine `study.opening` computes them at once. On a cluster a pod computes them and writes the result to the store; the controller,
which cannot reach a corpus, plans as soon as the result exists.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeAlias

from orchestrator.contract.identity import digest_of
from orchestrator.errors import Damaged, KeyMissing, StoreError
from orchestrator.spec import Study, TokenizerFile
from orchestrator.store import Store
from orchestrator.store.addresses import fingerprints_key
from orchestrator.store.corpora import expand, hash_of
from orchestrator.study.sources import fingerprint

Texts: TypeAlias = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The paths to fingerprint: `sources` by name; `tokenizer`: "" for none."""

    sources: Texts
    tokenizer: str = ""

    @property
    def is_nothing(self) -> bool:
        return not self.sources and not self.tokenizer


@dataclass(frozen=True, slots=True)
class Found:
    """`fingerprints` and `bytes_of` by source; `tokenizer`: SHA-256 of its file. `unreachable`: source or `tokenizer` -> why not."""

    fingerprints: dict[str, str] = field(default_factory=dict)
    bytes_of: dict[str, int] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)
    tokenizer: str = ""


def wanted(study: Study) -> Wanted:
    """Return the paths whose fingerprints are not declared. A declared fingerprint is accepted here; `prepare` checks it."""
    tokenizer = study.spec.data.tokenizer
    undeclared = {source.name: source.path for source in study.spec.data.sources if source.fingerprint is None}
    return Wanted(undeclared, tokenizer.file if isinstance(tokenizer, TokenizerFile) else "")


def fingerprint_paths(paths: Wanted, base: Path) -> Found:
    """Hash the files. Relative paths start at `base`. Paths that cannot be read are listed in `unreachable`."""
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
    return Found(fingerprints, bytes_of, unreachable, tokenizer)


def key_of(uid: str, paths: Wanted) -> str:
    """Return the key of the result. A study that is created again has another uid, so its files are hashed again."""
    return fingerprints_key(digest_of({"study": uid, "sources": dict(paths.sources), "tokenizer": paths.tokenizer}))


def write_result(store: Store, key: str, found: Found) -> None:
    """Write the result for the controller; a later result replaces an earlier one. Raises StoreUnavailable."""
    store.objects.put(key, json.dumps(asdict(found), indent=1).encode())


def read_result(store: Store, key: str) -> Found | None:
    """Return the result, or None if there is none yet. Raises Damaged, StoreUnavailable."""
    try:
        return Found(**json.loads(store.objects.get(key)))
    except KeyMissing:
        return None
    except (ValueError, TypeError) as problem:
        raise Damaged(f"{key} is not a valid result of fingerprinting; delete it, and the files are hashed again") from problem
