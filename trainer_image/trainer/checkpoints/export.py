"""Check that `transformers` computes the same logits from a checkpoint as this trainer.

`training.run` calls it on the checkpoint at a task's end, before the record is published. This is the only module of the trainer that
imports transformers, and it does so lazily: the import takes 4-6 s.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from orchestrator.errors import ScalingStudyError
from trainer.checkpoints.state import MODEL_FILES, load_model

LARGEST_DIFFERENCE: Final = 1e-4
"""Allowed difference between two float32 logits, times the largest logit or 1: rounding errors grow with magnitude.

Two correct implementations differ by about 1e-6 at the widths of a CPU study.
"""


class ExportDiffers(ScalingStudyError):
    """transformers computes different logits from the checkpoint than this trainer."""


@torch.no_grad()
def check(files: Mapping[str, Path], ids: Tensor, device: torch.device) -> float:
    """Return the largest absolute difference between the logits of transformers and ours, for ids (batch, T).

    Raises ExportDiffers if it exceeds `LARGEST_DIFFERENCE` times the largest logit, or times 1 if that is smaller.
    """
    ours = load_model(files, device).logits(ids.to(device))
    difference = (ours - _logits_of_transformers(files, ids.to(device), device)).abs().max().item()
    allowed = LARGEST_DIFFERENCE * max(1.0, ours.abs().max().item())
    if not difference <= allowed:
        raise ExportDiffers(
            f"the logits of transformers.LlamaForCausalLM differ from the trainer's by {difference:.2e}, {allowed:.0e} is allowed; "
            "the checkpoint is kept and no record is written: compare transformers and torch versions with those of an attempt that passed"
        )
    return difference


def _logits_of_transformers(files: Mapping[str, Path], ids: Tensor, device: torch.device) -> Tensor:
    from transformers.models.llama.modeling_llama import LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="export-") as folder:
        for name in MODEL_FILES:
            (Path(folder) / name).symlink_to(files[name].resolve())
        model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval().to(device)
    logits: Tensor = model(input_ids=ids, use_cache=False).logits.float()
    return logits
