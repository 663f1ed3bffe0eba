"""How often each cell reads each source, over the whole chain of its stages.

`plan` warns and refuses by it before anything runs, `run` again once `prepare` has counted the tokens. A source that is read more than
about four times stops to be worth its tokens (Muennighoff et al. 2023, arXiv:2305.16264).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from orchestrator.contract.plan import Plan
from orchestrator.errors import PlanRefused
from orchestrator.spec import Source


@dataclass(frozen=True, slots=True)
class SourceTokens:
    """How many tokens a source has. `exact` once `prepare` has counted them; a declared or estimated number is marked `~`."""

    tokens: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Reading:
    """What the cell that reads a source most takes from it."""

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
        """Above what the source allows, whether the number is exact or not."""
        return self.epochs is not None and self.epochs > self.allowed

    def told(self) -> str:
        """`2.3`, `~2.3` where the number of tokens is not counted yet, `?` where it is not even guessed."""
        if self.epochs is None or self.of is None:
            return "?"
        return f"{'' if self.of.exact else '~'}{float(self.epochs):.2f}"


def readings(plan: Plan, sources: Iterable[Source], known: Mapping[str, SourceTokens]) -> list[Reading]:
    """For every source of the plan, the cell that reads it most. `known`: prepare digest -> tokens."""
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
    """Raises PlanRefused that names every source which a cell reads more often than it allows, where its tokens are counted."""
    over = [reading for reading in found if reading.is_over and reading.of is not None and reading.of.exact]
    if over:
        raise PlanRefused("\n".join(_complaint(reading) for reading in over))


def _complaint(reading: Reading) -> str:
    assert reading.of is not None
    return (
        f"source {reading.source}: {reading.cell} reads {reading.tokens:,} tokens of its {reading.of.tokens:,}, that is {reading.told()}"
        f" times; at most {float(reading.allowed):g} are allowed.\n    Give it more files, plan fewer tokens, or write"
        f" `maxRepetition: {int(reading.epochs or 0) + 1}` at the source (above 4 repetition stops to pay: Muennighoff et al. 2023)"
    )
