"""What a call's life looks like from outside: decision, reservation, settlement, usage event.

Inside, amounts are integers (nano-USD) and times are microseconds; the properties here turn them
into `Decimal` and aware UTC when somebody looks.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from operator import sub
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from fluxai.core.errors import InvalidRequest
from fluxai.core.estimates import CostLine, Estimate, cost_line, fixed_line
from fluxai.core.ids import uuid_int, uuid_text
from fluxai.core.ledger import (
    BUDGET_LABEL,
    COST,
    MEASURES,
    MIN_OUTPUT_TOKENS,
    TOKENS,
    Amounts,
    Candidate,
    Check,
    Need,
    Step,
    Subject,
    Verdict,
    amounts_of,
    largest_output,
)
from fluxai.core.money import PER_MILLION, format_usd, to_decimal, to_nano
from fluxai.core.windows import MAX_US, from_us

if TYPE_CHECKING:
    from fluxai.core.usage import Usage

PENDING, RESERVED, SETTLED, RELEASED, EXPIRED = (
    "pending",
    "reserved",
    "settled",
    "released",
    "expired",
)
OPEN_STATES = (PENDING, RESERVED)


def measured(amount: int, measure: str) -> Decimal | int:
    """Show an amount in the unit of its measure: USD for `cost`, a count otherwise."""
    return to_decimal(amount) if measure == "cost" else amount


def _shown(amount: Decimal | int, measure: str) -> str:
    if measure == "cost":
        return format_usd(to_nano(amount, signed=True))
    return f"{amount:,} {measure.removesuffix('s') if amount == 1 else measure}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One policy's part in a decision, with the numbers it was judged on.

    `limit`, `settled`, `reserved` and `requested` are USD for the measure `cost`, counts otherwise.
    `acted` marks the policy that decided, `shrank` one that granted less output than was asked for;
    the others are reported. `repeats` says of a limit on one and the same call when it is counted.
    """

    policy_id: str
    scope: str
    scope_id: str | None
    limit_type: str
    measure: str
    decision: str
    mode: str
    limit: Decimal | int
    settled: Decimal | int
    reserved: Decimal | int
    requested: Decimal | int
    resets_at: datetime | None
    crossed: bool
    acted: bool
    tool: str
    shrank: bool = False
    repeats: str = ""

    @property
    def whose(self) -> str:
        """Whose limit it is: `tenant`, `user 'alice'`, `label 'run'`, `budget() block`."""
        if self.scope == "label" and (self.scope_id or "").startswith(BUDGET_LABEL):
            return "budget() block"
        return self.scope if self.scope_id is None else f"{self.scope} {self.scope_id!r}"

    def __str__(self) -> str:
        """Say it in one sentence."""
        if self.repeats:
            return self._repeated()
        if self.limit_type == "concurrent":
            return self._at_once()
        if self.limit_type == "per_request":
            sums = f"this call asks for {_shown(self.requested, self.measure)}"
        else:
            sums = (
                f"{_shown(self.settled, self.measure)} settled + "
                f"{_shown(self.reserved, self.measure)} reserved + "
                f"{_shown(self.requested, self.measure)} requested"
            )
        limit = _shown(self.limit, self.measure)
        verb = "would be crossed" if self.crossed else "holds"
        if self.shrank:
            verb = "has room for no more"
        return (
            f"the {self.limit_type} {self.measure} limit of {limit} for the {self.whose} "
            f"(policy {self.policy_id}) {verb}: {sums}{self._reset_words()}"
        )

    def _at_once(self) -> str:
        """Say how many calls may be open, and how many are."""
        verb = "would be crossed" if self.crossed else "holds"
        return (
            f"the limit of {self.limit:,} open call{'' if self.limit == 1 else 's'} at once for the "
            f"{self.whose} (policy {self.policy_id}) {verb}: {self.settled + self.reserved:,} open"
        )

    def _repeated(self) -> str:
        """Say how often the call was made; each takes as many requests as this one."""
        each = int(self.requested) or 1
        made, limit = int(self.settled + self.reserved) // each, int(self.limit) // each
        return (
            f"the same call was made {made:,} time{'' if made == 1 else 's'} {self.repeats}"
            f"{'; the agent may be in a loop' if self.crossed else ''} "
            f"(policy {self.policy_id} for the {self.whose} admits {limit:,}){self._reset_words()}"
        )

    def _reset_words(self) -> str:
        return f"; resets at {self.resets_at:%Y-%m-%d %H:%M:%S} UTC" if self.resets_at else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterOffer:
    """What would fit now.

    Attributes:
        max_output_tokens: The largest output cap with which the same call would be granted.
        models: Cheaper models, able to do the same, whose call would fit.
        resets_at: When the last of the limits that are in the way resets; None where one never does.
        approvers: Who could say yes, where a person can: not where a `deny` is in the way too.
    """

    max_output_tokens: int | None = None
    models: tuple[str, ...] = ()
    resets_at: datetime | None = None
    approvers: str | None = None

    def __str__(self) -> str:
        """Say it in one sentence, or nothing."""
        offers = []
        if self.max_output_tokens is not None:
            offers.append(f"max_output_tokens={self.max_output_tokens}")
        if self.models:
            offers.append("model " + " or ".join(self.models))
        if self.resets_at is not None:
            offers.append(f"waiting until {self.resets_at:%Y-%m-%d %H:%M:%S} UTC")
        if self.approvers is not None:
            offers.append(f"approval by {self.approvers}")
        return "What fits now: " + "; ".join(offers) if offers else ""


def _counts_calls(check: Check) -> bool:
    """Whether a limit acts on the number of calls: a shorter answer is one more all the same."""
    return check.acts and check.measure > TOKENS


def _all_reset_at(step: Step) -> datetime | None:
    """Say when the last of the limits that are in the way resets; None where one never does."""
    ends = [reason_of(step, check).resets_at for check in step.crossed if check.acts]
    found = [end for end in ends if end is not None]
    return max(found) if found and len(found) == len(ends) else None


def reason_of(step: Step, check: Check, *, shrank: bool = False) -> Reason:
    """Show one check of a judged step."""
    slot = check.slot
    settled = step.settled[slot] if slot >= 0 else 0
    committed = step.committed[slot] if slot >= 0 else 0
    requested = step.amounts[check.measure]
    measure = MEASURES[check.measure]
    return Reason(
        policy_id=check.policy_id,
        scope=check.scope,
        scope_id=check.scope_id,
        limit_type=check.limit_type,
        measure=measure,
        decision=check.decision,
        mode=check.mode,
        limit=measured(check.limit, measure),
        settled=measured(settled, measure),
        reserved=measured(committed - settled, measure),
        requested=measured(requested, measure),
        resets_at=from_us(check.end_us) if slot >= 0 and check.end_us < MAX_US else None,
        crossed=check in step.crossed,
        acted=check is step.acted,
        tool=step.candidate.tool,
        shrank=shrank,
        repeats=check.repeats,
    )


class Decision:
    """The answer to one request. A refusal is a value here.

    Attributes:
        uid: The id as an integer; `id` shows it as a UUIDv7 text.
        subject: Who spends.
        candidate: The tool that was granted, or the last one judged.
        need: What the request needs of that tool.
        amounts: What is held in each measure.
        output_tokens: Granted output tokens.
    """

    __slots__ = (
        "_balances",
        "_method",
        "_offers",
        "_view",
        "amounts",
        "candidate",
        "decision",
        "need",
        "output_tokens",
        "subject",
        "uid",
        "verdict",
    )

    uid: int
    subject: Subject
    candidate: Candidate
    need: Need
    amounts: Amounts
    output_tokens: int
    decision: str
    verdict: Verdict | None
    #: Committed, then reserved, of each counter, as 64-bit integers: taken apart when asked for.
    _balances: bytes | None
    _method: str
    #: Cheaper able models and the need of each, for the counter-offer of a refusal.
    _offers: tuple[tuple[str, Need], ...]
    _view: dict[str, Any] | None

    @property
    def id(self) -> str:
        """The id, a UUIDv7 in text form."""
        return uuid_text(self.uid)

    @property
    def allowed(self) -> bool:
        """Whether the call may run now."""
        return self.decision in ("allowed", "downgraded")

    @property
    def requested_tool(self) -> str:
        """The tool or model that was asked for."""
        return self.candidate.requested_tool

    @property
    def final_tool(self) -> str:
        """The tool or model to use."""
        return self.candidate.tool

    @property
    def model(self) -> str | None:
        """The model to send, None for a tool that is no model."""
        return self.candidate.model

    @property
    def max_output_tokens(self) -> int | None:
        """The output cap to send; None where nothing is generated."""
        return self.output_tokens if self.need.output_max else None

    @property
    def shrunk(self) -> bool:
        """Whether `max_output_tokens` is less than the caller's own cap; `reasons` say why."""
        return self.need.cap is not None and self.output_tokens < self.need.cap

    @property
    def stop_stream(self) -> bool:
        """Whether a policy wants a stream of this call stopped once its reservation is used up."""
        if self._view is not None:
            # What was written before there was such a policy says nothing of it.
            return bool(self._view.get("stop_stream", False))
        return self.candidate.stop_stream

    @property
    def estimate(self) -> Estimate:
        """Expected and highest cost, and how they were found."""
        if self._view is not None:
            return _estimate_from(self._view["estimate"])
        method, _, confidence = self._method.partition("-")
        return Estimate(
            expected=to_decimal(self.expected_nanousd),
            highest=to_decimal(self.amounts[COST]),
            input_tokens=self.need.expected_input_tokens,
            method=method,
            confidence=confidence or "high",
            lines=tuple(self._lines(method)),
        )

    def _lines(self, method: str) -> Iterator[CostLine]:
        """Yield what the highest cost is made of; nothing where the prices are gone."""
        need, rates = self.need, self.candidate.rates
        if method == "units":
            units = need.input_tokens or need.requests
            yield cost_line("units", units, need.fixed // units, "own", "exact")
        elif rates is not None:
            fee = rates.request_fee * PER_MILLION
            tokens = need.input_tokens
            if tokens:
                yield cost_line(
                    "input", tokens, (need.fixed - fee) // tokens, rates.version, method
                )
            if need.output_max:
                found = "cap" if need.cap == self.output_tokens else "granted"
                tokens = self.output_tokens
                yield cost_line("output", tokens, need.per_output, rates.version, found)
            if fee:
                yield fixed_line("request", rates.request_fee, rates.version)

    @property
    def expected_nanousd(self) -> int:
        """Expected cost: the likely input, and the granted output."""
        need = self.need
        if need.expected_fixed == 0:
            return self.amounts[COST]
        return min(
            self.amounts[COST],
            amounts_of(need._replace(fixed=need.expected_fixed), self.output_tokens)[COST],
        )

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every candidate that was judged, with the balances it was judged on."""
        if self.verdict is not None:
            return self.verdict.steps
        balances = array("q", self._balances or b"")
        half = len(balances) // 2
        return (
            Step(
                self.candidate,
                self.amounts,
                self.output_tokens,
                tuple(balances[:half]),
                tuple(map(sub, balances[:half], balances[half:])),
                (),
                None,
            ),
        )

    @property
    def remaining(self) -> Decimal | None:
        """What is left, after this call, in the tightest cost budget; None without one."""
        if self._view is not None:
            left = self._view["remaining"]
            return None if left is None else Decimal(left)
        step = self.steps[-1]
        held = step.amounts[COST] if self.decision != "denied" else 0
        rooms = [
            check.limit - step.committed[check.slot] - held
            for check in self.candidate.checks
            if check.measure == COST and check.slot >= 0 and check.acts
        ]
        return to_decimal(max(0, min(rooms))) if rooms else None

    @property
    def reasons(self) -> tuple[Reason, ...]:
        """The crossed policies, those that decided first, and those that granted less output.

        Empty when all was granted that was asked for, and nothing was crossed.
        """
        if self._view is not None:
            return tuple(_reason_from(row) for row in self._view["reasons"])
        if self.verdict is None:
            return ()
        found = [reason_of(step, check) for step in self.verdict.steps for check in step.crossed]
        last = self.verdict.last
        found += [reason_of(last, check, shrank=True) for check in last.shrunk_by(self.need)]
        return tuple(sorted(found, key=lambda reason: (not reason.acted, not reason.shrank)))

    @property
    def looked_at(self) -> tuple[Reason, ...]:
        """Every policy that was looked at, in the order in which they act, with its numbers."""
        if self._view is not None:
            return tuple(_reason_from(row) for row in self._view["looked_at"])
        steps = self.steps
        shrunk_by = steps[-1].shrunk_by(self.need)
        return tuple(
            reason_of(step, check, shrank=step is steps[-1] and check in shrunk_by)
            for step in steps
            for check in step.candidate.checks
        )

    @property
    def counter_offer(self) -> CounterOffer | None:
        """What would fit now; None unless the call was refused."""
        if self._view is not None:
            row = self._view["counter_offer"]
            return None if row is None else _offer_from(row)
        if self.decision != "denied" or self.verdict is None:
            return None
        step = self.verdict.last
        fits = largest_output(step.candidate.checks, self.need, step.committed)
        if any(_counts_calls(check) for check in step.crossed):
            fits = 0
        asks = any(check.decision == "require_approval" for check in step.crossed)
        denies = any(check.denies for check in step.crossed)
        return CounterOffer(
            max_output_tokens=fits if 0 < fits < step.output_tokens else None,
            models=self._fitting_models(step),
            resets_at=_all_reset_at(step),
            approvers=(
                f"an admin of tenant {self.subject.tenant!r}" if asks and not denies else None
            ),
        )

    def _fitting_models(self, step: Step) -> tuple[str, ...]:
        """Name the offered models under which every limit that was crossed would hold.

        Against a loop another model is no remedy, nor where calls are counted whatever they cost.
        """
        if any(_counts_calls(check) and check.scope != "tool" for check in step.crossed):
            return ()
        if any(check.repeats and check.acts for check in step.crossed):
            return ()
        acting = [check for check in step.candidate.checks if check.acts and check.scope != "tool"]
        return tuple(
            model
            for model, need in self._offers
            if largest_output(acting, need, step.committed)
            >= (need.cap if need.cap is not None else min(MIN_OUTPUT_TOKENS, need.output_max))
        )

    @property
    def message(self) -> str:
        """The decision in words a person can act on."""
        if self._view is not None:
            return str(self._view["message"])
        if self.decision == "allowed":
            held = format_usd(self.amounts[COST])
            return f"Allowed: {self.final_tool}, holding at most {held}.{self._shrunk_words()}"
        why = "; ".join(str(reason) for reason in self.reasons if reason.acted)
        if self.decision == "downgraded":
            return (
                f"Downgraded from {self.requested_tool} to {self.final_tool}: "
                f"{why}.{self._shrunk_words()}"
            )
        if self.decision == "pending_approval":
            return (
                f"Waiting for approval of {format_usd(self.amounts[COST])} on {self.final_tool}: "
                f"{why}.{self._shrunk_words()}"
                + (f" Approve with id {self.approval_id}." if self.approval_id else "")
            )
        offer = str(self.counter_offer or "")
        note = self._note()
        if note:
            return f"Denied {self.requested_tool}: {note}."
        why += self._unforgiven_words()
        return f"Denied {self.requested_tool}: {why}." + (f" {offer}." if offer else "")

    def _unforgiven_words(self) -> str:
        """Name the `deny` for which a policy that acts first can't ask; nothing where none is."""
        step = None if self.verdict is None else self.verdict.last
        if step is None or step.acted is None or step.acted.decision != "require_approval":
            return ""
        denies = next((check for check in step.crossed if check.denies), None)
        return f"; no approval helps, since {reason_of(step, denies)}" if denies else ""

    def _shrunk_words(self) -> str:
        """Say that less output was granted than was asked for, and why; nothing where it wasn't."""
        if not self.shrunk:
            return ""
        why = "; ".join(str(reason) for reason in self.reasons if reason.shrank)
        return f" Asked for {self.need.cap:,} output tokens, granted {self.output_tokens:,}" + (
            f": {why}." if why else "."
        )

    def _note(self) -> str | None:
        return None

    @property
    def approval_id(self) -> str | None:
        """A mere look asks nobody."""
        return None

    @property
    def expires_at(self) -> datetime | None:
        """A mere look holds nothing, so it has no end."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """Everything a person or another program wants to see, JSON-ready."""
        offer = self.counter_offer
        estimate = self.estimate
        return {
            "id": self.id,
            "decision": self.decision,
            "allowed": self.allowed,
            "tenant": self.subject.tenant,
            "user": self.subject.user,
            "labels": dict(self.subject.labels),
            "requested_tool": self.requested_tool,
            "final_tool": self.final_tool,
            "model": self.model,
            "estimate": {
                "expected": str(estimate.expected),
                "highest": str(estimate.highest),
                "input_tokens": estimate.input_tokens,
                "method": estimate.method,
                "confidence": estimate.confidence,
                "lines": [line.to_dict() for line in estimate.lines],
            },
            "max_output_tokens": self.max_output_tokens,
            "stop_stream": self.stop_stream,
            "remaining": None if self.remaining is None else str(self.remaining),
            "message": self.message,
            "reasons": [_reason_row(reason) for reason in self.reasons],
            "looked_at": [_reason_row(reason) for reason in self.looked_at],
            "counter_offer": None if offer is None else _offer_row(offer),
            "approval_id": self.approval_id,
            "expires_at": None if self.expires_at is None else self.expires_at.isoformat(),
        }

    def to_json(self) -> str:
        """Write the decision as JSON text; `from_json` reads it in another process."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote: everything it shows, without the means to decide again.

        Raises:
            InvalidRequest: The text is not a decision.
        """
        with _reading(cls.__name__):
            row = json.loads(text)
            seen = row["estimate"]
            output_tokens = row["max_output_tokens"]
            self = cls()
            self.uid = uuid_int(row["id"])
            self.subject = Subject(row["tenant"], row["user"], tuple(sorted(row["labels"].items())))
            self.need = Need(
                0, 0, seen["input_tokens"], seen["input_tokens"], output_tokens, output_tokens or 0
            )
            self.candidate = _bare_candidate(
                row["final_tool"], row["model"], row["requested_tool"], self.need.output_max
            )
            self.amounts = (to_nano(seen["highest"]), 0, 0, 0)
            self.output_tokens = output_tokens or 0
            self.decision = row["decision"]
            self.verdict = None
            self._balances = None
            self._method = _method_of(seen)
            self._offers = ()
            self._view = row
        return self

    def __repr__(self) -> str:
        """Show id, decision and tool."""
        return f"<{type(self).__name__} {self.id} {self.decision} {self.final_tool}>"


class Reservation(Decision):
    """A decision that holds money, from reserve to its one resolution.

    Attributes:
        state: `pending`, `reserved`, `settled`, `released`, `expired`; a refusal has `refused`.
        counted_us: The time of the reserve; it alone picks the windows.
        expires_us: From then on, expiry may take it.
        holds: Where the store holds it (the store's own business).
        extra: What only some reservations carry: idempotency key, approval, first outcome.
    """

    __slots__ = ("counted_us", "event", "expires_us", "extra", "holds", "state", "trace")

    counted_us: int
    expires_us: int
    state: str
    holds: Any
    extra: ReservationExtra | None
    event: UsageEvent | None
    #: What its settlement teaches about the next estimate. In this process only, and only once.
    trace: tuple[str, Any] | None

    @property
    def approval_id(self) -> str | None:
        """The id of the approval that is asked for."""
        return self.id if self.decision == "pending_approval" else None

    @property
    def expires_at(self) -> datetime | None:
        """When expiry may take it, aware UTC; None for a refusal."""
        return None if self.state == "refused" else from_us(self.expires_us)

    def _note(self) -> str | None:
        return None if self.extra is None else self.extra.note

    @property
    def routing(self) -> Routing | None:
        """How hard the prompt is, where a downgrade depends on that; known where it was reserved."""
        return None if self.extra is None else self.extra.routing

    @property
    def counted_at(self) -> datetime:
        """The time of the reserve, aware UTC."""
        return from_us(self.counted_us)

    def to_dict(self) -> dict[str, Any]:
        """Everything that another process needs to settle it."""
        row = super().to_dict()
        extra = self.extra
        row["state"] = self.state
        row["hold"] = {
            "amounts": list(self.amounts[:3]),
            "need": list(self.need),
            "output_tokens": self.output_tokens,
            "counted_us": self.counted_us,
            "expires_us": self.expires_us,
            "key": extra.key if extra is not None else None,
            "digest": extra.digest if extra is not None else None,
        }
        return row

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            InvalidRequest: The text is not a reservation.
        """
        with _reading("Reservation"):
            row = json.loads(text)
            hold = row["hold"]
            self = cls.rebuild(
                uid=uuid_int(row["id"]),
                subject=Subject(row["tenant"], row["user"], tuple(sorted(row["labels"].items()))),
                tool=row["final_tool"],
                model=row["model"],
                requested_tool=row["requested_tool"],
                need=Need(*hold["need"]),
                amounts=(*hold["amounts"], 1),
                output_tokens=hold["output_tokens"],
                decision=row["decision"],
                state=row["state"],
                counted_us=hold["counted_us"],
                expires_us=hold["expires_us"],
                method=_method_of(row["estimate"]),
                view=row,
            )
        if hold["key"] is not None or hold["digest"] is not None:
            self.extra = ReservationExtra(key=hold["key"], digest=hold["digest"])
        return self

    @classmethod
    def rebuild(
        cls,
        *,
        uid: int,
        subject: Subject,
        tool: str,
        model: str | None,
        requested_tool: str,
        need: Need,
        amounts: Amounts,
        output_tokens: int,
        decision: str,
        state: str,
        counted_us: int,
        expires_us: int,
        method: str,
        view: dict[str, Any] | None,
    ) -> Self:
        """Make a reservation again from stored parts; its prices and checks are gone by then."""
        self = cls()
        self.uid = uid
        self.subject = subject
        self.candidate = _bare_candidate(tool, model, requested_tool, need.output_max)
        self.need = need
        self.amounts = amounts
        self.output_tokens = output_tokens
        self.decision = decision
        self.verdict = None
        self._balances = None
        self._method = method
        self._offers = ()
        self._view = view
        self.counted_us = counted_us
        self.expires_us = expires_us
        self.state = state
        self.holds = None
        self.extra = None
        self.event = None
        self.trace = None
        return self


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Name what a text should have been, whichever way it is not."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequest("text", f"is no {what} written by to_json(): {error!r}") from error


def _bare_candidate(
    tool: str, model: str | None, requested_tool: str, max_output: int
) -> Candidate:
    """Stand for a tool whose prices and checks are gone."""
    return Candidate(
        index=0,
        tool=tool,
        model=model,
        requested_tool=requested_tool,
        rates=None,
        unit_rate=None,
        max_output=max_output,
    )


@dataclass(slots=True)
class ReservationExtra:
    """What only some reservations carry."""

    key: str | None = None
    digest: str | None = None
    approval: Approval | None = None
    #: The event that corrected an estimated settlement, once the exact cost came.
    exact: UsageEvent | None = None
    #: When it was resolved; its key is remembered for a day from then on.
    resolved_us: int | None = None
    #: Why it was refused, where no policy's numbers say so.
    note: str | None = None
    #: How hard its prompt is, where a downgrade depends on that. Known where it was reserved.
    routing: Routing | None = None


class Routing(NamedTuple):
    """What a call's prompt was found to be, for downgrades that a certificate allows.

    Attributes:
        score: How hard it is, as `PromptAnalysis.gain`, rounded as certificates are.
        asked: The tool that was asked for.
        covered: Policies whose certificate covers it.
        reason: Sentences that say why.
    """

    score: float
    asked: str
    covered: tuple[str, ...]
    reason: str


@dataclass(slots=True, kw_only=True)
class Approval:
    """A human's answer to `require_approval`. The reservation stays held meanwhile.

    Attributes:
        id: The reservation's id.
        state: `pending`, `approved`, `rejected`, `used` or `expired`.
        expires_at: Until when an answer, and the run that follows it, are accepted.
        by: Who decided.
    """

    id: str
    tenant: str
    user: str | None
    tool: str
    amount: Decimal
    state: str
    requested_at: datetime
    expires_at: datetime
    message: str
    labels: dict[str, str]
    by: str | None = None
    reason: str | None = None
    decided_at: datetime | None = None
    #: Who runs it: the id of the one reserve call that took the approval.
    claim: str | None = None


class Posting:
    """Where an event without a reservation comes from: who spent, on what, counted when."""

    __slots__ = ("counted_us", "decision", "final_tool", "model", "subject", "uid")

    def __init__(
        self,
        *,
        subject: Subject,
        final_tool: str,
        model: str | None,
        counted_us: int,
        decision: str = "allowed",
        uid: int | None = None,
    ) -> None:
        self.subject = subject
        self.final_tool = final_tool
        self.model = model
        self.counted_us = counted_us
        self.decision = decision
        #: The reservation it belongs to, None for `record`.
        self.uid = uid


class UsageEvent:
    """One settled call, or a signed correction of one: append-only, the truth.

    `settle` and `record` return it as the settlement.

    Attributes:
        key: Unique per tenant: the reservation's integer id, or the text given to `record`.
        source: The reservation or posting it belongs to.
        model: The model that answered, None for a tool that is no model.
        cost_nanousd: Integer nano-USD; negative in corrections.
        tokens, requests: What it adds to those measures.
        usage: Token counts by kind, None where only a cost was given.
        at_us: When it was settled; `counted_at` picks the windows.
        flags: For example `overrun`, `late`, `estimated`.
        outcome: What the caller settled with; repeats are compared by it.
        corrects: The id of the event that this one corrects.
    """

    __slots__ = (
        "at_us",
        "corrects",
        "cost_nanousd",
        "flags",
        "key",
        "model",
        "note",
        "outcome",
        "price_version",
        "requests",
        "seq",
        "source",
        "tokens",
        "usage",
    )

    def __init__(
        self,
        key: int | str,
        source: Reservation | Posting,
        model: str | None,
        cost_nanousd: int,
        tokens: int,
        requests: int,
        usage: Usage | None,
        at_us: int,
        flags: tuple[str, ...],
        price_version: str | None,
        outcome: object,
        corrects: str | None = None,
        note: str | None = None,
    ) -> None:
        self.key = key
        self.source = source
        self.model = model
        self.cost_nanousd = cost_nanousd
        self.tokens = tokens
        self.requests = requests
        self.usage = usage
        self.at_us = at_us
        self.flags = flags
        self.price_version = price_version
        self.outcome = outcome
        self.corrects = corrects
        self.note = note
        self.seq = 0

    @property
    def id(self) -> str:
        """The event's id as text."""
        return self.key if isinstance(self.key, str) else uuid_text(self.key)

    @property
    def event_id(self) -> str:
        """The event's id, as a settlement calls it."""
        return self.id

    @property
    def reservation_id(self) -> str | None:
        """The reservation it settles; None for money that was recorded directly."""
        return None if self.source.uid is None else uuid_text(self.source.uid)

    @property
    def at(self) -> datetime:
        """When it was settled, aware UTC."""
        return from_us(self.at_us)

    @property
    def counted_at(self) -> datetime:
        """Which instant picks its windows, aware UTC."""
        return from_us(self.source.counted_us)

    @property
    def tenant(self) -> str:
        """The tenant that spent."""
        return self.source.subject.tenant

    @property
    def user(self) -> str | None:
        """The user that spent."""
        return self.source.subject.user

    @property
    def labels(self) -> dict[str, str]:
        """The labels of the call."""
        return dict(self.source.subject.labels)

    @property
    def tool(self) -> str:
        """The tool or model that ran."""
        return self.source.final_tool

    @property
    def decision(self) -> str:
        """The decision that let it run."""
        return self.source.decision

    @property
    def cost(self) -> Decimal:
        """USD."""
        return to_decimal(self.cost_nanousd)

    @property
    def overrun(self) -> bool:
        """More was settled than had been reserved."""
        return "overrun" in self.flags

    @property
    def late(self) -> bool:
        """It was settled after its reservation had ended."""
        return "late" in self.flags

    @property
    def estimated(self) -> bool:
        """The provider's own numbers were not to be had."""
        return "estimated" in self.flags

    @property
    def priced(self) -> bool:
        """Whether a price was known."""
        return _UNPRICED.isdisjoint(self.flags)

    def to_dict(self) -> dict[str, Any]:
        """The event, JSON-ready."""
        return {
            "id": self.id,
            "seq": self.seq,
            "reservation_id": self.reservation_id,
            "at": self.at.isoformat(),
            "counted_at": self.counted_at.isoformat(),
            "tenant": self.tenant,
            "user": self.user,
            "labels": self.labels,
            "tool": self.tool,
            "model": self.model,
            "usage": None if self.usage is None else self.usage.to_dict(),
            "tokens": self.tokens,
            "requests": self.requests,
            "cost": str(self.cost),
            "decision": self.decision,
            "flags": list(self.flags),
            "price_version": self.price_version,
            "corrects": self.corrects,
            "note": self.note,
        }

    def __eq__(self, other: object) -> bool:
        """Say whether both tell the same event, each perhaps read on its own."""
        if not isinstance(other, UsageEvent):
            return NotImplemented
        return self is other or self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        """Hash by tenant and id, which together name an event."""
        return hash((self.tenant, self.id))

    def __repr__(self) -> str:
        """Show id, cost and tool."""
        return f"<UsageEvent {self.id} {format_usd(self.cost_nanousd)} {self.tool}>"


#: Flags of calls whose model had no price; see `fluxai.costs.unpriced`.
_UNPRICED = frozenset({"unpriced", "unpriced_ceiling", "unpriced_assumed"})

#: What `settle` returns: the usage event that it recorded.
Settlement = UsageEvent


def corrected(first: UsageEvent, exact: UsageEvent) -> Settlement:
    """Show an estimated settlement together with the event that corrected it."""
    whole = UsageEvent(
        first.key,
        first.source,
        exact.model,
        first.cost_nanousd + exact.cost_nanousd,
        first.tokens + exact.tokens,
        first.requests + exact.requests,
        exact.usage,
        exact.at_us,
        tuple(flag for flag in exact.flags if flag != "correction"),
        exact.price_version,
        exact.outcome,
    )
    whole.seq = first.seq
    return whole


def _method_of(seen: dict[str, Any]) -> str:
    """Return how an estimate was found, and how sure it is, in the one text that is kept of it."""
    sure = seen["confidence"]
    return seen["method"] if sure == "high" else f"{seen['method']}-{sure}"


def _estimate_from(row: dict[str, Any]) -> Estimate:
    return Estimate(
        expected=Decimal(row["expected"]),
        highest=Decimal(row["highest"]),
        input_tokens=row["input_tokens"],
        method=row["method"],
        confidence=row["confidence"],
        # Those written before there were lines have none.
        lines=tuple(CostLine.from_dict(line) for line in row.get("lines", ())),
    )


def _reason_row(reason: Reason) -> dict[str, Any]:
    row = {name: getattr(reason, name) for name in Reason.__slots__}
    for name in ("limit", "settled", "reserved", "requested"):
        row[name] = str(row[name]) if reason.measure == "cost" else row[name]
    row["resets_at"] = None if reason.resets_at is None else reason.resets_at.isoformat()
    return row


def _reason_from(row: dict[str, Any]) -> Reason:
    values = dict(row)
    for name in ("limit", "settled", "reserved", "requested"):
        values[name] = Decimal(row[name]) if row["measure"] == "cost" else row[name]
    values["resets_at"] = _time_from(row["resets_at"])
    return Reason(**values)


def _offer_row(offer: CounterOffer) -> dict[str, Any]:
    return {
        "max_output_tokens": offer.max_output_tokens,
        "models": list(offer.models),
        "resets_at": None if offer.resets_at is None else offer.resets_at.isoformat(),
        "approvers": offer.approvers,
    }


def _offer_from(row: dict[str, Any]) -> CounterOffer:
    return CounterOffer(
        max_output_tokens=row["max_output_tokens"],
        models=tuple(row["models"]),
        resets_at=_time_from(row["resets_at"]),
        approvers=row["approvers"],
    )


def _time_from(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
