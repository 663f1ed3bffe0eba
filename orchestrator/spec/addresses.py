"""The parts of an address of a store or source, as the storage clients read them.

The checks of a study file and the policy of a namespace call these functions. Storage clients resolve `..` before a request, so an address
must not contain it: `s3://studies/team-a/../team-b` is the folder of team-b.
"""

import re
from typing import Final
from urllib.parse import unquote

_SLASHES: Final = re.compile("/{2,}")
_PERCENT_ENCODING: Final = re.compile("%[0-9A-Fa-f]{2}")


def is_url(address: str) -> bool:
    """Return whether the address has a scheme; others are paths on one machine."""
    return "://" in address


def is_local(address: str) -> bool:
    """Return whether the address is on the disk of one machine: a path or a `file://` URL."""
    return not is_url(address) or address.strip().lower().startswith("file://")


def normalized(address: str) -> str:
    """Return an address or a pattern of addresses for comparisons: lower-case scheme, single slashes, `/folder` for `file:///folder`."""
    scheme, mark, path = address.strip().partition("://")
    if not mark:
        return _SLASHES.sub("/", scheme)
    scheme, path = scheme.lower(), _SLASHES.sub("/", path)
    return path if scheme == "file" else f"{scheme}://{path}"


def dot_segment(address: str) -> str:
    """Return the first segment that is `.` or `..`, also in percent-encoding, as given; "" if there is none."""
    return next((part for part in address.split("/") if any(inner in (".", "..") for inner in _decoded(part).split("/"))), "")


def percent_encoding(address: str) -> str:
    """Return the first percent-encoded byte, such as `%20`; "" if there is none."""
    found = _PERCENT_ENCODING.search(address)
    return found[0] if found else ""


def _decoded(text: str) -> str:
    """Decode repeatedly, because a client may decode what another one encoded."""
    while (decoded := unquote(text)) != text:
        text = decoded
    return text
