"""`scaling-study demo-corpus`: write the input of the demo study, from the text and code of installed packages."""

import time
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("demo-corpus")(demo_corpus)


def demo_corpus(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write to. manifests/examples/demo.yaml reads corpus/demo.")],
) -> None:
    """Write the demo's corpus, unless it exists: OUT/code (the standard library) and OUT/text (prose of installed packages)."""
    from orchestrator.cli.outputs import writing
    from orchestrator.demo_corpus import write_corpus

    begin = time.perf_counter()
    with writing(out, "a folder; it is created if it does not exist"):
        corpus = write_corpus(out)
    print(f"code: {corpus.code_documents:6,} documents  {corpus.code_bytes / 1e6:5.1f} MB  {out / 'code'}")
    print(f"text: {corpus.text_documents:6,} documents  {corpus.text_bytes / 1e6:5.1f} MB  {out / 'text'}")
    print(f"{'written' if corpus.written else 'already exists, nothing written'} in {time.perf_counter() - begin:.1f} s")
