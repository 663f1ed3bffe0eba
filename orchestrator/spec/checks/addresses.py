"""Check the addresses of store, sources and tokenizer: a supported scheme, and no credentials."""

import re
from collections.abc import Iterator
from typing import Final

from orchestrator.spec.data import TokenizerFile
from orchestrator.spec.messages import Finding, Path, did_you_mean, listed, shown
from orchestrator.spec.models import StudySpec

SCHEMES: Final = ("s3", "gs", "az", "file")
STORE_SCHEMES: Final = (*SCHEMES, "memory")

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(/+)(.*)", re.DOTALL)
_SECRET: Final = re.compile(
    r"[?&;#]([^=]*(signature|accesskey|access_key|secret|token|password|credential|account_key)[^=]*|sig)=", re.IGNORECASE
)


def check_addresses(spec: StudySpec) -> Iterator[Finding]:
    """Check every address of a study."""
    yield from _address(("store",), spec.store, STORE_SCHEMES)
    for index, source in enumerate(spec.data.sources):
        yield from _address(("data", "sources", index, "path"), source.path, SCHEMES)
    if isinstance(spec.data.tokenizer, TokenizerFile):
        yield from _address(("data", "tokenizer", "file"), spec.data.tokenizer.file, SCHEMES)


def _address(path: Path, address: str, schemes: tuple[str, ...]) -> Iterator[Finding]:
    match = _SCHEME.fullmatch(address)
    if match is None:
        if _SECRET.search(address):
            yield _credentials(path)
        return
    scheme, slashes, rest = match.groups()
    if "@" in rest.split("/", 1)[0] or _SECRET.search(rest):
        yield _credentials(path)
    elif scheme not in schemes:
        advice = did_you_mean(scheme, schemes, "Copy the files to where they can be read, and give that address.")
        yield Finding(
            path, f'"{scheme}://" is not an address that is read ({listed(f"{known}://" for known in schemes)} or a path).', advice
        )
    elif len(slashes) < 2:
        yield Finding(path, f"{shown(address)} has one slash after its scheme; two are needed.", f'Did you mean "{scheme}://{rest}"?')
    elif scheme in ("s3", "gs", "az") and (len(slashes) > 2 or not rest.strip("/")):
        yield Finding(path, f"{shown(address)} names no bucket.", f"Write {scheme}://bucket/folder")


def _credentials(path: Path) -> Finding:
    # The address itself is not shown: messages end in logs
    wrong = "this address contains credentials, which every reader of the study would see."
    advice = "Take them out, and change them if the file was shared: they come from the cloud's usual environment variables."
    return Finding(path, wrong, advice)
