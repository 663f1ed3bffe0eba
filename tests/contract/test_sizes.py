"""The ladder: parameter counts against published figures, scaling rules at known points, FLOPs against the formulas."""

import pytest

from orchestrator.contract.sizes import (
    LADDER,
    LADDER_VOCABULARY,
    Rung,
    batch_sequences,
    beta2,
    flops_6nd,
    flops_causal,
    flops_palm,
    is_tiny,
    peak_learning_rate,
    tiny_peak_learning_rate,
)

# Millions of parameters: N, and all with an untied head
PARAMETERS = {
    "10M": (9.1, 15.5), "25M": (23.1, 36.0), "60M": (57.1, 76.4), "150M": (151.9, 190.5), "300M": (320.0, 371.5),
    "470M": (468.1, 532.5), "1B": (1176.8, 1279.9), "1.4B": (1336.2, 1439.3), "2.8B": (2666.5, 2795.3),
}  # fmt: skip


@pytest.mark.parametrize(("size", "millions"), PARAMETERS.items())
def test_parameters_are_those_of_the_published_table(size: str, millions: tuple[float, float]) -> None:
    shape = LADDER[size].shape(LADDER_VOCABULARY)
    assert (round(shape.n / 1e6, 1), round(shape.total / 1e6, 1)) == millions


def test_scaling_rules_give_the_known_values() -> None:
    assert peak_learning_rate(108_000_000) == pytest.approx(0.00235)
    assert batch_sequences(108_000_000, 2048) == 160
    assert tiny_peak_learning_rate(27_000) == pytest.approx(0.006)


@pytest.mark.parametrize(("size", "sequences"), {"10M": 15, "25M": 32, "60M": 48, "470M": 208, "2.8B": 672}.items())
def test_batches_are_multiples_of_sixteen_sequences_from_10m_on(size: str, sequences: int) -> None:
    assert batch_sequences(LADDER[size].shape(LADDER_VOCABULARY).n, 4096) == sequences


def test_learning_rate_decreases_and_batch_increases_with_size() -> None:
    shapes = [LADDER[size].shape(LADDER_VOCABULARY) for size in PARAMETERS]
    rates = [peak_learning_rate(shape.n) for shape in shapes]
    batches = [batch_sequences(shape.n, 4096) for shape in shapes]
    assert rates == sorted(rates, reverse=True)
    assert batches == sorted(batches)


def test_beta2_changes_at_half_a_million_tokens_per_step() -> None:
    assert (beta2(524_287), beta2(524_288)) == ("0.99", "0.95")


def test_flops_equal_the_formulas() -> None:
    shape = LADDER["60M"].shape(LADDER_VOCABULARY)
    attention = 16 * 384 * 4096
    assert flops_6nd(shape) == 6 * shape.n
    assert flops_palm(shape, 4096) == 6 * shape.n + 12 * attention
    assert flops_causal(shape, 4096) == 6 * shape.n + 6 * attention


def test_tiny_rules_apply_to_tiny_and_small_custom_shapes() -> None:
    assert is_tiny(LADDER["0.25M"], 1024)
    assert not is_tiny(LADDER["10M"], 1024)
    assert is_tiny(Rung(40, 2, 2, 100), 1024)
    assert not is_tiny(Rung(512, 8, 8, 2048), 50_304)


@pytest.mark.parametrize("size", LADDER)
def test_every_head_has_an_even_width(size: str) -> None:
    rung = LADDER[size]
    assert rung.width % rung.heads == 0
    assert rung.width // rung.heads % 2 == 0
