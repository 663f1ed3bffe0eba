"""What a benchmark asks and what came out of it, item by item.

Benchmarks make `Sequence`s, `likelihood` scores them, benchmarks judge the scores into `Row`s, and `write` keeps the rows: without them
no paired test between two models is possible. One schema serves every suite. A document scored for bits per byte is an item with
one answer; a question with choices is an item with as many answers as choices.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Sequence:
    """Token ids (one dimension) of which the last `scored` are targets; what stands before them is only context."""

    ids: NDArray[np.int64]
    scored: int

    def __post_init__(self) -> None:
        if not 0 < self.scored < len(self.ids):
            raise ValueError(f"{self.scored} of {len(self.ids)} tokens are to be scored; the first token has nothing before it")


@dataclass(frozen=True, slots=True)
class Row:
    """One item. `log_likelihoods` (sums in nats), `bytes` and `tokens` have an entry for each answer that was scored.

    `prediction` and `correct` are None where there is nothing to choose.
    """

    benchmark: str
    item: str
    prediction: int | None
    correct: bool | None
    log_likelihoods: list[float]
    bytes: list[int]
    tokens: list[int]

    @property
    def nats(self) -> float:
        """Of all its answers: for a document that is one answer, what coding it costs."""
        return -sum(self.log_likelihoods)


class Benchmark(Protocol):
    """One list of items with one way to ask and one way to judge."""

    @property
    def name(self) -> str: ...

    def sequences(self) -> list[Sequence]:
        """What the model is to score, in the order of the items."""
        ...

    def judge(self, log_likelihoods: list[float]) -> list[Row]:
        """One row an item from the scores of `sequences()`, in their order."""
        ...

    def results(self, rows: list[Row]) -> dict[str, float | int | str]:
        """What goes into the record, by the names of `contract.words`."""
        ...


def write(rows: list[Row], path: Path) -> None:
    """The rows as Parquet: benchmark, item, prediction, correct, log_likelihoods, bytes, tokens."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("benchmark", pa.string()),
            ("item", pa.string()),
            ("prediction", pa.int32()),
            ("correct", pa.bool_()),
            ("log_likelihoods", pa.list_(pa.float64())),
            ("bytes", pa.list_(pa.int64())),
            ("tokens", pa.list_(pa.int64())),
        ]
    )
    columns: Mapping[str, list[Any]] = {name: [getattr(row, name) for row in rows] for name in schema.names}
    pq.write_table(pa.table(columns, schema=schema), path)
