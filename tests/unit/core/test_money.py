"""Money: exact at the door and inside, whatever the caller's decimal context says."""

from __future__ import annotations

import decimal
from decimal import ROUND_DOWN, Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxai import InvalidRequest
from fluxai.core.money import (
    MAX_NANOUSD,
    NANOS_PER_USD,
    ceil_per_million,
    format_usd,
    to_decimal,
    to_nano,
)

nanos = st.integers(-MAX_NANOUSD, MAX_NANOUSD)
#: Amounts that decimal arithmetic would round: more digits than any usual context keeps.
long_amounts = st.decimals(
    min_value=-1_000, max_value=1_000, allow_nan=False, allow_infinity=False
) | st.builds(
    lambda whole, rest, zeros: Decimal(f"{whole}.{'0' * zeros}{rest}"),
    st.integers(-1_000, 1_000),
    st.integers(0, 10**30),
    st.integers(0, 40),
)


@given(nanos)
def test_amounts_survive_the_way_out_and_in(amount: int) -> None:
    """Every number of nano-USD is an exact `Decimal`, and comes back from it and from its text."""
    shown = to_decimal(amount)
    assert Fraction(shown) == Fraction(amount, NANOS_PER_USD)
    assert to_nano(shown, signed=True) == to_nano(str(shown), signed=True) == amount


@given(long_amounts)
def test_finer_amounts_are_rounded_up_and_never_down(amount: Decimal) -> None:
    """Rounding up gives the least number of nano-USD that is not below the amount."""
    found = to_nano(amount, round_up=True, signed=True)
    exact = Fraction(amount) * NANOS_PER_USD
    assert exact <= found < exact + 1


@given(long_amounts)
def test_finer_amounts_are_refused_where_nobody_asked_for_rounding(amount: Decimal) -> None:
    """A limit or a correction is taken exactly, or not at all."""
    exact = Fraction(amount) * NANOS_PER_USD
    if exact.denominator == 1:
        assert to_nano(amount, signed=True) == exact
    else:
        with pytest.raises(InvalidRequest, match="finer than a nano-USD"):
            to_nano(amount, signed=True)


@given(st.sampled_from(["1.23456789", "999999999.999999999", "-0.000000001"]), st.integers(1, 6))
def test_the_callers_decimal_context_changes_nothing(amount: str, precision: int) -> None:
    """A program that works with few digits, or rounds down, is charged the same."""
    expected = Fraction(amount) * NANOS_PER_USD
    with decimal.localcontext() as context:
        context.prec, context.rounding = precision, ROUND_DOWN
        context.traps[decimal.Inexact] = True
        found = to_nano(amount, round_up=True, signed=True)
        assert to_nano(Decimal(amount), signed=True) == found
        assert to_decimal(found) == Decimal(amount)
    assert found == expected


NO_AMOUNTS: dict[str, object] = {
    "a float": 1.5,
    "a float of nothing": 0.0,
    "a bool": True,
    "nothing": None,
    "bytes": b"1",
    "a list": [],
    "empty text": "",
    "a word": "five",
    "thousands apart": "1,000",
    "a currency": "$5",
    "nan": "nan",
    "infinity": "inf",
    "negative text": "-1",
    "negative": -1,
    "not a number": Decimal("NaN"),
    "a signalling one": Decimal("sNaN"),
    "minus infinity": Decimal("-Infinity"),
    "too much": 10**9 + 1,
    "far too much": Decimal("1e13"),
    "beyond all": Decimal("1e999999"),
    "too long a text": "1" * 65,
    "too long a number": 10**5_000,
    "too long a debt": -(10**5_000),
    "too fine": "0.0000000001",
    "far too fine": Decimal("1e-999999"),
}


@pytest.mark.parametrize("name", NO_AMOUNTS)
def test_what_is_no_amount_is_refused(name: str) -> None:
    """Floats, odd text, negative, absurd and too fine amounts name the field that was wrong."""
    with pytest.raises(InvalidRequest, match="limit_value") as refused:
        to_nano(NO_AMOUNTS[name], "limit_value")
    assert refused.value.field == "limit_value"
    assert len(str(refused.value)) < 2_000


@pytest.mark.parametrize("zero", [0, "0.0", "-0", "0.00", Decimal("0E+100"), Decimal("-0E-100")])
def test_zero_is_zero_however_it_is_written(zero: object) -> None:
    """Any zero is an amount of nothing, whatever its exponent and sign."""
    assert to_nano(zero) == 0


def test_the_tiniest_amount_rounds_up_to_one() -> None:
    """Something is never nothing: the least charge is a nano-USD."""
    assert to_nano(Decimal("1e-999999"), round_up=True) == 1
    assert to_nano(Decimal("-1e-999999"), round_up=True, signed=True) == 0


@given(st.integers(0, 10**30))
def test_costs_are_rounded_up_once(numerator: int) -> None:
    """A price per million rounds up to whole nano-USD, exactly."""
    found = ceil_per_million(numerator)
    assert Fraction(numerator, 1_000_000) <= found < Fraction(numerator, 1_000_000) + 1


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        (0, "$0.00"),
        (5_000_000_000, "$5.00"),
        (-12_300_000, "-$0.0123"),
        (1, "$0.000000001"),
        (1_234_567_000_000_000, "$1,234,567.00"),
    ],
)
def test_amounts_are_shown_as_people_read_them(amount: int, shown: str) -> None:
    """Cents at least, every nano-USD that is there, thousands apart."""
    assert format_usd(amount) == shown
