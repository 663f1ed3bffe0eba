"""The shapes of the ladder and the thresholds of its rules: a change of one changes the digests of existing studies."""

import pytest

from orchestrator.contract.events import Placement
from orchestrator.contract.sizes import LADDER, TINY_BELOW, Rung, batch_sequences, is_tiny

# Body parameters and heads, as of commit ad2c77d
SHAPES = {
    "0.01M": (13_944, 1), "0.03M": (26_784, 1), "0.05M": (47_560, 1), "0.09M": (90_192, 2), "0.25M": (238_640, 2), "0.6M": (603_008, 4),
    "1M": (1_056_160, 4), "3M": (3_016_960, 8), "10M": (2_624_128, 2), "25M": (10_230_016, 4), "60M": (37_761_408, 12),
    "150M": (113_265_408, 12), "300M": (268_469_248, 16), "470M": (403_744_000, 10), "1B": (1_073_809_408, 16),
    "1.4B": (1_233_225_728, 16), "2.8B": (2_537_720_320, 20),
}  # fmt: skip


def test_shapes_of_the_ladder_never_change() -> None:
    assert {size: (rung.shape(1024).body, rung.heads) for size, rung in LADDER.items()} == SHAPES
    assert [size for size, rung in LADDER.items() if rung.tiny and rung.tied] == list(SHAPES)[:8]


@pytest.mark.parametrize(
    ("n", "length", "sequences"), [(9_999_999, 2048, 33), (10_000_000, 2048, 32), (1_000, 4096, 1), (20_000_000, 2**17, 16)]
)
def test_batch_is_positive_and_a_multiple_of_sixteen_from_ten_million_parameters(n: int, length: int, sequences: int) -> None:
    assert batch_sequences(n, length) == sequences


def test_own_shape_is_tiny_below_eight_million_parameters() -> None:
    rung = Rung(8, 1, 1, 8)
    # each entry of the vocabulary adds the width to N
    at_limit = next(size for size in range(999_000, 1_001_000) if rung.shape(size).n >= TINY_BELOW)
    assert TINY_BELOW == 8_000_000
    assert (is_tiny(rung, at_limit - 1), is_tiny(rung, at_limit)) == (True, False)


@pytest.mark.parametrize(
    ("placement", "ranks", "world"),
    [
        (Placement(), 1, 1),
        (Placement(gpus=8), 8, 8),
        (Placement(gpus=8, ranks=2), 2, 2),
        (Placement(gpus=4, nodes=3), 4, 12),
    ],
)
def test_every_gpu_has_a_rank_unless_their_number_is_given(placement: Placement, ranks: int, world: int) -> None:
    assert (placement.ranks_per_node, placement.world_size) == (ranks, world)
