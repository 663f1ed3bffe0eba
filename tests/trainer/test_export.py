"""Checkpoints are valid transformers models, and the export check detects deviations."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F  # noqa: N812
from trainer.checkpoints import export
from trainer.checkpoints import state as training_state
from trainer.model.transformer import initialised, to_llama

from orchestrator.contract.tasks import FromInitialisation, Shape
from orchestrator.errors import Damaged

CPU = torch.device("cpu")
SETTINGS = training_state.ExportSettings(context_length=64, end_of_text=95)
SHAPES = [Shape(32, 2, 2, 48, 96, tied, 500_000, "1e-5") for tied in (True, False)]
IDS = torch.randint(0, 96, (2, 40), generator=torch.Generator().manual_seed(3))


def checkpoint_files(shape: Shape, folder: Path) -> dict[str, Path]:
    """Write the files of a checkpoint under other names, as in a download cache."""
    model = initialised(FromInitialisation(shape, 5, "0.2"))
    files = {training_state.CONFIG: folder / "a", training_state.WEIGHTS: folder / "b"}
    files[training_state.CONFIG].write_bytes(training_state.config(shape, SETTINGS))
    save_file(dict(to_llama(model)), files[training_state.WEIGHTS], metadata={"format": "pt"})
    return files


def export_folder(files: dict[str, Path], folder: Path) -> Path:
    folder.mkdir()
    for name, path in files.items():
        (folder / name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("shape", SHAPES, ids=["tied", "untied"])
def test_transformers_loads_the_export_with_the_same_loss_and_generated_tokens(shape: Shape, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    files = checkpoint_files(shape, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(export_folder(files, tmp_path / "export"))
    assert type(theirs).__name__ == "LlamaForCausalLM"
    assert theirs.dtype == torch.float32
    ours = training_state.load_model(files, CPU)
    with torch.no_grad():
        loss = F.cross_entropy(ours.logits(IDS[:, :-1]).flatten(0, 1), IDS[:, 1:].flatten())
        assert theirs(input_ids=IDS, labels=IDS).loss.item() == pytest.approx(loss.item(), abs=1e-4)
        generated = theirs.generate(IDS[:1, :5], attention_mask=torch.ones(1, 5), max_new_tokens=8, do_sample=False)
        greedy = IDS[:1, :5]
        for _ in range(8):
            greedy = torch.cat((greedy, ours.logits(greedy)[:, -1:].argmax(-1)), 1)
    assert torch.equal(generated, greedy)


@pytest.mark.parametrize("shape", SHAPES, ids=["tied", "untied"])
def test_config_sets_every_default_of_transformers(shape: Shape) -> None:
    from transformers import LlamaConfig

    ours = json.loads(training_state.config(shape, SETTINGS))
    theirs = LlamaConfig(**ours).to_dict()
    assert {key: theirs[key] for key in ours if key != "architectures"} == {key: ours[key] for key in ours if key != "architectures"}
    assert theirs["rope_parameters"] == {"rope_type": "default", "rope_theta": 500_000.0}


@pytest.mark.parametrize("shape", SHAPES, ids=["tied", "untied"])
def test_shape_is_read_back_from_the_config(shape: Shape, tmp_path: Path) -> None:
    assert training_state.shape_of(checkpoint_files(shape, tmp_path)) == shape


def test_check_accepts_an_equal_model_and_rejects_a_different_one(tmp_path: Path) -> None:
    files = checkpoint_files(SHAPES[0], tmp_path)
    assert export.check(files, IDS, CPU) < 1e-5
    change_rotary_embedding(files)
    with pytest.raises(export.ExportDiffers, match=r"differ from the trainer's by [0-9.e+]+, [0-9]e-04 is allowed"):
        export.check(files, IDS, CPU)


def change_rotary_embedding(files: dict[str, Path]) -> None:
    """Change the config so that the same weights describe another model."""
    config = json.loads(files[training_state.CONFIG].read_bytes())
    config["rope_parameters"] |= {"rope_type": "linear", "factor": 2.0}
    files[training_state.CONFIG].write_text(json.dumps(config))


def test_allowed_difference_grows_with_the_largest_logit(tmp_path: Path) -> None:
    """On two cores of an Intel Xeon the logits of this model differ by 4e-4, too much for logits of about 1."""
    files = checkpoint_files(Shape(128, 4, 2, 48, 96, False, 500_000, "1e-5"), tmp_path)
    weights = load_file(files[training_state.WEIGHTS])
    largest = training_state.load_model(files, CPU).logits(IDS).abs().max().item()
    weights["lm_head.weight"] *= 30 / largest
    save_file(weights, files[training_state.WEIGHTS], metadata={"format": "pt"})
    assert export.check(files, IDS, CPU) < 30 * export.LARGEST_DIFFERENCE
    change_rotary_embedding(files)
    with pytest.raises(export.ExportDiffers, match=", 3e-03 is allowed"):
        export.check(files, IDS, CPU)


def test_non_finite_logits_fail_the_check(tmp_path: Path) -> None:
    files = checkpoint_files(SHAPES[0], tmp_path)
    weights = load_file(files[training_state.WEIGHTS])
    weights["model.norm.weight"][0] = math.nan
    save_file(weights, files[training_state.WEIGHTS], metadata={"format": "pt"})
    with pytest.raises(export.ExportDiffers, match="differ from the trainer's by nan"):
        export.check(files, IDS, CPU)


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        (training_state.CONFIG, b"{}", r"config\.json does not describe a model of this trainer \(KeyError"),
        (training_state.CONFIG, b"\xff", r"config\.json is not the config of a checkpoint"),
    ],
    ids=["empty config", "not UTF-8"],
)
def test_invalid_config_is_damaged(name: str, body: bytes, message: str, tmp_path: Path) -> None:
    files = checkpoint_files(SHAPES[0], tmp_path)
    files[name].write_bytes(body)
    with pytest.raises(Damaged, match=message):
        training_state.load_model(files, CPU)


def test_weights_of_another_shape_are_damaged(tmp_path: Path) -> None:
    files = checkpoint_files(SHAPES[0], tmp_path)
    files[training_state.CONFIG].write_bytes(training_state.config(SHAPES[1], SETTINGS))
    with pytest.raises(Damaged, match=r"model\.safetensors does not match its config\.json: 'lm_head\.weight'"):
        training_state.load_model(files, CPU)
