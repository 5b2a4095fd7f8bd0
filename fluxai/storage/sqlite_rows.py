"""Rows of the SQLite store, and the values they stand for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from fluxai.core.decisions import Approval, Posting, Reservation, ReservationExtra, UsageEvent
from fluxai.core.ids import uuid_int, uuid_text
from fluxai.core.ledger import (
    Candidate,
    Check,
    Counter,
    CounterKey,
    Need,
    Plan,
    RingState,
    Step,
    Subject,
    Verdict,
)
from fluxai.core.money import to_decimal, to_nano
from fluxai.core.usage import Usage
from fluxai.core.windows import from_us, to_us
from fluxai.storage.base import Alert
from fluxai.storage.book import ring_of
from fluxai.storage.outcomes import outcome_text

Row = tuple[Any, ...]

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
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
    text = None if ring is None else _encode({"head": ring.head, "buckets": ring.buckets})
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
    judged: str


def reservation_row(reservation: Reservation, counters: str, judged: str) -> Row:
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
        _encode(reservation.need),
        reservation._method,  # noqa: SLF001 -- a part of the value; only its name is private
        None if extra is None else extra.key,
        None if extra is None else extra.digest,
        int(extra is not None and extra.approval is not None),
        None if extra is None or extra.exact is None else extra.exact.id,
        counters,
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
        reservation.amounts[3],
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


class PlanTexts:
    """A plan's candidates as text, made once per plan: they go into every row it decides."""

    __slots__ = ("candidates",)

    def __init__(self, plan: Plan) -> None:
        self.candidates = [_candidate_text(candidate) for candidate in plan.candidates]


def _texts_of(plan: Plan) -> list[str]:
    bound = plan.bound
    if not isinstance(bound, PlanTexts):
        bound = plan.bound = PlanTexts(plan)
    return bound.candidates


def judged_text(reservation: Reservation, plan: Plan | None) -> str:
    """Write what a reservation was decided on, so that it can be explained from any process."""
    verdict = reservation.verdict
    if verdict is None:
        return _encode(reservation.to_dict())
    texts = None if plan is None else _texts_of(plan)
    steps = []
    for step in verdict.steps:
        candidate = step.candidate
        text = _candidate_text(candidate) if texts is None else texts[candidate.index]
        numbers = _encode((step.output_tokens, step.amounts, step.committed, step.settled))
        steps.append(f"[{text},{numbers}]")
    return f"[{','.join(steps)}]"


def explain(reservation: Reservation, judged: str) -> None:
    """Give a stored reservation back what it was judged on.

    Args:
        reservation: As `reservation_of` made it.
        judged: As `judged_text` wrote it.
    """
    found = json.loads(judged)
    if isinstance(found, dict):
        reservation._view = found  # noqa: SLF001 -- a part of the value; only its name is private
        return
    tenant = reservation.subject.tenant
    steps = []
    for (index, tool, model, requested, max_output, checks, keys), numbers in found:
        candidate = Candidate(
            index=index,
            tool=tool,
            model=model,
            requested_tool=requested,
            rates=None,
            unit_rate=None,
            max_output=max_output,
            checks=tuple(_check_of(check) for check in checks),
            keys=tuple((CounterKey(tenant, *key), end_us) for *key, end_us in keys),
        )
        output_tokens, amounts, committed, settled = numbers
        crossed = tuple(
            check
            for check in candidate.checks
            if (committed[check.slot] if check.slot >= 0 else 0) + amounts[check.measure]
            > check.limit
        )
        acted = next((check for check in crossed if check.acts), None)
        steps.append(
            Step(
                candidate,
                (amounts[0], amounts[1], amounts[2], amounts[3]),
                output_tokens,
                tuple(committed),
                tuple(settled),
                crossed,
                acted,
            )
        )
    reservation.verdict = Verdict(reservation.decision, tuple(steps))
    reservation.candidate = steps[-1].candidate


def _candidate_text(candidate: Candidate) -> str:
    return _encode(
        (
            candidate.index,
            candidate.tool,
            candidate.model,
            candidate.requested_tool,
            candidate.max_output,
            [_check_row(check) for check in candidate.checks],
            [(*key[1:], end_us) for key, end_us in candidate.keys],
        )
    )


def _check_row(check: Check) -> Row:
    return (
        check.policy_id,
        check.scope,
        check.scope_id,
        check.limit_type,
        check.measure,
        check.limit,
        check.decision,
        check.mode,
        check.slot,
        check.fallback,
        check.end_us,
        check.alert_at,
        check.rank,
        not check.acts,
    )


def _check_of(row: Sequence[Any]) -> Check:
    return Check(
        policy_id=row[0],
        scope=row[1],
        scope_id=row[2],
        limit_type=row[3],
        measure=row[4],
        limit=row[5],
        decision=row[6],
        mode=row[7],
        slot=row[8],
        fallback=row[9],
        end_us=row[10],
        alert_at=tuple((amount, share) for amount, share in row[11]),
        rank=tuple(row[12]),
        forgiven=row[13],
    )


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
        _encode(approval.labels),
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
        None if event.usage is None else _encode(event.usage.to_dict()),
        labels_text(subject),
        source.decision,
        _encode(event.flags),
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


# -- alerts ---------------------------------------------------------------------------------


def alert_row(alert: Alert) -> Row:
    """Make an alert's row."""
    return (
        *alert.key,
        alert.policy_id,
        alert.share,
        alert.limit,
        alert.committed,
        alert.at_us,
    )


def alert_of(row: Row) -> tuple[int, Alert]:
    """Make an alert, with its place in the order."""
    key = CounterKey(*row[1:7])
    return row[0], Alert(key.tenant, row[7], key, row[8], row[9], row[10], row[11])


# -- subjects -------------------------------------------------------------------------------


def labels_text(subject: Subject) -> str:
    """Write a subject's labels as a JSON object."""
    return _encode(dict(subject.labels)) if subject.labels else _EMPTY


def subject_of(tenant: str, user: str | None, labels: str) -> Subject:
    """Make a subject."""
    if labels == _EMPTY:
        return Subject(tenant, user)
    return Subject(tenant, user, tuple(sorted(json.loads(labels).items())))
