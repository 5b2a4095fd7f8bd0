"""Rows of the SQLite store, and the values they stand for."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from fluxai.core.decisions import Approval, Posting, Reservation, ReservationExtra, UsageEvent
from fluxai.core.ids import uuid_int
from fluxai.core.ledger import (
    Counter,
    CounterKey,
    Need,
    RingState,
    Subject,
)
from fluxai.core.money import to_decimal, to_nano
from fluxai.core.usage import Usage
from fluxai.core.windows import from_us, to_us
from fluxai.storage.base import Alert
from fluxai.storage.book import ring_of
from fluxai.storage.items import event_key

Row = tuple[Any, ...]

#: Writes a value as compact JSON.
encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
_EMPTY = "{}"


# -- counters -------------------------------------------------------------------------------


def counter_of(row: Row) -> Counter:
    """Make a counter."""
    key = CounterKey(*row[1:7])
    ring = ring_of(key)
    state = None
    if ring is not None:
        kept = json.loads(row[11])
        buckets = {int(bucket): amount for bucket, amount in kept["buckets"].items()}
        state = RingState(ring, kept["head"], buckets)
    counter = Counter(key, row[7], state)
    counter.row_id = row[0]
    counter.reserved = row[9]
    counter.committed = row[8] + row[9]
    counter.carried = row[10]
    return counter


def counter_sums(counter: Counter) -> Row:
    """List what changes in a counter: settled, reserved, carried, ring."""
    ring = counter.ring
    text = None if ring is None else encode({"head": ring.head, "buckets": ring.buckets})
    return (counter.settled, counter.reserved, counter.carried, text)


# -- reservations ---------------------------------------------------------------------------


class ReservationRow(NamedTuple):
    """A row of `reservations`, as it is read."""

    seq: int
    tenant: str
    id: str
    user: str | None
    labels: str
    requested_tool: str
    tool: str
    model: str | None
    decision: str
    state: str
    counted_us: int
    expires_us: int
    resolved_us: int | None
    cost: int
    tokens: int
    requests: int
    concurrent: int
    output_tokens: int
    need: str
    method: str
    key: str | None
    digest: str | None
    asked: int
    exact: str | None
    counters: str
    plan: int | None
    judged: str


def reservation_row(reservation: Reservation, counters: str, plan: int | None, judged: str) -> Row:
    """Make the row of a new reservation."""
    subject, amounts, extra = reservation.subject, reservation.amounts, reservation.extra
    return (
        subject.tenant,
        reservation.id,
        subject.user,
        labels_text(subject),
        reservation.requested_tool,
        reservation.final_tool,
        reservation.model,
        reservation.decision,
        reservation.state,
        reservation.counted_us,
        reservation.expires_us,
        None if extra is None else extra.resolved_us,
        *amounts,
        reservation.output_tokens,
        encode(reservation.need),
        reservation._method,
        None if extra is None else extra.key,
        None if extra is None else extra.digest,
        int(extra is not None and extra.approval is not None),
        None if extra is None or extra.exact is None else extra.exact.id,
        counters,
        plan,
        judged,
    )


def reservation_changes(reservation: Reservation, counters: str) -> Row:
    """List what may change in a reservation, and then what names it."""
    extra = reservation.extra
    return (
        reservation.decision,
        reservation.state,
        reservation.counted_us,
        reservation.expires_us,
        None if extra is None else extra.resolved_us,
        *reservation.amounts,
        int(extra is not None and extra.approval is not None),
        None if extra is None or extra.exact is None else extra.exact.id,
        counters,
        reservation.subject.tenant,
        reservation.id,
    )


def reservation_of(row: ReservationRow) -> Reservation:
    """Make a reservation, without its event, its approval and what it was judged on."""
    reservation = Reservation.rebuild(
        uid=uuid_int(row.id),
        subject=subject_of(row.tenant, row.user, row.labels),
        tool=row.tool,
        model=row.model,
        requested_tool=row.requested_tool,
        need=Need(*json.loads(row.need)),
        amounts=(row.cost, row.tokens, row.requests, row.concurrent),
        output_tokens=row.output_tokens,
        decision=row.decision,
        state=row.state,
        counted_us=row.counted_us,
        expires_us=row.expires_us,
        method=row.method,
        view=None,
    )
    reservation.extra = ReservationExtra(
        key=row.key, digest=row.digest, resolved_us=row.resolved_us
    )
    return reservation


# -- approvals ------------------------------------------------------------------------------


def approval_row(approval: Approval) -> Row:
    """Make an approval's row."""
    return (
        approval.tenant,
        approval.id,
        approval.state,
        approval.user,
        approval.tool,
        to_nano(approval.amount, signed=True),
        encode(approval.labels),
        approval.message,
        to_us(approval.requested_at),
        to_us(approval.expires_at),
        None if approval.decided_at is None else to_us(approval.decided_at),
        approval.by,
        approval.reason,
        approval.claim,
    )


def approval_of(row: Row) -> Approval:
    """Make an approval."""
    return Approval(
        tenant=row[0],
        id=row[1],
        state=row[2],
        user=row[3],
        tool=row[4],
        amount=to_decimal(row[5]),
        labels=json.loads(row[6]),
        message=row[7],
        requested_at=from_us(row[8]),
        expires_at=from_us(row[9]),
        decided_at=None if row[10] is None else from_us(row[10]),
        by=row[11],
        reason=row[12],
        claim=row[13],
    )


# -- events ---------------------------------------------------------------------------------


def event_row(event: UsageEvent) -> Row:
    """Make an event's row."""
    source = event.source
    subject = source.subject
    return (
        event.seq,
        subject.tenant,
        event.id,
        event.reservation_id,
        event.at_us,
        source.counted_us,
        subject.user,
        source.final_tool,
        event.model,
        event.cost_nanousd,
        event.tokens,
        event.requests,
        None if event.usage is None else encode(event.usage.to_dict()),
        labels_text(subject),
        source.decision,
        encode(event.flags),
        event.price_version,
        event.outcome,
        event.corrects,
        event.note,
    )


def event_of(row: Row, source: Reservation | None = None) -> UsageEvent:
    """Make an event, of a reservation that is at hand or of one that is only named."""
    seq, tenant, text, reservation_id, at_us, counted_us, user, tool, model = row[:9]
    cost, tokens, requests, usage, labels, decision, flags, version, outcome, corrects, note = row[
        9:20
    ]
    event = UsageEvent(
        event_key(text),
        source
        or Posting(
            subject=subject_of(tenant, user, labels),
            final_tool=tool,
            model=model,
            counted_us=counted_us,
            decision=decision,
            uid=None if reservation_id is None else uuid_int(reservation_id),
        ),
        model,
        cost,
        tokens,
        requests,
        None if usage is None else Usage.from_dict(json.loads(usage)),
        at_us,
        tuple(json.loads(flags)),
        version,
        outcome,
        corrects,
        note,
    )
    event.seq = seq
    return event


# -- alerts ---------------------------------------------------------------------------------


def alert_row(alert: Alert) -> Row:
    """Make an alert's row."""
    return (
        *alert.key,
        alert.policy_id,
        alert.share,
        alert.limit_units,
        alert.committed_units,
        alert.at_us,
    )


def alert_of(row: Row) -> tuple[int, Alert]:
    """Make an alert, with its place in the order."""
    key = CounterKey(*row[1:7])
    return row[0], Alert(key.tenant, row[7], key, row[8], row[9], row[10], row[11])


# -- subjects -------------------------------------------------------------------------------


def labels_text(subject: Subject) -> str:
    """Write a subject's labels as a JSON object."""
    return encode(dict(subject.labels)) if subject.labels else _EMPTY


def subject_of(tenant: str, user: str | None, labels: str) -> Subject:
    """Make a subject."""
    if labels == _EMPTY:
        return Subject(tenant, user)
    return Subject(tenant, user, tuple(sorted(json.loads(labels).items())))
