"""Checks across fields: each value is valid, but the combination is not.

A check takes a whole `StudySpec` and yields findings whose paths are relative to `spec`. It assumes that everything else is valid:
`orchestrator.spec.reading` drops findings about invalid parts, so a finding lists the paths that it depends on.
"""

from collections.abc import Iterator

from orchestrator.spec.checks.addresses import check_addresses
from orchestrator.spec.checks.contrasts import check_contrasts, check_evaluation
from orchestrator.spec.checks.grid import check_grid, check_selections
from orchestrator.spec.checks.lengths import check_lengths
from orchestrator.spec.checks.mixtures import check_limits, check_mixtures, check_sources
from orchestrator.spec.checks.plan_size import check_plan_size
from orchestrator.spec.checks.shapes import check_maps_by_size, check_models, check_tolerations
from orchestrator.spec.checks.stages import check_stages
from orchestrator.spec.messages import Finding
from orchestrator.spec.models import StudySpec

CHECKS = (
    check_addresses,
    check_grid,
    check_selections,
    check_plan_size,
    check_models,
    check_maps_by_size,
    check_sources,
    check_mixtures,
    check_limits,
    check_stages,
    check_lengths,
    check_evaluation,
    check_contrasts,
    check_tolerations,
)


def findings_of(spec: StudySpec) -> Iterator[Finding]:
    """Return all findings about `spec` as a whole."""
    for check in CHECKS:
        yield from check(spec)
