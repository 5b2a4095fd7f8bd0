"""Numbers and times as people read them. The exact values are in `--json`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import ROUND_DOWN, ROUND_HALF_EVEN, Decimal

_SIGNIFICANT = 4
_CENT = Decimal("0.01")
_NANO_EXPONENT = -9
_SHORTENED_FROM = 10_000_000


def usd(amount: Decimal) -> str:
    """Write an amount in four significant digits, and cents at least."""
    return _usd(amount, ROUND_HALF_EVEN)


def usd_left(amount: Decimal) -> str:
    """Write what is left, never as more than it is."""
    return _usd(amount, ROUND_DOWN)


def _usd(amount: Decimal, rounding: str) -> str:
    sign = "-" if amount < 0 else ""
    size = abs(amount)
    last = max(size.adjusted() - _SIGNIFICANT + 1, _NANO_EXPONENT) if size else 0
    size = size.quantize(min(Decimal(1).scaleb(last), _CENT), rounding)
    whole, _, digits = f"{size:,f}".partition(".")
    return f"{sign}${whole}.{digits.rstrip('0').ljust(2, '0')}"


def amount(value: Decimal | int, measure: str) -> str:
    """Write an amount of a measure: USD for `cost`, a count otherwise."""
    return usd(Decimal(value)) if measure == "cost" else f"{value:,}"


def left(value: Decimal | int, measure: str) -> str:
    """Write what is left of a measure."""
    return usd_left(Decimal(value)) if measure == "cost" else f"{value:,}"


def count(number: int) -> str:
    """Write a count; from ten million on rounded to three digits or more: `12.3 M`."""
    if number < _SHORTENED_FROM:
        return f"{number:,}"
    millions = Decimal(number) / 1_000_000
    return f"{millions:,.0f} M" if millions >= 100 else f"{millions:.1f} M"


def unit_price(price: Decimal, per: int = 1_000_000) -> str:
    """Write the price of so many of something that is priced for one, exactly."""
    whole, _, digits = f"{price * per:,f}".partition(".")
    return f"${whole}.{digits.rstrip('0').ljust(2, '0')}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """Write a count with its noun."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def span(length: timedelta, units: int = 2) -> str:
    """Write a length of time by its largest units: `3 d 4 h`, `12 min`, `5 s`."""
    seconds = max(0, int(length.total_seconds()))
    parts: list[str] = []
    for name, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        number, seconds = divmod(seconds, size)
        if number:
            parts.append(f"{number} {name}")
        if len(parts) == units or (parts and not number):
            break
    return " ".join(parts) or "0 s"


def until(moment: datetime | None, now: datetime, units: int = 1) -> str:
    """Write how far away a moment is: `in 3 h`, `2 d ago`; `never` where there is none."""
    if moment is None:
        return "never"
    ahead = moment - now
    if ahead >= timedelta(0):
        return f"in {span(ahead, units)}"
    return f"{span(-ahead, units)} ago"


def stamp(moment: datetime) -> str:
    """Write a moment in UTC, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


_DECISIONS = {"require_approval": "approval", "pending_approval": "waits for approval"}


def decision_word(decision: str, mode: str = "enforce") -> str:
    """Write a decision in a word or two; `shadow` for what only watches."""
    return _DECISIONS.get(decision, decision) if mode == "enforce" else "shadow"
