"""How much `prepare` holds in memory and in one file. No result depends on any of it; tests make them small."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """`batch_bytes`: text that is tokenised at once, for each thread: some 50 times as much memory. `piece_bytes`: text of a piece, which
    is what a killed run does again. `merge_bytes`: tokens in memory while pieces are merged. `shard_bytes`: of a finished shard.
    """

    batch_bytes: int = 1 << 20
    piece_bytes: int = 128 << 20
    merge_bytes: int = 256 << 20
    shard_bytes: int = 512 << 20
