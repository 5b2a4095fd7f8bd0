"""Limits on one and the same call, made again and again: a counter for each call.

Which call it will be is not known when a plan is compiled, and plans are kept: so a plan says what
will be counted, and each call makes of it a plan for itself. It names the call by a digest, in a
label of its own; to the ledger that is a label like any other.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fluxai.core.ledger import (
    CALL_LABEL,
    REQUESTS,
    Candidate,
    Check,
    CounterFilter,
    CounterKey,
    Need,
    Plan,
    Subject,
)
from fluxai.core.windows import parse_duration

if TYPE_CHECKING:
    from fluxai.policy.records import Policy

_WHEN = {
    "per_minute": "this minute",
    "hourly": "this hour",
    "daily": "today",
    "weekly": "this week",
    "monthly": "this month",
    "total": "so far",
}
_UNITS = (("d", 86_400_000_000), ("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000))


def when_counted(policy: Policy) -> str:
    """Say in words when repeats are counted: `today`, `in the last 10m`."""
    if policy.window is None:
        return _WHEN[policy.limit_type]
    length_us = parse_duration(policy.window)
    for unit, unit_us in _UNITS:
        if length_us % unit_us == 0:
            return f"in the last {length_us // unit_us}{unit}"
    return f"in the last {length_us / 1e6:g}s"


def call_label(scope: str, value: str) -> str:
    """Name the label of calls that count together in a scope.

    A user's calls count apart from another's, and so do those of label values; the digest has the
    tool in it anyway.
    """
    if scope == "user":
        return f"{CALL_LABEL}.user"
    return f"{CALL_LABEL}.label.{value.partition('=')[0]}" if scope == "label" else CALL_LABEL


def counts_calls(policy: Policy, label: str) -> bool:
    """Say whether a policy that limits repeats may count under a label."""
    if policy.scope == "label" and policy.scope_id is None:
        return label.startswith(call_label("label", ""))
    return label == call_label(policy.scope, policy.scope_id or "")


def fed_by_repeats(policy: Policy) -> CounterFilter | None:
    """Say in which counters a policy makes repeats count; None where it does not limit them."""
    if policy.repeat_limit is None:
        return None
    every = policy.scope == "label" and policy.scope_id is None
    return CounterFilter(
        tenant=None if policy.tenant_id == "*" else policy.tenant_id,
        scope="label",
        label=None if every else call_label(policy.scope, policy.scope_id or ""),
        measure="requests",
        kinds=(policy.window_kind,),
    )


def for_call(plan: Plan, call: str, needs: Sequence[Need | None]) -> Plan:
    """Make the plan of one call, whose repeats are counted.

    Args:
        plan: As it was compiled.
        call: The digest of the call.
        needs: What it needs of each candidate: units of a tool count as requests, so a call may
            count as several.
    """
    named = {
        counter.label: hashlib.sha256(f"{call} {counter.same}".encode()).hexdigest()[:32]
        for counter in plan.repeats
    }
    subject = plan.subject
    labels = tuple(sorted((dict(subject.labels) | named).items()))
    keys = [
        (
            CounterKey(
                subject.tenant,
                "label",
                f"{counter.label}={named[counter.label]}",
                "requests",
                counter.kind,
                counter.start_us,
            ),
            counter.end_us,
        )
        for counter in plan.repeats
    ]
    places = {(counter.label, counter.kind): n for n, counter in enumerate(plan.repeats)}
    made = Plan(
        subject=subject._replace(labels=labels),
        version=plan.version,
        start_us=plan.start_us,
        end_us=plan.end_us,
        candidates=tuple(
            _counting(candidate, keys, places, 1 if need is None else need.requests)
            for candidate, need in zip(plan.candidates, needs, strict=True)
        ),
        call=call,
        routes=plan.routes,
        picking=plan.picking,
    )
    made.origin = plan.origin
    return made


def _counting(
    candidate: Candidate,
    keys: Sequence[tuple[CounterKey, int]],
    places: dict[tuple[str, str], int],
    requests: int,
) -> Candidate:
    first = len(candidate.keys)
    checks = list(candidate.checks)
    for label, kind, check in candidate.repeats:
        counted = copy.copy(check)
        counted.slot = first + places[label, kind]
        counted.limit = check.limit * requests
        counted.alert_at = tuple((amount * requests, share) for amount, share in check.alert_at)
        checks.insert(_place_of(check, checks), counted)
    return Candidate(
        index=candidate.index,
        tool=candidate.tool,
        model=candidate.model,
        requested_tool=candidate.requested_tool,
        rates=candidate.rates,
        unit_rate=candidate.unit_rate,
        max_output=candidate.max_output,
        checks=tuple(checks),
        keys=(*candidate.keys, *keys),
        counts=(*candidate.counts, *(REQUESTS for _ in keys)),
    )


def _place_of(check: Check, among: Sequence[Check]) -> int:
    """Say where a check stands in the order in which they act."""
    return next((n for n, other in enumerate(among) if other.rank > check.rank), len(among))


def without_call(subject: Subject) -> Subject:
    """Return a subject without the labels that name its call."""
    labels = tuple(pair for pair in subject.labels if not pair[0].startswith(CALL_LABEL))
    return subject if len(labels) == len(subject.labels) else subject._replace(labels=labels)
