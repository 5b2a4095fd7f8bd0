"""Time comes from outside: a clock is passed in, and inside an instant is integer microseconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Protocol, runtime_checkable

from fluxai.core.windows import to_us


@runtime_checkable
class Clock(Protocol):
    """What tells the time."""

    def now_us(self) -> int:
        """Return microseconds since the epoch, UTC."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        """Return microseconds since the epoch, UTC."""
        return time.time_ns() // 1000


class CallableClock:
    """A plain function that returns an aware `datetime`, as a clock."""

    def __init__(self, function: Callable[[], datetime]) -> None:
        self._function = function

    def now_us(self) -> int:
        """Return microseconds since the epoch, UTC."""
        return to_us(self._function())


def as_clock(clock: Clock | Callable[[], datetime] | None) -> Clock:
    """Accept a clock, a function returning an aware `datetime`, or `None` for the machine's."""
    if clock is None:
        return SystemClock()
    if isinstance(clock, Clock):
        return clock
    return CallableClock(clock)
