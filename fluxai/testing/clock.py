"""A clock that stands still until it is moved."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

from fluxai.core.windows import from_us, parse_duration, to_us

_START = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)


class FakeClock:
    """A clock for tests: `Governor(clock=FakeClock())`.

    Args:
        start: What it shows first, aware; noon of 15 January 2026, UTC, by default.

    Raises:
        InvalidRequest: A naive time, or one outside of the years 2 to 9998.
    """

    def __init__(self, start: datetime = _START) -> None:
        self._lock = threading.Lock()
        self._now_us = to_us(start, "start")

    def now_us(self) -> int:
        """Return microseconds since the epoch, UTC."""
        return self._now_us

    @property
    def now(self) -> datetime:
        """What it shows, aware UTC."""
        return from_us(self._now_us)

    def advance(self, by: timedelta | str) -> datetime:
        """Move it forward by a `timedelta` or a text such as `"1h"`; return what it shows then.

        A negative `timedelta` steps it back, as machines' clocks do when they are corrected.
        """
        with self._lock:
            if isinstance(by, timedelta):
                step_us = by // timedelta(microseconds=1)
            else:
                step_us = parse_duration(by, "by")
            return self._show(self._now_us + step_us)

    def set(self, moment: datetime) -> datetime:
        """Set it to an aware time, earlier or later; return what it shows then."""
        with self._lock:
            return self._show(to_us(moment, "moment"))

    def _show(self, at_us: int) -> datetime:
        shown = from_us(at_us)
        self._now_us = at_us
        return shown

    def __repr__(self) -> str:
        """Show the time."""
        return f"FakeClock({self.now.isoformat()})"
