"""Parse the bytes of a study file into a tree of values with line numbers.

`orchestrator.spec.reading` calls it. It consumes the events of PyYAML instead of using its constructors, which hide duplicate keys, read
YAML 1.1, follow cycles and nest without a limit.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from orchestrator.spec.messages import Finding, Mistake, Path
from orchestrator.spec.scalars import Rejection, plain_scalar

# etcd stores at most 1.5 MB per object, including annotations
MAX_FILE_BYTES: Final = 2**20
MAX_VALUES: Final = 50_000
MAX_DEPTH: Final = 24

_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BREAK: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""Line terminators of YAML 1.1, which libyaml implements."""
_DUPLICATE: Final = "this key is a duplicate"
"""Beginning of the message for a repeated key, whose first value stays valid."""
_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\ufffe\uffff]")


class Unreadable:
    """Placeholder for a value that could not be read; the mistake is already reported."""


@dataclass(slots=True)
class Node:
    """A value with its line. `entries` of a mapping: key, line of the key, value. `wrong`: a mistake to report at the value."""

    line: int
    value: object = None
    entries: "list[tuple[str, int, Node]] | None" = None
    items: "list[Node] | None" = None
    wrong: Rejection | None = None
    wrong_keys: "list[tuple[str, int, Rejection]]" = field(default_factory=list)
    size: int = 1
    depth: int = 1

    @property
    def children(self) -> "list[Node]":
        return [child for _, _, child in self.entries] if self.entries is not None else self.items or []


@dataclass(frozen=True, slots=True)
class Document:
    """The content of a file: plain values, findings, and the tree with line numbers."""

    root: Node
    values: object
    findings: tuple[tuple[int, Finding], ...]
    invalid_paths: frozenset[Path]

    def line(self, path: Path) -> int:
        """Return the line of the value at `path`, or of its nearest existing parent."""
        node, line = self.root, self.root.line
        for part in path:
            if isinstance(part, str) and node.entries is not None:
                found = next(((at, child) for key, at, child in node.entries if key == part), None)
            elif isinstance(part, int) and node.items is not None and part < len(node.items):
                found = (node.items[part].line, node.items[part])
            else:
                found = None
            if found is None:
                return line
            line, node = found
        return line


class NotYaml(Exception):
    """The file cannot be parsed further. Contains the one mistake."""

    def __init__(self, mistake: Mistake) -> None:
        self.mistake = mistake
        super().__init__(str(mistake))


def read_document(body: bytes, file: str) -> tuple[Document, list[Mistake]]:
    """Return the first document of the file, with the mistakes of the whole file. Raises NotYaml if nothing can be read."""
    text = decode(body, file)
    root, second_document_line = _compose(text, file)
    if root is None:
        raise NotYaml(Mistake(file, 0, "", "the file is empty.", "Start with apiVersion, kind, metadata and spec."))
    if root.depth > MAX_DEPTH:
        raise NotYaml(_too_deep(file, root.line))
    findings: list[tuple[int, Finding]] = []
    invalid_paths: set[Path] = set()
    values = _values_of(root, (), findings, invalid_paths)
    mistakes = []
    if second_document_line:
        wrong = "a second document begins here; a file contains one study."
        mistakes.append(Mistake(file, second_document_line, "", wrong, "Move it to a separate file, or remove the ---."))
    return Document(root, values, tuple(findings), frozenset(invalid_paths)), mistakes


def decode(body: bytes, file: str) -> str:
    """Return the text of the file. Raises NotYaml if it is not UTF-8, too large, or contains control characters."""
    if len(body) > MAX_FILE_BYTES:
        wrong = f"the file has {len(body)} bytes; at most {MAX_FILE_BYTES} are allowed."
        raise NotYaml(Mistake(file, 0, "", wrong, "Check that this is a study file."))
    if body.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise NotYaml(Mistake(file, 1, "", "the file is UTF-16; a study file is UTF-8.", "Save it as UTF-8."))
    if body.startswith(b"\xef\xbb\xbf"):
        raise NotYaml(Mistake(file, 1, "", "the file begins with a byte-order mark.", "Save it as UTF-8 without BOM."))
    try:
        text = body.decode()
    except UnicodeDecodeError as problem:
        raise NotYaml(_not_utf8(body, problem.start, file)) from None
    control = _CONTROL.search(text)
    if control is not None:
        line = text.count("\n", 0, control.start()) + 1
        raise NotYaml(Mistake(file, line, "", f"the character {control[0]!r} is not allowed in YAML.", "Remove it."))
    return text


def _not_utf8(body: bytes, at: int, file: str) -> Mistake:
    line = body.count(b"\n", 0, at) + 1
    column = at - (body.rfind(b"\n", 0, at) + 1) + 1
    wrong = f"the byte 0x{body[at]:02X} in column {column} is not UTF-8 (it is {bytes([body[at]]).decode('latin-1')!r} in Latin-1)."
    return Mistake(file, line, "", wrong, f"Convert the file: iconv -f latin1 -t utf-8 {file}")


def _compose(text: str, file: str) -> tuple[Node | None, int]:
    """Return the tree of the first document, and the line where a second one begins (0 if there is none)."""
    lines = _Lines(text)
    composer = _Composer(file, lines)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            composer.take(event)
            if composer.second_document_line:
                break
    except yaml.YAMLError as problem:
        raise NotYaml(_syntax(problem, text, lines, file)) from None
    return composer.root, composer.second_document_line


class _Lines:
    """Line numbers from 1 as editors count them: YAML also ends lines at three Unicode characters, editors do not."""

    def __init__(self, text: str) -> None:
        self._extra = [number for number, found in enumerate(_BREAK.finditer(text)) if found[0] not in ("\n", "\r", "\r\n")]

    def of(self, mark: Any) -> int:  # noqa: ANN401  (of PyYAML)
        line: int = mark.line
        return line + 1 - bisect_left(self._extra, line)


class _Composer:
    """Build a tree from events, without recursion."""

    def __init__(self, file: str, lines: _Lines) -> None:
        self.file = file
        self.lines = lines
        self.root: Node | None = None
        self.second_document_line = 0
        self.open: list[Node] = []
        self.keys: list[tuple[str, int] | None] = []
        self.anchors: dict[str, Node] = {}
        self.has_document = False
        self.count = 0

    def take(self, event: Any) -> None:  # noqa: ANN401  (PyYAML's events share no type that knows their fields)
        line = self.lines.of(event.start_mark)
        if isinstance(event, yaml.DocumentStartEvent):
            self.second_document_line = line if self.has_document else 0
            self.has_document = True
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            mapping = isinstance(event, yaml.MappingStartEvent)
            self._begin(Node(line, entries=[] if mapping else None, items=None if mapping else []), event)
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self._end()
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event, line)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(str(event.anchor), line)

    def _begin(self, node: Node, event: Any) -> None:  # noqa: ANN401
        if len(self.open) >= MAX_DEPTH:
            raise NotYaml(_too_deep(self.file, node.line))
        self._name(node, event)
        self.open.append(node)
        self.keys.append(None)

    def _end(self) -> None:
        node = self.open.pop()
        self.keys.pop()
        node.size = 1 + sum(child.size for child in node.children)
        node.depth = 1 + max((child.depth for child in node.children), default=0)
        self._put(node)

    def _scalar(self, event: Any, line: int) -> None:  # noqa: ANN401
        plain = event.style is None or event.style == ""
        value, wrong = plain_scalar(event.value) if plain and event.tag is None else (event.value, None)
        node = Node(line, value, wrong=wrong)
        self._name(node, event)
        if self.open and self.open[-1].entries is not None and self.keys[-1] is None:
            self._key(event.value, line, value, node.wrong)
        else:
            self._put(node)

    def _name(self, node: Node, event: Any) -> None:  # noqa: ANN401
        if event.tag is not None:
            node.wrong = (f"{event.tag[:40]} is a YAML tag; a study file cannot contain tags", "Remove it.")
        if event.anchor is not None:
            self.anchors[event.anchor] = node

    def _alias(self, name: str, line: int) -> None:
        node = self.anchors.get(name)
        if node is None:
            node = Node(line, wrong=(f"*{name[:40]} refers to an anchor that is not defined", f"Define &{name[:40]} above."))
        elif any(node is outer for outer in self.open):
            node = Node(line, wrong=(f"*{name[:40]} refers to the value that contains it", "Write out the value."))
        self._put(node)

    def _key(self, text: str, line: int, value: object, wrong: Rejection | None) -> None:
        if wrong is None and (value is None or isinstance(value, bool)):
            wrong = (f"{text or 'an empty key'} is not text; keys must be text", f'Write "{text}" in quotes.')
        if wrong is not None:
            self.open[-1].wrong_keys.append((text, line, wrong))
        self.keys[-1] = (text, line)

    def _put(self, node: Node) -> None:
        self.count += 1
        if max(self.count, node.size) > MAX_VALUES:
            outermost = self.open[0] if self.open else node
            wrong = f"this contains more than {MAX_VALUES} values."
            raise NotYaml(Mistake(self.file, outermost.line, "", wrong, "Reduce the number of values."))
        if not self.open:
            self.root = node
            return
        parent = self.open[-1]
        if parent.items is not None:
            parent.items.append(node)
            return
        key = self.keys[-1]
        assert parent.entries is not None
        if key is None:
            rejection = ("this key is a list or a mapping; keys must be text", "Use text as the key.")
            parent.wrong_keys.append(("?", node.line, rejection))
            self.keys[-1] = ("?", node.line)
            return
        self.keys[-1] = None
        first = next((line for name, line, _ in parent.entries if name == key[0]), 0)
        if first:
            rejection = (f"{_DUPLICATE}; it is already given in line {first}", "Remove one of the two.")
            parent.wrong_keys.append((*key, rejection))
        else:
            parent.entries.append((*key, node))


def _values_of(node: Node, path: Path, findings: list[tuple[int, Finding]], invalid_paths: set[Path]) -> object:
    wrong = node.wrong
    if wrong is None and node.entries is None and node.items is None and node.value is None and path[:1] == ("spec",):
        wrong = ("this value is empty", "Give a value, or remove the key.")
    for key, line, key_wrong in node.wrong_keys:
        findings.append((line, Finding((*path, key), key_wrong[0] + ".", key_wrong[1])))
        if not key_wrong[0].startswith(_DUPLICATE):
            invalid_paths.add((*path, key))
    if wrong is not None:
        findings.append((node.line, Finding(path, wrong[0] + ".", wrong[1])))
        invalid_paths.add(path)
        return Unreadable()
    if node.entries is not None:
        return {key: _values_of(child, (*path, key), findings, invalid_paths) for key, _, child in node.entries}
    if node.items is not None:
        return [_values_of(child, (*path, index), findings, invalid_paths) for index, child in enumerate(node.items)]
    return node.value


# Part of a message of libyaml or PyYAML -> advice
_ADVICE: Final = (
    ("tab", "Indent with spaces: YAML allows no tabs there."),
    ("mapping values are not allowed", "Check the indentation; quote text that contains a colon and a space."),
    ("cannot start any token", "Quote the text."),
    ("expected ',' or", "Close the bracket or brace, or add the missing comma."),
    ("end of stream", "Close the quote."),
    ("unknown escape", "Write \\\\ for a backslash inside \"...\", or use '...'."),
)


def _too_deep(file: str, line: int) -> Mistake:
    return Mistake(file, line, "", f"this is nested deeper than {MAX_DEPTH} levels.", "Reduce the nesting.")


def _syntax(problem: yaml.YAMLError, text: str, lines: _Lines, file: str) -> Mistake:
    mark = getattr(problem, "problem_mark", None)
    line = lines.of(mark) if mark is not None else 1
    message = (getattr(problem, "problem", None) or str(problem).splitlines()[0])[:120]
    if "nesting depth" in message:  # libyaml has its own limit and may reach it first
        return _too_deep(file, line)
    if "\t" in _indentation(text, line):
        message = "a tab where YAML requires spaces"
    context = getattr(problem, "context_mark", None)
    context_line = lines.of(context) if context is not None else line
    context_text = f", in the block that begins in line {context_line}" if context_line != line else ""
    advice = next(
        (advice for fragment, advice in _ADVICE if fragment in message), "Check indentation, brackets and quotes up to this line."
    )
    return Mistake(file, line, "", f"this is not YAML: {message}{context_text}.", advice)


def _indentation(text: str, line: int) -> str:
    lines: Iterator[str] = (found for number, found in enumerate(text.split("\n"), 1) if number == line)
    found = next(lines, "")
    return found[: len(found) - len(found.lstrip())]
