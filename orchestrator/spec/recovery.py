"""Read a document into models, and continue after a mistake.

One invalid part must not hide the mistakes in other parts. So an invalid part is reported and replaced by a valid value, its path is
recorded, and the document is read again. The checks across fields then see complete models; their findings about recorded paths are
dropped.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from orchestrator.spec.field_errors import FieldError, finding_of
from orchestrator.spec.messages import Finding, Path, closest_match
from orchestrator.spec.model_tree import entries_at, field_at, minimal_value
from orchestrator.spec.models import StudyObject

# Every round corrects the mistakes of the previous one; more rounds find no more
MAX_ROUNDS: Final = 12


@dataclass
class ReadResult:
    """Result of reading a document. `study` is None if recovery failed. `renamed`: corrected path -> misspelled key."""

    study: StudyObject | None = None
    findings: list[Finding] = field(default_factory=list)
    invalid_paths: set[Path] = field(default_factory=set)
    renamed: dict[Path, str] = field(default_factory=dict)

    def path_in_file(self, path: Path) -> Path:
        """Return the path as in the file, where a misspelled key was read as the intended one."""
        return tuple(self.renamed.get(path[: index + 1], part) for index, part in enumerate(path))


def overlaps(paths: Iterable[Path], invalid_paths: Iterable[Path]) -> bool:
    """Return whether any path (`"*"`: any entry) is a prefix or an extension of an invalid one."""
    invalid_paths = list(invalid_paths)
    return any(all(a in (b, "*") for a, b in zip(path, other, strict=False)) for path in paths for other in invalid_paths)


# Parts of pydantic's error locations that are not in the file: tags of unions, and the mark of an invalid key
PYDANTIC_MARKERS: Final = ("<one>", "<by size>", "<grid>", "<percent>", "<file>", "[key]")


def read_models(document: object, invalid_paths: Iterable[Path]) -> ReadResult:
    """Return the models of a document, with all findings. `invalid_paths`: paths whose mistakes are already reported."""
    result = ReadResult(invalid_paths=set(invalid_paths))
    values = _copied(document)
    replaced: set[Path] = set()
    for _ in range(MAX_ROUNDS):
        try:
            result.study = StudyObject.model_validate(values, by_alias=True, by_name=False)
        except ValidationError as problem:
            values = _correct(values, _field_errors(problem.errors(include_url=False, include_input=False), values), result, replaced)
        else:
            break
    return result


def _copied(document: object) -> Any:  # noqa: ANN401  (any YAML or JSON value)
    if isinstance(document, Mapping):
        return {key: _copied(value) for key, value in document.items()}
    return [_copied(value) for value in document] if isinstance(document, list) else document


def _field_errors(details: list[ErrorDetails], values: object) -> list[FieldError]:
    """Return the first error of each path."""
    found: dict[Path, FieldError] = {}
    for detail in details:
        context = detail.get("ctx", {})
        path = _path(detail["loc"], values)
        if detail["type"] == "unexpected_key":
            path = (*(path[:-1] if path[-1:] == (context["allowed_key"],) else path), context["key"])
        of_key = detail["loc"][-1:] == ("[key]",) and path[-1:] not in ((), ("[key]",))
        given = path[-1] if of_key else value_at(values, path)
        if detail["type"] == "too_short" and given:
            continue  # pydantic counts only the valid entries
        holder = value_at(values, path[:-1])
        present = tuple(holder) if isinstance(holder, Mapping) else ()
        found.setdefault(path, FieldError(detail["type"], path, given, context, detail["msg"], present))
    return list(found.values())


def _path(loc: tuple[str | int, ...], values: object) -> Path:
    """Return the path in the file of a location in the models: without union tags, ending at a value in short form."""
    path: list[str | int] = []
    for part in loc:
        if not isinstance(values, (Mapping, list)):
            break
        is_key = isinstance(values, Mapping) and part in values
        if part in PYDANTIC_MARKERS and not is_key:
            continue
        path.append(part)
        values = value_at(values, (part,))
    return tuple(path)


def value_at(values: object, path: Path) -> object:
    """Return the value at a path, or None."""
    for part in path:
        if isinstance(values, Mapping):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int) and part < len(values):
            values = values[part]
        else:
            return None
    return values


def _correct(values: Any, errors: list[FieldError], result: ReadResult, replaced: set[Path]) -> Any:  # noqa: ANN401
    reported = set(result.invalid_paths)
    renames = _renames(values, errors)
    for error in errors:
        if error.kind == "missing" and any(error.path[:-1] == path[:-1] for path in renames):
            continue
        if not any(error.path[: len(path)] == path for path in reported):
            result.findings.append(finding_of(error))
        holder = value_at(values, error.path[:-1])
        if error.is_unknown_key and isinstance(holder, dict):
            _rename_or_drop(holder, error.path, renames.get(error.path), result)
        else:
            values = _replace(values, error.path, result, replaced)
    return values


def _renames(values: object, errors: list[FieldError]) -> dict[Path, str]:
    """Return path of a misspelled key -> the intended key, if that is absent."""
    renames: dict[Path, str] = {}
    for error in errors:
        holder = value_at(values, error.path[:-1])
        if error.is_unknown_key and error.path and isinstance(holder, Mapping):
            suggestion = closest_match(error.path[-1], error.known_keys)
            taken = {key for path, key in renames.items() if path[:-1] == error.path[:-1]}
            if suggestion and suggestion not in holder and suggestion not in taken:
                renames[error.path] = suggestion
    return renames


def _rename_or_drop(holder: dict[str | int, Any], path: Path, suggestion: str | None, result: ReadResult) -> None:
    value = holder.pop(path[-1], None)
    if suggestion is None:
        return
    holder[suggestion] = value
    now = (*path[:-1], suggestion)
    result.renamed[now] = str(path[-1])
    result.invalid_paths |= {(*now, *other[len(path) :]) for other in result.invalid_paths if other[: len(path)] == path}


def _replace(values: Any, path: Path, result: ReadResult, replaced: set[Path]) -> Any:  # noqa: ANN401
    """Return `values` with a valid value at `path`, or at its nearest parent that was not replaced before."""
    while path and path in replaced:
        path = path[:-1]
    replaced.add(path)
    result.invalid_paths.add(path)
    entries = entries_at(path)
    valid = minimal_value(entries[0]) if entries else None
    if not path:
        return valid
    holder, last = value_at(values, path[:-1]), path[-1]
    if isinstance(holder, list) and isinstance(last, int):
        if last < len(holder):  # an earlier correction in this round may have replaced the list by a shorter one
            holder[last] = valid
    elif isinstance(holder, dict) and last in holder and _is_optional(path):
        del holder[last]
    elif isinstance(holder, dict):
        holder[last] = valid
    return values


def _is_optional(path: Path) -> bool:
    info = field_at(path)
    return info is None or not info.required
