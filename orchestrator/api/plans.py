"""Plan and price a study. `scaling-study plan` calls it."""

from pathlib import Path

from orchestrator.api.checks import done_tasks, source_readings
from orchestrator.api.outcomes import StudyPlan
from orchestrator.planning.estimate import CPU, CPU_WORKER_FLOPS, DEFAULT_MFU, Price, default_processor, estimate
from orchestrator.planning.repetition import refuse_repetition
from orchestrator.planning.summary import summarize_plan
from orchestrator.study.opening import OpenedStudy, gpu_seconds_per_token, preview_study
from orchestrator.study.speed import measured_seconds_per_token, recorded_seconds_per_token


def plan(
    file: str | Path,
    *,
    store: str | None = None,
    ask_store: bool = False,
    gpu: str = "",
    mfu: float = DEFAULT_MFU,
    price: float | None = None,
    measure: bool = False,
) -> StudyPlan:
    """Plan and price a study; write nothing.

    `store`: address of the store that is asked which tasks are done, by default the study file's. `ask_store`: ask it even if it is a
    bucket. `gpu`, `mfu`: GPU type (`cpu` for this machine; by default `cpu` if every size is small, else `h100`) and assumed model FLOPs
    utilisation. `measure`: measure the speed of this machine for a price on its CPU.
    `price`: cost per GPU-hour, in any currency. Raises InvalidStudy, PlanRefused, StoreError.
    """
    opened = preview_study(Path(file), store)
    asks_store = ask_store or store is not None or "://" not in opened.store.url
    finished = done_tasks(opened) if asks_store else set()
    reads = source_readings(opened, finished)
    refuse_repetition(reads)
    gpu = gpu or default_processor(opened.plan)
    seconds, rate_from = _measured_seconds(opened, finished, gpu, measure)
    tariff = Price(gpu, mfu, price, seconds)
    warnings = [f"{name}: {why}" for name, why in opened.unreachable.items()]
    summary = summarize_plan(
        opened.study.spec,
        opened.plan,
        estimate(opened.plan, tariff, finished),
        tariff,
        reads,
        finished,
        warnings,
        rate_from=rate_from,
        workers=_cores() if gpu == CPU else 0,
    )
    return StudyPlan(opened.plan, summary, frozenset(finished))


def _cores() -> int:
    from orchestrator.local import cores

    return cores()


def _measured_seconds(opened: OpenedStudy, finished: set[str], gpu: str, measure: bool) -> tuple[dict[str, float], str]:
    """Seconds per token by size on the priced processor, and where they come from."""
    if gpu != CPU:
        return gpu_seconds_per_token(opened, finished), ""
    if measure:
        return measured_seconds_per_token(opened.plan), "measured now"
    if recorded := recorded_seconds_per_token(opened.store, opened.plan, finished):
        return recorded, "recorded in this store"
    return {}, f"assumed: {CPU_WORKER_FLOPS / 1e9:.0f} GFLOP/s a worker; --measure measures it"
