"""The learning rate of every step.

`step` calls it before each update. The rate depends only on the position of the step in its trajectory, so the schedule has no state.
"""

from math import cos, pi

from orchestrator.contract.tasks import Schedule
from orchestrator.errors import TaskRefused


def learning_rate(schedule: Schedule, step: int, tokens_per_step: int) -> float:
    """Return the learning rate of step `step` (from 0), which reads tokens from step * tokens_per_step on.

    During warm-up the rate is that of the end of the step: the first step has a rate above zero and the last step of the warm-up has the
    peak. Decay is evaluated at the start of the step: its first step has the peak, and a step at `tokens` would have `final`.
    """
    peak, start = float(schedule.peak), step * tokens_per_step
    if start < schedule.warmup:
        return peak * min(1.0, (start + tokens_per_step) / schedule.warmup)
    if schedule.shape == "constant":
        return peak
    final, decay = _end(schedule)
    progress = min(1.0, (start - schedule.warmup) / max(1, decay))
    if schedule.shape == "linear":
        return peak + (final - peak) * progress
    if schedule.shape == "cosine":
        return final + (peak - final) * (1 + cos(pi * progress)) / 2
    raise TaskRefused(f"unknown schedule {schedule.shape!r}; this trainer supports constant, linear and cosine")


def _end(schedule: Schedule) -> tuple[float, int]:
    if schedule.final is None or schedule.tokens is None:
        raise TaskRefused(f"schedule {schedule.shape!r} needs `final` and `tokens`; the task has {schedule.final} and {schedule.tokens}")
    return float(schedule.final), schedule.tokens - schedule.warmup
