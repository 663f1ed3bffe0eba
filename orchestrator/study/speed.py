"""Training speed of this machine's CPU by size: from the store's records, or by a short measurement.

`plan` estimates the duration of small studies with it. The measurement runs in a trainer process, because the orchestrator does not
import torch.
"""

import json
import subprocess
import sys
from datetime import datetime
from importlib.util import find_spec
from typing import Final

from orchestrator.contract.plan import Plan
from orchestrator.contract.record import Record
from orchestrator.contract.sizes import TINY_BELOW
from orchestrator.contract.tasks import TrainTask
from orchestrator.errors import PlanRefused
from orchestrator.store import Store
from orchestrator.store.records import read_record

_TIMEOUT: Final = 120.0
"""Timeout of a measurement in seconds; it takes about one second per size, plus the import of torch."""


def recorded_seconds_per_token(store: Store, plan: Plan, finished: set[str]) -> dict[str, float]:
    """Return the seconds per token by size, from the latest finished train task of each size that ran on a CPU."""
    latest = {task.size: task for digest, task in plan.tasks.items() if digest in finished and isinstance(task.task, TrainTask)}
    seconds: dict[str, float] = {}
    for size, planned in latest.items():
        record = read_record(store, planned.digest)
        if record is not None and isinstance(planned.task, TrainTask) and (took := _cpu_run_seconds(record)) > 0:
            seconds[size] = took / (planned.task.tokens - planned.from_tokens)
    return seconds


def _cpu_run_seconds(record: Record) -> float:
    if any(attempt.gpus for attempt in record.attempts):
        return 0.0
    return sum((datetime.fromisoformat(one.end) - datetime.fromisoformat(one.start)).total_seconds() for one in record.attempts)


def measured_seconds_per_token(plan: Plan) -> dict[str, float]:
    """Train each small size of the plan for half a second on one thread and return the seconds per token by size.

    Raises PlanRefused when the trainer is not installed, fails, or takes longer than two minutes.
    """
    if find_spec("trainer") is None:
        raise PlanRefused("--measure needs the trainer: pip install -e ./trainer_image")
    trajectories = {task.size: task.task.trajectory for task in plan.tasks.values() if isinstance(task.task, TrainTask)}
    small = {size: one for size, one in trajectories.items() if plan.shapes[size].n < TINY_BELOW}
    asked = [
        {"shape": plan.shapes[size].identity(), "sequence_length": one.sequence_length, "batch": one.batch} for size, one in small.items()
    ]
    try:
        answer = subprocess.run(
            [sys.executable, "-m", "trainer.training.measure"],
            input=json.dumps(asked), capture_output=True, text=True, check=True, timeout=_TIMEOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired as problem:
        raise PlanRefused(f"--measure timed out after {_TIMEOUT:.0f} s; retry on an idle machine, or omit it") from problem
    except subprocess.CalledProcessError as problem:
        last = (problem.stderr.strip().splitlines() or ["no message"])[-1]
        raise PlanRefused(f"--measure failed in the trainer: {last}") from problem
    return {size: 1 / rate for size, rate in zip(small, json.loads(answer.stdout), strict=True)}
