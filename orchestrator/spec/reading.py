"""Read a file into a study, or report all mistakes at once.

The command line calls `read_study`, the controller `read_object`. The steps are: bytes, tree with lines, models, checks across fields.
"""

import stat
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path as File
from typing import Any

from orchestrator.errors import InvalidStudy
from orchestrator.spec.checks import findings_of
from orchestrator.spec.messages import Finding, Mistake
from orchestrator.spec.messages import Path as Where
from orchestrator.spec.models import Study
from orchestrator.spec.recovery import ReadResult, overlaps, read_models
from orchestrator.spec.yaml_text import MAX_FILE_BYTES, NotYaml, read_document


def read_study(path: File | str) -> Study:
    """Return the study in the file at `path`. Raises InvalidStudy, also if the file cannot be read."""
    try:
        # opening a named pipe would wait for a writer
        if not (File(path).is_dir() or stat.S_ISREG(File(path).stat().st_mode)):
            raise InvalidStudy([Mistake(str(path), 0, "", "it is a pipe or a device, not a file.", "Write the study to a file.")])
        with File(path).open("rb") as file:
            body = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
        raise InvalidStudy([Mistake(str(path), 0, "", f"the file cannot be read: {reason}.", "Check the path.")]) from problem
    return read_bytes(body, str(path))


def read_bytes(body: bytes, path: str) -> Study:
    """Return the study in the bytes of a file. `path`: for messages and to resolve relative paths. Raises InvalidStudy."""
    try:
        document, mistakes = read_document(body, path)
    except NotYaml as problem:
        raise InvalidStudy([problem.mistake]) from None
    result = _read(document.values, document.invalid_paths)
    found = [finding.placed(path, line) for line, finding in document.findings]
    for finding in result.findings:
        given = replace(finding, path=result.path_in_file(finding.path))
        found.append(given.placed(path, document.line(given.path)))
    return _study(result, [*mistakes, *_in_order(found)], path, document.values)


def read_object(given: Mapping[str, Any]) -> Study:
    """Return the study in a Kubernetes object. Raises InvalidStudy, without file and line."""
    result = _read(given, ())
    return _study(result, [finding.placed("", 0) for finding in result.findings], "", given)


def _read(values: object, invalid_paths: Iterable[Where]) -> ReadResult:
    result = read_models(values, invalid_paths)
    if result.study is not None:
        _check(result, [finding.under(("spec",)) for finding in findings_of(result.study.spec)])
    return result


def _check(result: ReadResult, findings: list[Finding]) -> None:
    """Add the findings that do not depend on an invalid path, or on a value that another finding rejects."""
    void = {finding.path for finding in findings if finding.hides_dependents}
    for finding in findings:
        if not overlaps((finding.path, *finding.depends_on), result.invalid_paths) and not overlaps(finding.depends_on, void):
            result.findings.append(finding)


def _in_order(mistakes: Iterable[Mistake]) -> list[Mistake]:
    return sorted(dict.fromkeys(mistakes), key=lambda mistake: mistake.line)


def _study(result: ReadResult, mistakes: list[Mistake], path: str, values: object) -> Study:
    if mistakes:
        raise InvalidStudy(list(mistakes))
    assert result.study is not None
    assert isinstance(values, Mapping)
    return Study(result.study.metadata.name, result.study.spec, path, values["spec"])
