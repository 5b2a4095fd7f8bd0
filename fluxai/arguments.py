"""Arguments at the door: checked once, with errors that name the field and the remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from fluxai.context import BUDGET_LABEL, Surroundings, merged
from fluxai.core.errors import ConfigurationError, InvalidRequest
from fluxai.core.ids import uuid_int
from fluxai.core.windows import parse_duration

TEXT_MAX = 256
LABELS_MAX = 16
COUNT_MAX = 10**12


def one_of(field: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"{field}: {value!r} is not one of {', '.join(allowed)}")


def check_text(field: str, value: object, *, most: int = TEXT_MAX) -> None:
    if not isinstance(value, str):
        raise InvalidRequest(field, f"must be text, got {type(value).__name__}")
    if not value.strip():
        raise InvalidRequest(field, "must not be empty")
    if len(value) > most:
        raise InvalidRequest(field, f"must have at most {most} characters, got {len(value):,}")
    if "\x00" in value or "\x1f" in value:
        raise InvalidRequest(field, "must not contain control characters")


def count(field: str, value: object, least: int) -> int:
    if value is None and least == 1:
        return 1
    if type(value) is not int:
        raise InvalidRequest(field, f"must be a whole number, got {value!r:.60}")
    if not least <= value <= COUNT_MAX:
        raise InvalidRequest(field, f"must be from {least} to 10^12, got {value!r:.60}")
    return value


def ttl_us(ttl: timedelta | str | int) -> int:
    if type(ttl) is int:
        ttl = timedelta(seconds=ttl)
    if not isinstance(ttl, (str, timedelta)):
        raise InvalidRequest("ttl", f"must be a timedelta, '30m' or seconds, got {ttl!r:.60}")
    return parse_duration(ttl, "ttl")


def label_pairs(
    labels: Mapping[str, str] | None, here: Surroundings
) -> tuple[tuple[str, str], ...]:
    if not labels:
        return here.labels
    for name, value in labels.items():
        check_text("labels", name)
        check_text("labels", value)
        if "=" in name:
            raise InvalidRequest("labels", f"the name {name!r} must not contain '='")
        if name.startswith(BUDGET_LABEL):
            raise InvalidRequest("labels", f"names that begin with {BUDGET_LABEL!r} are reserved")
    pairs = merged(here.labels, labels)
    if len(pairs) > LABELS_MAX:
        raise InvalidRequest("labels", f"a call carries at most {LABELS_MAX} labels")
    return pairs


def read_uid(text: object, field: str) -> int:
    if not isinstance(text, str):
        raise InvalidRequest(field, f"must be an id, got {type(text).__name__}")
    try:
        return uuid_int(text)
    except ValueError as error:
        raise InvalidRequest(field, str(error)[:120]) from None


def event_key(text: str) -> int | str:
    check_text("event_id", text)
    try:
        return uuid_int(text)
    except ValueError:
        return text
