"""Canonical JSON, decimal strings and coprime shares: equivalent values have the same digest."""

import json
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.contract.identity import canonical, coprime, decimal, digest_of, dumps
from orchestrator.errors import ContractError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_canonical_json_is_unique_and_is_read_back(value: object) -> None:
    text = canonical(value)
    assert json.loads(text) == value
    assert canonical(json.loads(text)) == text == dumps(value)


@given(st.dictionaries(st.text(), st.integers(), min_size=2))
def test_digest_does_not_depend_on_key_order(value: dict[str, int]) -> None:
    assert digest_of(dict(reversed(value.items()))) == digest_of(value)


@pytest.mark.parametrize("value", [0.1, {"a": [1, 2.0]}, {1: 2}, float("nan"), {"x": Decimal("1")}, {"x": {1, 2}}])
def test_value_without_canonical_form_is_rejected_with_its_path(value: object) -> None:
    with pytest.raises(ContractError, match=r"\$"):
        canonical(value)


def test_a_digest_is_the_sha256_of_the_canonical_json() -> None:
    # echo -n '{"a":"ü","b":[1,null]}' | sha256sum
    assert digest_of({"b": [1, None], "a": "ü"}) == "5ddd266d13a5e8cdcca4c2007bb2032c5c319ab15de36c670f395fe8765fc949"


DECIMALS = {
    "0.000001": "1e-6", "1e-6": "1e-6", "1E-06": "1e-6", "0.0001": "0.0001", "0.00010": "0.0001", "0.000012": "1.2e-5",
    "0.006": "0.006", "0.10": "0.1", "1": "1", "1.0": "1",
    "-0.5": "-0.5", "100000": "100000", "1e5": "100000", "1000000": "1e6", "1234560": "1.23456e6", "0": "0", "-0": "0", "0e7": "0",
}  # fmt: skip


@pytest.mark.parametrize(("given", "written"), DECIMALS.items())
def test_decimal_has_one_spelling(given: str, written: str) -> None:
    assert decimal(given) == written


@given(
    st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12).filter(
        lambda number: number == 0 or abs(number) > 1e-30
    )
)
def test_decimal_is_idempotent_and_accurate(number: Decimal) -> None:
    text = decimal(number, derived=True)
    assert decimal(text) == text
    assert abs(Decimal(text) - number) <= abs(number) * Decimal("5.1e-6")


@pytest.mark.parametrize("given", ["0.1234567", "1234567", 1234567, 0.30000000000000004])
def test_only_derived_numbers_are_rounded(given: str | int | float) -> None:
    with pytest.raises(ContractError, match="more than 6 significant digits; write"):
        decimal(given)
    assert decimal(given, derived=True)


@pytest.mark.parametrize("given", ["", "abc", "nan", "inf", "1/2"])
def test_non_number_is_rejected(given: str) -> None:
    with pytest.raises(ContractError, match="number"):
        decimal(given)


SHARES = st.dictionaries(st.text("abcdef", min_size=1), st.fractions(0, 100, max_denominator=1000), min_size=1, max_size=16)


@given(SHARES.filter(lambda shares: any(shares.values())), st.fractions(Fraction(1, 50), 50, max_denominator=50))
def test_shares_are_coprime_proportional_and_scale_invariant(shares: dict[str, Fraction], scale: Fraction) -> None:
    whole = coprime(shares)
    assert coprime({name: share * scale for name, share in shares.items()}) == whole
    assert set(whole) == {name for name, share in shares.items() if share}
    total, exact = sum(whole.values()), sum(shares.values())
    assert all(Fraction(whole[name], total) == shares[name] / exact for name in whole)
    assert coprime({name: Fraction(share) for name, share in whole.items()}) == whole


def test_negative_share_is_rejected() -> None:
    with pytest.raises(ContractError, match="negative"):
        coprime({"a": Fraction(-1), "b": Fraction(2)})
