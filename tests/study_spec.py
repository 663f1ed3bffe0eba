"""The spec of a small study, as JSON: one recipe of two stages, two sources, two code percentages."""

from collections.abc import Sequence
from typing import Any


def study_spec(store: str, sizes: Sequence[str], folder: str = "") -> dict[str, Any]:
    """Return a new spec. `folder`: prefix of the sources' paths."""
    mixture = {"code": {"stack": 100}, "text": {"web": 100}}
    return {
        "store": store,
        "grid": {"sizes": list(sizes), "codePercent": [0, 50], "seeds": [1]},
        "data": {
            "tokenizer": {"train": {"vocabulary": 1024, "bytes": "1M", "weights": {"web": 50, "stack": 50}}},
            "sources": [
                {"name": "web", "group": "text", "path": f"{folder}web", "fingerprint": "a" * 64},
                {"name": "stack", "group": "code", "path": f"{folder}stack", "fingerprint": "b" * 64},
            ],
        },
        "training": {"sequenceLength": 128, "precision": "fp32", "schedule": {"warmup": "8K"}},
        "recipes": [
            {
                "name": "scratch",
                "stages": [
                    {"name": "pretrain", "tokens": "400K", "mixture": {"codePercent": "grid", **mixture}},
                    {"name": "cooldown", "tokens": "100K", "mixture": {"codePercent": 20, **mixture}},
                ],
            }
        ],
        "evaluation": {"after": ["pretrain", "cooldown"], "suites": ["bpb"]},
    }
