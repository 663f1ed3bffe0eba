"""Mirror the store to MLflow: the only package that imports `mlflow`, and the only writer there.

`view` computes what a task's MLflow run should contain (pure), `mirror` writes it, `mirror_process` runs the mirror in its own process
during a local run. Trainer and planner do not depend on MLflow; a lost mirror can be rebuilt. Importing this package does not import
mlflow, which takes 1.8 s.
"""

from orchestrator.tracking.mirror_process import (
    MirrorProcess,
    artifacts_folder,
    default_uri,
    local_folder,
    masked,
    repair_command,
    tracking_uri,
    ui_command,
)

__all__ = ["MirrorProcess", "artifacts_folder", "default_uri", "local_folder", "masked", "repair_command", "tracking_uri", "ui_command"]
