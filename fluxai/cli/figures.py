"""Numbers and times as people read them. The exact values are in `--json`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal

_SIGNIFICANT = 4
_CENT = Decimal("0.01")


def usd(amount: Decimal) -> str:
    """Write an amount: cents from a dollar on, four significant digits below."""
    sign = "-" if amount < 0 else ""
    size = abs(amount)
    if size and size < 1:
        last = Decimal(1).scaleb(max(size.adjusted() - _SIGNIFICANT + 1, -9))
        size = size.quantize(min(last, _CENT), ROUND_HALF_EVEN)
        whole, _, digits = f"{size:f}".partition(".")
        return f"{sign}${whole}.{digits.rstrip('0').ljust(2, '0')}"
    return f"{sign}${size.quantize(_CENT, ROUND_HALF_EVEN):,f}"


def amount(value: Decimal | int, measure: str) -> str:
    """Write an amount of a measure: USD for `cost`, a count otherwise."""
    return usd(Decimal(value)) if measure == "cost" else f"{value:,}"


def unit_price(price: Decimal) -> str:
    """Write a price per million of something that is priced for one."""
    per_million = price * 1_000_000
    return f"${per_million.normalize():f}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """Write a count with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def span(length: timedelta) -> str:
    """Write a length of time by its two largest units: `3 d 4 h`, `12 min`, `5 s`."""
    seconds = max(0, int(length.total_seconds()))
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    parts: list[str] = []
    for name, size in units:
        number, seconds = divmod(seconds, size)
        if number:
            parts.append(f"{number} {name}")
        elif parts:
            break
        if len(parts) == 2:
            break
    return " ".join(parts) or "0 s"


def until(moment: datetime | None, now: datetime) -> str:
    """Write how far away a moment is: `in 3 h`, `2 d ago`; `never` where there is none."""
    if moment is None:
        return "never"
    ahead = moment - now
    return f"in {span(ahead)}" if ahead >= timedelta(0) else f"{span(-ahead)} ago"


def stamp(moment: datetime) -> str:
    """Write a moment in UTC, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
