"""Load the tokenizer of a study, either trained by a task or given as a file.

`tokens` calls it. Text that contains the spelling of a special token is tokenised as text, so the end-of-text token only occurs at the end
of documents.
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
# End-of-text tokens of model families: GPT-2 and most later ones, Llama 3, Llama 1 and 2, Gemma.
_END_OF_TEXT_TOKENS: Final = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>")

# Characters per part: the library uses about 100 bytes of memory per character.
_MAX_PART: Final = 4 << 20
_BETWEEN_WORDS: Final = re.compile(r"(?<=[a-zA-Z]) (?=[a-zA-Z])")
_LOOK_AHEAD: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A loaded tokenizer. `vocabulary`: highest id + 1. `content`: bytes of its tokenizer.json."""

    library: Any
    content: bytes
    vocabulary: int
    end_of_text: int
    max_part: int = _MAX_PART

    def ids(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of each text, without special tokens."""
        parts = [_parts(text, self.max_part) for text in texts]
        encodings = iter(self.library.encode_batch_fast([part for each in parts for part in each], add_special_tokens=False))
        return [list(chain.from_iterable(next(encodings).ids for _ in each)) for each in parts]


def _parts(text: str, max_part: int) -> list[str]:
    """Split the text into parts of about `max_part` characters, at spaces between letters, which no byte-level BPE token spans."""
    parts = []
    while len(text) > max_part:
        between = _BETWEEN_WORDS.search(text, max_part, max_part + _LOOK_AHEAD)
        end = between.start() if between else max_part
        parts.append(text[:end])
        text = text[end:]
    return [*parts, text]


def use_threads(threads: int) -> None:
    """Set the number of threads of `tokenizers`, which reads it once per process when it starts its threads."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    os.environ["RAYON_NUM_THREADS"] = str(threads)


def load_tokenizer(context: Context, name: str) -> Tokenizer:
    """Load the tokenizer `name`: the digest of a task, or `file:` and the SHA-256 of a tokenizer.json.

    Raises TaskRefused for a wrong or missing file, KeyMissing while the task has no record, Damaged.
    """
    if name.startswith("file:"):
        content, place = _read_given(context, name)
    else:
        content, place = _read_trained(context, name), f"the tokenizer of task {name[:12]}..."
    return _parse(content, place)


def _read_given(context: Context, name: str) -> tuple[bytes, str]:
    path = paths_of(context, name)[0]
    try:
        with opened(expand(path, Path.cwd())[0]) as stream:
            content = stream.read()
    except KeyMissing as problem:
        raise TaskRefused(str(problem)) from problem
    found = hashlib.sha256(content).hexdigest()
    if name != f"file:{found}":
        raise TaskRefused(f"{path}: its SHA-256 is {found}, but the task was planned for {name}; restore the file or plan again")
    return content, path


def _read_trained(context: Context, digest: str) -> bytes:
    record = read_record(context.store, digest)
    if record is None:
        raise KeyMissing(f"the tokenizer's task {digest} has no record yet; it must be done first")
    return read_bytes(context.store, record.artifacts["tokenizer"])


def _parse(content: bytes, place: str) -> Tokenizer:
    import tokenizers

    try:
        library = tokenizers.Tokenizer.from_str(content.decode())
    except Exception as problem:  # the library raises no narrower class
        raise TaskRefused(f"{place}: is not a tokenizer.json of the `tokenizers` library: {problem}") from problem
    vocabulary: dict[str, int] = library.get_vocab(with_added_tokens=True)
    end_of_text = next((vocabulary[token] for token in _END_OF_TEXT_TOKENS if token in vocabulary), None)
    if end_of_text is None:
        raise TaskRefused(f"{place}: has no end-of-text token; it must contain one of {', '.join(_END_OF_TEXT_TOKENS)}")
    library.no_truncation()
    library.no_padding()
    library.encode_special_tokens = True
    return Tokenizer(library, content, max(vocabulary.values()) + 1, end_of_text)
