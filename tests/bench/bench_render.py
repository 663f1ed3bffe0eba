"""Measure `render` for 10,000 cells: wall-clock and CPU seconds of a new process.

    python tests/bench/bench_render.py

The limit is 10 s on 2 otherwise idle cores; the load of the machine is printed with the results.
"""

import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from subprocess import run

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench.bench_plan import SEEDS, STUDY  # noqa: E402


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        study, out = Path(folder) / "study.yaml", Path(folder) / "workflows.yaml"
        study.write_text(STUDY % (", ".join(map(str, range(1, SEEDS + 1))), "a" * 64, "b" * 64, "c" * 64))
        for _ in range(3):
            begin, used = time.perf_counter(), cpu_seconds()
            with out.open("w") as file:
                run(
                    [sys.executable, "-c", "from orchestrator.cli import main; main()", "render", str(study)],
                    stdout=file,
                    check=True,
                    cwd=ROOT,
                )
            seconds, used = time.perf_counter() - begin, cpu_seconds() - used
            count = out.read_text().count("\n---\n") + 1
            size, load = out.stat().st_size / 1e6, os.getloadavg()[0]
            print(f"{count:,} Workflows, {size:.0f} MB: {seconds:.1f} s, {used:.1f} s of CPU time, load {load:.1f}")


if __name__ == "__main__":
    main()
