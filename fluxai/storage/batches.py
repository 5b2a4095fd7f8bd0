"""Batches for the ledger's SQL functions: what is sent to `carry_out`, and what it answers.

A batch is one JSON object. Its `asks` and `settles` are what most calls need, and its `others` all
the rest, in lists of items with their numbers (`i`). Plans are taken apart, so that each is sent and
looked at once however many asks it decides: `keys` are the counters that any of them names;
candidates, one plan's after the other's, say from which to which place of `key_counter` and
`check_counter` their counters and checks stand. Those lists hold numbers of `keys`, from 1; a check
of a single request has 0.

The answer to an item is a list: its number, a word that says what became of it, and the rest. The
words are those of `_ANSWERS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fluxai.core.decisions import (
    Approval,
    Posting,
    Reservation,
    ReservationExtra,
    UsageEvent,
    corrected,
)
from fluxai.core.ids import uuid_int, uuid_text
from fluxai.core.ledger import (
    Candidate,
    CounterKey,
    Need,
    Plan,
    Step,
    Subject,
    Verdict,
    amounts_of,
)
from fluxai.core.money import to_decimal
from fluxai.core.usage import Usage
from fluxai.core.windows import from_us
from fluxai.storage import refusals
from fluxai.storage.base import (
    Adjust,
    Alert,
    Approve,
    Ask,
    Claim,
    Conflict,
    Extend,
    NeedPlan,
    Record,
    Reject,
    Release,
    Report,
    Settle,
    Stale,
    Unknown,
    plan_candidate,
)
from fluxai.storage.book import extra_of, fill
from fluxai.storage.items import Item, event_id, event_key, time_of
from fluxai.storage.judged import WrittenPlan, explain, step_of

#: What a crossed limit does, as the SQL functions call it; a `deny` that shrinks the output first
#: is a word of its own.
_CODES = {"deny": 1, "require_approval": 2, "downgrade": 3}
_SHRINKS = 4
_VERBS = {
    Release: "release",
    Extend: "extend",
    Record: "record",
    Adjust: "adjust",
    Approve: "approve",
    Reject: "reject",
    Claim: "claim",
    Report: "report",
}


class TakenApart(WrittenPlan):
    """A plan as its parts are sent, made once per plan."""

    __slots__ = ("candidates", "head", "keys")

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.candidates)
        #: Tenant, versions, and the digest of its text.
        self.head: list[Any] = [plan.subject.tenant, *plan.version, self.digest.hex()]
        self.keys = [[(*key, end_us) for key, end_us in one.keys] for one in plan.candidates]
        self.candidates = [
            (
                one.tool,
                one.model,
                [(key.start_us, end_us) for key, end_us in one.keys],
                [
                    (
                        check.slot,
                        check.measure + 1,
                        check.limit,
                        _SHRINKS if check.shrinks else _CODES[check.decision],
                        check.fallback,
                    )
                    for check in one.checks
                    if check.acts
                ],
            )
            for one in plan.candidates
        ]


def taken_apart(plan: Plan) -> TakenApart:
    """Return a plan's parts, which are kept with it."""
    bound = plan.bound
    if not isinstance(bound, TakenApart):
        bound = plan.bound = TakenApart(plan)
    return bound


class Batch:
    """Items on their way to `carry_out`.

    Args:
        items: None of them builds on another one; see `runs`.
        settle_on_expiry: What a reserve does with overdue holds in its way.
        known_plans: Digests of plans whose text the store has.
    """

    def __init__(
        self, items: Sequence[Item], *, settle_on_expiry: bool, known_plans: set[str]
    ) -> None:
        self.items = items
        self._known = known_plans
        self._keys: dict[tuple[Any, ...], int] = {}
        self._plans: dict[int, int] = {}
        self._lists: dict[str, Any] = {name: [] for name in _LISTS}
        self._texts: dict[str, str] = {}
        self._tenants: set[str] = set()
        asks: list[Any] = []
        settles: list[Any] = []
        others: list[Any] = []
        for number, item in enumerate(items):
            if type(item) is Ask:
                asks.append(self._ask(number, item))
            elif type(item) is Settle:
                settles.append(self._settle(number, item))
            else:
                others.append(self._other(number, item))
        self._body = {
            "now_us": max(map(time_of, items)),
            "settle_on_expiry": settle_on_expiry,
            "tenants": sorted(self._tenants),
            "keys": list(self._keys),
            "asks": asks,
            "settles": settles,
            "others": others,
            **self._lists,
        }
        if self._texts:
            self._body["texts"] = self._texts

    @property
    def body(self) -> dict[str, Any]:
        """The batch, JSON-ready."""
        return self._body

    def done(self) -> None:
        """Note what the store has now."""
        self._known.update(self._texts)

    def _ask(self, number: int, item: Ask) -> dict[str, Any]:
        reservation, plan = item.reservation, item.plan
        subject, extra, needs = reservation.subject, reservation.extra, item.needs
        self._tenants.add(subject.tenant)
        place = self._plans.get(id(plan))
        if place is None:
            place = self._plans[id(plan)] = self._add(plan)
        need = needs[0]
        assert need is not None  # noqa: S101 -- the requested tool always has a need
        row = {
            "i": number,
            "tenant": subject.tenant,
            "id": reservation.id,
            "plan": place,
            "user": subject.user,
            "labels": dict(subject.labels),
            "requested_tool": plan.first.requested_tool,
            "counted_us": reservation.counted_us,
            "expires_us": reservation.expires_us,
            "approval_expires_us": item.approval_expires_us,
            "method": reservation._method,
            "need": need,
        }
        if extra is not None:
            row["key"], row["digest"] = extra.key, extra.digest
        if need.cap is not None:
            row["cost"] = amounts_of(need, need.cap)[0]
            row["output"], row["input"], row["requests"] = (
                need.cap,
                need.input_tokens,
                need.requests,
            )
        if len(needs) > 1:
            row["more"] = needs[1:]
        return row

    def _add(self, plan: Plan) -> int:
        """Add a plan's parts; return its number, from 1."""
        parts, lists, keys = taken_apart(plan), self._lists, self._keys
        digest = parts.head[3]
        if digest not in self._known:
            self._texts[digest] = parts.text
        lists["plans"].append(parts.head)
        lists["plan_first"].append(len(lists["tool"]) + 1)
        for own, (tool, model, windows, checks) in zip(parts.keys, parts.candidates, strict=True):
            numbers = [keys.setdefault(key, len(keys) + 1) for key in own]
            lists["tool"].append(tool)
            lists["model"].append(model)
            lists["windows"].append(windows)
            lists["key_from"].append(len(lists["key_counter"]) + 1)
            lists["key_counter"] += numbers
            lists["key_to"].append(len(lists["key_counter"]))
            lists["check_from"].append(len(lists["check_counter"]) + 1)
            for slot, measure, limit, code, fallback in checks:
                lists["check_counter"].append(numbers[slot] if slot >= 0 else 0)
                lists["check_measure"].append(measure)
                lists["check_limit"].append(limit)
                lists["check_code"].append(code)
                lists["check_fallback"].append(fallback)
            lists["check_to"].append(len(lists["check_counter"]))
        return len(lists["plans"])

    def _settle(self, number: int, item: Settle) -> dict[str, Any]:
        event = item.event
        self._tenants.add(item.tenant)
        row = {
            "i": number,
            "verb": "settle",
            "tenant": item.tenant,
            "id": uuid_text(item.uid),
            "at_us": event.at_us,
            **_reported(event),
        }
        if item.plan is not None:
            row["plan"] = _plan_row(item.plan)
            row["correction"] = uuid_text(item.correction_uid)
            if isinstance(event.source, Reservation):
                row["source"] = _lost_row(event.source)
        return row

    def _other(self, number: int, item: Any) -> dict[str, Any]:
        row: dict[str, Any] = {"i": number, "verb": _VERBS[type(item)]}
        if isinstance(item, Record):
            event = item.event
            subject, source = event.source.subject, event.source
            row |= _reported(event) | {
                "tenant": subject.tenant,
                "user": subject.user,
                "labels": dict(subject.labels),
                "tool": source.final_tool,
                "decision": source.decision,
                "counted_us": source.counted_us,
                "at_us": event.at_us,
                "corrects": event.corrects,
                "note": event.note,
                **_named(event.key),
            }
        else:
            row |= {"tenant": item.tenant, "at_us": item.at_us}
        match item:
            case Extend() | Approve() | Claim():
                row["expires_us"] = item.expires_us
        match item:
            case Adjust():
                row |= _named(item.key) | {
                    "event": event_id(item.event_key),
                    "cost": item.cost_nanousd,
                    "outcome": item.outcome,
                    "note": item.note,
                }
            case Record():
                pass
            case _:
                row["id"] = uuid_text(item.uid)
        match item:
            case Approve() | Reject():
                row["by"] = item.by
        match item:
            case Report():
                row |= {
                    "version": item.version,
                    "keep": item.keep,
                    "events": [_spent_row(event) for event in item.events],
                }
            case Reject():
                row["reason"] = item.reason
            case Claim():
                row |= {"digest": item.digest, "claim": item.claim, "after": item.after}
            case Record() | Adjust() | Approve():
                if item.plan is not None:
                    row["plan"] = _plan_row(item.plan)
        self._tenants.add(row["tenant"])
        return row


_LISTS = (
    "plans",
    "plan_first",
    "tool",
    "model",
    "windows",
    "key_from",
    "key_to",
    "key_counter",
    "check_from",
    "check_to",
    "check_counter",
    "check_measure",
    "check_limit",
    "check_code",
    "check_fallback",
)


def runs(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Cut a list into batches of which no item builds on another.

    Within a batch settlements come first, then asks, then the rest; so does each run.
    """
    run: list[Item] = []
    names: set[tuple[str, object]] = set()
    rank = 0
    for item in items:
        own, own_rank = _names(item), _rank(item)
        if run and (own_rank < rank or not names.isdisjoint(own)):
            yield run
            run, names = [], set()
        run.append(item)
        names.update(own)
        rank = own_rank
    if run:
        yield run


def sorted_runs(items: Sequence[Item]) -> Iterator[list[int]]:
    """Cut items of many callers, whose order is free, into as few batches; return their places."""
    order = sorted(range(len(items)), key=lambda place: _rank(items[place]))
    place = 0
    for run in runs(items[at] for at in order):
        yield order[place : place + len(run)]
        place += len(run)


def _rank(item: Item) -> int:
    return 0 if type(item) is Settle else 1 if type(item) is Ask else 2


def _names(item: Item) -> list[tuple[str, object]]:
    """List what an item is about."""
    if type(item) is Ask:
        reservation = item.reservation
        tenant, extra = reservation.subject.tenant, reservation.extra
        named: list[tuple[str, object]] = [(tenant, reservation.uid)]
        if extra is not None and extra.key is not None:
            named.append((tenant, ("key", extra.key)))
        return named
    if isinstance(item, Record):
        return [(item.event.tenant, item.event.key)]
    if isinstance(item, Adjust):
        return [(item.tenant, item.key), (item.tenant, item.event_key)]
    if isinstance(item, Report):
        return [(item.tenant, item.uid), *((item.tenant, event.key) for event in item.events)]
    return [(item.tenant, item.uid)]  # type: ignore[union-attr]


def _named(key: int | str) -> dict[str, Any]:
    return {"key": event_id(key), "by_uuid": isinstance(key, int)}


def _reported(event: UsageEvent) -> dict[str, Any]:
    return {
        "model": event.model,
        "cost": event.cost_nanousd,
        "tokens": event.tokens,
        "requests": event.requests,
        "usage": None if event.usage is None else event.usage.to_dict(),
        "flags": event.flags,
        "price_version": event.price_version,
        "outcome": event.outcome,
    }


def _spent_row(event: UsageEvent) -> dict[str, Any]:
    """Write what was spent out of a lease, with the reservation that it was spent by."""
    known = event.source
    assert isinstance(known, Reservation)  # noqa: S101 -- a lease decides reservations
    source = _lost_row(known)
    row = _reported(event)
    if event.cost_nanousd > known.amounts[0] and "overrun" not in event.flags:
        row["flags"] = (*event.flags, "overrun")
    return row | {
        "id": known.id,
        "reservation_id": known.id,
        "tenant": source["tenant"],
        "user": source["user"],
        "labels": source["labels"],
        "tool": source["tool"],
        "decision": source["decision"],
        "counted_us": known.counted_us,
        "at_us": event.at_us,
        "source": source | {"state": "settled", "resolved_us": event.at_us, "counters": []},
    }


def _plan_row(plan: Plan) -> dict[str, Any]:
    """Write a plan for money that was spent already: its counters, and what denies."""
    return {
        "version": plan.version,
        "candidates": [
            {
                "tool": one.tool,
                "keys": [(*key[1:], end_us) for key, end_us in one.keys],
                "checks": [
                    (
                        check.slot,
                        check.measure + 1,
                        check.limit,
                        check.decision,
                        (check.policy_id, check.limit_type, check.scope),
                    )
                    for check in one.checks
                    if check.acts
                ],
            }
            for one in plan.candidates
        ],
    }


def _lost_row(known: Reservation) -> dict[str, Any]:
    """Write a reservation that the store may have lost, as its holder knows it."""
    extra, subject = known.extra, known.subject
    return {
        "id": known.id,
        "tenant": subject.tenant,
        "user": subject.user,
        "labels": dict(subject.labels),
        "requested_tool": known.requested_tool,
        "tool": known.final_tool,
        "model": known.model,
        "decision": known.decision,
        "counted_us": known.counted_us,
        "expires_us": known.expires_us,
        "cost": known.amounts[0],
        "tokens": known.amounts[1],
        "requests": known.amounts[2],
        "concurrent": known.amounts[3],
        "output_tokens": known.output_tokens,
        "need": known.need,
        "method": known._method,
        "key": None if extra is None else extra.key,
        "digest": None if extra is None else extra.digest,
        "judged": encode(known.to_dict()),
    }


# -- rows -----------------------------------------------------------------------------------


def reservation_of(row: Mapping[str, Any]) -> Reservation:
    """Make a reservation, with its events, its approval and what it was judged on."""
    reservation = Reservation.rebuild(
        uid=uuid_int(row["id"]),
        subject=_subject(row),
        tool=row["tool"],
        model=row["model"],
        requested_tool=row["requested_tool"],
        need=Need(*row["need"]),
        amounts=(row["cost"], row["tokens"], row["requests"], row["concurrent"]),
        output_tokens=row["output_tokens"],
        decision=row["decision"],
        state=row["state"],
        counted_us=row["counted_us"],
        expires_us=row["expires_us"],
        method=row["method"],
        view=None,
    )
    extra = reservation.extra = ReservationExtra(
        key=row["key"], digest=row["digest"], resolved_us=row["resolved_us"]
    )
    explain(reservation, row["candidates"], json.loads(row["judged"]))
    if row["event"] is not None:
        reservation.event = event_of(row["event"], reservation)
    if row["exact_event"] is not None:
        extra.exact = event_of(row["exact_event"], reservation)
    if row["approval"] is not None:
        extra.approval = _approval(row["approval"], reservation)
    return reservation


def _subject(row: Mapping[str, Any]) -> Subject:
    return Subject(row["tenant"], row["user"], tuple(sorted(row["labels"].items())))


def _approval(row: Mapping[str, Any], reservation: Reservation) -> Approval:
    return Approval(
        id=row["id"],
        tenant=row["tenant"],
        user=reservation.subject.user,
        tool=reservation.final_tool,
        amount=to_decimal(reservation.amounts[0]),
        state=row["state"],
        requested_at=from_us(row["requested_us"]),
        expires_at=from_us(row["expires_us"]),
        message=_asked(reservation),
        labels=reservation.subject.label_map,
        by=row["decided_by"],
        reason=row["reason"],
        decided_at=None if row["decided_us"] is None else from_us(row["decided_us"]),
        claim=row["claim"],
    )


def _asked(reservation: Reservation) -> str:
    """Say what was asked for, whatever has become of it."""
    decision = reservation.decision
    reservation.decision = "pending_approval"
    message = reservation.message
    reservation.decision = decision
    return message


def event_of(row: Mapping[str, Any], source: Reservation | None = None) -> UsageEvent:
    """Make an event, of a reservation that is at hand or of one that is only named."""
    held = row["reservation_id"]
    event = UsageEvent(
        event_key(row["id"]),
        source
        or Posting(
            subject=_subject(row),
            final_tool=row["tool"],
            model=row["model"],
            counted_us=row["counted_us"],
            decision=row["decision"],
            uid=None if held is None else uuid_int(held),
        ),
        row["model"],
        row["cost"],
        row["tokens"],
        row["requests"],
        None if row["usage"] is None else Usage.from_dict(row["usage"]),
        row["at_us"],
        tuple(row["flags"]),
        row["price_version"],
        row["outcome"],
        row["corrects"],
        row["note"],
    )
    event.seq = row["seq"]
    return event


def alert_of(row: Mapping[str, Any]) -> tuple[int, Alert]:
    """Make an alert, with its place in the order."""
    key = CounterKey(*(row[name] for name in CounterKey._fields))
    return row["seq"], Alert(
        key.tenant,
        row["policy_id"],
        key,
        row["share"],
        row["limit"],
        row["committed"],
        row["at_us"],
    )


def alert_row(alert: Alert) -> list[Any]:
    """Write an alert."""
    return [
        *alert.key,
        alert.policy_id,
        alert.share,
        alert.limit_units,
        alert.committed_units,
        alert.at_us,
    ]


# -- answers --------------------------------------------------------------------------------


class Watched(NamedTuple):
    """What the limits of a candidate say of its counters once more: shares may be crossed."""

    candidate: Candidate
    #: What is settled and reserved together, in the order of the candidate's keys; None if unknown.
    committed: Sequence[int | None]
    at_us: int

    def crossed(self) -> Iterator[Alert]:
        """List the shares that the balances are at or above."""
        for check in self.candidate.checks:
            if check.slot < 0 or not check.alert_at:
                continue
            committed = self.committed[check.slot]
            if committed is None:
                continue
            key = self.candidate.keys[check.slot][0]
            for amount, share in check.alert_at:
                if committed >= amount:
                    yield Alert(
                        key.tenant, check.policy_id, key, share, check.limit, committed, self.at_us
                    )


def read_answer(item: Item, answer: Sequence[Any], watched: list[Watched]) -> Any:
    """Turn the answer to an item into what a store returns.

    Args:
        item: What was asked.
        answer: What was answered, without the item's number.
        watched: Where shares of limits may have been crossed; added to.
    """
    return _ANSWERS[answer[0]](item, answer, watched)


def _decided(item: Ask, answer: Sequence[Any], watched: list[Watched]) -> Reservation:
    _, decision, numbers, note = answer
    reservation, plan = item.reservation, item.plan
    steps = tuple(step_of(plan.candidates[row[0]], row) for row in numbers)
    if note is not None:
        extra_of(reservation).note = refusals.too_many_pending(reservation.subject.tenant)
    fill(reservation, item, Verdict(decision, steps))
    step: Step = steps[-1]
    candidate = step.candidate
    committed = step.committed
    if decision == "denied":
        reservation.state = "refused"
    else:
        amounts = reservation.amounts
        committed = tuple(
            before + amounts[measure]
            for before, measure in zip(committed, candidate.counts, strict=True)
        )
        if decision == "pending_approval":
            reservation.expires_us = item.approval_expires_us
            extra_of(reservation).approval = Approval(
                id=reservation.id,
                tenant=reservation.subject.tenant,
                user=reservation.subject.user,
                tool=reservation.final_tool,
                amount=to_decimal(amounts[0]),
                state="pending",
                requested_at=from_us(reservation.counted_us),
                expires_at=from_us(reservation.expires_us),
                message=reservation.message,
                labels=reservation.subject.label_map,
            )
    watched.append(Watched(candidate, committed, reservation.counted_us))
    return reservation


def _done(item: Settle, answer: Sequence[Any], _: list[Watched]) -> UsageEvent:
    event = item.event
    event.key, event.seq = item.uid, answer[1]
    source = event.source
    if isinstance(source, Posting):
        source.decision, source.uid = answer[2], item.uid
    return event


def _over(item: Settle, answer: Sequence[Any], watched: list[Watched]) -> UsageEvent:
    _, seq, decision, overrun, balances, row = answer
    event = _done(item, ("done", seq, decision), watched)
    if overrun:
        event.flags = (*event.flags, "overrun")
    source = event.source
    reservation = source if isinstance(source, Reservation) else reservation_of(row)
    committed = {tuple(key): amount for *key, amount in balances or ()}
    candidate = reservation.candidate
    watched.append(
        Watched(candidate, [committed.get(key[1:]) for key, _ in candidate.keys], event.at_us)
    )
    return event


def _watch_plan(item: Any, tool: str, sums: Sequence[int | None] | None) -> Iterator[Watched]:
    if sums and item.plan is not None:
        candidate = plan_candidate(item.plan, tool) or item.plan.candidates[0]
        at_us = item.event.at_us if isinstance(item, (Settle, Record)) else item.at_us
        yield Watched(candidate, sums, at_us)


def _settled(item: Settle, answer: Sequence[Any], watched: list[Watched]) -> UsageEvent:
    reservation = reservation_of(answer[1])
    watched += _watch_plan(item, reservation.final_tool, answer[2])
    first, extra = reservation.event, reservation.extra
    assert first is not None  # noqa: S101 -- a settled reservation has its event
    if extra is not None and extra.exact is not None:
        return corrected(first, extra.exact)
    return first


def _event(item: Record | Adjust, answer: Sequence[Any], watched: list[Watched]) -> UsageEvent:
    event = event_of(answer[1])
    watched += _watch_plan(item, event.tool, answer[2])
    return event


def _approval_answer(
    item: Approve | Reject, answer: Sequence[Any], watched: list[Watched]
) -> Approval:
    reservation = reservation_of(answer[1])
    if isinstance(item, Approve):
        watched += _watch_plan(item, reservation.final_tool, answer[2])
    assert reservation.extra is not None  # noqa: S101 -- read with its approval
    approval = reservation.extra.approval
    assert approval is not None  # noqa: S101 -- the store found one
    return approval


def _lost(item: Settle, *_: Any) -> Unknown | NeedPlan:
    source = item.event.source
    if isinstance(source, Reservation):
        return NeedPlan(source)
    return Unknown("reservation", item.uid)


def _unknown(item: Any, answer: Sequence[Any], _: list[Watched]) -> Unknown:
    return Unknown(answer[1], item.event_key if isinstance(item, Adjust) else item.uid)


def _need_plan(item: Any, answer: Sequence[Any], _: list[Watched]) -> NeedPlan:
    if isinstance(item, Adjust):
        return NeedPlan(event_of(answer[1]).source)
    return NeedPlan(reservation_of(answer[1]))


def _pruned(item: Any, *_: Any) -> Conflict:
    return refusals.pruned("the id" if isinstance(item, Ask) else "at", "keep events longer")


_ANSWERS: dict[str, Callable[[Any, Sequence[Any], list[Watched]], Any]] = {
    "decided": _decided,
    "reservation": lambda _, answer, __: reservation_of(answer[1]),
    "key_used": lambda item, answer, _: refusals.key_used(
        item.reservation.extra.key if item.reservation.extra else None, answer[1]
    ),
    "pruned": _pruned,
    "stale": lambda _, answer, __: Stale((answer[1], answer[2])),
    "done": _done,
    "over": _over,
    "settled": _settled,
    "lost": _lost,
    "settled_otherwise": lambda _, answer, __: refusals.settled_otherwise(
        answer[1]["reservation_id"] or answer[1]["id"], to_decimal(answer[1]["cost"])
    ),
    "need_plan": _need_plan,
    "unknown": _unknown,
    "already_settled": lambda item, *_: refusals.already_settled(uuid_text(item.uid)),
    "not_reserved": lambda item, answer, _: refusals.not_reserved(uuid_text(item.uid), answer[1]),
    "event": _event,
    "id_used": lambda item, *_: refusals.id_used(
        item.event.id if isinstance(item, Record) else event_id(item.key)
    ),
    "id_of_reservation": lambda item, *_: refusals.id_of_reservation(
        item.event.id if isinstance(item, Record) else event_id(item.key)
    ),
    "approval": _approval_answer,
    "answered": lambda item, answer, _: refusals.answered(uuid_text(item.uid), answer[1]),
    "denied_still": lambda _, answer, __: refusals.denied_still(*answer[1]),
    "another_call": lambda item, *_: refusals.another_call(uuid_text(item.uid)),
}


def encode(value: object) -> str:
    """Write JSON."""
    return json.dumps(value, separators=(",", ":"))


__all__ = [
    "Batch",
    "Watched",
    "alert_of",
    "alert_row",
    "encode",
    "event_of",
    "read_answer",
    "reservation_of",
    "runs",
    "sorted_runs",
]
