"""Count how often each cell reads each source, over all of its stages.

`plan` warns about too many readings, or rejects them, before anything runs. `run` checks again once `prepare` has counted the tokens.
Repeating a source more than about four times adds little (Muennighoff et al. 2023, arXiv:2305.16264).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from orchestrator.contract.plan import Plan
from orchestrator.errors import PlanRefused
from orchestrator.spec import Source


@dataclass(frozen=True, slots=True)
class SourceTokens:
    """Number of tokens of a source. `exact`: counted by `prepare`; a declared or estimated number is printed with `~`."""

    tokens: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """The cell that reads the most tokens of a source, and their number."""

    source: str
    cell: str
    tokens: int
    of: SourceTokens | None
    allowed: Fraction

    @property
    def epochs(self) -> Fraction | None:
        return None if self.of is None else Fraction(self.tokens, max(1, self.of.tokens))

    @property
    def is_over(self) -> bool:
        """Whether the cell reads the source more often than the source allows, by an exact or estimated count."""
        return self.epochs is not None and self.epochs > self.allowed

    def epochs_text(self) -> str:
        """Return the epochs as text: `2.30`, `~2.30` for an estimated number of tokens, `?` for an unknown one."""
        if self.epochs is None or self.of is None:
            return "?"
        return f"{'' if self.of.exact else '~'}{float(self.epochs):.2f}"


def readings(plan: Plan, sources: Iterable[Source], known: Mapping[str, SourceTokens]) -> list[Reading]:
    """Return, for each source of the plan, the cell that reads the most tokens of it. `known`: prepare digest -> tokens."""
    allowed = {source.name: Fraction(source.max_repetition) for source in sources}
    most: dict[str, tuple[int, str]] = {}
    for cell in plan.cells:
        length = plan.window_of(plan.tasks[cell.stages[0].trains[0]])
        for digest, windows in cell.stages[-1].read:
            most[digest] = max(most.get(digest, (0, "")), (windows * length, cell.name), key=lambda found: found[0])
    return [
        Reading(source.name, most[source.digest][1], most[source.digest][0], known.get(source.digest), allowed[source.name])
        for source in plan.sources
        if source.digest in most
    ]


def refuse_repetition(found: Iterable[Reading]) -> None:
    """Raise PlanRefused if a cell reads a source with counted tokens more often than allowed; the message names these sources."""
    over = [reading for reading in found if reading.is_over and reading.of is not None and reading.of.exact]
    if over:
        raise PlanRefused("\n".join(_complaint(reading) for reading in over))


def _complaint(reading: Reading) -> str:
    assert reading.of is not None
    return (
        f"source {reading.source}: {reading.cell} reads {reading.tokens:,} tokens of its {reading.of.tokens:,},"
        f" that is {reading.epochs_text()} times; at most {float(reading.allowed):g} are allowed.\n"
        f"    Give it more files, plan fewer tokens, or write `maxRepetition: {int(reading.epochs or 0) + 1}` at the source"
        " (repetition above 4 adds little: Muennighoff et al. 2023)"
    )
