"""CEL rules across several fields of a study.

Each rule has a counterpart in `orchestrator.spec.checks` with a better message: place, given value, correction. The API server rejects
objects that violate a rule; the controller reports all other mistakes in the condition `Accepted`. Every list and text that a rule reads is
bounded, because the estimated cost of the rule would otherwise exceed the API server's limit.
"""

from typing import Any, Final

from orchestrator.contract.sizes import LADDER
from orchestrator.spec.checks.mixtures import MAX_SOURCES_PER_MIXTURE
from orchestrator.spec.messages import Path

_UNIQUE: Final = "self.all(a, self.exists_one(b, b == a))"
_UNIQUE_NAMES: Final = "self.all(a, self.exists_one(b, b.name == a.name))"
_FIRST_HAS_KIND: Final = "self[0].name == 'continue' || self[0].name == 'cooldown' || has(self[0].kind)"
# Evaluated on the parent object, because the API server's reply contains a rejected scalar
_NO_CREDENTIALS: Final = "!self.{0}.matches('^[A-Za-z0-9+.-]+:/+[^/]*@')"
_CREDENTIALS_MESSAGE: Final = "an address contains credentials; credentials come from environment variables"
_SOURCE_COUNT: Final = "(has(self.{0}) ? self.{0}.filter(n, self.{0}[n] != 0 && self.{0}[n] != '0').size() : 0)"
_LADDER: Final = ", ".join(f"'{size}'" for size in LADDER)
_IS_COOLDOWN: Final = "(has(self.kind) ? self.kind == 'cooldown' : self.name == 'cooldown')"

_RULES: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "spec": (
        (_NO_CREDENTIALS.format("store"), _CREDENTIALS_MESSAGE),
        (
            "(has(self.grid.codePercent) && size(self.grid.codePercent) > 0)"
            " == self.recipes.exists(r, r.stages.exists(s, s.mixture.codePercent == 'grid'))",
            "grid.codePercent and a recipe with codePercent: grid in a mixture require each other",
        ),
        (
            f"self.grid.sizes.all(s, s in [{_LADDER}] || (has(self.models) && s in self.models))",
            "grid.sizes has a size that is neither in the ladder nor in models",
        ),
        (
            "self.recipes.all(r, !has(r.codePercent) || r.stages.exists(s, s.mixture.codePercent == 'grid'))",
            "a recipe has codePercent, but no mixture with codePercent: grid",
        ),
        (
            "self.recipes.all(r, !has(r.sizes) || r.sizes.all(s, s in self.grid.sizes))",
            "a recipe has a size that is not in grid.sizes",
        ),
        (
            "!has(self.evaluation) || !has(self.evaluation.after)"
            " || self.evaluation.after.all(n, self.recipes.exists(r, r.stages.exists(s, s.name == n)))",
            "evaluation.after has a stage that is not in any recipe",
        ),
        (
            "!has(self.contrasts) || self.contrasts.all(c, self.recipes.exists(r, r.name == c.arm.recipe)"
            " && self.recipes.exists(r, r.name == c.against.recipe))",
            "a contrast has a recipe that is not in recipes",
        ),
        (
            "!has(self.contrasts) || self.contrasts.all(c, c.arm.size in self.grid.sizes && c.against.size in self.grid.sizes)",
            "a contrast has a size that is not in grid.sizes",
        ),
        (
            "!has(self.contrasts) || self.contrasts.all(c, has(self.evaluation) && has(self.evaluation.after)"
            " && c.arm.stage in self.evaluation.after && c.against.stage in self.evaluation.after)",
            "a contrast has a stage that is not in evaluation.after",
        ),
        (
            "!has(self.contrasts) || self.contrasts.all(c, has(self.evaluation) && has(self.evaluation.suites)"
            " && self.evaluation.suites.exists(s, c.metric == s || c.metric.startsWith(s + '/')))",
            "a contrast has a metric of a suite that is not in evaluation.suites",
        ),
        (
            "!has(self.execution) || [has(self.execution.gpusPerPod) ? self.execution.gpusPerPod : {},"
            " has(self.execution.nodes) ? self.execution.nodes : {}]"
            f".all(m, m.all(s, s in [{_LADDER}] || (has(self.models) && s in self.models)))",
            "execution has a size that is neither in the ladder nor in models",
        ),
    ),
    "spec.store": (
        (
            "!self.matches('^[A-Za-z][A-Za-z0-9+.-]*:/') || self.matches('^(s3|gs|az|file|memory)://[^/]')"
            " || self.matches('^(file|memory)://')",
            "write s3://bucket/folder, gs://..., az://..., file://... or a path",
        ),
    ),
    "spec.data.sources.*": ((_NO_CREDENTIALS.format("path"), _CREDENTIALS_MESSAGE),),
    "spec.grid.sizes": ((_UNIQUE, "duplicate size"),),
    "spec.data.tokenizer": (
        ("has(self.train) != has(self.file)", "write either train or file"),
        ("!has(self.train) || !has(self.vocabulary)", "vocabulary must be inside train"),
    ),
    "spec.data.sources": ((_UNIQUE_NAMES, "two sources have the same name"),),
    "spec.models.*": (
        (
            "type(self.width) != int || type(self.heads) != int || (self.width % self.heads == 0 && self.width / self.heads % 2 == 0)",
            "width / heads must be an even integer",
        ),
    ),
    "spec.recipes": ((_UNIQUE_NAMES, "two recipes have the same name"),),
    "spec.recipes.*.sizes": ((_UNIQUE, "duplicate size"),),
    "spec.recipes.*.stages": (
        (_UNIQUE_NAMES, "two stages of a recipe have the same name"),
        (
            "has(self[0].kind) ? self[0].kind == 'pretrain' : self[0].name != 'continue' && self[0].name != 'cooldown'",
            "the first stage must be a pretrain stage; write kind: pretrain",
        ),
        (
            "!has(self[0].start) && (!has(self[0].optimizer) || self[0].optimizer == 'fresh')",
            "the first stage cannot have start, or optimizer: keep",
        ),
        (
            f"self.filter(s, !has(s.kind) && s.name != 'continue' && s.name != 'cooldown').size() <= ({_FIRST_HAS_KIND} ? 0 : 1)",
            "a stage after the first needs a kind: continue or cooldown",
        ),
        (
            "self.filter(s, has(s.kind) && s.kind == 'pretrain').size() <= (has(self[0].kind) ? 1 : 0)",
            "only the first stage can be a pretrain stage",
        ),
    ),
    "spec.recipes.*.stages.*": (
        (
            f"!{_IS_COOLDOWN} || !has(self.schedule)"
            " || (!has(self.schedule.decay) && (!has(self.schedule.shape) || self.schedule.shape != 'wsd'))",
            "a cooldown decays over all its tokens: decay and shape: wsd are not allowed",
        ),
    ),
    "spec.recipes.*.stages.*.mixture": (
        (
            f"{_SOURCE_COUNT.format('code')} + {_SOURCE_COUNT.format('text')} <= {MAX_SOURCES_PER_MIXTURE}",
            f"the mixture reads more than {MAX_SOURCES_PER_MIXTURE} sources",
        ),
        ("self.codePercent == 0 || (has(self.code) && self.code.size() > 0)", "the mixture has code, but no code source"),
        ("self.codePercent == 100 || (has(self.text) && self.text.size() > 0)", "the mixture has text, but no text source"),
    ),
    "spec.evaluation": (
        (
            "(has(self.after) && size(self.after) > 0) == (has(self.suites) && size(self.suites) > 0)",
            "after and suites require each other",
        ),
    ),
    "spec.evaluation.after": ((_UNIQUE, "duplicate stage"),),
    "spec.evaluation.suites": ((_UNIQUE, "duplicate suite"),),
    "spec.contrasts": ((_UNIQUE_NAMES, "two contrasts have the same name"),),
    "spec.contrasts.*": (
        (
            "self.arm.recipe != self.against.recipe || self.arm.size != self.against.size || self.arm.stage != self.against.stage"
            " || has(self.arm.codePercent) != has(self.against.codePercent)"
            " || (has(self.arm.codePercent) && self.arm.codePercent != self.against.codePercent)",
            "both arms are the same",
        ),
    ),
    "spec.execution.tolerations.*": (
        ("!has(self.operator) || self.operator != 'Exists' || !has(self.value)", "operator Exists does not allow a value"),
        ("has(self.key) || (has(self.operator) && self.operator == 'Exists')", "operator Equal requires a key"),
    ),
}

_DECAY: Final = ("!has(self.decay) || !has(self.shape) || self.shape == 'wsd'", "decay is allowed only with shape: wsd")
_SCHEDULES: Final = ("spec.training.schedule", "spec.recipes.*.training.schedule", "spec.recipes.*.stages.*.schedule")


def rules() -> dict[Path, list[dict[str, Any]]]:
    """Return the rules by path."""
    all_rules = {**_RULES, **dict.fromkeys(_SCHEDULES, (_DECAY,))}
    return {tuple(path.split(".")): [{"rule": rule, "message": message} for rule, message in found] for path, found in all_rules.items()}
