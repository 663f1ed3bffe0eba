"""Checks that a kept checkpoint is what plain `transformers` takes it for.

`train` calls it on the checkpoint at a task's end, before there is a record. transformers is imported here alone in the trainer and only
when it is needed: it takes 4-6 s.
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
"""Between two logits in float32, for each 1 of the largest logit and at least for 1: rounding grows with what is rounded.

Two right implementations differ by about 1e-6 at the widths of a CPU study.
"""


class ExportDiffers(ScalingStudyError):
    """transformers computes other logits from the checkpoint than we do."""


@torch.no_grad()
def check(files: Mapping[str, Path], ids: Tensor, device: torch.device) -> float:
    """Largest difference between transformers' logits and ours, for ids (batch, T), as it is: not divided by the logits.

    Raises ExportDiffers when it is more than `LARGEST_DIFFERENCE` for logits as large as ours.
    """
    ours = load_model(files, device).logits(ids.to(device))
    difference = (ours - _logits_of_transformers(files, ids.to(device), device)).abs().max().item()
    allowed = LARGEST_DIFFERENCE * max(1.0, ours.abs().max().item())
    if not difference <= allowed:
        raise ExportDiffers(
            f"the logits of transformers.LlamaForCausalLM differ from ours by {difference:.2e}, and {allowed:.0e} is allowed; "
            "the checkpoint is kept and no record is written: compare the versions of transformers and torch with an attempt's that passed"
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
