"""Past calls into the ledger: priced, and recorded many at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fluxai.arguments import event_key
from fluxai.cli.past_calls import PastCall, Unreadable, past_call, storable
from fluxai.core.decisions import Posting, UsageEvent
from fluxai.core.errors import StorageError, UnknownModel
from fluxai.core.money import MAX_NANOUSD, to_decimal
from fluxai.core.windows import from_us, to_us
from fluxai.costs.bodies import ERROR, NO_USAGE, TOKEN_COUNT
from fluxai.costs.reading import read
from fluxai.storage.base import Conflict, Record, Stale

if TYPE_CHECKING:
    from fluxai.core.ledger import Subject
    from fluxai.costs import Cost, CostEstimator
    from fluxai.governor import Governor

#: One transaction of the store for so many calls.
BATCH: Final = 256
_TRIES_MAX: Final = 5
_LINES_SHOWN: Final = 5
_FUTURE_ALLOWED_US: Final = 5_000_000
_FAILED_FROM: Final = 400
UNDATED: Final = "undated"


@dataclass(slots=True)
class Group:
    """What was spent on one model of one provider. `cost_nanousd` is in nano-USD."""

    calls: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost_nanousd: int = 0

    def add(self, cost: Cost) -> None:
        """Count one call."""
        self.calls += 1
        self.input_tokens += cost.usage.input_total
        self.cached_tokens += cost.usage.cache_read
        self.output_tokens += cost.usage.output_total
        self.cost_nanousd += cost.nanousd

    @classmethod
    def sum(cls, groups: Iterable[Group]) -> Group:
        """Put groups together."""
        total = cls()
        for group in groups:
            total.calls += group.calls
            total.input_tokens += group.input_tokens
            total.cached_tokens += group.cached_tokens
            total.output_tokens += group.output_tokens
            total.cost_nanousd += group.cost_nanousd
        return total


@dataclass(slots=True)
class Skipped:
    """Lines that were left out for one reason, and details of the first few."""

    count: int = 0
    lines: list[int] = field(default_factory=list)
    details: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Report:
    """What an import found and did.

    Attributes:
        lines: Lines read, blank ones not counted.
        added: Calls that are new in the ledger.
        known: Calls that it held already.
        groups: Spend by (provider, model) of both.
        skipped: What was left out, by reason.
        flags: How many of the calls carry each flag.
        first, last: The time that the calls span.
    """

    lines: int = 0
    added: int = 0
    known: int = 0
    groups: dict[tuple[str, str], Group] = field(default_factory=dict)
    skipped: dict[str, Skipped] = field(default_factory=dict)
    flags: Counter[str] = field(default_factory=Counter)
    first: datetime | None = None
    last: datetime | None = None

    @property
    def total(self) -> Group:
        """All that was spent."""
        return Group.sum(self.groups.values())

    @property
    def left_out(self) -> int:
        """How many lines have no price."""
        return sum(skipped.count for skipped in self.skipped.values())

    def skip(self, line: int, reason: str, detail: str) -> None:
        """Count a line that was left out."""
        skipped = self.skipped.setdefault(reason, Skipped())
        skipped.count += 1
        if len(skipped.lines) < _LINES_SHOWN:
            skipped.lines.append(line)
        if detail:
            skipped.details[detail] += 1

    def add(self, cost: Cost, event: UsageEvent) -> None:
        """Count a call."""
        place = (cost.provider or "unknown", cost.model or "unknown")
        self.groups.setdefault(place, Group()).add(cost)
        self.flags.update(event.flags)
        at = event.counted_at
        if UNDATED not in event.flags:
            self.first = at if self.first is None else min(self.first, at)
            self.last = at if self.last is None else max(self.last, at)


class _Priced(NamedTuple):
    line: int
    cost: Cost
    event: UsageEvent


def import_lines(
    governor: Governor,
    lines: Iterable[tuple[int, bytes | None]],
    subject: Subject,
    *,
    undated: datetime | None = None,
    dry_run: bool = False,
    counted: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Record the calls that lines tell of as events at their own times, each once.

    Args:
        governor: On the ledger that they belong to.
        lines: Numbers and contents, as `Lines` gives them.
        subject: Who spent it.
        undated: When the calls that have no time of their own were made; by default now.
        dry_run: Price only, and record nothing.
        counted: Told the report so far, after each batch.

    Raises:
        StorageError: The store failed. What was recorded stays, and another run goes on from there.
    """
    report = Report()
    undated_us = None if undated is None else to_us(undated, "undated")
    for batch in _batches(_priced(governor, lines, subject, undated_us, report)):
        if dry_run:
            for priced in batch:
                report.add(priced.cost, priced.event)
        else:
            _record(governor, batch, report)
        counted(report)
    return report


def _batches(found: Iterable[_Priced]) -> Iterator[list[_Priced]]:
    batch: list[_Priced] = []
    for priced in found:
        batch.append(priced)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _priced(
    governor: Governor,
    lines: Iterable[tuple[int, bytes | None]],
    subject: Subject,
    undated_us: int | None,
    report: Report,
) -> Iterator[_Priced]:
    start_us = governor.clock.now_us()
    estimator = governor.estimator_of(subject.tenant)
    canonical = governor.planner.catalog_of(subject.tenant).canonical
    for number, line in lines:
        if line is not None and not line.strip():
            continue
        report.lines += 1
        if line is None:
            report.skip(number, "too_long", "")
            continue
        try:
            call = past_call(line)
            cost, body = _cost(estimator, call)
            # A microsecond apart, so that an answer shows whether it is this line's own event.
            now_us = start_us + report.lines
            event = _event(call, cost, body, subject, canonical, undated_us, now_us)
        except Unreadable as fault:
            report.skip(number, fault.reason, str(fault))
            continue
        yield _Priced(number, cost, event)


def _cost(estimator: CostEstimator, call: PastCall) -> tuple[Cost, Any]:
    """Price a call by the first of its bodies that states a usage. Returns that body too."""
    if call.status is not None and call.status >= _FAILED_FROM:
        raise Unreadable("error_status", f"status {call.status}")
    for body in call.bodies:
        try:
            cost = estimator.cost(body, provider=call.provider, model=call.model, at=call.at)
        except UnknownModel as error:
            if call.model is None:
                raise Unreadable("no_model", _named(call)) from error
            raise Unreadable("unknown_model", _named(call)) from error
        if ERROR in cost.flags:
            raise Unreadable("error_status", "an error without a status")
        if TOKEN_COUNT in cost.flags:
            raise Unreadable("token_count", "")
        if NO_USAGE not in cost.flags:
            return cost, body
    raise Unreadable("no_usage", _named(call))


def _named(call: PastCall) -> str:
    """Name what was called, as far as the line says it."""
    return "/".join(name for name in (call.provider, call.model) if name)


def _event(
    call: PastCall,
    cost: Cost,
    body: Any,
    subject: Subject,
    canonical: Callable[[str], str],
    undated_us: int | None,
    now_us: int,
) -> UsageEvent:
    at_us = to_us(call.at, "at") if call.at is not None else read(body, call.provider).at_us
    if at_us is not None and at_us > now_us + _FUTURE_ALLOWED_US:
        raise Unreadable("future", f"{from_us(at_us):%Y-%m-%d}")
    # Where a provider states the cost, the money is known even if the model is not.
    model = cost.model or call.model or (call.provider if cost.nanousd else None)
    if model is None:
        raise Unreadable("no_model", _named(call))
    if not storable(model) or cost.nanousd > MAX_NANOUSD:
        raise Unreadable("absurd", f"{model!r:.60} for {to_decimal(cost.nanousd)} USD")
    return UsageEvent(
        event_key(call.id),
        Posting(
            subject=subject,
            final_tool=canonical(model),
            model=model,
            counted_us=next(at for at in (at_us, undated_us, now_us) if at is not None),
        ),
        model,
        cost.nanousd,
        cost.usage.total,
        1,
        cost.usage,
        now_us,
        cost.flags if at_us is not None else (*cost.flags, UNDATED),
        cost.price_version,
        # A repeat is the same content for the same subject, however prices or parsers have changed.
        ("backfill", call.digest, subject.user, [list(pair) for pair in subject.labels]),
    )


def _record(governor: Governor, batch: list[_Priced], report: Report) -> None:
    """Record a batch in one transaction; again for what the rules' change left over."""
    waiting = batch
    for _ in range(_TRIES_MAX):
        items = [
            Record(event=priced.event, plan=governor.planner.post_plan(priced.event.source))
            for priced in waiting
        ]
        stale = []
        for priced, answer in zip(waiting, governor.storage.resolve(items), strict=True):
            if isinstance(answer, Stale):
                stale.append(priced)
            elif isinstance(answer, Conflict):
                report.skip(priced.line, "conflict", answer.message)
            else:
                ours = answer.at_us == priced.event.at_us
                report.added += ours
                report.known += not ours
                report.add(priced.cost, answer)
        if not stale:
            return
        governor.planner.forget(stale[0].event.tenant)
        waiting = stale
    raise StorageError("the rules kept changing while calls were recorded; run the same again")
