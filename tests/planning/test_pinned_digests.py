"""Task digests of the examples. If they change, existing studies train everything again: explain such a change in CHANGELOG."""

from hashlib import sha256
from pathlib import Path

import pytest

from orchestrator.planning import plan_study
from orchestrator.spec import read_study

EXAMPLES = Path(__file__).parents[2] / "manifests" / "examples"

# Tasks, cells, and the SHA-256 of all task digests (sorted) and of every cell's name and tasks; as of commit ad2c77d
PINNED = {
    "cluster.yaml": (75, 18, "22863aa3bc4336c74cdf3f4397d29f4435fa6c7530052d94533078d5df5e4329"),
    "demo.yaml": (227, 36, "fc57a63a15efbe4077a77848cb42178200fc3d6d1e1645f3bda50de98c064470"),
    "sweep-rates.yaml": (43, 10, "6c99d34a66267cc2e400dbf3f593c3efdd10deb2a4bf7bdb31bf78ec619e6438"),
    "to-code.yaml": (3103, 213, "874e5693132d57e45d58f71a268df926812a22a759444c16b747e5de5ad0e1f6"),
}


@pytest.mark.parametrize("name", PINNED)
def test_digests_of_an_example_never_change(name: str) -> None:
    study = read_study(EXAMPLES / name)
    fingerprints = {
        source.name: sha256(source.path.encode()).hexdigest() for source in study.spec.data.sources if source.fingerprint is None
    }
    plan = plan_study(study, fingerprints, "")
    lines = sorted(plan.tasks) + [f"{cell.name} {' '.join(cell.tasks)}" for cell in plan.cells]
    assert (len(plan.tasks), len(plan.cells), sha256("\n".join(lines).encode()).hexdigest()) == PINNED[name]


def test_every_example_is_pinned() -> None:
    assert {path.name for path in EXAMPLES.glob("*.yaml")} == set(PINNED)
