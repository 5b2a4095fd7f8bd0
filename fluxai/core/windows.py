"""Windows: when a budget begins and ends, in a tenant's own calendar.

Inside, an instant is an integer of microseconds since the epoch, UTC (suffix `_us`), and a window
is half-open. Windows of one kind touch without gap or overlap, whatever the clocks of a zone do.

A calendar date D begins at boundary(D): the earliest instant at which the local date is D or later.
Where midnight is skipped the date begins at the first instant after the gap; where clocks fall back
over midnight it begins once, the first time; a date that the zone skipped is empty. Days, weeks and
months are all cut at such boundaries, so a month is always a whole number of days.

Source: PEP 495 for the two meanings of a local time, the IANA database through `zoneinfo`.
"""

from __future__ import annotations

import difflib
import re
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import ClassVar, Final, Literal, NamedTuple, get_args
from zoneinfo import ZoneInfo, available_timezones

from fluxai.core.errors import InvalidRequest

#: What a limit counts over. `per_request` and `concurrent` limits have no window.
WindowKind = Literal["per_minute", "hourly", "daily", "weekly", "monthly", "rolling", "total"]
WeekDay = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]

SECOND_US: Final = 1_000_000
MINUTE_US: Final = 60 * SECOND_US
HOUR_US: Final = 60 * MINUTE_US
DAY_US: Final = 24 * HOUR_US

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MIDNIGHT: Final = time(0)
_MIDNIGHT_AGAIN: Final = time(0, fold=1)
_WEEK_DAYS: Final[tuple[str, ...]] = get_args(WeekDay)

# A year short of what `datetime` can hold, so that local times near the edges exist as well.
_FIRST: Final = datetime(2, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(9999, 1, 1, tzinfo=UTC)
#: Every instant lies in [MIN_US, MAX_US): the years 2 to 9998.
MIN_US: Final = (_FIRST - _EPOCH) // _MICROSECOND
MAX_US: Final = (_LAST - _EPOCH) // _MICROSECOND

MAX_DURATION_US: Final = 36_500 * DAY_US
_DURATION: Final = re.compile(r"([0-9]{1,12})([smhd])")
_UNITS_US: Final = {"s": SECOND_US, "m": MINUTE_US, "h": HOUR_US, "d": DAY_US}

# Files beside the zones that `zoneinfo` opens too. Each machine has its own `localtime`; those
# under `right` count leap seconds, which would move every boundary.
_NOT_ZONES: Final = re.compile(r"localtime|posixrules|(right|posix)/.*")


class Window(NamedTuple):
    """A half-open span of time: it holds `start_us` and ends before `end_us`."""

    start_us: int
    end_us: int


#: The window of `total` limits: always.
TOTAL: Final = Window(MIN_US, MAX_US)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calendar:
    """Where days, weeks and months of a tenant begin.

    Args:
        timezone: An IANA name such as `Europe/Paris`.
        week_start: First day of the week, `monday` to `sunday`.
        fiscal_month_start: Day of the month on which a month begins, 1 to 31. In a month that is
            shorter, its last day.

    Raises:
        InvalidRequest: A field is out of its range, or the zone is unknown.
    """

    #: UTC, weeks from Monday, months from the first.
    UTC: ClassVar[Calendar]

    timezone: str = "UTC"
    week_start: WeekDay = "monday"
    fiscal_month_start: int = 1
    zone: tzinfo = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check every field and look the zone up once."""
        if self.week_start not in _WEEK_DAYS:
            raise InvalidRequest(
                "week_start", f"{self.week_start!r} is not one of {', '.join(_WEEK_DAYS)}"
            )
        day = self.fiscal_month_start
        if type(day) is not int or not 1 <= day <= 31:
            raise InvalidRequest(
                "fiscal_month_start", f"must be a day of the month from 1 to 31, got {day!r}"
            )
        object.__setattr__(self, "zone", _find_zone(self.timezone))


def window_at(kind: WindowKind, at_us: int, calendar: Calendar) -> Window:
    """Find the window of a kind that holds an instant.

    - `per_minute`: the minute in UTC.
    - `hourly`: the longest span around the instant within which the local date and hour and the
      offset from UTC stay the same. An hour that is repeated in autumn is two windows.
    - `daily`, `weekly`, `monthly`: from one local date to another, see the module's first lines.
    - `total`: always the same.

    Args:
        kind: Any kind but `rolling`, whose buckets are found by `Ring`.
        at_us: Microseconds since the epoch, UTC, in [MIN_US, MAX_US).
        calendar: Decides all kinds but `per_minute` and `total`.

    Returns:
        A window with `start_us <= at_us < end_us`, cut off at MIN_US and MAX_US.

    Raises:
        InvalidRequest: Another kind, or an instant outside of [MIN_US, MAX_US).
    """
    _require_instant(at_us)
    match kind:
        case "daily":
            day = _day_of(at_us, calendar.zone)
            return _between(day, day + 1, calendar.zone)
        case "monthly":
            day = _day_of(at_us, calendar.zone)
            return _between(*_month_around(day, calendar.fiscal_month_start), calendar.zone)
        case "per_minute":
            start_us = at_us - at_us % MINUTE_US
            return Window(start_us, start_us + MINUTE_US)
        case "hourly":
            return _hour_around(at_us, calendar.zone)
        case "weekly":
            day = _day_of(at_us, calendar.zone)
            # Ordinal 1 was a Monday.
            first = day - (day - 1 - _WEEK_DAYS.index(calendar.week_start)) % 7
            return _between(first, first + 7, calendar.zone)
        case "total":
            return TOTAL
        case _:
            raise InvalidRequest(
                "kind",
                f"{kind!r} has no window of its own; it must be per_minute, hourly, daily, weekly,"
                " monthly or total (a rolling limit counts in the buckets of a Ring)",
            )


def local_day(at_us: int, calendar: Calendar) -> int:
    """Name the day window that holds an instant.

    Args:
        at_us: Microseconds since the epoch, UTC, in [MIN_US, MAX_US).
        calendar: Its time zone decides.

    Returns:
        The day's proleptic Gregorian ordinal, for `day_bounds` and `date.fromordinal`. It never
        goes backwards: in the hour that a clock repeats before midnight it stays with the new day.

    Raises:
        InvalidRequest: The instant is outside of [MIN_US, MAX_US).
    """
    _require_instant(at_us)
    return _day_of(at_us, calendar.zone)


def day_bounds(ordinal: int, calendar: Calendar) -> Window:
    """Find the window of a calendar day.

    Args:
        ordinal: The day's proleptic Gregorian ordinal, as `date.toordinal` gives it.
        calendar: Its time zone decides.

    Returns:
        The day's window, 0 hours long where the zone skipped that date.

    Raises:
        InvalidRequest: The day is outside of the years 2 to 9998.
    """
    if not _FIRST.toordinal() <= ordinal < _LAST.toordinal():
        raise InvalidRequest("ordinal", f"must be a day in the years 2 to 9998, got {ordinal}")
    return _between(ordinal, ordinal + 1, calendar.zone)


@dataclass(frozen=True, slots=True)
class Ring:
    """The buckets that a rolling limit counts in: arithmetic only, the sums live in the ledger.

    Buckets are numbered from the epoch. At a head bucket h the live ones are h - `buckets` to h:
    the oldest counts whole, so what is counted reaches back at least `length_us`, and further by at
    most one bucket (and the `buckets` µs that rounding the width up can add).

    Args:
        length_us: Length of the rolling window in microseconds: a second to 36,500 days.
        buckets: Into how many buckets that length is cut, 1 to 1,000.

    Raises:
        InvalidRequest: A field is out of its range.
    """

    length_us: int
    buckets: int = 60
    width_us: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check both fields and round the width of a bucket up."""
        if not SECOND_US <= self.length_us <= MAX_DURATION_US:
            raise InvalidRequest(
                "length_us", f"must be from a second to 36,500 days in µs, got {self.length_us}"
            )
        if not 1 <= self.buckets <= 1000:
            raise InvalidRequest("buckets", f"must be from 1 to 1,000, got {self.buckets}")
        object.__setattr__(self, "width_us", -(-self.length_us // self.buckets))

    def bucket(self, at_us: int) -> int:
        """Number the bucket that holds an instant."""
        return at_us // self.width_us

    def live(self, head: int) -> range:
        """List the buckets that count while `head` is the newest, oldest first."""
        return range(head - self.buckets, head + 1)

    def window_at(self, at_us: int) -> Window:
        """Find the span that the live buckets cover; at its end the oldest bucket drops out."""
        head = self.bucket(at_us)
        return Window((head - self.buckets) * self.width_us, (head + 1) * self.width_us)


def parse_duration(duration: str | timedelta, field: str = "window") -> int:
    """Turn a duration into microseconds.

    Args:
        duration: A `timedelta`, or a whole number and a unit: `"90s"`, `"30m"`, `"24h"`, `"7d"`.
            A day is 24 hours.
        field: The name that an error mentions.

    Returns:
        Microseconds, more than 0 and at most 36,500 days.

    Raises:
        InvalidRequest: Neither of these forms, or outside of that range.
    """
    if isinstance(duration, timedelta):
        length_us = duration // _MICROSECOND
    elif found := _DURATION.fullmatch(str(duration)):
        length_us = int(found[1]) * _UNITS_US[found[2]]
    else:
        raise InvalidRequest(
            field,
            f"{duration!r} is not a duration; give a timedelta, or a whole number followed by"
            " s, m, h or d, such as '24h'",
        )
    if not 0 < length_us <= MAX_DURATION_US:
        raise InvalidRequest(
            field, f"must be longer than 0 and at most 36,500 days, got {str(duration)!r}"
        )
    return length_us


def to_us(moment: datetime, field: str = "at") -> int:
    """Turn an aware `datetime`, in any zone, into microseconds since the epoch.

    Args:
        moment: Any aware `datetime` in the years 2 to 9998.
        field: The name that an error mentions.

    Raises:
        InvalidRequest: A naive `datetime`, or one outside of these years.
    """
    if moment.utcoffset() is None:
        raise InvalidRequest(
            field,
            f"{moment.isoformat()} has no time zone; say which it is, for example"
            " datetime(..., tzinfo=UTC)",
        )
    at_us = (moment - _EPOCH) // _MICROSECOND
    if not MIN_US <= at_us <= MAX_US:
        raise InvalidRequest(field, f"must be in the years 2 to 9998, got {moment.isoformat()}")
    return at_us


def from_us(at_us: int) -> datetime:
    """Turn microseconds since the epoch into an aware `datetime` in UTC.

    Raises:
        InvalidRequest: Outside of [MIN_US, MAX_US].
    """
    if at_us != MAX_US:
        _require_instant(at_us)
    return _EPOCH + timedelta(microseconds=at_us)


def _require_instant(at_us: int) -> None:
    if not MIN_US <= at_us < MAX_US:
        raise InvalidRequest(
            "at_us", f"must be microseconds since the epoch in the years 2 to 9998, got {at_us}"
        )


def _find_zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC  # needs no file, and is several times faster than the zone of that name
    try:
        if not _NOT_ZONES.fullmatch(name):
            return ZoneInfo(name)
    # What zoneinfo raises: unknown names KeyError; paths ValueError; folders of zones OSError;
    # anything but text TypeError or AttributeError.
    except (KeyError, ValueError, OSError, TypeError, AttributeError):
        pass
    known = sorted(zone for zone in available_timezones() if not _NOT_ZONES.fullmatch(zone))
    near = difflib.get_close_matches(str(name), known, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else "give one such as 'Europe/Paris'"
    raise InvalidRequest("timezone", f"{name!r:.60} is not an IANA time zone; {hint}")


Calendar.UTC = Calendar()


def _local(at_us: int, zone: tzinfo) -> datetime:
    return (_EPOCH + timedelta(microseconds=at_us)).astimezone(zone)


def _first_us(start_us: int, end_us: int, holds: Callable[[int], bool]) -> int:
    """Find the first whole second at which `holds` turned true; clocks change on whole seconds."""
    seconds = range(start_us, end_us, SECOND_US)
    return start_us + bisect_left(seconds, True, key=holds) * SECOND_US


def _boundary(ordinal: int, zone: tzinfo) -> int:
    """Find the earliest instant at which the local date is `ordinal` or later."""
    day = date.fromordinal(ordinal)
    midnight_us = (datetime.combine(day, _MIDNIGHT, zone) - _EPOCH) // _MICROSECOND
    again_us = (datetime.combine(day, _MIDNIGHT_AGAIN, zone) - _EPOCH) // _MICROSECOND
    if midnight_us <= again_us:
        return midnight_us  # midnight exists: the only one, or the first of two
    # It doesn't: PEP 495 then gives two instants that enclose the jump, the later one first.
    return _first_us(
        again_us, midnight_us, lambda at_us: _local(at_us, zone).toordinal() >= ordinal
    )


def _between(first: int, last: int, zone: tzinfo) -> Window:
    """Span the dates from `first` up to but without `last`."""
    return Window(max(_boundary(first, zone), MIN_US), min(_boundary(last, zone), MAX_US))


def _day_of(at_us: int, zone: tzinfo) -> int:
    day = _local(at_us, zone).toordinal()
    # A clock that fell back over midnight shows the old date again, but the new day has begun.
    return day + 1 if _boundary(day + 1, zone) <= at_us else day


def _month_around(day: int, month_start: int) -> tuple[int, int]:
    """Find the dates on which the fiscal month of `day`, and the one after it, begin."""
    today = date.fromordinal(day)
    months = today.year * 12 + today.month - 1
    first = _month_first(months, month_start)
    if day < first:
        return _month_first(months - 1, month_start), first
    return first, _month_first(months + 1, month_start)


def _month_first(months: int, month_start: int) -> int:
    first = date(months // 12, months % 12 + 1, 1).toordinal()
    last = date((months + 1) // 12, (months + 1) % 12 + 1, 1).toordinal() - 1
    return min(first + month_start - 1, last)


def _hour_around(at_us: int, zone: tzinfo) -> Window:
    local = _local(at_us, zone)
    offset = local.utcoffset()
    into_us = (local.minute * 60 + local.second) * SECOND_US + local.microsecond
    start_us, end_us = at_us - into_us, at_us - into_us + HOUR_US
    if _local(start_us, zone).utcoffset() != offset:
        start_us = _first_us(start_us, at_us, lambda us: _local(us, zone).utcoffset() == offset)
    if _local(end_us, zone).utcoffset() != offset:
        end_us = _first_us(start_us, end_us, lambda us: _local(us, zone).utcoffset() != offset)
    return Window(max(start_us, MIN_US), min(end_us, MAX_US))
