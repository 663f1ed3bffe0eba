"""The model ladder: shapes, parameter counts, FLOPs, and scaling rules for learning rate and batch size.

`spec` checks size names against it, `planning` takes defaults from it and estimates cost with it. The study file can override every value;
`plan` shows the values in use and their origin.
"""

import math
from dataclasses import dataclass
from typing import Final

from orchestrator.contract.tasks import Shape

ROPE_THETA: Final = 500_000
NORM_EPS: Final = "1e-5"
LADDER_VOCABULARY: Final = 50_304


@dataclass(frozen=True, slots=True)
class Rung:
    """A named shape without a vocabulary size. `tiny`: small enough for a CPU, with its own scaling rules."""

    width: int
    layers: int
    heads: int
    feed_forward: int
    tied: bool = False
    tiny: bool = False
    rope_theta: int = ROPE_THETA
    norm_eps: str = NORM_EPS

    def shape(self, vocabulary: int) -> Shape:
        return Shape(self.width, self.layers, self.heads, self.feed_forward, vocabulary, self.tied, self.rope_theta, self.norm_eps)


LADDER: Final[dict[str, Rung]] = {
    # Named by their body parameters: a vocabulary of 50,304 would dominate the count
    "0.01M": Rung(24, 2, 1, 64, tied=True, tiny=True),
    "0.03M": Rung(32, 2, 1, 96, tied=True, tiny=True),
    "0.05M": Rung(40, 2, 1, 144, tied=True, tiny=True),
    "0.09M": Rung(48, 3, 2, 144, tied=True, tiny=True),
    "0.25M": Rung(80, 3, 2, 224, tied=True, tiny=True),
    "0.6M": Rung(128, 3, 4, 352, tied=True, tiny=True),
    "1M": Rung(160, 4, 4, 336, tied=True, tiny=True),
    "3M": Rung(256, 4, 8, 640, tied=True, tiny=True),
    "10M": Rung(128, 10, 2, 512),
    "25M": Rung(256, 12, 4, 768),
    # 60M, 150M, 300M and 1B are the shapes of DataDecide, Magnusson et al. 2025
    "60M": Rung(384, 16, 12, 1536),
    "150M": Rung(768, 12, 12, 3072),
    "300M": Rung(1024, 16, 16, 4096),
    "470M": Rung(1280, 16, 10, 4864),
    "1B": Rung(2048, 16, 16, 8192),
    # 1.4B and 2.8B are those of DCLM, Li et al. 2024, with heads of 128
    "1.4B": Rung(2048, 24, 16, 5632),
    "2.8B": Rung(2560, 32, 20, 6912),
}

# Lower bound of the ladder's rules, which were fitted at 10M and above: at 27k parameters they give a learning rate of 0.037
TINY_BELOW: Final = 8_000_000


def is_tiny(rung: Rung, vocabulary: int) -> bool:
    """Return whether the rules for tiny shapes apply: to tiny rungs, and to custom shapes with N below 8M parameters."""
    return rung.tiny or (rung not in LADDER.values() and rung.shape(vocabulary).n < TINY_BELOW)


# Porian et al. 2024, arXiv:2406.19146, halved as in OLMo-core's ladder; fitted at about 80 tokens per parameter
def peak_learning_rate(n: int) -> float:
    """Return the peak AdamW learning rate for `n` parameters, excluding the input embedding."""
    return 0.0047 * math.pow(n / 108e6, -1 / 3) / 2


# Porian et al. 2024, arXiv:2406.19146
def batch_tokens(n: int) -> float:
    """Return tokens per step, before rounding to sequences, for `n` parameters, excluding the input embedding."""
    return 160 * 2048 * math.pow(n / 108e6, 2 / 3)


def batch_sequences(n: int, sequence_length: int) -> int:
    """Return sequences per step: the nearest positive multiple of 16, or of 1 below 10M parameters."""
    multiple = 16 if n >= 10_000_000 else 1
    return max(1, round(batch_tokens(n) / sequence_length / multiple)) * multiple


# Measured with tiny shapes at 4 sequences of 128 tokens on one CPU core: 0.006 at a body of 27k, falling with its cube root
def tiny_peak_learning_rate(body: int) -> float:
    """Return the peak AdamW learning rate for a tiny shape with `body` body parameters."""
    return 0.006 * math.pow(body / 27_000, -1 / 3)


TINY_BATCH: Final = 4
"""Sequences per step of tiny shapes."""

DEVIATION: Final = "0.02"
"""Standard deviation of the initial weights."""

TINY_DEVIATION: Final = "0.06"
"""Standard deviation of the initial weights of tiny shapes: with 0.02, their loss did not decrease with size."""

# OLMo-core's ladder, after Porian et al. 2024: beta2 0.95 for large batches, 0.99 for small ones
LARGE_BATCH_TOKENS: Final = 524_288


def beta2(tokens_per_step: int) -> str:
    """Return the AdamW beta2 for a batch size."""
    return "0.95" if tokens_per_step >= LARGE_BATCH_TOKENS else "0.99"


def flops_palm(shape: Shape, sequence_length: int) -> int:
    """Return FLOPs per token, forward and backward: 6 N + 12 L d T (Chowdhery et al. 2022, arXiv:2204.02311, appendix B)."""
    return 6 * shape.n + 12 * shape.layers * shape.width * sequence_length


def flops_causal(shape: Shape, sequence_length: int) -> int:
    """Return FLOPs per token as `flops_palm`, with half of the attention because of the causal mask."""
    return 6 * shape.n + 6 * shape.layers * shape.width * sequence_length


def flops_6nd(shape: Shape) -> int:
    """Return FLOPs per token as 6 N (Kaplan et al. 2020, arXiv:2001.08361), without attention."""
    return 6 * shape.n
