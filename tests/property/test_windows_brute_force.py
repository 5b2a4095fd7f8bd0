"""Windows against brute force: clocks read minute by minute, with no arithmetic of ours.

The reference walks through time a minute at a time, as `datetime.fromtimestamp` shows it in a zone,
and takes the running maximum of the local date: a date has begun once it, or a later one, was seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import cast
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxai.core.windows import (
    DAY_US,
    HOUR_US,
    MINUTE_US,
    SECOND_US,
    Calendar,
    WeekDay,
    Window,
    WindowKind,
    day_bounds,
    from_us,
    local_day,
    to_us,
    window_at,
)

MINUTE = 60
DAY = 86_400

#: Zone, and the UTC day around which its clocks did something that calendars get wrong.
CHANGES = [
    ("Africa/Cairo", "2023-04-27"),  # skips midnight
    ("Africa/Cairo", "2023-10-26"),  # falls back at 24:00
    ("Africa/Casablanca", "2026-02-15"),  # summer time ends for Ramadan
    ("America/Havana", "2026-03-08"),  # skips midnight
    ("America/Havana", "2026-11-01"),  # falls back from 01:00 to 00:00
    ("America/New_York", "2026-03-08"),
    ("America/New_York", "2026-11-01"),
    ("America/Santiago", "2022-09-11"),  # skips midnight
    ("America/Santiago", "2022-04-03"),  # falls back over midnight
    ("America/Sao_Paulo", "2018-11-04"),  # skips midnight
    ("America/Sao_Paulo", "2019-02-17"),  # falls back over midnight
    ("America/St_Johns", "2006-10-29"),  # falls back at 00:01, over midnight
    ("America/St_Johns", "2010-11-07"),
    ("America/St_Johns", "2011-03-13"),  # springs forward at 00:01
    ("Antarctica/Troll", "2026-03-29"),  # moves by two hours
    ("Asia/Beirut", "2022-03-27"),  # skips midnight
    ("Asia/Gaza", "2016-10-28"),
    ("Asia/Kathmandu", "1985-12-31"),  # +05:30 becomes +05:45
    ("Asia/Pyongyang", "2018-05-04"),  # 23:30 becomes midnight
    ("Asia/Tehran", "2022-03-21"),  # skips midnight, half-hour offset
    ("Asia/Tehran", "2022-09-21"),  # falls back over midnight
    ("Australia/Lord_Howe", "2026-04-04"),  # moves by half an hour
    ("Australia/Lord_Howe", "2026-10-03"),
    ("Europe/Dublin", "2026-10-25"),  # winter is the exception there
    ("Europe/Lisbon", "1992-09-27"),
    ("Europe/Paris", "2026-03-29"),
    ("Europe/Paris", "2026-10-25"),
    ("Pacific/Apia", "2011-12-30"),  # skips a date
    ("Pacific/Chatham", "2026-04-04"),  # +13:45 becomes +12:45
    ("Pacific/Kiritimati", "1994-12-31"),  # skips a date
    ("Pacific/Kwajalein", "1993-08-21"),  # skips a date
]
ZONES = sorted({zone for zone, _ in CHANGES} | {"UTC", "Asia/Kolkata", "Asia/Kabul"})
WEEK_DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]


def seconds(day: str) -> int:
    """Give midnight UTC of a date, in seconds since the epoch."""
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())


def dates_by_minute(zone: tzinfo, start: int, end: int) -> dict[int, date]:
    """Walk from `start` to `end` and note the latest local date seen so far, by second."""
    latest = date.min
    seen = {}
    # What came before the walk counts as well: no clock ever fell back by more than a day.
    for second in range(start - start % MINUTE - DAY, end, MINUTE):
        latest = max(latest, datetime.fromtimestamp(second, zone).date())
        seen[second] = latest
    return {second: day for second, day in seen.items() if second >= start - start % MINUTE}


def first_minute(zone: tzinfo, day: date) -> int:
    """Find the first minute at which the latest local date is `day` or later, in seconds."""
    noon = seconds(day.isoformat()) + DAY // 2
    seen = dates_by_minute(zone, noon - 2 * DAY, noon + 2 * DAY)
    return next(second for second, latest in seen.items() if latest >= day)


def run_around(at: int, zone: tzinfo, key: Callable[[datetime], object]) -> Window:
    """Span the minutes around a second for which `key` of the local time stays the same."""

    def same(second: int) -> bool:
        return key(datetime.fromtimestamp(second, zone)) == wanted

    wanted = key(datetime.fromtimestamp(at, zone))
    start = end = at - at % MINUTE
    while same(start - MINUTE):
        start -= MINUTE
    while same(end):
        end += MINUTE
    return Window(start * SECOND_US, end * SECOND_US)


def week_of(day: date, week_start: str) -> tuple[date, date]:
    """Step back to the first day of the week."""
    first = day
    while f"{first:%A}".lower() != week_start:
        first -= timedelta(days=1)
    return first, first + timedelta(days=7)


def month_of(day: date, month_start: int) -> tuple[date, date]:
    """Step from day to day to the two days around on which a fiscal month begins."""

    def begins(candidate: date) -> bool:
        is_last_of_month = (candidate + timedelta(days=1)).month != candidate.month
        if candidate.day == month_start:
            return True
        return is_last_of_month and candidate.day < month_start

    first, last = day, day + timedelta(days=1)
    while not begins(first):
        first -= timedelta(days=1)
    while not begins(last):
        last += timedelta(days=1)
    return first, last


def window_by_brute_force(kind: WindowKind, at_us: int, calendar: Calendar) -> Window:
    """Find a window by reading clocks, one minute after the other."""
    at = at_us // SECOND_US
    if kind == "hourly":
        return run_around(
            at, calendar.zone, lambda local: (local.date(), local.hour, local.utcoffset())
        )
    today = dates_by_minute(calendar.zone, at, at + MINUTE)[at - at % MINUTE]
    if kind == "daily":
        first, last = today, today + timedelta(days=1)
    elif kind == "weekly":
        first, last = week_of(today, calendar.week_start)
    else:
        first, last = month_of(today, calendar.fiscal_month_start)
    return Window(
        first_minute(calendar.zone, first) * SECOND_US,
        first_minute(calendar.zone, last) * SECOND_US,
    )


@st.composite
def instants(draw: st.DrawFn) -> tuple[str, int]:
    """Draw a zone and an instant: mostly near a change of its clocks, else anywhere to 2100."""
    # Since 1973 every clock changes on a whole minute, which the walk by minutes relies on.
    anywhere = st.tuples(
        st.sampled_from(ZONES), st.integers(seconds("1973-01-01"), seconds("2100-01-01"))
    )
    near_a_change = st.sampled_from(CHANGES).flatmap(
        lambda change: st.tuples(
            st.just(change[0]),
            st.integers(-2 * DAY, 3 * DAY).map(lambda delta: seconds(change[1]) + delta),
        )
    )
    zone, at = draw(near_a_change | near_a_change | anywhere)
    return zone, at * SECOND_US + draw(st.integers(0, SECOND_US - 1))


calendars = st.builds(
    Calendar,
    week_start=cast("st.SearchStrategy[WeekDay]", st.sampled_from(WEEK_DAYS)),
    fiscal_month_start=st.integers(1, 31),
)
kinds = cast(
    "st.SearchStrategy[WindowKind]", st.sampled_from(["hourly", "daily", "weekly", "monthly"])
)


@pytest.mark.parametrize(("zone", "day"), CHANGES)
def test_days_around_a_change_are_what_a_watched_clock_shows(zone: str, day: str) -> None:
    """Each minute of five days around a change of clocks is in the day that brute force gives."""
    calendar = Calendar(timezone=zone)
    start, end = seconds(day) - 2 * DAY, seconds(day) + 3 * DAY
    window = Window(0, 0)
    for second, latest in dates_by_minute(calendar.zone, start, end).items():
        at_us = second * SECOND_US
        assert local_day(at_us, calendar) == latest.toordinal()
        if at_us >= window.end_us:
            window = window_at("daily", at_us, calendar)
            assert window == day_bounds(latest.toordinal(), calendar)
            assert second == start or window.start_us == at_us
        assert window.start_us <= at_us < window.end_us


@pytest.mark.parametrize(("zone", "day"), CHANGES)
def test_hours_around_a_change_are_what_a_watched_clock_shows(zone: str, day: str) -> None:
    """Each hour of four days around a change of clocks is the run that brute force gives."""
    calendar = Calendar(timezone=zone)
    at_us, end_us = ((seconds(day) + days * DAY) * SECOND_US for days in (-2, 2))
    while at_us < end_us:
        window = window_at("hourly", at_us, calendar)
        assert window == window_by_brute_force("hourly", at_us, calendar)
        assert 0 < window.end_us - window.start_us <= HOUR_US
        at_us = window.end_us


@given(where=instants(), calendar=calendars, kind=kinds)
def test_windows_equal_brute_force(
    where: tuple[str, int], calendar: Calendar, kind: WindowKind
) -> None:
    """Hours, days, weeks and months begin and end at the minute that a watched clock gives."""
    zone, at_us = where
    calendar = replace(calendar, timezone=zone)

    assert window_at(kind, at_us, calendar) == window_by_brute_force(kind, at_us, calendar)


@given(where=instants(), calendar=calendars, kind=kinds)
def test_windows_partition_time(
    where: tuple[str, int], calendar: Calendar, kind: WindowKind
) -> None:
    """The instant is inside, neighbours touch, and all instants of a window agree on it."""
    zone, at_us = where
    calendar = replace(calendar, timezone=zone)
    window = window_at(kind, at_us, calendar)

    assert window.start_us <= at_us < window.end_us
    assert window_at(kind, window.start_us, calendar) == window
    assert window_at(kind, window.end_us - 1, calendar) == window
    assert window_at(kind, window.start_us - 1, calendar).end_us == window.start_us
    assert window_at(kind, window.end_us, calendar).start_us == window.end_us


@given(where=instants(), calendar=calendars)
def test_weeks_and_months_are_whole_days(where: tuple[str, int], calendar: Calendar) -> None:
    """A day lies wholly in one week and one month, so daily sums add up to both."""
    zone, at_us = where
    calendar = replace(calendar, timezone=zone)
    day = window_at("daily", at_us, calendar)

    assert day_bounds(local_day(at_us, calendar), calendar) == day
    for kind in ("weekly", "monthly"):
        longer = window_at(kind, at_us, calendar)
        assert longer.start_us <= day.start_us
        assert day.end_us <= longer.end_us


@given(where=instants(), step_us=st.integers(0, 40 * DAY_US))
def test_local_days_never_go_backwards(where: tuple[str, int], step_us: int) -> None:
    """Later instants are never on an earlier day, whatever the clocks show."""
    zone, at_us = where
    calendar = Calendar(timezone=zone)

    assert local_day(at_us, calendar) <= local_day(at_us + step_us, calendar)


@given(where=instants())
def test_instants_agree_with_the_zone_in_which_they_are_written(where: tuple[str, int]) -> None:
    """Both of two equal local times give their own instant back."""
    zone, at_us = where

    assert to_us(from_us(at_us).astimezone(ZoneInfo(zone))) == at_us
    assert window_at("per_minute", at_us, Calendar.UTC).start_us == at_us // MINUTE_US * MINUTE_US
