"""The model compared with the Llama of transformers and with plain autograd."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from trainer.model.layers import rms_norm, rotated_heads, swiglu
from trainer.model.loss import head_loss
from trainer.model.transformer import Model, from_llama, initialised, to_llama
from trainer.training import optimizer
from trainer.training.step import gradients

from orchestrator.contract.tasks import FromInitialisation, Optimizer, Shape

TIED = Shape(width=32, layers=2, heads=2, feed_forward=48, vocabulary=96, tied=True, rope_theta=10_000, norm_eps="1e-5")
UNTIED = Shape(width=24, layers=1, heads=3, feed_forward=40, vocabulary=300, tied=False, rope_theta=500_000, norm_eps="1e-6")
SHAPES = {"tied": TIED, "untied": UNTIED}
ADAMW = Optimizer("0.9", "0.95", "1e-8", "0.1", "0", "1", "1e-4")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def model(shape: Shape, seed: int = 1) -> Model:
    """Return a model whose norms differ from one, because ones hide wrong gradients."""
    built = initialised(FromInitialisation(shape, seed, "0.2"))
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if "norm" in name:
                parameter.normal_(1.0, 0.2, generator=torch.Generator().manual_seed(len(name)))
    return built


def windows(shape: Shape, sequences: int = 3, length: int = 20) -> Tensor:
    return torch.randint(0, shape.vocabulary, (sequences, length + 1), generator=torch.Generator().manual_seed(7))


def llama(shape: Shape, ours: Model) -> torch.nn.Module:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=shape.vocabulary, hidden_size=shape.width, intermediate_size=shape.feed_forward, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.heads, rms_norm_eps=float(shape.norm_eps),
        rope_parameters={"rope_type": "default", "rope_theta": float(shape.rope_theta)}, tie_word_embeddings=shape.tied,
    )  # fmt: skip
    theirs: torch.nn.Module = LlamaForCausalLM(config)
    missing, unexpected = theirs.load_state_dict(dict(to_llama(ours)), strict=False)
    assert not unexpected
    assert missing == (["lm_head.weight"] if shape.tied else [])
    return theirs


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_loss_and_gradients_equal_those_of_transformers(shape: Shape) -> None:
    ours, batch = model(shape), windows(shape)
    theirs = llama(shape, ours)
    loss = gradients(ours, batch, 0.0, 0, torch.float32)
    logits = theirs(input_ids=batch[:, :-1]).logits
    expected = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    torch.autograd.backward(expected)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    torch.testing.assert_close(ours.logits(batch[:, :-1]), logits, atol=1e-4, rtol=1e-4)
    with torch.no_grad():  # a gradient has its parameter's layout, so the export of one is the other's
        for parameter in ours.parameters():
            assert parameter.grad is not None
            parameter.copy_(parameter.grad)
    named = dict(theirs.named_parameters())
    for name, gradient in to_llama(ours):
        torch.testing.assert_close(gradient, named[name].grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_number_of_parameters_equals_that_of_the_shape(shape: Shape) -> None:
    assert sum(parameter.numel() for parameter in Model(shape).parameters()) == shape.total


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_conversion_to_llama_and_back_is_exact(shape: Shape) -> None:
    ours = model(shape)
    converted = from_llama(shape, dict(to_llama(ours)))
    for (name, before), (_, after) in zip(ours.named_parameters(), converted.named_parameters(), strict=True):
        assert torch.equal(before, after), name


def test_gradients_of_layer_functions_pass_gradcheck() -> None:
    def normal(*size: int) -> Tensor:
        return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()

    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-3), (normal(5, 6), normal(6)))
    assert torch.autograd.gradcheck(swiglu, (normal(2, 3, 8),))


def test_rotation_preserves_norms_and_depends_on_the_position() -> None:
    qkv = torch.randn(1, 5, 3, 2, 4, generator=torch.Generator().manual_seed(1)).requires_grad_()
    angles = torch.arange(5.0)[:, None, None, None] * torch.tensor([1.0, 0.1])
    q, k, v = rotated_heads(qkv, torch.complex(angles.cos(), angles.sin()))
    torch.testing.assert_close(q.norm(dim=-1), qkv[:, :, 0].norm(dim=-1))
    torch.testing.assert_close(q[:, 0], qkv[:, 0, 0])
    assert torch.equal(v, qkv[:, :, 2])
    first = qkv[0, 3, 1, 0, 0] * torch.tensor(3.0).cos() - qkv[0, 3, 1, 0, 1] * torch.tensor(3.0).sin()
    torch.testing.assert_close(k[0, 3, 0, 0], first)


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("rows", [5, 3000])
def test_loss_and_its_gradients_equal_those_of_plain_autograd(z_loss: float, rows: int) -> None:
    generator = torch.Generator().manual_seed(5)
    hidden, head = (torch.randn(n, 8, generator=generator).requires_grad_() for n in (rows, 200))
    targets, tokens = torch.randint(0, 200, (rows,), generator=generator), 2 * rows
    objective, nats = head_loss(hidden, head, targets, z_loss, tokens, torch.float32)
    torch.autograd.backward(3 * objective)
    ours = [hidden.grad, head.grad]
    hidden.grad = head.grad = None
    logits = hidden @ head.t()
    expected = F.cross_entropy(logits, targets, reduction="sum") / tokens
    penalty = z_loss * logits.logsumexp(-1).square().sum() / tokens
    torch.autograd.backward(3 * (expected + penalty))
    torch.testing.assert_close((nats, objective), (expected, expected + penalty))
    torch.testing.assert_close(ours, [hidden.grad, head.grad])


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_micro_batches_give_the_gradient_of_the_whole_batch(micro_batch: int) -> None:
    whole, pieces, batch = model(TIED), model(TIED), windows(TIED)
    loss = gradients(whole, batch, 1e-4, 0, torch.float32)
    torch.testing.assert_close(gradients(pieces, batch, 1e-4, micro_batch, torch.float32), loss)
    for one, other in zip(whole.parameters(), pieces.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-6, rtol=1e-4)


def test_bf16_differs_slightly_from_float32() -> None:
    exact, rounded, batch = model(TIED), model(TIED), windows(TIED)
    loss, near = (gradients(one, batch, 1e-4, 0, dtype).item() for one, dtype in ((exact, torch.float32), (rounded, torch.bfloat16)))
    assert near != loss
    assert near == pytest.approx(loss, rel=0.02)
    norm, other = (optimizer.grad_norm(optimizer.adamw(one, ADAMW)) for one in (exact, rounded))
    torch.testing.assert_close(norm, other, atol=0, rtol=0.05)


def test_initial_weights_depend_on_the_seed_and_not_on_threads() -> None:
    big = Shape(width=256, layers=1, heads=4, feed_forward=512, vocabulary=2048, tied=False, rope_theta=10_000, norm_eps="1e-5")
    one = initialised(FromInitialisation(big, 1, "0.06"))
    torch.set_num_threads(2)
    two, other = initialised(FromInitialisation(big, 1, "0.06")), initialised(FromInitialisation(big, 2, "0.06"))
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, two.get_parameter(name)), name
        if parameter.ndim > 1:
            assert not torch.equal(parameter, other.get_parameter(name)), name
            assert parameter.std().item() == pytest.approx(0.06, rel=0.02), name
        else:
            assert torch.equal(parameter, torch.ones(256)), name


def test_only_the_embedding_has_a_separate_weight_decay() -> None:
    ours = model(UNTIED)
    steps = optimizer.adamw(ours, ADAMW)
    before = {name: parameter.detach().clone() for name, parameter in ours.named_parameters()}
    for parameter in ours.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.update(steps, 0.5, 0.0, 1.0)
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.detach(), before[name] * (1.0 if name == "embedding" else 1 - 0.5 * 0.1))


@pytest.mark.parametrize(("norm_of_gradient", "factor"), [(0.5, 1.0), (4.0, 0.25)])
def test_gradients_are_clipped_by_their_common_norm(norm_of_gradient: float, factor: float) -> None:
    ours = model(TIED)
    for parameter in ours.parameters():
        parameter.grad = torch.ones_like(parameter) * (norm_of_gradient / TIED.total**0.5)
    steps = optimizer.adamw(ours, ADAMW)
    norm = optimizer.grad_norm(steps)
    torch.testing.assert_close(norm, torch.tensor(norm_of_gradient))
    optimizer.update(steps, 0.0, norm.item(), 1.0)
    torch.testing.assert_close(optimizer.grad_norm(steps), norm * factor)
    optimizer.clear(steps)
    assert all(parameter.grad is None for parameter in ours.parameters())


def test_moments_are_loaded_bit_for_bit() -> None:
    ours, batch = model(TIED), windows(TIED)
    steps = optimizer.adamw(ours, ADAMW)
    assert dict(optimizer.tensors(ours, steps)) == {}
    gradients(ours, batch, 1e-4, 0, torch.float32)
    optimizer.update(steps, 0.01, 1.0, 1.0)
    kept = {name: tensor.clone() for name, tensor in optimizer.tensors(ours, steps)}
    again = optimizer.adamw(ours, ADAMW)
    optimizer.load(ours, again, kept)
    back = dict(optimizer.tensors(ours, again))
    assert back.keys() == kept.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in kept.items())
