"""Arguments at the door: checked once, with errors that name the field and the remedy."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from fluxai.core.errors import ConfigurationError, InvalidRequest
from fluxai.core.ids import uuid_int
from fluxai.core.windows import MAX_DURATION_US, SECOND_US, parse_duration, to_us
from fluxai.policy.needs import whole

TEXT_MAX = 256
REASON_MAX = 4_096


def one_of(field: str, value: object, allowed: Sequence[str]) -> None:
    """Refuse a setting that is none of those allowed, with `ConfigurationError`."""
    if value not in allowed:
        raise ConfigurationError(f"{field}: {value!r:.60} is not one of {', '.join(allowed)}")


def check_text(field: str, value: object, *, most: int = TEXT_MAX) -> None:
    """Refuse what is no text, empty, too long, or can't be stored and shown as it is."""
    if not isinstance(value, str):
        raise InvalidRequest(field, f"must be text, got {type(value).__name__}")
    if len(value) > most:
        raise InvalidRequest(field, f"must have at most {most} characters, got {len(value):,}")
    if not value.strip():
        raise InvalidRequest(field, "must not be empty")
    if any(letter < " " or "\x7f" <= letter < "\xa0" for letter in value):
        raise InvalidRequest(field, "must not contain control characters")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise InvalidRequest(field, "must be Unicode text; it contains half a character")


def check_tenant(value: object, field: str = "tenant") -> None:
    """Refuse what can't be one tenant's id."""
    check_text(field, value)
    if value == "*":
        raise InvalidRequest(field, "'*' stands for every tenant in policies; name one")


def check_reason(field: str, value: object) -> None:
    """Refuse a reason that is no text, empty or very long. It may have several lines."""
    if not isinstance(value, str):
        raise InvalidRequest(field, f"must be text, got {type(value).__name__}")
    check_text(
        field, " ".join(value.split()) if len(value) <= REASON_MAX else value, most=REASON_MAX
    )


def count(field: str, value: object, least: int) -> int:
    """Return a whole number from `least` to 10^12; None is 1 where at least 1 is asked for."""
    if value is None and least == 1:
        return 1
    return whole(field, value, least)


def instant_us(field: str, value: object) -> int:
    """Return an aware `datetime` in microseconds since the epoch."""
    if not isinstance(value, datetime):
        raise InvalidRequest(
            field,
            f"must be an aware datetime such as datetime(2026, 1, 31, tzinfo=UTC), got "
            f"{type(value).__name__}",
        )
    return to_us(value, field)


def ttl_us(ttl: timedelta | str | int) -> int:
    """Return how long a reservation may stay open: a `timedelta`, `"30m"`, or seconds."""
    if type(ttl) is int:
        if not 0 < ttl <= MAX_DURATION_US // SECOND_US:
            raise InvalidRequest("ttl", "must be longer than 0 and at most 36,500 days")
        return ttl * SECOND_US
    if not isinstance(ttl, (str, timedelta)):
        raise InvalidRequest("ttl", f"must be a timedelta, '30m' or seconds, got {ttl!r:.60}")
    return parse_duration(ttl, "ttl")


def read_uid(text: object, field: str) -> int:
    """Read an id that this library made."""
    if not isinstance(text, str):
        raise InvalidRequest(field, f"must be an id, got {type(text).__name__}")
    try:
        return uuid_int(text)
    except ValueError as error:
        raise InvalidRequest(field, str(error)[:120]) from None


def event_key(text: object, field: str = "event_id") -> int | str:
    """Read an event's id: one that this library made, or the text that `record` was given."""
    check_text(field, text)
    assert isinstance(text, str)  # noqa: S101 -- just checked
    try:
        return uuid_int(text)
    except ValueError:
        return text
