"""Items of a benchmark and their results.

A benchmark makes `Sequence`s, `likelihood` scores them, the benchmark turns the scores into `Row`s, and `write` saves the rows, which
paired tests between two models need. All suites share one schema. A document scored for bits per byte is an item with one answer; a
multiple-choice question is an item with one answer per choice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Sequence:
    """Token ids (one dimension), of which the last `scored` are targets and the others are context."""

    ids: NDArray[np.int64]
    scored: int

    def __post_init__(self) -> None:
        if not 0 < self.scored < len(self.ids):
            raise ValueError(
                f"scored is {self.scored} of {len(self.ids)} tokens, allowed are 1 to {len(self.ids) - 1}: the first token has no context"
            )


@dataclass(frozen=True, slots=True)
class Row:
    """Result of one item. `log_likelihoods` (sums in nats), `bytes` and `tokens` have one entry per scored answer.

    `prediction` and `correct` are None for items without choices.
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
        """Negative sum of the log-likelihoods of all answers, in nats."""
        return -sum(self.log_likelihoods)


class Benchmark(Protocol):
    """A list of items with the way to score and evaluate them."""

    @property
    def name(self) -> str: ...

    def sequences(self) -> list[Sequence]:
        """Return the sequences to score, in the order of the items."""
        ...

    def rows(self, log_likelihoods: list[float]) -> list[Row]:
        """Return one row per item, given the scores of `sequences()` in their order."""
        ...

    def results(self, rows: list[Row]) -> dict[str, float | int | str]:
        """Return the results for the record, named as in `contract.vocabulary`."""
        ...


def write(rows: list[Row], path: Path) -> None:
    """Write the rows as Parquet: benchmark, item, prediction, correct, log_likelihoods, bytes, tokens."""
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
