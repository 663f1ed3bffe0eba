"""Turn the stages of a cell into trajectories, and the tokens that each must reach.

`build` calls this for every cell. Cells share equal trajectories; no other rule decides what is shared.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from orchestrator.contract.identity import NUMERICS, coprime, decimal, digest_of_text
from orchestrator.contract.mixture import counts
from orchestrator.contract.tasks import FromInitialisation, FromState, Schedule, Trajectory, trajectory_text
from orchestrator.contract.vocabulary import Group, StageKind
from orchestrator.errors import PlanRefused
from orchestrator.planning.defaults import Rates, ResolvedSize, rates
from orchestrator.spec import Mixture, Recipe, Seed, Stage, StudySpec

Windows = tuple[tuple[str, int], ...]
"""Windows read of each source: (prepare digest, windows), sorted by digest. The same for all seeds of an arm."""


# Not frozen, unlike the dataclasses of a plan: planning creates a hundred thousand of these, and a frozen one takes twice as long
@dataclass(slots=True)
class Point:
    """A model state: a trajectory, tokens since its start, the windows read up to it, and its learning rate."""

    trajectory: Trajectory
    digest: str
    tokens: int
    read: Windows
    rate: str


@dataclass(slots=True)
class Leg:
    """One stage of a cell. `reach`: states to train to, in order. `result`, `stable`: None if nothing evaluates or starts from them."""

    stage: Stage
    rates: Rates
    reach: tuple[Point, ...]
    result: Point | None
    stable: Point | None
    asked: int
    steps: int
    tokens: int
    code_percent: Decimal
    end: Windows


class Trajectories:
    """Canonical texts and digests of trajectories, each computed once."""

    def __init__(self) -> None:
        self._digests: dict[str, str] = {}
        self.texts: dict[str, str] = {}

    def digest(self, trajectory: Trajectory) -> str:
        text = trajectory_text(trajectory)
        digest = self._digests.get(text)
        if digest is None:
            digest = self._digests[text] = digest_of_text(text)
            self.texts[digest] = text
        return digest


@dataclass(frozen=True, slots=True)
class Length:
    """Length of a stage: requested tokens, whole steps, and the steps of its decay leaf (0 without one)."""

    asked: int
    steps: int
    decay: int


@dataclass(frozen=True, slots=True)
class Arm:
    """A recipe at one size and code proportion: a cell without its seeds."""

    spec: StudySpec
    recipe: Recipe
    size: ResolvedSize
    percents: tuple[Decimal, ...]
    shares: tuple[tuple[tuple[str, int], ...], ...]
    rates: tuple[Rates, ...]
    lengths: tuple[Length, ...]


def arm(spec: StudySpec, recipe: Recipe, size: ResolvedSize, proportion: Decimal | None, prepared: Mapping[str, str]) -> Arm:
    """Return what the cells of a recipe, size and code proportion have in common. `prepared`: source name -> prepare digest."""
    percents = tuple(_percent(stage, proportion) for stage in recipe.stages)
    asked_rates = tuple(rates(spec, stage, size) for stage in recipe.stages)
    stages = tuple(zip(recipe.stages, percents, asked_rates, strict=True))
    return Arm(
        spec=spec,
        recipe=recipe,
        size=size,
        percents=percents,
        shares=tuple(shares_of(stage.mixture, percent, prepared) for stage, percent, _ in stages),
        rates=asked_rates,
        lengths=tuple(_length(recipe, stage, size, percent, rate) for stage, percent, rate in stages),
    )


def legs(arm: Arm, seed: Seed, trajectories: Trajectories) -> Iterator[Leg]:
    """Yield the stages of one cell in order. Raises PlanRefused if a stage cannot start."""
    before: Leg | None = None
    stages = arm.recipe.stages
    for index, stage in enumerate(stages):
        after = stages[index + 1] if index + 1 < len(stages) else None
        wants_stable = after is not None and starts_from(after, arm.rates[index].shape) == "stable"
        wants_result = not wants_stable or stage.name in arm.spec.evaluation.after
        before = _leg(arm, index, seed, before, wants_stable, wants_result, trajectories)
        yield before


def starts_from(stage: Stage, shape_before: str) -> Literal["result", "stable"]:
    """Return the state of the previous stage that `stage` starts from: by default `stable` for a cooldown after wsd, else `result`."""
    if stage.start is not None:
        return stage.start
    return "stable" if stage.kind == StageKind.COOLDOWN and shape_before == "wsd" else "result"


def shares_of(mixture: Mixture, percent: Decimal, prepared: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    """Return the mixture as coprime shares by prepare digest. Shares of sources with the same content are added."""
    exact: dict[str, Fraction] = {}
    for weights, part in ((mixture.code, Fraction(percent)), (mixture.text, 100 - Fraction(percent))):
        for name, weight in weights.items():
            exact[prepared[name]] = exact.get(prepared[name], Fraction(0)) + Fraction(weight) * part
    return tuple(coprime(exact).items())


def code_windows(read: Windows, groups: Mapping[str, str]) -> int:
    """Return how many of the windows read are from the code group."""
    return sum(windows for digest, windows in read if groups[digest] == Group.CODE)


def _leg(arm: Arm, index: int, seed: Seed, before: Leg | None, wants_stable: bool, wants_result: bool, trajectories: Trajectories) -> Leg:
    stage, size, asked_rates, length = arm.recipe.stages[index], arm.size, arm.rates[index], arm.lengths[index]
    tokens = length.steps * size.tokens_per_step
    if wants_result and asked_rates.shape == "wsd" and length.decay == 0:
        raise PlanRefused(
            f"recipe {arm.recipe.name}, stage {stage.name}, size {size.name}: a decay of {asked_rates.decay} % is less than one of its"
            f" {length.steps} steps, so the rate would never decay; give more tokens, a longer `decay` or a smaller `training.batch`"
        )
    start, read = _start(arm, stage, index, seed, before)
    trajectory = Trajectory(
        start=start,
        shares=arm.shares[index],
        already_read=_of_these(arm.shares[index], read),
        data_seed=seed.data,
        sequence_length=size.sequence_length,
        batch=size.batch,
        optimizer=size.optimizer,
        schedule=_schedule(asked_rates, tokens, _peak(arm, asked_rates, before)),
        precision=size.precision,
        numerics=NUMERICS,
    )
    reach, result, stable = _reach(trajectory, asked_rates.final, length, read, wants_stable, wants_result, trajectories)
    return Leg(
        stage=stage,
        rates=asked_rates,
        reach=reach,
        result=result,
        stable=stable,
        asked=length.asked,
        steps=length.steps,
        tokens=tokens,
        code_percent=arm.percents[index],
        end=reach[-1].read if stable is None else stable.read,
    )


def _percent(stage: Stage, proportion: Decimal | None) -> Decimal:
    percent = stage.mixture.code_percent
    if percent == "grid":
        assert proportion is not None
        return proportion
    return percent


def _length(recipe: Recipe, stage: Stage, size: ResolvedSize, percent: Decimal, asked_rates: Rates) -> Length:
    asked = stage.tokens.asked(size.shape.n, percent)
    steps = asked // size.tokens_per_step
    where = f"recipe {recipe.name}, stage {stage.name}, size {size.name}"
    if steps < 1:
        raise PlanRefused(
            f"{where}: {asked:,} tokens are less than a batch of {size.tokens_per_step:,}; give more tokens or a smaller `training.batch`"
        )
    # half a step is rounded up
    decay = int(steps * asked_rates.decay / 100 + Fraction(1, 2)) if asked_rates.shape == "wsd" else 0
    if decay == steps:
        raise PlanRefused(f"{where}: a decay of {asked_rates.decay} % covers all {steps} steps; write `shape: linear`")
    return Length(asked, steps, decay)


def _start(arm: Arm, stage: Stage, index: int, seed: Seed, before: Leg | None) -> tuple[FromInitialisation | FromState, Windows]:
    if before is None:
        return FromInitialisation(arm.size.shape, seed.init, arm.size.deviation), ()
    where = starts_from(stage, arm.rates[index - 1].shape)
    point = before.stable if where == "stable" else before.result
    if point is None:
        raise PlanRefused(f"recipe {arm.recipe.name}: stage {before.stage.name} has no {where} state that {stage.name} could start from")
    keep = stage.kind == StageKind.COOLDOWN if stage.optimizer is None else stage.optimizer == "keep"
    return FromState(point.digest, point.tokens, keep), point.read


def _peak(arm: Arm, asked: Rates, before: Leg | None) -> str:
    if asked.peak is not None:
        return asked.peak
    if before is None or before.stable is None:
        raise PlanRefused(f"recipe {arm.recipe.name}: a cooldown that does not start from a stable state needs `schedule: {{peak: ...}}`")
    return before.stable.rate


def _schedule(asked: Rates, tokens: int, peak: str) -> Schedule:
    if asked.shape == "wsd":
        return Schedule("constant", asked.warmup, peak)
    return Schedule(asked.shape, asked.warmup, peak, asked.final, tokens)


def _reach(
    trajectory: Trajectory,
    final: str,
    length: Length,
    read: Windows,
    wants_stable: bool,
    wants_result: bool,
    trajectories: Trajectories,
) -> tuple[tuple[Point, ...], Point | None, Point | None]:
    """Return the states to train to, the stage's result and its stable end."""
    steps, decay = length.steps, length.decay
    digest = trajectories.digest(trajectory)
    whole = _point(trajectory, digest, steps, read)
    if decay == 0:
        return (whole,), whole, whole if trajectory.schedule.shape == "constant" else None
    if not wants_result:
        return (whole,), None, whole
    branch = _point(trajectory, digest, steps - decay, read)
    leaf = _leaf(trajectory, branch, decay, final)
    result = _point(leaf, trajectories.digest(leaf), decay, branch.read)
    return (branch, result, *((whole,) if wants_stable else ())), result, whole if wants_stable else None


def _leaf(stable: Trajectory, branch: Point, steps: int, final: str) -> Trajectory:
    """Return the decay leaf of a wsd stage: a linear decay from the branch point to `final`, on the same mixture."""
    return replace(
        stable,
        start=FromState(branch.digest, branch.tokens, keep_optimizer=True),
        already_read=_of_these(stable.shares, branch.read),
        schedule=Schedule("linear", 0, branch.rate, final, steps * stable.tokens_per_step),
    )


def _point(trajectory: Trajectory, digest: str, steps: int, read: Windows) -> Point:
    tokens = steps * trajectory.tokens_per_step
    total = _read_on(read, trajectory.shares, steps * trajectory.batch)
    return Point(trajectory, digest, tokens, total, _rate_at(trajectory.schedule, tokens))


@lru_cache(maxsize=4096)
def _read_on(read: Windows, shares: tuple[tuple[str, int], ...], windows: int) -> Windows:
    """Return the windows read of each source after reading `windows` more from a mixture."""
    total = dict(read)
    for (source, _), taken in zip(shares, counts([share for _, share in shares], windows), strict=True):
        total[source] = total.get(source, 0) + taken
    return tuple(sorted(total.items()))


def _rate_at(schedule: Schedule, tokens: int) -> str:
    """Return the learning rate of a stable state: the peak, or less during the warm-up."""
    if tokens >= schedule.warmup:
        return schedule.peak
    return decimal(Fraction(schedule.peak) * tokens / schedule.warmup, derived=True)


@lru_cache(maxsize=4096)
def _of_these(shares: tuple[tuple[str, int], ...], read: Windows) -> Windows:
    so_far = dict(read)
    return tuple((digest, so_far[digest]) for digest, _ in shares if so_far.get(digest))
