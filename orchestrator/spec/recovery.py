"""Read a document into models, and continue after a mistake.

A broken part must not hide the mistakes of the others. So a broken part is reported and replaced by a valid value, its path is recorded,
and the document is read again. The checks across fields then see complete models, and their findings about recorded paths are dropped.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from orchestrator.spec.messages import Finding, Path, nearest
from orchestrator.spec.model_tree import entries_at, field_at, sound
from orchestrator.spec.models import StudyObject
from orchestrator.spec.phrases import Misfit, finding_of

# every round corrects what the last one found; more rounds do not help
ROUNDS: Final = 12


@dataclass
class Reading:
    """The result of reading a document. `study` is None if recovery failed."""

    study: StudyObject | None = None
    findings: list[Finding] = field(default_factory=list)
    broken: set[Path] = field(default_factory=set)
    renamed: dict[Path, str] = field(default_factory=dict)

    def as_given(self, path: Path) -> Path:
        """Return the path as in the file, if a misspelled key was read as the intended one."""
        return tuple(self.renamed.get(path[: index + 1], part) for index, part in enumerate(path))


def rests_on(reads: Iterable[Path], broken: Iterable[Path]) -> bool:
    """Return whether a path (`"*"`: any entry) leads through or into a broken one."""
    broken = list(broken)
    return any(all(a in (b, "*") for a, b in zip(path, other, strict=False)) for path in reads for other in broken)


# Tags of the unions in the models, and pydantic's word for a key that is wrong: no part of the file
MARKS: Final = ("<one>", "<by size>", "<grid>", "<percent>", "<file>", "[key]")


def read_models(document: object, broken: Iterable[Path]) -> Reading:
    """Return the models of a document. `broken`: paths whose mistakes are already reported."""
    reading = Reading(broken=set(broken))
    values = _copied(document)
    mended: set[Path] = set()
    for _ in range(ROUNDS):
        try:
            reading.study = StudyObject.model_validate(values, by_alias=True, by_name=False)
        except ValidationError as problem:
            values = _round(values, _misfits(problem.errors(include_url=False, include_input=False), values), reading, mended)
        else:
            break
    return reading


def _copied(document: object) -> Any:  # noqa: ANN401  (whatever YAML or JSON holds)
    if isinstance(document, Mapping):
        return {key: _copied(value) for key, value in document.items()}
    return [_copied(value) for value in document] if isinstance(document, list) else document


def _misfits(errors: list[ErrorDetails], values: object) -> list[Misfit]:
    """Return the first error of each path."""
    found: dict[Path, Misfit] = {}
    for error in errors:
        context = error.get("ctx", {})
        path = _path(error["loc"], values)
        if error["type"] == "beside":
            path = (*(path[:-1] if path[-1:] == (context["beside"],) else path), context["key"])
        of_key = error["loc"][-1:] == ("[key]",) and path[-1:] not in ((), ("[key]",))
        given = path[-1] if of_key else value_at(values, path)
        if error["type"] == "too_short" and given:
            continue  # pydantic counts only the entries that are right
        holder = value_at(values, path[:-1])
        present = tuple(holder) if isinstance(holder, Mapping) else ()
        found.setdefault(path, Misfit(error["type"], path, given, context, error["msg"], present))
    return list(found.values())


def _path(loc: tuple[str | int, ...], values: object) -> Path:
    """Return the path in the file of a location in the models: without union tags, ending at a value in short form."""
    path: list[str | int] = []
    for part in loc:
        if not isinstance(values, (Mapping, list)):
            break
        stands_there = isinstance(values, Mapping) and part in values
        if part in MARKS and not stands_there:
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


def _round(values: Any, misfits: list[Misfit], reading: Reading, mended: set[Path]) -> Any:  # noqa: ANN401
    told = set(reading.broken)
    renames = _renames(values, misfits)
    for misfit in misfits:
        if misfit.kind == "missing" and any(misfit.path[:-1] == path[:-1] for path in renames):
            continue
        if not any(misfit.path[: len(path)] == path for path in told):
            reading.findings.append(finding_of(misfit))
        holder = value_at(values, misfit.path[:-1])
        if misfit.is_unknown_key and isinstance(holder, dict):
            _rename_or_drop(holder, misfit.path, renames.get(misfit.path), reading)
        else:
            values = _mend(values, misfit.path, reading, mended)
    return values


def _renames(values: object, misfits: list[Misfit]) -> dict[Path, str]:
    """Return the keys that are certainly misspelled: path -> the intended key, which is missing."""
    renames: dict[Path, str] = {}
    for misfit in misfits:
        holder = value_at(values, misfit.path[:-1])
        if misfit.is_unknown_key and misfit.path and isinstance(holder, Mapping):
            meant = nearest(misfit.path[-1], misfit.known_keys)
            taken = {key for path, key in renames.items() if path[:-1] == misfit.path[:-1]}
            if meant and meant not in holder and meant not in taken:
                renames[misfit.path] = meant
    return renames


def _rename_or_drop(holder: dict[str | int, Any], path: Path, meant: str | None, reading: Reading) -> None:
    value = holder.pop(path[-1], None)
    if meant is None:
        return
    holder[meant] = value
    now = (*path[:-1], meant)
    reading.renamed[now] = str(path[-1])
    reading.broken |= {(*now, *broken[len(path) :]) for broken in reading.broken if broken[: len(path)] == path}


def _mend(values: Any, path: Path, reading: Reading, mended: set[Path]) -> Any:  # noqa: ANN401
    """Return `values` with a valid value at `path`, or at a parent if that was tried before."""
    while path and path in mended:
        path = path[:-1]
    mended.add(path)
    reading.broken.add(path)
    entries = entries_at(path)
    stand_in = sound(entries[0]) if entries else None
    if not path:
        return stand_in
    holder, last = value_at(values, path[:-1]), path[-1]
    if isinstance(holder, list) and isinstance(last, int):
        if last < len(holder):  # a mistake of this round may have had the list replaced by a shorter one
            holder[last] = stand_in
    elif isinstance(holder, dict) and last in holder and _may_be_left_out(path):
        del holder[last]
    elif isinstance(holder, dict):
        holder[last] = stand_in
    return values


def _may_be_left_out(path: Path) -> bool:
    info = field_at(path)
    return info is None or not info.needed
