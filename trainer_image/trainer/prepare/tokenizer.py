"""Loads the tokenizer of a study, be it one that a task has trained or one that is given as a file.

`tokens` calls it. Text that happens to spell a special token is tokenised as text, so the end-of-text token stands only where a document
ends.
"""

import hashlib
import os
import re
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import KeyMissing, TaskRefused
from orchestrator.store.artifacts import read_bytes
from orchestrator.store.corpora import expand, opened
from orchestrator.store.records import read_record
from trainer.context import Context
from trainer.prepare.inputs import paths_of

END_OF_TEXT: Final = "<|endoftext|>"
# What other families of models call it: GPT-2 and most after it, Llama 3, Llama 1 and 2, Gemma.
_ENDS_OF_TEXT: Final = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")

# The library takes some 100 bytes of memory a character while it works on a text.
_LONGEST: Final = 4 << 20
_BETWEEN_WORDS: Final = re.compile(r"(?<=[a-zA-Z]) (?=[a-zA-Z])")
_LOOK_AHEAD: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """`vocabulary`: one more than the highest id. `content`: of its tokenizer.json."""

    library: Any
    content: bytes
    vocabulary: int
    end_of_text: int
    longest: int = _LONGEST

    def ids(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens."""
        parts = [_parts(text, self.longest) for text in texts]
        encodings = iter(self.library.encode_batch_fast([part for each in parts for part in each], add_special_tokens=False))
        return [list(chain.from_iterable(next(encodings).ids for _ in each)) for each in parts]


def _parts(text: str, longest: int) -> list[str]:
    """The text in parts of about `longest` characters, cut before a space between two letters, where no token of a byte-level BPE lies."""
    parts = []
    while len(text) > longest:
        between = _BETWEEN_WORDS.search(text, longest, longest + _LOOK_AHEAD)
        end = between.start() if between else longest
        parts.append(text[:end])
        text = text[end:]
    return [*parts, text]


def use_threads(threads: int) -> None:
    """How many threads `tokenizers` uses. It reads the number once a process, when it first starts them."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    os.environ["RAYON_NUM_THREADS"] = str(threads)


def load_tokenizer(context: Context, name: str) -> Tokenizer:
    """The tokenizer `name`: the digest of a task, or `file:` and the SHA-256 of a tokenizer.json.

    Raises TaskRefused for a file that is another or none, KeyMissing while the task has no record, Damaged.
    """
    if name.startswith("file:"):
        content, place = _given(context, name)
    else:
        content, place = _trained(context, name), f"the tokenizer of task {name[:12]}..."
    return _parsed(content, place)


def _given(context: Context, name: str) -> tuple[bytes, str]:
    path = paths_of(context, name)[0]
    try:
        with opened(expand(path, Path.cwd())[0]) as stream:
            content = stream.read()
    except KeyMissing as problem:
        raise TaskRefused(str(problem)) from problem
    found = hashlib.sha256(content).hexdigest()
    if name != f"file:{found}":
        raise TaskRefused(f"{path}: its SHA-256 is {found}, and the task was planned for {name}; bring back that file, or plan again")
    return content, path


def _trained(context: Context, digest: str) -> bytes:
    record = read_record(context.store, digest)
    if record is None:
        raise KeyMissing(f"the tokenizer's task {digest} has no record yet; it has to be done before this one")
    return read_bytes(context.store, record.artifacts["tokenizer"])


def _parsed(content: bytes, place: str) -> Tokenizer:
    import tokenizers

    try:
        library = tokenizers.Tokenizer.from_str(content.decode())
    except Exception as problem:  # the library raises no narrower class
        raise TaskRefused(f"{place}: is no tokenizer.json of the `tokenizers` library: {problem}") from problem
    vocabulary: dict[str, int] = library.get_vocab(with_added_tokens=True)
    end_of_text = next((vocabulary[token] for token in _ENDS_OF_TEXT if token in vocabulary), None)
    if end_of_text is None:
        raise TaskRefused(f"{place}: has no end-of-text token; it must know one of {', '.join(_ENDS_OF_TEXT)}")
    library.no_truncation()
    library.no_padding()
    library.encode_special_tokens = True
    return Tokenizer(library, content, max(vocabulary.values()) + 1, end_of_text)
