"""`scaling-study demo-corpus`: the input of the first study, made from what is installed."""

import time
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("demo-corpus")(demo_corpus)


def demo_corpus(out: Annotated[Path, typer.Argument(help="Folder to write; manifests/examples/demo.yaml reads corpus/demo.")]) -> None:
    """Write OUT/code (Python's standard library) and OUT/text (prose of the installed packages), unless they are there."""
    from orchestrator.cli.outputs import writing
    from orchestrator.demo_corpus import write_corpus

    begin = time.perf_counter()
    with writing(out, "a folder; one that is not there is made"):
        corpus = write_corpus(out)
    print(f"code: {corpus.code_documents:6,} documents  {corpus.code_bytes / 1e6:5.1f} MB  {out / 'code'}")
    print(f"text: {corpus.text_documents:6,} documents  {corpus.text_bytes / 1e6:5.1f} MB  {out / 'text'}")
    print(f"{'written' if corpus.written else 'was there, nothing written'} in {time.perf_counter() - begin:.1f} s")
