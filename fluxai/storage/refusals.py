"""What stores say when an id, or an answer, was used before in another way."""

from __future__ import annotations

from decimal import Decimal

from fluxai.storage.base import PENDING_PER_TENANT_MAX, Conflict


def key_used(key: str | None, reservation_id: str) -> Conflict:
    """Refuse an idempotency key that came with other arguments before."""
    return Conflict(
        "IdempotencyConflict",
        f"idempotency_key {key!r} was used before with other arguments (reservation "
        f"{reservation_id}); use a new key for a new call",
    )


def too_many_pending(tenant: str) -> str:
    """Say why a call can't wait for an approval."""
    return (
        f"tenant {tenant!r} already has {PENDING_PER_TENANT_MAX} calls waiting for approval; "
        f"answer or reject some of them first"
    )


def settled_otherwise(reservation_id: str, cost: Decimal) -> Conflict:
    """Refuse a second settlement that differs from the first."""
    return Conflict(
        "SettlementConflict",
        f"reservation {reservation_id} was already settled at {cost} USD with another outcome; "
        f"enter a correction with adjust() instead",
    )


def already_settled(reservation_id: str) -> Conflict:
    """Refuse to release what was charged."""
    return Conflict(
        "SettlementConflict",
        f"reservation {reservation_id} is settled: the money was charged; enter a correction with "
        f"adjust() instead",
    )


def not_reserved(reservation_id: str, state: str) -> Conflict:
    """Refuse to extend what has ended, or not begun."""
    return Conflict(
        "ReservationNotFound",
        f"reservation {reservation_id} is {state}, not reserved; it can't be extended: reserve "
        f"again",
    )


def id_used(event_id: str) -> Conflict:
    """Refuse an id that names another event."""
    return Conflict(
        "IdempotencyConflict",
        f"id {event_id!r} was used before with other arguments; ids name one event",
    )


def id_of_reservation(event_id: str) -> Conflict:
    """Refuse an id that names a reservation."""
    return Conflict("IdempotencyConflict", f"id {event_id!r} is a reservation's: settle it")


def pruned(field: str, remedy: str) -> Conflict:
    """Refuse what is older than anything that is remembered."""
    return Conflict(
        "StorageError",
        f"{field} is older than what this store still remembers, so a repeat could not be told "
        f"apart; {remedy}",
    )


def denied_still(policy_id: str, limit_type: str, scope: str) -> Conflict:
    """Refuse to approve what a `deny` limit forbids."""
    return Conflict(
        "ApprovalConflict",
        f"policy {policy_id} ({limit_type} limit of the {scope}) would be crossed now, and an "
        f"approval does not override a deny; it stays pending",
    )


def another_call(approval_id: str) -> Conflict:
    """Refuse to run another call than the one that was approved."""
    return Conflict(
        "ApprovalConflict",
        f"approval {approval_id} was given for another call: subject, tool, arguments and amount "
        f"must be the same as when it was asked for",
    )


def answered(approval_id: str, state: str) -> Conflict:
    """Refuse an answer to what was answered, used or lapsed before."""
    return Conflict("ApprovalConflict", f"approval {approval_id} is {state}; ask for a new one")
