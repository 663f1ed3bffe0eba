"""`scaling-study fingerprint`: hash the files of sources. Run by the controller in a pod, or by hand to declare fingerprints."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command(name="fingerprint")(fingerprint)


def fingerprint(
    source: Annotated[list[str], typer.Option(help="NAME=PATH of a source, as in the study file. Repeatable.")] = [],  # noqa: B006
    tokenizer: Annotated[str, typer.Option(help="Path of a tokenizer.json.")] = "",
    store: Annotated[str, typer.Option(help="Store to write the result to, under --key.")] = "",
    key: Annotated[str, typer.Option(help="Key in the store.")] = "",
) -> None:
    """Hash the files of sources and print their fingerprints, to declare them with `fingerprint:` in a study file."""
    from orchestrator.errors import StoreUnavailable
    from orchestrator.store import open_store
    from orchestrator.study.fingerprints import Wanted, fingerprint_paths, write_result

    if not source and not tokenizer:
        raise typer.BadParameter("nothing to hash: give --source NAME=PATH, --tokenizer PATH or both")
    if wrong := [text for text in source if not text.partition("=")[0] or "=" not in text]:
        raise typer.BadParameter(f"--source {wrong[0]}: write NAME=PATH, for example web=s3://corpora/web")
    found = fingerprint_paths(Wanted(dict(text.split("=", 1) for text in source), tokenizer), Path())
    for name, digest in found.fingerprints.items():
        print(f"{name}\t{digest}\t{found.bytes_of[name]} bytes")
    if found.tokenizer:
        print(f"tokenizer\t{found.tokenizer}")
    if store and key:
        write_result(open_store(store), key, found)
    if found.unreachable:
        raise StoreUnavailable("\n".join(f"{name}: {why}" for name, why in found.unreachable.items()))
