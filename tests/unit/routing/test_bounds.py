"""Exact bounds on a share seen in a sample."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxai.routing import upper_bound
from fluxai.routing.bounds import tail

#: The most hits that still pass at a confidence of .9, by risk, for samples of these sizes; none: -1.
_SIZES = (100, 200, 500, 1_000, 2_000)
_PASSING = {
    0.01: (-1, -1, 1, 5, 13),
    0.02: (-1, 1, 5, 13, 31),
    0.05: (1, 5, 18, 40, 87),
    0.10: (5, 14, 40, 87, 182),
}


@pytest.mark.parametrize("risk", _PASSING)
def test_as_many_hits_pass_as_in_the_published_table(risk: float) -> None:
    """The largest number of hits whose bound is within the risk, and not one more."""
    for size, most in zip(_SIZES, _PASSING[risk], strict=True):
        assert most < 0 or upper_bound(most, size, 0.9) <= risk
        assert upper_bound(most + 1, size, 0.9) > risk


@given(st.integers(1, 400), st.data(), st.floats(0.5, 0.999))
def test_at_the_bound_so_few_hits_are_as_unlikely_as_said(
    trials: int, data: st.DataObject, confidence: float
) -> None:
    """It is the share at which at most so many hits have the probability that is left."""
    hits = data.draw(st.integers(0, trials - 1))
    bound = upper_bound(hits, trials, confidence)
    assert hits / trials <= bound <= 1
    at_most = sum(
        math.comb(trials, k) * bound**k * (1 - bound) ** (trials - k) for k in range(hits + 1)
    )
    assert at_most == pytest.approx(1 - confidence, rel=1e-6, abs=1e-12)
    assert tail(hits + 1, trials, bound) == pytest.approx(confidence, rel=1e-6)


def test_what_is_no_sample_is_refused() -> None:
    """More hits than trials, and a confidence of 1, are mistakes."""
    for hits, trials, confidence in ((3, 2, 0.9), (-1, 2, 0.9), (1, 2, 1.0), (1, 2, 0.0)):
        with pytest.raises(ValueError, match="no sample"):
            upper_bound(hits, trials, confidence)
    assert upper_bound(0, 0, 0.9) == 1.0
    assert upper_bound(5, 5, 0.9) == 1.0
