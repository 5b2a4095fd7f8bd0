"""Items on their way into a store: in the form in which they are kept and compared, and by name."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from fluxai.core.decisions import Reservation, UsageEvent
from fluxai.core.ids import uuid_int, uuid_text
from fluxai.storage.base import Adjust, Ask, Record, Report, Resolution, Settle
from fluxai.storage.outcomes import outcome_text

Item = Ask | Resolution


def event_key(key: int | str) -> int | str:
    """Give an id that is written like a UUID the one form by which it is looked up."""
    if isinstance(key, str) and len(key) == 36:
        try:
            number = uuid_int(key)
        except ValueError:
            return key
        return number if uuid_text(number) == key else key
    return key


def event_id(key: int | str) -> str:
    """Write an event's key as its id."""
    return key if isinstance(key, str) else uuid_text(key)


def with_outcome_text(event: UsageEvent) -> UsageEvent:
    """Copy an event as the store keeps it: its outcome as text, its id in its one form."""
    return UsageEvent(
        event_key(event.key),
        event.source,
        event.model,
        event.cost_nanousd,
        event.tokens,
        event.requests,
        event.usage,
        event.at_us,
        event.flags,
        event.price_version,
        outcome_text(event.outcome),
        event.corrects,
        event.note,
    )


class Before:
    """A reservation as its caller made it, for when the batch that decided it is rolled back."""

    __slots__ = ("expires_us", "extra", "reservation")

    def __init__(self, reservation: Reservation) -> None:
        self.reservation = reservation
        self.expires_us = reservation.expires_us
        self.extra = None if reservation.extra is None else replace(reservation.extra)

    def restore(self) -> None:
        """Undo what a verb noted on it."""
        self.reservation.expires_us = self.expires_us
        self.reservation.extra = self.extra


def time_of(item: Item) -> int:
    """Say when an item was made."""
    match item:
        case Ask():
            return item.reservation.counted_us
        case Settle() | Record():
            return item.event.at_us
        case _:
            return item.at_us


def at_the_door(item: Resolution) -> Resolution:
    """Give what the caller passed the form in which it is stored and compared."""
    match item:
        case Settle():
            return item._replace(event=with_outcome_text(item.event))
        case Record():
            return replace(item, event=with_outcome_text(item.event))
        case Adjust():
            return replace(
                item,
                key=event_key(item.key),
                event_key=event_key(item.event_key),
                outcome=outcome_text(item.outcome),
            )
        case Report():
            return replace(item, events=[with_outcome_text(event) for event in item.events])
        case _:
            return item


def name_of(item: Resolution) -> Hashable:
    """Name what an item asks for, where that can be told cheaply."""
    match item:
        case Settle(tenant=tenant, uid=uid, event=event, plan=plan):
            return ("settle", tenant, uid, event.outcome, event.flags, plan is None)
        case Record(event=event, plan=plan):
            return ("record", event.tenant, event.key, event.outcome, plan.version)
        case _:
            return None
