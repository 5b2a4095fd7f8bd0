"""What a stored reservation was judged by and on, so that any process can explain it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fluxai.core.ledger import (
    CALL_LABEL,
    Candidate,
    Check,
    CounterKey,
    Plan,
    Step,
    Subject,
    Verdict,
)
from fluxai.storage.sqlite_rows import Row, encode

if TYPE_CHECKING:
    from fluxai.core.decisions import Reservation


class WrittenPlan:
    """Candidates as text, made once per plan, since every reservation that it decides needs it.

    What changes from window to window is left out, so that a plan's text stays the same for long;
    and so is what names a single call, which the reservation's labels have.
    """

    __slots__ = ("digest", "text")

    def __init__(self, candidates: Iterable[Candidate]) -> None:
        self.text = encode([_candidate_row(candidate) for candidate in candidates])
        self.digest = hashlib.blake2b(self.text.encode(), digest_size=16).digest()


def plan_text(reservation: Reservation, plan: Plan | None) -> WrittenPlan | None:
    """Return the text of what a reservation was judged by, None where that isn't known.

    Args:
        reservation: New to the store.
        plan: What decided it just now, None where that was long ago.
    """
    if reservation.verdict is None:
        return None
    if plan is None:
        return WrittenPlan(step.candidate for step in reservation.verdict.steps)
    bound = plan.bound
    if not isinstance(bound, WrittenPlan):
        bound = plan.bound = WrittenPlan(plan.candidates)
    return bound


def judged_text(reservation: Reservation, plan: Plan | None) -> str:
    """Write the numbers that a reservation was judged on, beside `plan_text`."""
    verdict = reservation.verdict
    if verdict is None:
        return encode(reservation.to_dict())
    return encode(
        [
            (
                place if plan is None else step.candidate.index,
                step.output_tokens,
                step.amounts,
                step.committed,
                step.settled,
                [(key.start_us, end_us) for key, end_us in step.candidate.keys],
            )
            for place, step in enumerate(verdict.steps)
        ]
    )


def explain(reservation: Reservation, plan: str | None, numbers: Any) -> None:
    """Give a stored reservation back what it was judged on, so that any process can explain it.

    Args:
        reservation: As `reservation_of` made it.
        plan: As `plan_text` wrote it.
        numbers: What `judged_text` wrote, read.
    """
    if plan is None:
        reservation._view = numbers
        return
    candidates = json.loads(plan)
    steps = tuple(_step_of(reservation.subject, candidates, step) for step in numbers)
    reservation.verdict = Verdict(reservation.decision, steps)
    reservation.candidate = steps[-1].candidate


def _step_of(subject: Subject, candidates: Sequence[Any], numbers: Sequence[Any]) -> Step:
    return step_of(_candidate_of(subject, candidates[numbers[0]], numbers[5]), numbers)


def step_of(candidate: Candidate, numbers: Sequence[Any]) -> Step:
    """Make a step from a candidate and the numbers that it was judged on.

    Args:
        candidate: With its checks.
        numbers: Its place in the plan, then output tokens, amounts, and what was committed and
            settled in each of its counters.
    """
    _, output_tokens, amounts, committed, settled = numbers[:5]
    crossed = tuple(
        check
        for check in candidate.checks
        if (committed[check.slot] if check.slot >= 0 else 0) + amounts[check.measure] > check.limit
    )
    acted = next((check for check in crossed if check.acts), None)
    return Step(
        candidate,
        (amounts[0], amounts[1], amounts[2], amounts[3]),
        output_tokens,
        tuple(committed),
        tuple(settled),
        crossed,
        acted,
    )


def _candidate_row(candidate: Candidate) -> Row:
    return (
        candidate.index,
        candidate.tool,
        candidate.model,
        candidate.requested_tool,
        candidate.max_output,
        [_check_row(check, candidate.keys) for check in candidate.checks],
        [_key_row(key) for key, _ in candidate.keys],
    )


def _key_row(key: CounterKey) -> Row:
    label, _, named = key.value.partition("=")
    value = label if named and label.startswith(CALL_LABEL) else key.value
    return (key.scope, value, key.measure, key.kind)


def _candidate_of(subject: Subject, row: Sequence[Any], windows: Sequence[Any]) -> Candidate:
    index, tool, model, requested_tool, max_output, checks, keys = row
    bounds = [end_us for _, end_us in windows]
    calls = {key: f"{key}={value}" for key, value in subject.labels if key.startswith(CALL_LABEL)}
    return Candidate(
        index=index,
        tool=tool,
        model=model,
        requested_tool=requested_tool,
        rates=None,
        unit_rate=None,
        max_output=max_output,
        checks=tuple(_check_of(check, bounds) for check in checks),
        keys=tuple(
            (
                CounterKey(subject.tenant, scope, calls.get(value, value), measure, kind, start_us),
                end_us,
            )
            for (scope, value, measure, kind), (start_us, end_us) in zip(keys, windows, strict=True)
        ),
    )


def _check_row(check: Check, keys: Sequence[tuple[CounterKey, int]]) -> Row:
    with_window = check.slot >= 0 and check.end_us == keys[check.slot][1]
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
        None if with_window else check.end_us,
        check.alert_at,
        check.rank,
        not check.acts,
        check.shrinks,
        check.stops,
        check.repeats,
    )


def _check_of(row: Sequence[Any], bounds: Sequence[int]) -> Check:
    slot, end_us = row[8], row[10]
    return Check(
        policy_id=row[0],
        scope=row[1],
        scope_id=row[2],
        limit_type=row[3],
        measure=row[4],
        limit=row[5],
        decision=row[6],
        mode=row[7],
        slot=slot,
        fallback=row[9],
        end_us=bounds[slot] if end_us is None else end_us,
        alert_at=tuple((amount, share) for amount, share in row[11]),
        rank=tuple(row[12]),
        forgiven=row[13],
        shrinks=row[14],
        stops=row[15],
        repeats=row[16],
    )
