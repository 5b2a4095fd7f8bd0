"""Outcomes as text: equal ones compare equal in any process."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxai.core.errors import InvalidRequest
from fluxai.core.usage import Usage
from fluxai.storage.outcomes import outcome_text

plain = st.recursive(
    st.none()
    | st.text()
    | st.integers()
    | st.decimals(allow_nan=False, allow_infinity=False, places=4),
    lambda parts: st.lists(parts, max_size=4).map(tuple) | st.dictionaries(st.text(), parts),
    max_leaves=8,
)


@given(plain, plain)
def test_texts_are_equal_exactly_where_outcomes_of_one_type_are(one: object, two: object) -> None:
    """A repeat with the same outcome is recognised, and another one is told apart."""
    if type(one) is type(two):
        assert (outcome_text(one) == outcome_text(two)) == (one == two)


def test_a_usage_is_compared_by_what_was_used() -> None:
    """Two responses that report the same usage are the same outcome, whatever object holds it."""
    one = (Usage(input=10, output=5, requests={"search": 1}), None)
    two = (Usage(output=5, requests={"search": 1}, input=10), None)
    assert outcome_text(one) == outcome_text(two)
    assert outcome_text(one) != outcome_text((Usage(input=10, output=6), None))


def test_different_kinds_are_never_taken_for_each_other() -> None:
    """A text that looks like a number, a Decimal or nothing is still a text."""
    outcomes: list[object] = [None, "", "null", 1, "1", Decimal("1.5"), "1.5", (1,), ((1,),), {}]
    assert len({outcome_text(outcome) for outcome in outcomes}) == len(outcomes)
    assert outcome_text(Decimal("1.50")) == outcome_text(Decimal("1.5"))
    assert outcome_text((1, "a")) == outcome_text([1, "a"])


def test_what_cannot_be_compared_later_is_refused() -> None:
    """An object without a lasting form would make every repeat a conflict."""
    with pytest.raises(InvalidRequest, match="outcome"):
        outcome_text((object(),))
