"""What the files of a study are, where its file does not declare it.

On one machine `study` looks at once. On a cluster a pod looks and leaves what it found in the store, and the controller, which reaches
no corpus, plans when it is there.
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
    """Which paths must be looked at: `sources` by name, `tokenizer` "" for none."""

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
    """What the study's file does not declare. A declared fingerprint is believed here; `prepare` checks it."""
    tokenizer = study.spec.data.tokenizer
    undeclared = {source.name: source.path for source in study.spec.data.sources if source.fingerprint is None}
    return Wanted(undeclared, tokenizer.file if isinstance(tokenizer, TokenizerFile) else "")


def look_at(paths: Wanted, base: Path) -> Found:
    """Read and hash the files. Relative paths start at `base`. What cannot be read is told in `unreachable`."""
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
    """Where a pod leaves what it found. A study that is applied anew (another uid) is looked at anew."""
    return fingerprints_key(digest_of({"study": uid, "sources": dict(paths.sources), "tokenizer": paths.tokenizer}))


def write_found(store: Store, key: str, found: Found) -> None:
    """Keep it for the controller; a later look replaces an earlier one. Raises StoreUnavailable."""
    store.objects.put(key, json.dumps(asdict(found), indent=1).encode())


def read_found(store: Store, key: str) -> Found | None:
    """What was found, None while nobody has looked. Raises Damaged, StoreUnavailable."""
    try:
        return Found(**json.loads(store.objects.get(key)))
    except KeyMissing:
        return None
    except (ValueError, TypeError) as problem:
        raise Damaged(f"{key} does not say what files were found; delete it, and they are looked at again") from problem
