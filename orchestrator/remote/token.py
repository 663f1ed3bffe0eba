"""The bearer token of an Argo Server, from a variable or from a file that is renewed while the run lasts."""

from collections.abc import Callable
from pathlib import Path

from orchestrator.errors import ClusterError


def token_source(token: str, file: Path | None, namespace: str) -> Callable[[], str]:
    """Return a function that gives the current token, without a `Bearer` prefix.

    `file`, if given, is read at every call and takes precedence over `token`. `namespace`: for the message. Raises ClusterError if
    there is no token.
    """
    last = ""

    def read() -> str:
        nonlocal last
        try:
            text = token if file is None else file.read_text()
        except OSError as problem:
            raise ClusterError(f"the token cannot be read from {file}: {problem.strerror}") from problem
        except UnicodeDecodeError:
            text = "\0"
        found = text.strip().removeprefix("Bearer ").strip()
        if not all("!" <= letter <= "~" for letter in found):
            # the message omits the text, because messages are logged
            raise ClusterError(f"{file or 'ARGO_TOKEN'} does not hold a token: it has spaces, line breaks or characters that no token has")
        # the file is empty for a moment while it is renewed
        last = found or last
        return last

    if not read():
        raise ClusterError(
            "an Argo Server needs a token: set ARGO_TOKEN, or give --token-file FILE.\n"
            f"    For a service account: kubectl create token ACCOUNT -n {namespace}"
        )
    return read
