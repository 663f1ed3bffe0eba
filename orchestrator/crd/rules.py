"""CEL rules across several fields of a study.

Each rule has a counterpart in `orchestrator.spec.checks` with a better message: place, given value, correction. The API server rejects an
object by these rules immediately; the controller reports the rest in the condition `Accepted`. Every list and text that a rule reads is
bounded, since its estimated cost would otherwise exceed the budget of the API server.
"""

from typing import Any, Final

from orchestrator.contract.sizes import LADDER
from orchestrator.spec.checks.mixtures import MOST_IN_A_MIXTURE
from orchestrator.spec.messages import Path

_TWICE: Final = "self.all(a, self.exists_one(b, b == a))"
_SAME_NAME: Final = "self.all(a, self.exists_one(b, b.name == a.name))"
_FIRST_MAY_LACK: Final = "self[0].name == 'continue' || self[0].name == 'cooldown' || has(self[0].kind)"
# On the object that holds the address: a refused value is shown in the answer
_CREDENTIALS: Final = "!self.{0}.matches('^[A-Za-z0-9+.-]+:/+[^/]*@')"
_SECRETS: Final = "an address contains credentials; they come from the environment"
_SOURCES_READ: Final = "(has(self.{0}) ? self.{0}.filter(n, self.{0}[n] != 0 && self.{0}[n] != '0').size() : 0)"
_LADDER: Final = ", ".join(f"'{size}'" for size in LADDER)
_IS_COOLDOWN: Final = "(has(self.kind) ? self.kind == 'cooldown' : self.name == 'cooldown')"

_RULES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "spec": (
        (_CREDENTIALS.format("store"), _SECRETS),
        (
            "(has(self.grid.codePercent) && size(self.grid.codePercent) > 0)"
            " == self.recipes.exists(r, r.stages.exists(s, s.mixture.codePercent == 'grid'))",
            "grid.codePercent needs a recipe with codePercent: grid in a mixture, and the other way round",
        ),
        (
            f"self.grid.sizes.all(s, s in [{_LADDER}] || (has(self.models) && s in self.models))",
            "grid.sizes names one that neither the ladder nor models has",
        ),
        (
            "self.recipes.all(r, !has(r.codePercent) || r.stages.exists(s, s.mixture.codePercent == 'grid'))",
            "a recipe narrows codePercent and has no mixture with codePercent: grid",
        ),
        (
            "self.recipes.all(r, !has(r.sizes) || r.sizes.all(s, s in self.grid.sizes))",
            "a recipe narrows sizes to one that is not in grid.sizes",
        ),
        (
            "!has(self.evaluation) || !has(self.evaluation.after)"
            " || self.evaluation.after.all(n, self.recipes.exists(r, r.stages.exists(s, s.name == n)))",
            "evaluation.after names a stage that no recipe has",
        ),
        (
            "!has(self.contrasts) || self.contrasts.all(c, self.recipes.exists(r, r.name == c.arm.recipe)"
            " && self.recipes.exists(r, r.name == c.against.recipe))",
            "a contrast names a recipe that is not there",
        ),
        (
            "!has(self.contrasts) || self.contrasts.all(c, c.arm.size in self.grid.sizes && c.against.size in self.grid.sizes)",
            "a contrast names a size that is not in grid.sizes",
        ),
        (
            "!has(self.contrasts) || self.contrasts.all(c, has(self.evaluation) && has(self.evaluation.after)"
            " && c.arm.stage in self.evaluation.after && c.against.stage in self.evaluation.after)",
            "a contrast names a stage that is not under evaluation.after",
        ),
        (
            "!has(self.contrasts) || self.contrasts.all(c, has(self.evaluation) && has(self.evaluation.suites)"
            " && self.evaluation.suites.exists(s, c.metric == s || c.metric.startsWith(s + '/')))",
            "a contrast has a metric of a suite that is not under evaluation.suites",
        ),
        (
            "!has(self.execution) || [has(self.execution.gpusPerPod) ? self.execution.gpusPerPod : {},"
            " has(self.execution.nodes) ? self.execution.nodes : {}]"
            f".all(m, m.all(s, s in [{_LADDER}] || (has(self.models) && s in self.models)))",
            "execution names a size that neither the ladder nor models has",
        ),
    ),
    "spec.store": (
        (
            "!self.matches('^[A-Za-z][A-Za-z0-9+.-]*:/') || self.matches('^(s3|gs|az|file|memory)://[^/]')"
            " || self.matches('^(file|memory)://')",
            "write s3://bucket/folder, gs://..., az://..., file://... or a path",
        ),
    ),
    "spec.data.sources.*": ((_CREDENTIALS.format("path"), _SECRETS),),
    "spec.grid.sizes": ((_TWICE, "a size stands here twice"),),
    "spec.data.tokenizer": (
        ("has(self.train) != has(self.file)", "write either train or file"),
        ("!has(self.train) || !has(self.vocabulary)", "vocabulary stands inside of train"),
    ),
    "spec.data.sources": ((_SAME_NAME, "two sources have one name"),),
    "spec.models.*": (
        (
            "type(self.width) != int || type(self.heads) != int || (self.width % self.heads == 0 && self.width / self.heads % 2 == 0)",
            "the heads do not divide the width into even parts",
        ),
    ),
    "spec.recipes": ((_SAME_NAME, "two recipes have one name"),),
    "spec.recipes.*.sizes": ((_TWICE, "a size stands here twice"),),
    "spec.recipes.*.stages": (
        (_SAME_NAME, "two stages of a recipe have one name"),
        (
            "has(self[0].kind) ? self[0].kind == 'pretrain' : self[0].name != 'continue' && self[0].name != 'cooldown'",
            "the first stage has nothing to continue or to cool; write kind: pretrain",
        ),
        ("!has(self[0].start) && (!has(self[0].optimizer) || self[0].optimizer == 'fresh')", "the first stage has nothing to start from"),
        (
            f"self.filter(s, !has(s.kind) && s.name != 'continue' && s.name != 'cooldown').size() <= ({_FIRST_MAY_LACK} ? 0 : 1)",
            "a stage after the first needs its kind: continue or cooldown",
        ),
        ("self.filter(s, has(s.kind) && s.kind == 'pretrain').size() <= (has(self[0].kind) ? 1 : 0)", "only the first stage is a pretrain"),
    ),
    "spec.recipes.*.stages.*": (
        (
            f"!{_IS_COOLDOWN} || !has(self.schedule)"
            " || (!has(self.schedule.decay) && (!has(self.schedule.shape) || self.schedule.shape != 'wsd'))",
            "a cooldown falls over all of its tokens: no decay, and no shape: wsd",
        ),
    ),
    "spec.recipes.*.stages.*.mixture": (
        (f"{_SOURCES_READ.format('code')} + {_SOURCES_READ.format('text')} <= {MOST_IN_A_MIXTURE}", "the mixture reads too many sources"),
        ("self.codePercent == 0 || (has(self.code) && self.code.size() > 0)", "code has a share and no source"),
        ("self.codePercent == 100 || (has(self.text) && self.text.size() > 0)", "text has a share and no source"),
    ),
    "spec.evaluation": (
        (
            "(has(self.after) && size(self.after) > 0) == (has(self.suites) && size(self.suites) > 0)",
            "after and suites need each other",
        ),
    ),
    "spec.evaluation.after": ((_TWICE, "a stage stands here twice"),),
    "spec.evaluation.suites": ((_TWICE, "a suite stands here twice"),),
    "spec.contrasts": ((_SAME_NAME, "two contrasts have one name"),),
    "spec.contrasts.*": (
        (
            "self.arm.recipe != self.against.recipe || self.arm.size != self.against.size || self.arm.stage != self.against.stage"
            " || has(self.arm.codePercent) != has(self.against.codePercent)"
            " || (has(self.arm.codePercent) && self.arm.codePercent != self.against.codePercent)",
            "both arms are the same",
        ),
    ),
    "spec.execution.tolerations.*": (
        ("!has(self.operator) || self.operator != 'Exists' || !has(self.value)", "operator Exists compares no value"),
        ("has(self.key) || (has(self.operator) && self.operator == 'Exists')", "operator Equal needs a key"),
    ),
}

_DECAY: Final = ("!has(self.decay) || !has(self.shape) || self.shape == 'wsd'", "only shape: wsd has a decay")
_SCHEDULES: Final = ("spec.training.schedule", "spec.recipes.*.training.schedule", "spec.recipes.*.stages.*.schedule")


def rules() -> dict[Path, list[dict[str, Any]]]:
    """Return the rules by path."""
    every = {**_RULES, **dict.fromkeys(_SCHEDULES, (_DECAY,))}
    return {tuple(path.split(".")): [{"rule": rule, "message": message} for rule, message in found] for path, found in every.items()}
