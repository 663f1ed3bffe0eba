"""Memory and file size limits of `prepare`. Results do not depend on them; tests use small values."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes in bytes.

    `batch_bytes`: text tokenised at once per thread, which takes about 50 times as much memory. `piece_bytes`: text of a piece, the work
    that a killed run repeats. `merge_bytes`: tokens in memory while pieces are merged. `shard_bytes`: size of a finished shard.
    """

    batch_bytes: int = 1 << 20
    piece_bytes: int = 128 << 20
    merge_bytes: int = 256 << 20
    shard_bytes: int = 512 << 20
