"""What a checkpoint's files are to plain transformers."""

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
USE = training_state.ExportSettings(context_length=64, end_of_text=95)
SHAPES = [Shape(32, 2, 2, 48, 96, tied, 500_000, "1e-5") for tied in (True, False)]
IDS = torch.randint(0, 96, (2, 40), generator=torch.Generator().manual_seed(3))


def kept(shape: Shape, folder: Path) -> dict[str, Path]:
    """The files of a checkpoint, named otherwise, as in a cache."""
    model = initialised(FromInitialisation(shape, 5, "0.2"))
    files = {training_state.CONFIG: folder / "a", training_state.WEIGHTS: folder / "b"}
    files[training_state.CONFIG].write_bytes(training_state.config(shape, USE))
    save_file(dict(to_llama(model)), files[training_state.WEIGHTS], metadata={"format": "pt"})
    return files


def as_export(files: dict[str, Path], folder: Path) -> Path:
    folder.mkdir()
    for name, path in files.items():
        (folder / name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("shape", SHAPES, ids=["tied", "untied"])
def test_an_export_loads_in_transformers_generates_and_has_our_loss(shape: Shape, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    files = kept(shape, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(as_export(files, tmp_path / "export"))
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

    ours = json.loads(training_state.config(shape, USE))
    theirs = LlamaConfig(**ours).to_dict()
    assert {key: theirs[key] for key in ours if key != "architectures"} == {key: ours[key] for key in ours if key != "architectures"}
    assert theirs["rope_parameters"] == {"rope_type": "default", "rope_theta": 500_000.0}


@pytest.mark.parametrize("shape", SHAPES, ids=["tied", "untied"])
def test_a_shape_comes_back_from_its_config(shape: Shape, tmp_path: Path) -> None:
    assert training_state.shape_of(kept(shape, tmp_path)) == shape


def test_the_check_passes_a_right_export_and_refuses_another(tmp_path: Path) -> None:
    files = kept(SHAPES[0], tmp_path)
    assert export.check(files, IDS, CPU) < 1e-5
    make_wrong(files)
    with pytest.raises(export.ExportDiffers, match=r"differ from the trainer's by [0-9.e+]+, [0-9]e-04 is allowed"):
        export.check(files, IDS, CPU)


def make_wrong(files: dict[str, Path]) -> None:
    """The weights are as they were, and mean another model."""
    config = json.loads(files[training_state.CONFIG].read_bytes())
    config["rope_parameters"] |= {"rope_type": "linear", "factor": 2.0}
    files[training_state.CONFIG].write_text(json.dumps(config))


def test_large_logits_may_differ_by_their_rounding_and_not_by_more(tmp_path: Path) -> None:
    """On two cores of an Intel Xeon this one differs by 4e-4, which for logits of 1 is too much."""
    files = kept(Shape(128, 4, 2, 48, 96, False, 500_000, "1e-5"), tmp_path)
    weights = load_file(files[training_state.WEIGHTS])
    largest = training_state.load_model(files, CPU).logits(IDS).abs().max().item()
    weights["lm_head.weight"] *= 30 / largest
    save_file(weights, files[training_state.WEIGHTS], metadata={"format": "pt"})
    assert export.check(files, IDS, CPU) < 30 * export.LARGEST_DIFFERENCE
    make_wrong(files)
    with pytest.raises(export.ExportDiffers, match=", 3e-03 is allowed"):
        export.check(files, IDS, CPU)


def test_non_finite_logits_fail_the_check(tmp_path: Path) -> None:
    files = kept(SHAPES[0], tmp_path)
    weights = load_file(files[training_state.WEIGHTS])
    weights["model.norm.weight"][0] = math.nan
    save_file(weights, files[training_state.WEIGHTS], metadata={"format": "pt"})
    with pytest.raises(export.ExportDiffers, match="differ from the trainer's by nan"):
        export.check(files, IDS, CPU)


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        (training_state.CONFIG, b"{}", r"config\.json does not describe a model of this trainer \(KeyError"),
        (training_state.CONFIG, b"\xff", r"config\.json does not describe a model of this trainer"),
    ],
    ids=["empty config", "no text"],
)
def test_files_that_are_no_checkpoint_are_damaged(name: str, body: bytes, message: str, tmp_path: Path) -> None:
    files = kept(SHAPES[0], tmp_path)
    files[name].write_bytes(body)
    with pytest.raises(Damaged, match=message):
        training_state.load_model(files, CPU)


def test_weights_of_another_shape_are_damaged(tmp_path: Path) -> None:
    files = kept(SHAPES[0], tmp_path)
    files[training_state.CONFIG].write_bytes(training_state.config(SHAPES[1], USE))
    with pytest.raises(Damaged, match=r"model\.safetensors does not match its config\.json: 'lm_head\.weight'"):
        training_state.load_model(files, CPU)
