"""Turn docstrings, reST and Markdown into paragraphs of plain English.

`gather` calls `paragraphs` on everything in the text group of the demo, to remove doctests, code blocks, signatures, parameter tables,
headings and inline markup. A paragraph that is not prose afterwards is dropped.
"""

import re
from inspect import cleandoc
from typing import Final

# Function words of English. In documents of prose they are 40-50 % of all words (10th to 90th percentile here), in tables almost none.
_FUNCTION_WORDS: Final = """
a about after all also an and any are as at be because been before being between both but by can could do does each either for from had
has have he her his how however if in into is it its may more most must no not of on one only or other our out over own same she should
since so some such than that the their them then there these they this those through to under until up was we were what when where
whether which while who will with within without would you your
"""
_COMMON: Final = frozenset(_FUNCTION_WORDS.split())
_LEAST_COMMON: Final = 0.27
_MOST_ODD: Final = 0.05
_LEAST_WORDS: Final = 9
_LONGEST_TOKEN: Final = 24

_FENCE: Final = re.compile(r"(```|~~~)")
_UNDERLINE: Final = re.compile(r"([=\-~^\"'*+#`.:_])\1{2,}\s*$")
_HEADING: Final = re.compile(r"#{1,6} ")
_DIRECTIVE: Final = re.compile(r"\.\. ?(?:[\w:.-]*::|_|\|)")
# Directives whose body is prose; the body of any other is code, mathematics, a table or a picture.
_PROSE_DIRECTIVE: Final = re.compile(
    r"\.\. (?:note|warning|seealso|tip|important|attention|hint|caution|admonition|topic|deprecated|version\w+)::"
)
_BULLET: Final = re.compile(r"(?:[-*+•]|\(?[0-9a-z]{1,2}[.)]|#\.|\[\d+\]|\.\. \[\w+\])\s+")
_FIELD: Final = re.compile(r":[\w ,*`.~-]+:(?:\s+|$)")
# `name (type): text` and `name: text` of Google style.
_ARGUMENT: Final = re.compile(
    r"[`*]{0,3}[\w.,* ]{1,40}[`*]{0,3} ?\([^()]*(?:\([^()]*\)[^()]*)*\)[`*]{0,2} ?(?::|--?) ?"
    r"|`{0,2}\*{0,2}[a-z_][\w.]*`{0,2} ?(?::| -) (?=\S)"
)
# `name : type` of numpydoc, `name:` of Google style: their description follows, indented.
_PARAMETER: Final = re.compile(r"[`*\w., ]+ : |[`*\w.]+ ?:$")

_INLINE: Final = tuple(
    (re.compile(pattern, re.DOTALL), replacement)
    for pattern, replacement in (
        (r"<!--.*?-->|</?[A-Za-z][^<>]*>", ""),  # HTML
        (r"!\[[^\]]*\]\([^)]*\)", ""),  # images
        (r"\[([^\]]+)\]\([^)]*\)", r"\1"),  # Markdown links
        (r"\[([^\]]+)\]\[[^\]]*\]", r"\1"),
        (r" ?\[[\w# ,-]+\]_", ""),  # reST citations
        (r":(?:py:)?(?!ref|doc)\w+:`[~!]?(?:\w*\.)+(\w+)`", r"\1"),  # reST roles, without the module of a name
        (r":[\w:+-]+:`[~!]?([^`<]*?)(?: ?<[^`]*>)?`", r"\1"),
        (r"`([^`<]+?) ?<[^`>]*>`_{1,2}", r"\1"),  # reST links
        (r"``([^`]*)``", r"\1"),
        (r"`([^`]*)`_{0,2}", r"\1"),
        (r"\[([A-Za-z_.~]+)\]", r"\1"),
        (r"(?<![\w*])\*{1,3}([^*\s](?:[^*]*[^*\s])?)\*{1,3}(?![\w*])", r"\1"),  # emphasis
        (r"(?<!\w)_{1,2}([^_\s][^_]*)_{1,2}(?!\w)", r"\1"),
        (r"::$", ":"),
        (r"\\([^\w\s])", r"\1"),
        (r"\|([A-Za-z]\w*)\|", r"\1"),
        (r"\s+([.,;])(?=\s|$)", r"\1"),
    )
)
_TYPOGRAPHY: Final = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "\xa0": " ", "…": "..."})
_CODE_TOKEN: Final = re.compile(r"\w+\(|\w_\w|[a-z]\.[a-z]|[a-z][A-Z]|--?\w+=|[=<>{}|\\@#$^~]|\[|\]|//|::|\w/\w|[A-Z]{2,}_|>>>")
_FIRST_LETTER: Final = re.compile(r"^[\"'(]?[A-Z]")
_END: Final = re.compile(r"[.!?][\"')]{0,2}$")
_ODD: Final = re.compile(r"""[^a-zA-Z ,.;:'"()!?-]""")


def paragraphs(text: str) -> list[str]:
    """Return the paragraphs of `text` that are English prose, each on one line, in order."""
    blocks = _blocks(cleandoc(text.translate(_TYPOGRAPHY)).splitlines())
    plain = (_plain(block) for block in blocks if block.count(" ") >= _LEAST_WORDS - 1)
    return [paragraph for paragraph in plain if reads_as_prose(paragraph)]


def reads_as_prose(paragraph: str) -> bool:
    """Return True for complete sentences of English words, False for headings, tables, code and lists of names."""
    words = paragraph.split()
    if len(words) < _LEAST_WORDS or not _FIRST_LETTER.match(paragraph) or not _END.search(paragraph):
        return False
    if len(_ODD.findall(paragraph)) > _MOST_ODD * len(paragraph):
        return False
    if max(map(len, words)) > _LONGEST_TOKEN or len(_CODE_TOKEN.findall(paragraph)) > len(words) / 25:
        return False
    common = sum(word.strip(",.;:'\"()!?").lower() in _COMMON for word in words)
    return common >= _LEAST_COMMON * len(words)


def sameness(paragraph: str) -> str:
    """Return a key that near-duplicates share: the lower-case words only, without names and numbers."""
    return " ".join(word for word in re.findall(r"[A-Za-z0-9_.]+", paragraph) if word.isalpha() and word.islower())


def _plain(block: str) -> str:
    for pattern, replacement in _INLINE:
        block = pattern.sub(replacement, block)
    return " ".join(block.split())


def _blocks(lines: list[str]) -> list[str]:
    """Join lines into blocks: split at blank lines, bullets, fields and changes of indentation; code is left out."""
    blocks: list[list[str]] = [[]]
    indent, skipped_below, hanging, fenced, doctest = 0, -1, False, False, False
    for line in lines:
        content = line.strip()
        depth = len(line) - len(line.lstrip())
        if _FENCE.match(content):
            fenced = not fenced
            blocks.append([])
            continue
        if fenced or not content or (0 <= skipped_below < depth):
            doctest = doctest and bool(content)
            blocks.append([])
            continue
        skipped_below = -1
        if content.startswith(">>>") or doctest:
            doctest = True
            continue
        if _UNDERLINE.match(content):
            blocks[-1] = []
            continue
        if _DIRECTIVE.match(content):
            blocks.append([])
            if not _PROSE_DIRECTIVE.match(content):
                skipped_below = depth
            continue
        if _PARAMETER.match(content):
            blocks.append([])
            continue
        start = _starts_a_block(content)
        hangs = hanging and len(blocks[-1]) == 1 and depth > indent
        if start or (depth != indent and not hangs):
            blocks.append([])
        indent = depth
        hanging = start > 0
        rest = content[start:]
        blocks[-1].append(rest[:1].upper() + rest[1:] if start else rest)
        if content.endswith("::"):
            skipped_below = depth
    return [" ".join(block) for block in blocks if block and not _HEADING.match(block[0])]


def _starts_a_block(content: str) -> int:
    """Return the length of the line's marker (bullet, field or argument name), 0 if the line continues a block."""
    end = 0
    for pattern in (_BULLET, _FIELD, _ARGUMENT):
        if match := pattern.match(content, end):
            end = match.end()
    return end
