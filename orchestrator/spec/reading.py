"""Read a file into a study, or report all mistakes at once.

The command line calls `read_study`, the controller `read_object`. One way through: bytes, tree with lines, models, checks across fields.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path as File
from typing import Any

from orchestrator.errors import InvalidStudy
from orchestrator.spec.checks import findings_of
from orchestrator.spec.messages import Finding, Mistake
from orchestrator.spec.messages import Path as Where
from orchestrator.spec.models import Study
from orchestrator.spec.recovery import Reading, read_models, rests_on
from orchestrator.spec.yaml_text import LARGEST_FILE, NotYaml, read_document


def read_study(path: File | str) -> Study:
    """Return the study in the file at `path`. Raises InvalidStudy, also if the file cannot be read."""
    try:
        with File(path).open("rb") as file:
            body = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
        raise InvalidStudy([Mistake(str(path), 0, "", f"the file cannot be read: {reason}.", "Check its name.")]) from problem
    return read_bytes(body, str(path))


def read_bytes(body: bytes, path: str) -> Study:
    """Return the study in the bytes of a file. `path`: for messages, and the start of relative paths. Raises InvalidStudy."""
    try:
        document, mistakes = read_document(body, path)
    except NotYaml as problem:
        raise InvalidStudy([problem.mistake]) from None
    reading = _read(document.values, document.broken)
    found = [finding.placed(path, line) for line, finding in document.findings]
    for finding in reading.findings:
        given = replace(finding, path=reading.as_given(finding.path))
        found.append(given.placed(path, document.line(given.path)))
    return _study(reading, [*mistakes, *_in_order(found)], path, document.values)


def read_object(given: Mapping[str, Any]) -> Study:
    """Return the study in an object of a cluster. Raises InvalidStudy, without file and line."""
    reading = _read(given, ())
    return _study(reading, [finding.placed("", 0) for finding in reading.findings], "", given)


def _read(values: object, broken: Iterable[Where]) -> Reading:
    reading = read_models(values, broken)
    if reading.study is not None:
        _check(reading, [finding.under(("spec",)) for finding in findings_of(reading.study.spec)])
    return reading


def _check(reading: Reading, findings: list[Finding]) -> None:
    """Drop findings that depend on something broken, or on a value that an earlier finding rejects."""
    void = {finding.path for finding in findings if finding.voids}
    for finding in findings:
        if not rests_on((finding.path, *finding.reads), reading.broken) and not rests_on(finding.reads, void):
            reading.findings.append(finding)


def _in_order(mistakes: Iterable[Mistake]) -> list[Mistake]:
    return sorted(dict.fromkeys(mistakes), key=lambda mistake: mistake.line)


def _study(reading: Reading, mistakes: list[Mistake], path: str, values: object) -> Study:
    if mistakes:
        raise InvalidStudy(list(mistakes))
    assert reading.study is not None
    assert isinstance(values, Mapping)
    return Study(reading.study.metadata.name, reading.study.spec, path, values["spec"])
