"""`scaling-study fingerprint`: hash the files of sources. Run by the controller in a pod, or by hand to declare fingerprints."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command(name="fingerprint")(fingerprint)


def fingerprint(
    source: Annotated[list[str], typer.Option(help="Hash the files of this source: NAME=PATH, as in the study file. Repeatable.")] = [],  # noqa: B006
    tokenizer: Annotated[str, typer.Option(help="Hash this tokenizer.json.")] = "",
    store: Annotated[str, typer.Option(help="Write the result to the store at this address, under --key.")] = "",
    key: Annotated[str, typer.Option(help="Use this key in the store; requires --store.")] = "",
) -> None:
    """Print the fingerprints of sources: hashes of their files, for the field `fingerprint` of a study file."""
    from orchestrator.errors import StoreUnavailable
    from orchestrator.store import open_store
    from orchestrator.study.fingerprints import FingerprintRequest, fingerprint_paths, write_result

    if not source and not tokenizer:
        raise typer.BadParameter("nothing to hash: give --source NAME=PATH, --tokenizer PATH or both")
    if wrong := [text for text in source if not text.partition("=")[0] or "=" not in text]:
        raise typer.BadParameter(f"--source {wrong[0]}: write NAME=PATH, for example web=s3://corpora/web")
    found = fingerprint_paths(FingerprintRequest(dict(text.split("=", 1) for text in source), tokenizer), Path())
    for name, digest in found.fingerprints.items():
        print(f"{name}\t{digest}\t{found.bytes_of[name]} bytes")
    if found.tokenizer:
        print(f"tokenizer\t{found.tokenizer}")
    if store and key:
        write_result(open_store(store), key, found)
    if found.unreachable:
        raise StoreUnavailable("\n".join(f"{name}: {why}" for name, why in found.unreachable.items()))
