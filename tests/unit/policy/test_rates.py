"""Rates as people write them."""

from __future__ import annotations

from decimal import Decimal

import pytest

from fluxai import InvalidRequest, Policy
from fluxai.policy.rates import parse_rate


@pytest.mark.parametrize(
    ("text", "value", "measure", "limit_type", "window"),
    [
        ("1 USD/min", "1", "cost", "per_minute", None),
        ("$0.50/min", "0.50", "cost", "per_minute", None),
        ("5/h", "5", "cost", "hourly", None),
        ("20 usd / day", "20", "cost", "daily", None),
        ("$ 2 USD/1 hour", "2", "cost", "hourly", None),
        ("0.01 USD/s", "0.01", "cost", "rolling", "1s"),
        ("3 USD/10min", "3", "cost", "rolling", "10m"),
        ("100 requests/min", "100", "requests", "per_minute", None),
        ("1 call/30 seconds", "1", "requests", "rolling", "30s"),
        ("50000 tokens/2d", "50000", "tokens", "rolling", "2d"),
    ],
)
def test_a_rate_is_a_limit(
    text: str, value: str, measure: str, limit_type: str, window: str | None
) -> None:
    """One minute, hour or day is a calendar window; all else rolls. Any of them makes a policy."""
    rate = parse_rate(text)
    assert rate == (Decimal(value), measure, limit_type, window)
    policy = Policy(tenant_id="acme", **rate.fields())
    assert policy.limit_value == Decimal(value)
    assert policy.limit_type == limit_type


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "such as '1 USD/min'"),
        ("1 USD", "such as '1 USD/min'"),
        ("USD/min", "such as '1 USD/min'"),
        ("-1 USD/min", "such as '1 USD/min'"),
        ("1e3 USD/min", "such as '1 USD/min'"),
        ("١ USD/min", "such as '1 USD/min'"),
        ("1 EUR/min", "write USD, tokens or requests"),
        ("$1 tokens/min", "write USD, tokens or requests"),
        ("1 USD/fortnight", "write s, min, h or day"),
        ("1.5 requests/min", "whole number of requests"),
        ("1 USD/0min", "longer than 0"),
        ("1 USD/40000d", "36,500 days"),
        ("0.0000000001 USD/min", "nano"),
    ],
)
def test_what_is_no_rate_says_what_one_looks_like(text: str, words: str) -> None:
    """The error names the argument, and what to write instead."""
    with pytest.raises(InvalidRequest, match=words) as caught:
        parse_rate(text, "max_rate")
    assert caught.value.field == "max_rate"


def test_a_float_is_no_rate() -> None:
    """A number alone has no span."""
    with pytest.raises(InvalidRequest, match="not a rate"):
        parse_rate(1.0)  # type: ignore[arg-type]
