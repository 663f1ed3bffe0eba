"""Keeps MLflow a mirror of the store: the only package with `mlflow`, and the only writer there.

`view` says what a task's run is to look like (pure), `mirror` makes it so, `beside` runs the mirror as a process of its own beside a local
run. The command line calls `beside` and `mirror`; trainers and planner know nothing of MLflow. What is lost there can be made again.
Importing this package does not import mlflow (1.8 s): `mirror` does.
"""

from orchestrator.tracking.mirror_process import (
    Beside,
    artifacts_folder,
    default_uri,
    local_folder,
    masked,
    repair_command,
    tracking_uri,
    ui_command,
)

__all__ = ["Beside", "artifacts_folder", "default_uri", "local_folder", "masked", "repair_command", "tracking_uri", "ui_command"]
