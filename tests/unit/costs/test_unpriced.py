"""A model without a price follows a stated policy, and never costs nothing."""

from __future__ import annotations

from typing import Any

import pytest

from fluxai import Usage
from fluxai.core.errors import InvalidRequest, UnknownModel
from fluxai.costs import PriceBook
from fluxai.costs.unpriced import unpriced

AT_US = 1_790_000_000_000_000
UNKNOWN = UnknownModel("no price is known for model 'brand-new'")


def test_refusing_is_the_default() -> None:
    """Without a policy the look-up's own error is raised, with its similar ids."""
    with pytest.raises(UnknownModel) as caught:
        unpriced(UNKNOWN, "brand-new")
    assert caught.value is UNKNOWN


def test_a_ceiling_is_charged_per_call() -> None:
    """However many tokens it was, each call costs the ceiling, which is held too."""
    rates = unpriced(UNKNOWN, "brand-new", policy="ceiling", ceiling_nanousd=70_000_000)
    assert rates.request_fee == 70_000_000
    assert rates.cost(Usage(input=10, output=5)) == 70_000_000
    assert rates.cost(Usage(input=10**6, reasoning=5)) == 70_000_000
    assert rates.version == "unpriced_ceiling"


def test_a_warning_assumes_the_dearest() -> None:
    """A new model is assumed to cost what its provider's dearest do; unknown providers, a lot."""
    book = PriceBook()
    there = unpriced(
        UNKNOWN, "claude-brand-new", policy="warn", provider="anthropic", book=book, at_us=AT_US
    )
    opus = book.rates("claude-opus-4-1", AT_US)
    assert there.input_cost(100) >= opus.input_cost(100)
    assert there.output_rate(100) >= opus.output_rate(100)
    for provider in (None, "nobody-knows"):
        anywhere = unpriced(UNKNOWN, "x", policy="warn", provider=provider, book=book, at_us=AT_US)
        assert anywhere.cost(Usage(input=1_000_000)) == 15_000_000_000
        assert anywhere.version == "unpriced_assumed"


@pytest.mark.parametrize(
    "options",
    [
        {"policy": "ceiling"},
        {"policy": "ceiling", "ceiling_nanousd": 0},
        {"policy": "free"},
    ],
)
def test_no_policy_makes_it_free(options: dict[str, Any]) -> None:
    """A ceiling of nothing, and policies that do not exist, are refused."""
    with pytest.raises(InvalidRequest):
        unpriced(UNKNOWN, "brand-new", **options)
