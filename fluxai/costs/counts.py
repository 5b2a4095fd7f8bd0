"""Counts as providers write them: read leniently, clamped, and flagged when they were odd."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from fluxai.core.usage import MAX_COUNT

#: Something in the usage could not be taken as it stood.
CLAMPED: Final = "clamped"


class Counts:
    """The kinds read so far from one usage object, and what was odd about them."""

    __slots__ = ("flags", "kinds")

    def __init__(self) -> None:
        self.kinds: dict[str, Any] = {}
        self.flags: dict[str, None] = {}

    def flag(self, flag: str) -> None:
        """Note something; once is enough."""
        self.flags[flag] = None

    def whole(self, source: Mapping[str, Any], *names: str) -> int:
        """Return the first of those fields that is stated, as a count of at least zero."""
        for name in names:
            value = source.get(name)
            if type(value) is int and 0 <= value <= MAX_COUNT:
                return value
            # Anything else is a placeholder for a field that was not sent.
            if isinstance(value, (int, float, Decimal, str)):
                return self._odd(value)
        return 0

    def _odd(self, value: object) -> int:
        number = decimal(value)
        if number is None or number.is_nan():
            self.flag(CLAMPED)
            return 0
        if not 0 <= number <= MAX_COUNT:
            self.flag(CLAMPED)
            return MAX_COUNT if number > 0 else 0
        whole = math.ceil(number)
        if whole != number:
            self.flag(CLAMPED)
        return whole

    def rest(self, total: int, *inside: int) -> int:
        """Return what is left of a total after those counts in it; never below zero."""
        left = total - sum(inside)
        if left < 0:
            self.flag(CLAMPED)
            return 0
        return left

    def within(self, count: int, total: int) -> int:
        """Return a count that can't be larger than what it is part of."""
        if count > total:
            self.flag(CLAMPED)
            return total
        return count

    def add(self, kind: str, count: int) -> None:
        """Count that many of a kind; none leaves no trace."""
        if count:
            self.kinds[kind] = self.kinds.get(kind, 0) + count

    def detail(self, kind: str, count: int) -> None:
        """Count that many of a finer kind, which its parent includes already."""
        if count:
            self.kinds.setdefault("details", {})[kind] = count

    def fee(self, kind: str, count: int) -> None:
        """Count that many requests of a fee kind."""
        if count:
            fees = self.kinds.setdefault("requests", {})
            fees[kind] = fees.get(kind, 0) + count

    def cost(self, value: object) -> None:
        """Take a cost in USD that the provider states."""
        number = decimal(value)
        if number is None or not number.is_finite() or not 0 <= number <= MAX_COUNT:
            if value is not None:
                self.flag(CLAMPED)
            return
        self.kinds["provider_cost"] = number


def decimal(value: object) -> Decimal | None:
    """Return a number in any writing as a `Decimal`; `None` when it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return (
            Decimal(value)
            if abs(value) <= 10 * MAX_COUNT
            else Decimal(10 * MAX_COUNT).copy_sign(1 if value > 0 else -1)
        )
    if isinstance(value, Decimal):
        return value
    if isinstance(value, float):
        return Decimal(repr(value))
    if isinstance(value, str) and len(value) <= 64:
        try:
            return Decimal(value.strip())
        except InvalidOperation:
            return None
    return None
