"""The document of a frozen plan: what is not one is rejected with its reason."""

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.contract.plan import from_document, to_document
from orchestrator.errors import ContractError
from tests.conftest import plan_of

Document = dict[str, Any]


def document() -> Document:
    return to_document(plan_of({"p": [], "t": ["p"]}, cells={"r/tiny/s1": ["t"]}))


def test_plan_of_another_version_is_rejected() -> None:
    with pytest.raises(ContractError, match="this plan has version 2; this installation reads version 1"):
        from_document(document() | {"version": 2})


BROKEN: dict[str, Callable[[Document], object]] = {
    "KeyError": lambda found: found.pop("tasks"),
    "TypeError": lambda found: found.update(tasks=None),
    "ValueError": lambda found: found["tasks"][0]["identity"].update(kind="dance"),
}


@pytest.mark.parametrize(("name", "change"), BROKEN.items(), ids=BROKEN)
def test_malformed_plan_is_rejected(name: str, change: Callable[[Document], object]) -> None:
    found = document()
    change(found)
    with pytest.raises(ContractError, match=f"not a plan .{name}"):
        from_document(found)
