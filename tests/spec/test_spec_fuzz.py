"""Reading any file, object or bytes returns a study or raises InvalidStudy, and nothing else."""

import contextlib
import copy
from pathlib import Path
from typing import Any

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.errors import InvalidStudy
from orchestrator.spec import Mistake, Study, read_bytes, read_object

GOOD = (Path(__file__).parent / "good_study.yaml").read_text()
DOCUMENT: dict[str, Any] = yaml.load(GOOD, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))

WORDS = st.sampled_from(
    [
        *("grid", "20x", "10%", "12.5", "1e-6", "200B", "web", "stack", "cooldown", "continue", "stable", "wsd", "cosine", "60M", "own"),
        *("", "[key]", "<file>", "<<", "train", "file", "text", "s3://a:b@c", "s3://", "é", "\u2028", "a" * 300, "null", "yes", "*"),
    ]
)
NUMBERS = st.integers(-3, 200) | st.integers() | st.floats()
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8), WORDS, st.dates(), st.binary(max_size=3))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.integers(0, 3), inner, max_size=3), max_leaves=5
)
SIGNS = st.sampled_from(b"\t/&a /*a/!!x /- /: /{/}/[/]/\n---\n/? />/|/'/\"/#/%/\n\n/<<: ".split(b"/"))
CUTS = st.lists(st.tuples(st.integers(0, len(GOOD)), st.integers(0, 20), st.binary(max_size=6) | SIGNS), min_size=1, max_size=4)

Place = tuple[Any, ...]


def places(value: Any) -> list[Place]:
    """Return the path of every value inside `value`."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [(key, *rest) for key in keys for rest in ((), *places(value[key]))]


PLACES = places(DOCUMENT)


def holds(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else isinstance(holder, list) and isinstance(key, int) and key < len(holder)


def change(document: Any, place: Place, how: str, value: Any, word: str) -> None:
    """Replace, drop, rename or duplicate the value at `place`, if there is one."""
    holder = document
    for key in place[:-1]:
        holder = holder[key] if holds(holder, key) else None
    last = place[-1]
    if not holds(holder, last):
        return
    if how == "drop":
        del holder[last]
    elif how == "double" and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[last]))
    elif how in ("double", "rename") and isinstance(holder, dict):
        holder[word] = copy.deepcopy(holder[last])
        if how == "rename" and word != last:
            del holder[last]
    else:
        holder[last] = value


CHANGES = st.lists(
    st.tuples(st.sampled_from(PLACES), st.sampled_from(["set", "set", "drop", "rename", "double"]), VALUES, WORDS), min_size=1, max_size=4
)


def changed(changes: list[tuple[Place, str, Any, str]]) -> Any:
    document = copy.deepcopy(DOCUMENT)
    for one in changes:
        change(document, *one)
    return document


def read(body: bytes) -> Study | InvalidStudy:
    try:
        return read_bytes(body, "study.yaml")
    except InvalidStudy as mistakes:
        return mistakes


def dumped(document: Any) -> bytes:
    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return yaml.dump(document, Dumper=dumper, allow_unicode=True, sort_keys=False, encoding="utf-8")


@settings(max_examples=200, deadline=None)
@given(CHANGES)
@example([(("spec", "execution"), "set", {"\u2028": None}, ""), (("apiVersion",), "set", None, "")])
@example([(("spec", "grid", "seeds", 0), "set", [], ""), (("spec", "grid", "seeds", 0), "double", None, "")])
def test_mutated_file_gives_a_study_or_mistakes(changes: list[tuple[Place, str, Any, str]]) -> None:
    body = dumped(changed(changes))
    outcome = read(body)
    if isinstance(outcome, InvalidStudy):
        assert outcome.mistakes
        for mistake in outcome.mistakes:
            assert isinstance(mistake, Mistake)
            assert 0 <= mistake.line <= body.count(b"\n") + 1
            assert "orchestrator" not in str(mistake)
            assert "object at 0x" not in str(mistake)


@settings(max_examples=200, deadline=None)
@given(CHANGES)
def test_mutated_object_gives_a_study_or_mistakes(changes: list[tuple[Place, str, Any, str]]) -> None:
    with contextlib.suppress(InvalidStudy):
        read_object(changed(changes))


@settings(max_examples=200, deadline=None)
@given(CUTS)
def test_mutated_bytes_give_a_study_or_mistakes(cuts: list[tuple[int, int, bytes]]) -> None:
    body = GOOD.encode()
    for at, length, new in cuts:
        body = body[:at] + new + body[at + length :]
    read(body)


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_any_document_gives_a_study_or_mistakes(value: Any) -> None:
    read(dumped(value))


def test_every_removed_value_was_optional_or_is_reported() -> None:
    refused = 0
    for place in PLACES:
        document = copy.deepcopy(DOCUMENT)
        change(document, place, "drop", None, "")
        refused += isinstance(read(dumped(document)), InvalidStudy)
    assert len(PLACES) / 2 < refused < len(PLACES)
