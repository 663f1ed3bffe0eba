"""Write a small corpus of code and English from the installed packages.

`scaling-study demo-corpus` calls `write_corpus`, so that a first study has real input without a download. `gather` finds the files,
`prose` cleans them, `corpus` writes them.
"""

from orchestrator.demo_corpus.corpus import Corpus, write_corpus

__all__ = ["Corpus", "write_corpus"]
