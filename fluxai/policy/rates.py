"""Rates as people write them, `1 USD/min`, and the limits that they stand for."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, NamedTuple

from fluxai.core.errors import InvalidRequest
from fluxai.core.money import to_nano
from fluxai.core.windows import parse_duration

_RATE = re.compile(
    r"\s*(?P<dollar>\$?)\s*(?P<amount>\d+(?:\.\d+)?)\s*(?P<unit>[a-z]*)\s*/\s*"
    r"(?P<count>\d*)\s*(?P<per>[a-z]+)\s*",
    re.IGNORECASE | re.ASCII,
)
_MEASURES = {
    "": "cost",
    "usd": "cost",
    "token": "tokens",
    "tokens": "tokens",
    "request": "requests",
    "requests": "requests",
    "call": "requests",
    "calls": "requests",
}
#: Spellings of a span of time → its unit in durations.
_SPANS = {
    spelling: unit
    for unit, spellings in {
        "s": ("s", "sec", "second", "seconds"),
        "m": ("m", "min", "minute", "minutes"),
        "h": ("h", "hr", "hour", "hours"),
        "d": ("d", "day", "days"),
    }.items()
    for spelling in spellings
}
#: Single spans that have a calendar window of their own; all others roll.
_CALENDAR = {"m": "per_minute", "h": "hourly", "d": "daily"}


class Rate(NamedTuple):
    """A limit on how fast something is spent, in the fields of a `Policy`."""

    limit_value: Decimal
    measure: str
    limit_type: str
    window: str | None

    def fields(self) -> dict[str, Any]:
        """Return the fields, to be passed on: `Policy(tenant_id="acme", **rate.fields())`."""
        return self._asdict()


def parse_rate(text: str, field: str = "rate") -> Rate:
    """Read a rate.

    Args:
        text: An amount per span: `"1 USD/min"`, `"$0.50/10s"`, `"100 requests/h"`,
            `"50000 tokens/day"`. Spans are s, min, h and day, or a whole number of them.
        field: The name that an error mentions.

    Returns:
        A limit per calendar minute, hour or day for one of these; else over a rolling window.

    Raises:
        InvalidRequest: It is no rate; says what one looks like.
    """
    found = _RATE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise InvalidRequest(
            field, f"{text!r:.60} is not a rate; write an amount per span, such as '1 USD/min'"
        )
    measure = _MEASURES.get(found["unit"].lower())
    if measure is None or (found["dollar"] and measure != "cost"):
        raise InvalidRequest(
            field, f"{text!r:.60} counts {found['unit']!r}; write USD, tokens or requests"
        )
    unit = _SPANS.get(found["per"].lower())
    if unit is None:
        raise InvalidRequest(field, f"{text!r:.60} is per {found['per']!r}; write s, min, h or day")
    amount = Decimal(found["amount"])
    if measure == "cost":
        to_nano(amount, field)
    elif amount != amount.to_integral_value() or amount > 10**15:
        raise InvalidRequest(
            field, f"{text!r:.60}: write a whole number of {measure}, at most 10^15"
        )
    span = f"{int(found['count'] or 1)}{unit}"
    if span == f"1{unit}" and unit in _CALENDAR:
        return Rate(amount, measure, _CALENDAR[unit], None)
    parse_duration(span, field)
    return Rate(amount, measure, "rolling", span)
