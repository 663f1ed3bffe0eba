"""Check sources, the tokenizer's weights, and the mixtures of the stages."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final

from orchestrator.contract.vocabulary import Group
from orchestrator.spec.checks.lookups import duplicate_names, paths_of_stage_percents, stage_percents, stages_of
from orchestrator.spec.data import TrainTokenizer
from orchestrator.spec.messages import Finding, Path, did_you_mean, format_list
from orchestrator.spec.models import StudySpec
from orchestrator.spec.numbers import format_decimal, read_decimal

# Up to this many sources, the order of the data stays within two windows of its target shares
MAX_SOURCES_PER_MIXTURE: Final = 16

_NAMES: Final[Path] = ("data", "sources", "*", "name")
_GROUPS: Final[Path] = ("data", "sources", "*", "group")


def check_sources(spec: StudySpec) -> Iterator[Finding]:
    """Check that sources have unique names, and that the tokenizer is trained on existing ones."""
    yield from duplicate_names(("data", "sources"), (source.name for source in spec.data.sources), "source")
    tokenizer = spec.data.tokenizer
    if isinstance(tokenizer, TrainTokenizer):
        path: Path = ("data", "tokenizer", "train", "weights")
        for name in tokenizer.weights:
            yield from _unknown_source(spec, (*path, name), name, None)
        yield from _sum(path, tokenizer.weights)


def check_mixtures(spec: StudySpec) -> Iterator[Finding]:
    """Check that mixtures name existing sources of the right group, with weights that add up to 100 for each group with a share."""
    for number, recipe, index, stage, path in stages_of(spec):
        mixture, inside = stage.mixture, (*path, "mixture")
        percents = stage_percents(spec, recipe, stage)
        depends_on = paths_of_stage_percents(number, index)
        for group, weights, needed in (
            (Group.CODE, mixture.code, [percent for percent in percents if percent > 0]),
            (Group.TEXT, mixture.text, [percent for percent in percents if percent < 100]),
        ):
            for name in weights:
                yield from _unknown_source(spec, (*inside, str(group), name), name, group)
            if weights:
                yield from _sum((*inside, str(group)), weights)
            elif needed:
                yield _no_source(spec, (*inside, str(group)), group, needed[0], depends_on)
        yield from _too_many(inside, mixture.code, mixture.text)
        if stage.tokens.text is not None and any(percent >= 100 for percent in percents):
            wrong = "no number of tokens contains text at 100 % code."
            advice = "Write tokens: 200B, or exclude 100 from the recipe's codePercent."
            yield Finding((*path, "tokens", "text"), wrong, advice, depends_on=depends_on)


def check_limits(spec: StudySpec) -> Iterator[Finding]:
    """Check that a source's `limit` is at least one window, which has one token more than targets."""
    longest: dict[str, int] = {}
    for _, recipe, _, stage, _ in stages_of(spec):
        for name in (*stage.mixture.code, *stage.mixture.text):
            longest[name] = max(longest.get(name, 0), spec.training_of(recipe).sequence_length)
    for index, source in enumerate(spec.data.sources):
        targets = longest.get(source.name, 0)
        if source.limit is not None and source.limit <= targets:
            wrong = f"{source.limit:,} tokens are less than one window of {targets + 1:,} tokens."
            depends_on: tuple[Path, ...] = (("training", "sequenceLength"), ("recipes", "*", "training", "sequenceLength"))
            yield Finding(("data", "sources", index, "limit"), wrong, "Give a larger limit, or remove it.", depends_on=depends_on)


def _unknown_source(spec: StudySpec, path: Path, name: str, group: Group | None) -> Iterator[Finding]:
    sources = {source.name: source.group for source in spec.data.sources}
    if name not in sources:
        fitting = [known for known, of in sources.items() if group in (None, of)]
        wrong = f'"{name}" is not a source ({format_list(sources)}).'
        advice = did_you_mean(name, fitting, "Add it to spec.data.sources, or remove it.")
        yield Finding(path, wrong, advice, depends_on=(_NAMES,))
    elif group is not None and sources[name] != group:
        wrong = f'"{name}" is a {sources[name]} source, but it is listed under {group}.'
        yield Finding(path, wrong, f"Move it under {sources[name]}, or set group: {group} at the source.", depends_on=(_NAMES, _GROUPS))


def _sum(path: Path, weights: Mapping[str, Decimal]) -> Iterator[Finding]:
    total = sum(weights.values(), Decimal(0))
    if total != 100:
        wrong = f"the weights add up to {format_decimal(total)}; they are percentages and must add up to 100."
        yield Finding(path, wrong, _scaled(weights, total) or "Change the weights so that they add up to 100.")


def _scaled(weights: Mapping[str, Decimal], total: Decimal) -> str:
    """Return the same proportions with weights that add up to 100, if they can be written."""
    try:
        scaled = {name: format_decimal(read_decimal(format_decimal(weight * 100 / total))) for name, weight in weights.items()}
    except (ValueError, ArithmeticError):
        return ""
    inner = ", ".join(f'{name}: "{weight}"' if "." in weight else f"{name}: {weight}" for name, weight in scaled.items())
    return f"Write {{{inner}}} for the same proportions."


def _no_source(spec: StudySpec, path: Path, group: Group, percent: Decimal, depends_on: tuple[Path, ...]) -> Finding:
    share = percent if group == Group.CODE else 100 - percent
    fitting = [source.name for source in spec.data.sources if source.group == group]
    name = fitting[0] if fitting else "name"
    wrong = f"the mixture has {format_decimal(share)} % {group}, but no {group} source."
    return Finding(path, wrong, f"Write {group}: {{{name}: 100}}", depends_on=(*depends_on, _NAMES, _GROUPS))


def _too_many(path: Path, code: Mapping[str, Decimal], text: Mapping[str, Decimal]) -> Iterator[Finding]:
    count = sum(1 for weights in (code, text) for weight in weights.values() if weight)
    if count > MAX_SOURCES_PER_MIXTURE:
        wrong = f"the mixture reads {count} sources; at most {MAX_SOURCES_PER_MIXTURE} are allowed."
        yield Finding(path, wrong, "Combine several in one source: its path may be a pattern.")
