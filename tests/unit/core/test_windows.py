"""Windows, durations and instants: each edge case that a calendar is known for, by hand."""

from __future__ import annotations

import copy
import pickle
from datetime import UTC, date, datetime, timedelta
from typing import Any, get_args
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxai.core.windows import (
    DAY_US,
    HOUR_US,
    MAX_DURATION_US,
    MAX_US,
    MIN_US,
    MINUTE_US,
    SECOND_US,
    TOTAL,
    Calendar,
    Ring,
    Window,
    WindowKind,
    day_bounds,
    from_us,
    local_day,
    parse_duration,
    to_us,
    window_at,
)


def us(text: str, zone: str = "UTC") -> int:
    """Read a local time of a zone; `fold` is 0."""
    return to_us(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)))


def window_text(kind: WindowKind, at: str, calendar: Calendar) -> tuple[str, str]:
    """Find a window and write its bounds in UTC, to the minute."""
    window = window_at(kind, us(at), calendar)
    start, end = (f"{from_us(bound):%Y-%m-%d %H:%M}" for bound in window)
    return start, end


class TestDaily:
    """A day runs from one local midnight to the next."""

    @pytest.mark.parametrize(
        ("zone", "day", "hours"),
        [
            ("Europe/Paris", "2026-03-29", 23),
            ("Europe/Paris", "2026-10-25", 25),
            ("America/New_York", "2026-03-08", 23),
            ("America/New_York", "2026-11-01", 25),
            ("Australia/Lord_Howe", "2026-10-04", 23.5),
            ("Australia/Lord_Howe", "2026-04-05", 24.5),
            ("Asia/Kathmandu", "2026-03-29", 24),
            ("UTC", "2024-02-29", 24),
        ],
    )
    def test_is_as_long_as_the_local_day(self, zone: str, day: str, hours: float) -> None:
        """Days of 23 and 25 hours, and half an hour more or less, are as long as clocks say."""
        window = window_at("daily", us(f"{day} 12:00", zone), Calendar(timezone=zone))

        assert window.start_us == us(f"{day} 00:00", zone)
        assert window.end_us - window.start_us == int(hours * HOUR_US)

    @pytest.mark.parametrize(
        ("zone", "day", "start"),
        [
            ("Asia/Kathmandu", "2026-01-01", "2025-12-31 18:15"),
            ("Asia/Kolkata", "2026-01-01", "2025-12-31 18:30"),
            ("Pacific/Chatham", "2026-07-01", "2026-06-30 11:15"),
            ("America/St_Johns", "2026-01-01", "2026-01-01 03:30"),
            ("Pacific/Kiritimati", "2026-01-01", "2025-12-31 10:00"),
            ("Pacific/Pago_Pago", "2026-01-01", "2026-01-01 11:00"),
        ],
    )
    def test_begins_at_midnight_of_odd_offsets(self, zone: str, day: str, start: str) -> None:
        """Offsets of :30 and :45, and those at both ends of the date line, move the day exactly."""
        assert window_at("daily", us(f"{day} 00:00", zone), Calendar(timezone=zone)).start_us == us(
            start
        )

    @pytest.mark.parametrize(
        ("zone", "day", "start"),
        [
            ("Africa/Cairo", "2023-04-28", "2023-04-27 22:00"),
            ("Asia/Beirut", "2022-03-27", "2022-03-26 22:00"),
            ("America/Sao_Paulo", "2018-11-04", "2018-11-04 03:00"),
            ("America/Santiago", "2022-09-11", "2022-09-11 04:00"),
        ],
    )
    def test_begins_after_a_skipped_midnight(self, zone: str, day: str, start: str) -> None:
        """Where clocks jump from 00:00 to 01:00 the day starts with that jump and has 23 hours."""
        calendar = Calendar(timezone=zone)
        window = window_at("daily", us(f"{day} 12:00", zone), calendar)

        assert window == Window(us(start), us(start) + 23 * HOUR_US)
        assert window_at("daily", window.start_us - 1, calendar).end_us == window.start_us

    def test_begins_once_where_clocks_fall_back_over_midnight(self) -> None:
        """The repeated hour before midnight stays with the new day: no window opens twice."""
        # On 2010-11-07 at 00:01 clocks went back to 23:01 of the 6th.
        calendar = Calendar(timezone="America/St_Johns")
        midnight_us = us("2010-11-07 02:30")
        in_the_repeated_hour_us = midnight_us + 30 * MINUTE_US

        assert datetime.fromtimestamp(
            in_the_repeated_hour_us // SECOND_US, calendar.zone
        ).date() == date(2010, 11, 6)
        assert local_day(in_the_repeated_hour_us, calendar) == date(2010, 11, 7).toordinal()
        assert window_at("daily", in_the_repeated_hour_us, calendar) == Window(
            midnight_us, midnight_us + 25 * HOUR_US
        )

    def test_of_a_date_that_the_zone_skipped_is_empty(self) -> None:
        """Samoa had no 2011-12-30: its neighbours touch, and no instant falls on it."""
        calendar = Calendar(timezone="Pacific/Apia")
        skipped = date(2011, 12, 30).toordinal()
        jump_us = us("2011-12-30 10:00")

        assert day_bounds(skipped, calendar) == Window(jump_us, jump_us)
        assert local_day(jump_us - 1, calendar) == skipped - 1
        assert local_day(jump_us, calendar) == skipped + 1
        assert window_at("daily", jump_us, calendar).start_us == jump_us

    def test_end_belongs_to_the_next_day(self) -> None:
        """Windows are half-open: the last microsecond is in, the end is out."""
        calendar = Calendar(timezone="Europe/Paris")
        window = window_at("daily", us("2026-06-15 12:00"), calendar)

        assert window_at("daily", window.end_us - 1, calendar) == window
        assert window_at("daily", window.end_us, calendar).start_us == window.end_us
        assert window_at("daily", window.start_us, calendar) == window

    def test_before_the_epoch(self) -> None:
        """Instants before 1970, being negative, are in the right day too."""
        assert window_text("daily", "1969-12-31 23:59", Calendar.UTC) == (
            "1969-12-31 00:00",
            "1970-01-01 00:00",
        )


class TestHourly:
    """An hour is one local hour at one offset."""

    def test_that_is_repeated_is_two_windows(self) -> None:
        """In autumn 02:xx comes twice in Paris; each has a budget of its own."""
        calendar = Calendar(timezone="Europe/Paris")

        assert window_text("hourly", "2026-10-25 00:30", calendar) == (
            "2026-10-25 00:00",
            "2026-10-25 01:00",
        )
        assert window_text("hourly", "2026-10-25 01:30", calendar) == (
            "2026-10-25 01:00",
            "2026-10-25 02:00",
        )

    def test_of_zones_beside_the_hour(self) -> None:
        """Local hours of Kathmandu (+05:45) begin at quarter past in UTC."""
        assert window_text("hourly", "2026-01-01 12:00", Calendar(timezone="Asia/Kathmandu")) == (
            "2026-01-01 11:15",
            "2026-01-01 12:15",
        )

    @pytest.mark.parametrize(
        ("at", "start", "end"),
        [
            # Spring: 02:00 becomes 02:30, so this hour has 30 minutes.
            ("2026-10-03 15:15", "2026-10-03 14:30", "2026-10-03 15:30"),
            ("2026-10-03 15:45", "2026-10-03 15:30", "2026-10-03 16:00"),
            # Autumn: 02:00 becomes 01:30, so 01:30 to 02:00 comes twice.
            ("2026-04-04 14:45", "2026-04-04 14:00", "2026-04-04 15:00"),
            ("2026-04-04 15:15", "2026-04-04 15:00", "2026-04-04 15:30"),
            ("2026-04-04 15:45", "2026-04-04 15:30", "2026-04-04 16:30"),
        ],
    )
    def test_at_a_change_of_half_an_hour(self, at: str, start: str, end: str) -> None:
        """Lord Howe moves its clocks by 30 minutes; hours are cut there and nowhere else."""
        calendar = Calendar(timezone="Australia/Lord_Howe")

        assert window_text("hourly", at, calendar) == (start, end)

    def test_cut_short_by_clocks_that_change_within_it(self) -> None:
        """St John's fell back at 00:01: that hour is one minute long and the next begins there."""
        calendar = Calendar(timezone="America/St_Johns")

        assert window_text("hourly", "2010-11-07 02:30", calendar) == (
            "2010-11-07 02:30",
            "2010-11-07 02:31",
        )
        assert window_text("hourly", "2010-11-07 02:31", calendar) == (
            "2010-11-07 02:31",
            "2010-11-07 03:30",
        )


class TestWeekly:
    """A week runs from its first local day."""

    @pytest.mark.parametrize(
        ("week_start", "start"),
        [
            ("monday", "2026-06-15 00:00"),
            ("tuesday", "2026-06-16 00:00"),
            ("wednesday", "2026-06-17 00:00"),
            ("thursday", "2026-06-11 00:00"),
            ("friday", "2026-06-12 00:00"),
            ("saturday", "2026-06-13 00:00"),
            ("sunday", "2026-06-14 00:00"),
        ],
    )
    def test_begins_on_the_chosen_day(self, week_start: Any, start: str) -> None:
        """Seen from a Wednesday, the week began on its first day, seven days before it ends."""
        window = window_at("weekly", us("2026-06-17 12:00"), Calendar(week_start=week_start))

        assert window == Window(us(start), us(start) + 7 * DAY_US)

    def test_keeps_to_local_midnights_over_a_clock_change(self) -> None:
        """The week in which Paris loses an hour has 167."""
        assert window_text("weekly", "2026-03-29 12:00", Calendar(timezone="Europe/Paris")) == (
            "2026-03-22 23:00",
            "2026-03-29 22:00",
        )

    def test_that_would_begin_on_a_skipped_date_begins_after_it(self) -> None:
        """A week from Friday, the day that Samoa skipped, begins with its Saturday."""
        calendar = Calendar(timezone="Pacific/Apia", week_start="friday")

        assert window_text("weekly", "2011-12-31 12:00", calendar) == (
            "2011-12-30 10:00",
            "2012-01-05 10:00",
        )


class TestMonthly:
    """A month runs from its first fiscal day."""

    @pytest.mark.parametrize(
        ("at", "first_day", "start", "end"),
        [
            ("2024-02-29 12:00", 1, "2024-02-01", "2024-03-01"),
            ("2026-12-31 23:59", 1, "2026-12-01", "2027-01-01"),
            ("2026-01-14 23:59", 15, "2025-12-15", "2026-01-15"),
            ("2026-01-15 00:00", 15, "2026-01-15", "2026-02-15"),
            ("2026-02-27 23:59", 31, "2026-01-31", "2026-02-28"),
            ("2026-02-28 00:00", 31, "2026-02-28", "2026-03-31"),
            ("2024-02-28 12:00", 30, "2024-01-30", "2024-02-29"),
            ("2024-02-29 00:00", 30, "2024-02-29", "2024-03-30"),
            ("2026-04-30 00:00", 31, "2026-04-30", "2026-05-31"),
            ("2026-05-30 23:59", 31, "2026-04-30", "2026-05-31"),
            ("2100-02-28 00:00", 29, "2100-02-28", "2100-03-29"),
        ],
    )
    def test_begins_on_the_fiscal_day_or_the_last(
        self, at: str, first_day: int, start: str, end: str
    ) -> None:
        """Month ends and leap years: a month without that day begins on its last day."""
        window = window_at("monthly", us(at), Calendar(fiscal_month_start=first_day))

        assert window == Window(us(start), us(end))

    def test_keeps_to_local_midnights(self) -> None:
        """March in Paris begins in winter time and ends in summer time."""
        assert window_text("monthly", "2026-03-29 12:00", Calendar(timezone="Europe/Paris")) == (
            "2026-02-28 23:00",
            "2026-03-31 22:00",
        )


class TestOtherKinds:
    """Kinds that no calendar decides, and what is not a kind."""

    @pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
    def test_per_minute_is_the_minute_in_utc(self, zone: str) -> None:
        """A minute begins at its first microsecond, in every zone."""
        at_us = us("2026-01-01 12:34:56.789")

        assert window_at("per_minute", at_us, Calendar(timezone=zone)) == Window(
            us("2026-01-01 12:34"), us("2026-01-01 12:35")
        )

    def test_total_never_ends(self) -> None:
        """All instants share one window."""
        assert window_at("total", 0, Calendar.UTC) == TOTAL == Window(MIN_US, MAX_US)

    @pytest.mark.parametrize("kind", ["rolling", "concurrent", "fortnightly", ""])
    def test_refuses_kinds_without_a_window(self, kind: Any) -> None:
        """A rolling limit has buckets, a concurrent one counts what is open: both are an error."""
        with pytest.raises(ValueError, match=r"kind: .*per_minute, hourly, daily"):
            window_at(kind, 0, Calendar.UTC)


class TestEdgesOfTime:
    """Instants are bounded, so that a wrong unit is found and no date overflows."""

    @pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
    @pytest.mark.parametrize("kind", ["per_minute", "hourly", "daily", "weekly", "monthly"])
    def test_windows_are_cut_off_there(self, kind: WindowKind, zone: str) -> None:
        """The first window begins at the first instant, the last ends at the last."""
        calendar = Calendar(timezone=zone, fiscal_month_start=31, week_start="thursday")

        assert window_at(kind, MIN_US, calendar).start_us == MIN_US
        assert window_at(kind, MAX_US - 1, calendar).end_us == MAX_US

    @pytest.mark.parametrize("at_us", [MIN_US - 1, MAX_US, 1_767_225_600_000_000_000])
    def test_refuses_instants_beyond(self, at_us: int) -> None:
        """Nanoseconds given as microseconds are an error, not the year 57,970."""
        with pytest.raises(ValueError, match="at_us: must be microseconds since the epoch"):
            window_at("daily", at_us, Calendar.UTC)
        with pytest.raises(ValueError, match="at_us: must be microseconds since the epoch"):
            local_day(at_us, Calendar.UTC)

    def test_refuses_days_beyond(self) -> None:
        """A day outside of the supported years has no bounds."""
        for ordinal in (0, -1, date.max.toordinal(), 10**9):
            with pytest.raises(ValueError, match="ordinal: must be a day in the years 2 to 9998"):
                day_bounds(ordinal, Calendar.UTC)

    def test_has_a_first_and_a_last_day(self) -> None:
        """The first and the last supported day have bounds."""
        first, last = date(2, 1, 1).toordinal(), date(9998, 12, 31).toordinal()

        assert day_bounds(first, Calendar.UTC) == Window(MIN_US, MIN_US + DAY_US)
        assert day_bounds(last, Calendar.UTC) == Window(MAX_US - DAY_US, MAX_US)


class TestCalendar:
    """A calendar is checked once and compared by value."""

    def test_defaults(self) -> None:
        """Without arguments it is UTC, weeks from Monday, months from the first."""
        calendar = Calendar()

        assert calendar == Calendar.UTC
        assert calendar == Calendar(timezone="UTC", week_start="monday", fiscal_month_start=1)

    def test_is_a_value(self) -> None:
        """Equal fields make equal calendars, also after a copy or a trip to another process."""
        calendar = Calendar(timezone="Asia/Kolkata", week_start="sunday", fiscal_month_start=31)

        assert pickle.loads(pickle.dumps(calendar)) == calendar  # noqa: S301 -- our own bytes
        assert copy.deepcopy(calendar) == calendar
        assert len({calendar, copy.copy(calendar)}) == 1
        assert calendar != Calendar(timezone="Asia/Kolkata")

    def test_cannot_be_changed(self) -> None:
        """A calendar in use stays as it is."""
        with pytest.raises(AttributeError):
            Calendar.UTC.timezone = "Europe/Paris"  # type: ignore[misc]

    @pytest.mark.parametrize(
        "zone", ["Europe", "../etc/passwd", "/etc/localtime", "", "a\0b", "\ud800", None, 5, b"UTC"]
    )
    def test_refuses_what_is_not_a_zone(self, zone: Any) -> None:
        """Folders, paths and other types name the field, whatever zoneinfo makes of them."""
        with pytest.raises(ValueError, match=r"timezone: .* is not an IANA time zone"):
            Calendar(timezone=zone)

    @pytest.mark.parametrize("zone", ["localtime", "right/UTC", "posix/Europe/Paris", "posixrules"])
    def test_refuses_files_that_are_not_the_same_zone_everywhere(self, zone: str) -> None:
        """A machine's own zone and leap seconds would give machines different windows."""
        with pytest.raises(ValueError, match=r"timezone: .* is not an IANA time zone"):
            Calendar(timezone=zone)

    @pytest.mark.parametrize(
        ("wrong", "right"), [("Europe/Pariss", "Europe/Paris"), ("america/new_york", "New_York")]
    )
    def test_says_which_zone_was_probably_meant(self, wrong: str, right: str) -> None:
        """A misspelt zone is answered with the right spelling."""
        with pytest.raises(ValueError, match=f"did you mean .*{right}"):
            Calendar(timezone=wrong)

    @pytest.mark.parametrize("week_start", ["Monday", "mon", "", 0, None])
    def test_refuses_what_is_not_a_week_day(self, week_start: Any) -> None:
        """The message lists the days."""
        with pytest.raises(ValueError, match=r"week_start: .* not one of monday, .*, sunday"):
            Calendar(week_start=week_start)

    @pytest.mark.parametrize("day", [0, 32, -1, True, 1.0, "1", None])
    def test_refuses_what_is_not_a_day_of_the_month(self, day: Any) -> None:
        """The message gives the range."""
        with pytest.raises(ValueError, match=r"fiscal_month_start: .* from 1 to 31, got"):
            Calendar(fiscal_month_start=day)


class TestRing:
    """A rolling window is cut into buckets."""

    def test_cuts_a_day_into_60(self) -> None:
        """24 hours in 60 buckets are 24 minutes each, and 61 count."""
        ring = Ring(DAY_US)
        head = ring.bucket(us("2026-01-01 12:00"))

        assert ring.width_us == 24 * MINUTE_US
        assert ring.live(head) == range(head - 60, head + 1)
        assert ring.window_at(us("2026-01-01 12:00")) == Window(
            us("2025-12-31 12:00"), us("2026-01-01 12:24")
        )

    @given(
        length_us=st.integers(SECOND_US, MAX_DURATION_US),
        buckets=st.integers(1, 1000),
        at_us=st.integers(-(2**60), 2**60),
    )
    def test_counts_at_least_the_length_and_at_most_a_bucket_more(
        self, length_us: int, buckets: int, at_us: int
    ) -> None:
        """No spend younger than the length is forgotten; none older than a bucket more counts."""
        ring = Ring(length_us, buckets)
        live = ring.live(ring.bucket(at_us))
        window = ring.window_at(at_us)

        assert window.start_us <= at_us < window.end_us
        assert ring.bucket(at_us - length_us) >= live.start
        assert window.start_us > at_us - length_us - ring.width_us - buckets
        assert ring.bucket(window.start_us) == live[0]
        assert ring.bucket(window.start_us - 1) == live[0] - 1
        assert ring.bucket(window.end_us - 1) == live[-1]
        assert ring.live(ring.bucket(window.end_us)).start == live.start + 1

    @pytest.mark.parametrize("length_us", [0, -1, SECOND_US - 1, MAX_DURATION_US + 1])
    def test_refuses_lengths_out_of_range(self, length_us: int) -> None:
        """The message gives the range."""
        with pytest.raises(ValueError, match="length_us: must be from a second to 36,500 days"):
            Ring(length_us)

    @pytest.mark.parametrize("buckets", [0, -1, 1001])
    def test_refuses_counts_out_of_range(self, buckets: int) -> None:
        """The message gives the range."""
        with pytest.raises(ValueError, match="buckets: must be from 1 to 1,000"):
            Ring(DAY_US, buckets)


class TestParseDuration:
    """A duration is written as people write it."""

    @pytest.mark.parametrize(
        ("duration", "length_us"),
        [
            ("90s", 90 * SECOND_US),
            ("30m", 30 * MINUTE_US),
            ("24h", DAY_US),
            ("7d", 7 * DAY_US),
            ("36500d", MAX_DURATION_US),
            (timedelta(hours=1, microseconds=1), HOUR_US + 1),
        ],
    )
    def test_reads_units(self, duration: str | timedelta, length_us: int) -> None:
        """Seconds, minutes, hours, days, and timedeltas to the microsecond."""
        assert parse_duration(duration) == length_us

    @pytest.mark.parametrize(
        "duration", ["", "24", "h", "24 h", "24H", "-1h", "1.5h", "1h30m", "1w", "٣h", 3600, None]
    )
    def test_refuses_other_forms(self, duration: Any) -> None:
        """The message shows a right one."""
        with pytest.raises(ValueError, match=r"window: .* is not a duration; .*'24h'"):
            parse_duration(duration)

    @pytest.mark.parametrize("duration", ["0s", "36501d", timedelta(0), timedelta(seconds=-1)])
    def test_refuses_durations_out_of_range(self, duration: str | timedelta) -> None:
        """Nothing, less than nothing and more than a century are no windows."""
        with pytest.raises(ValueError, match="ttl: must be longer than 0 and at most 36,500 days"):
            parse_duration(duration, "ttl")


class TestInstants:
    """An instant is whole microseconds inside and an aware datetime outside."""

    @given(at_us=st.integers(MIN_US, MAX_US))
    def test_survive_the_way_there_and_back(self, at_us: int) -> None:
        """No microsecond is lost, at either end of time."""
        moment = from_us(at_us)

        assert moment.tzinfo is UTC
        assert to_us(moment) == at_us

    def test_are_the_same_from_any_zone(self) -> None:
        """The zone in which a moment is written does not matter, nor which of two equal hours."""
        first = datetime(2026, 10, 25, 2, 30, tzinfo=ZoneInfo("Europe/Paris"))

        assert to_us(first) == us("2026-10-25 00:30")
        assert to_us(first.replace(fold=1)) == us("2026-10-25 01:30")

    def test_refuse_naive_datetimes(self) -> None:
        """A moment without a zone is refused by name, never guessed."""
        with pytest.raises(ValueError, match="until: 2026-01-01T00:00:00 has no time zone"):
            to_us(datetime(2026, 1, 1), "until")  # noqa: DTZ001 -- the point of the test

    @pytest.mark.parametrize("year", [1, 9999])
    def test_refuse_years_beyond(self, year: int) -> None:
        """A moment that has no windows is refused."""
        with pytest.raises(ValueError, match="at: must be in the years 2 to 9998"):
            to_us(datetime(year, 6, 1, tzinfo=UTC))

    @pytest.mark.parametrize("at_us", [MIN_US - 1, MAX_US + 1])
    def test_refuse_numbers_beyond(self, at_us: int) -> None:
        """A number that is no moment is refused."""
        with pytest.raises(ValueError, match="at_us: must be microseconds since the epoch"):
            from_us(at_us)


def test_every_kind_but_rolling_has_a_window() -> None:
    """The kinds that the type names are those that `window_at` knows."""
    for kind in set(get_args(WindowKind)) - {"rolling"}:
        window = window_at(kind, 0, Calendar.UTC)
        assert window.start_us <= 0 < window.end_us
