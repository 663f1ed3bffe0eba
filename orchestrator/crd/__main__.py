"""Write manifests/base/crd.yaml, or the named file."""

import sys
from pathlib import Path

from orchestrator.crd import to_yaml

target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "manifests" / "base" / "crd.yaml"
target.parent.mkdir(parents=True, exist_ok=True)
target.write_text(to_yaml())
sys.stdout.write(f"{target}\n")
