"""A small corpus of code and of English that every machine with this installation already has.

`scaling-study demo-corpus` calls `write_corpus`, so that the first study that anybody runs has real input without a download. `prose`
cleans, `gather` finds, `corpus` writes. To a study it is a folder like any other.
"""

from orchestrator.demo_corpus.corpus import Corpus, write_corpus

__all__ = ["Corpus", "write_corpus"]
