"""Check sources, the tokenizer's weights, and the mixtures of the stages."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final

from orchestrator.contract.vocabulary import Group
from orchestrator.spec.checks.lookups import percents_read, same_names, stage_percents, stages_of
from orchestrator.spec.data import TrainTokenizer
from orchestrator.spec.messages import Finding, Path, did_you_mean, listed
from orchestrator.spec.models import StudySpec
from orchestrator.spec.numbers import read_decimal, written

# The order of the data stays within two windows of its targets for so many sources
MOST_IN_A_MIXTURE: Final = 16

_NAMES: Final[Path] = ("data", "sources", "*", "name")
_GROUPS: Final[Path] = ("data", "sources", "*", "group")


def check_sources(spec: StudySpec) -> Iterator[Finding]:
    """Check that sources have unique names, and that the tokenizer is trained on existing ones."""
    yield from same_names(("data", "sources"), (source.name for source in spec.data.sources), "source")
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
        reads = percents_read(number, index)
        for group, weights, needed in (
            (Group.CODE, mixture.code, [percent for percent in percents if percent > 0]),
            (Group.TEXT, mixture.text, [percent for percent in percents if percent < 100]),
        ):
            for name in weights:
                yield from _unknown_source(spec, (*inside, str(group), name), name, group)
            if weights:
                yield from _sum((*inside, str(group)), weights)
            elif needed:
                yield _no_source(spec, (*inside, str(group)), group, needed[0], reads)
        yield from _too_many(inside, mixture.code, mixture.text)
        if stage.tokens.text is not None and any(percent >= 100 for percent in percents):
            wrong = "at 100 % code no number of tokens holds any text."
            advice = "Write tokens: 200B, or leave 100 out of the recipe's codePercent."
            yield Finding((*path, "tokens", "text"), wrong, advice, reads=reads)


def check_limits(spec: StudySpec) -> Iterator[Finding]:
    """Check that a source's `limit` is at least one window, which has one token more than targets."""
    longest: dict[str, int] = {}
    for _, recipe, _, stage, _ in stages_of(spec):
        for name in (*stage.mixture.code, *stage.mixture.text):
            longest[name] = max(longest.get(name, 0), spec.training_of(recipe).sequence_length)
    for index, source in enumerate(spec.data.sources):
        targets = longest.get(source.name, 0)
        if source.limit is not None and source.limit <= targets:
            wrong = f"{source.limit:,} tokens are less than one window, which takes {targets + 1:,}."
            reads: tuple[Path, ...] = (("training", "sequenceLength"), ("recipes", "*", "training", "sequenceLength"))
            yield Finding(("data", "sources", index, "limit"), wrong, "Give a larger limit, or none.", reads=reads)


def _unknown_source(spec: StudySpec, path: Path, name: str, group: Group | None) -> Iterator[Finding]:
    sources = {source.name: source.group for source in spec.data.sources}
    if name not in sources:
        fitting = [known for known, of in sources.items() if group in (None, of)]
        wrong = f'"{name}" is not a source ({listed(sources)}).'
        advice = did_you_mean(name, fitting, "Write it under spec.data.sources, or take it away.")
        yield Finding(path, wrong, advice, reads=(_NAMES,))
    elif group is not None and sources[name] != group:
        wrong = f'"{name}" is a source of {sources[name]}, and stands under {group}.'
        yield Finding(path, wrong, f"Write it under {sources[name]}, or group: {group} at the source.", reads=(_NAMES, _GROUPS))


def _sum(path: Path, weights: Mapping[str, Decimal]) -> Iterator[Finding]:
    total = sum(weights.values(), Decimal(0))
    if total != 100:
        wrong = f"the weights add to {written(total)}; they are percent and add to 100."
        yield Finding(path, wrong, _scaled(weights, total) or "Make them 100 in all.")


def _scaled(weights: Mapping[str, Decimal], total: Decimal) -> str:
    """Return the same proportions with weights that add up to 100, if they can be written."""
    try:
        scaled = {name: written(read_decimal(written(weight * 100 / total))) for name, weight in weights.items()}
    except (ValueError, ArithmeticError):
        return ""
    inner = ", ".join(f'{name}: "{weight}"' if "." in weight else f"{name}: {weight}" for name, weight in scaled.items())
    return f"Write {{{inner}}} for the same proportions."


def _no_source(spec: StudySpec, path: Path, group: Group, percent: Decimal, reads: tuple[Path, ...]) -> Finding:
    share = percent if group == Group.CODE else 100 - percent
    fitting = [source.name for source in spec.data.sources if source.group == group]
    name = fitting[0] if fitting else "name"
    wrong = f"the mixture is to be {written(share)} % {group}, and no source of {group} is given."
    return Finding(path, wrong, f"Write {group}: {{{name}: 100}}", reads=(*reads, _NAMES, _GROUPS))


def _too_many(path: Path, code: Mapping[str, Decimal], text: Mapping[str, Decimal]) -> Iterator[Finding]:
    count = sum(1 for weights in (code, text) for weight in weights.values() if weight)
    if count > MOST_IN_A_MIXTURE:
        wrong = f"the mixture reads {count} sources; at most {MOST_IN_A_MIXTURE} are allowed."
        yield Finding(path, wrong, "Put several under one source: its path may be a pattern.")
