"""Check the addresses of store, sources and tokenizer: a supported scheme, one meaning for all clients, and no credentials."""

import re
from collections.abc import Iterator
from typing import Final

from orchestrator.spec.addresses import dot_segment, is_url
from orchestrator.spec.data import TokenizerFile
from orchestrator.spec.messages import Finding, Path, did_you_mean, format_list, format_value
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
    yield from _query(("store",), spec.store)
    for index, source in enumerate(spec.data.sources):
        yield from _address(("data", "sources", index, "path"), source.path, SCHEMES)
    if isinstance(spec.data.tokenizer, TokenizerFile):
        yield from _address(("data", "tokenizer", "file"), spec.data.tokenizer.file, SCHEMES)


def _address(path: Path, address: str, schemes: tuple[str, ...]) -> Iterator[Finding]:
    if address != address.strip():
        yield Finding(path, f"{format_value(address)} starts or ends with a space.", "Remove the space.")
        return
    match = _SCHEME.fullmatch(address)
    if match is None:
        if _SECRET.search(address):
            yield _credentials(path)
        return
    scheme, slashes, rest = match.groups()
    if "@" in rest.split("/", 1)[0] or _SECRET.search(rest):
        yield _credentials(path)
    elif scheme not in schemes:
        advice = did_you_mean(scheme, schemes, "Copy the files to a supported location, and give its address.")
        yield Finding(
            path, f'"{scheme}://" is not a supported scheme ({format_list(f"{known}://" for known in schemes)} or a path).', advice
        )
    elif len(slashes) < 2:
        yield Finding(
            path, f"{format_value(address)} has one slash after its scheme; two are required.", f'Did you mean "{scheme}://{rest}"?'
        )
    elif scheme in ("s3", "gs", "az") and (len(slashes) > 2 or not rest.strip("/")):
        yield Finding(path, f"{format_value(address)} has no bucket.", f"Write {scheme}://bucket/folder")
    elif scheme == "file" and len(slashes) == 2:
        yield _host(path, address, rest)
    elif segment := dot_segment(address):
        wrong = f"{format_value(address)} contains the segment {format_value(segment)}, so it would name another folder."
        yield Finding(path, wrong, "Write the address of the folder itself.")


def _host(path: Path, address: str, rest: str) -> Finding:
    host, _, folder = rest.partition("/")
    advice = f"Write file:///{folder or 'folder'} for a folder of this machine, or mount the folder of the other machine."
    return Finding(path, f"{format_value(address)} names the machine {format_value(host)}; file:// reads only this machine.", advice)


def _query(path: Path, address: str) -> Iterator[Finding]:
    """Storage clients ignore a query or fragment, so two addresses would name one store."""
    found = re.search("[?#]", address)
    if found and is_url(address) and not _SECRET.search(address):
        wrong = f"{format_value(address)} contains {format_value(found[0])}; storage clients ignore the rest of the address."
        yield Finding(path, wrong, "Remove it and what follows.")


def _credentials(path: Path) -> Finding:
    # The address is not shown, because messages are logged
    wrong = "this address contains credentials, which every reader of the study can see."
    advice = "Remove them, and rotate them if the file was shared. Credentials come from the cloud provider's environment variables."
    return Finding(path, wrong, advice)
