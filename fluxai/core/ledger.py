"""The ledger's arithmetic: counters, the plan of a request, and the one rule that decides.

Everything here is pure. Storage holds the counters and applies these functions under its locks;
`PolicyEngine` applies the same functions to balances it was handed.

Amounts are integers: nano-USD for `cost`, plain counts for `tokens` and `requests`. Times are
integer microseconds since the epoch, UTC (`_us`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from fluxai.core.money import PER_MILLION

if TYPE_CHECKING:
    from collections.abc import Mapping
    from decimal import Decimal

    from fluxai.core.windows import Ring

#: Measures, in the order in which a hold keeps its amounts. The fourth is the hold itself.
MEASURES = ("cost", "tokens", "requests", "concurrent")
COST, TOKENS, REQUESTS, CONCURRENT = range(4)

#: What one hold adds to each measure: nano-USD, tokens, requests, and 1 while it is open.
Amounts = tuple[int, int, int, int]

#: An amount that no counter reaches.
NEVER = 1 << 62
#: Labels that name a call by a digest, where a policy limits its repeats; nobody else may use them.
CALL_LABEL = "fluxai.call"
#: Labels under which `governor.budget()` blocks count; nobody else may use them either.
BUDGET_LABEL = "budget."


class Subject(NamedTuple):
    """Who spends: a tenant, perhaps one of its users, and free labels in sorted order."""

    tenant: str
    user: str | None = None
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def label_map(self) -> dict[str, str]:
        """The labels as a dictionary."""
        return dict(self.labels)


class CounterKey(NamedTuple):
    """What a counter counts. Policies point at it; it never names a policy.

    `kind` is the window's kind; a rolling one carries its length (`rolling:86400000000`).
    """

    tenant: str
    scope: str
    value: str
    measure: str
    kind: str
    start_us: int


class CounterFilter(NamedTuple):
    """Which counters are meant: each field that is given has to fit.

    Attributes:
        tenant, scope, value, measure: As in `CounterKey`.
        label: The name of a label, whichever its value.
        kinds: The window's kind is one of these; any, where there are none.
        besides: Not those that this one means.
    """

    tenant: str | None = None
    scope: str | None = None
    value: str | None = None
    label: str | None = None
    measure: str | None = None
    kinds: tuple[str, ...] = ()
    besides: CounterFilter | None = None

    def fits(self, key: CounterKey) -> bool:
        """Say whether a counter is meant."""
        return (
            self.tenant in (None, key.tenant)
            and self.scope in (None, key.scope)
            and self.value in (None, key.value)
            and (self.label is None or key.value.startswith(f"{self.label}="))
            and self.measure in (None, key.measure)
            and (not self.kinds or key.kind in self.kinds)
            and (self.besides is None or not self.besides.fits(key))
        )


class _Figures:
    """What every check and hold touches, side by side.

    A miss of the processor's cache costs more than the arithmetic.
    """

    __slots__ = ("committed", "measure", "next_alert", "reserved")

    committed: int
    measure: int
    next_alert: int
    reserved: int


class Counter(_Figures):
    """One running account.

    `committed` is settled + reserved: the figure every check reads. For a rolling window `settled`
    is the sum of the live buckets in `ring`.
    """

    __slots__ = ("carried", "dirty", "end_us", "key", "ring", "row_id")

    def __init__(self, key: CounterKey, end_us: int, ring: RingState | None = None) -> None:
        self.key = key
        self.measure = CONCURRENT if key.kind == "concurrent" else MEASURES.index(key.measure)
        self.end_us = end_us
        self.committed = 0
        self.reserved = 0
        self.carried = 0
        self.ring = ring
        self.row_id = 0
        self.dirty = False
        #: From this balance on, a share of some limit is still to be announced.
        self.next_alert = NEVER

    @property
    def settled(self) -> int:
        """What was charged here."""
        return self.committed - self.reserved

    def hold(self, amount: int) -> None:
        """Add an open reservation's amount (negative: give it back)."""
        self.committed += amount
        self.reserved += amount
        self.dirty = True

    def post(self, amount: int, counted_us: int) -> None:
        """Add settled money, in the bucket of `counted_us` where the window rolls."""
        self.dirty = True
        ring = self.ring
        if ring is not None and not ring.add(amount, counted_us):
            return
        self.committed += amount

    def turn(self, at_us: int) -> None:
        """Let what has left a rolling window go."""
        if self.ring is not None:
            gone = self.ring.turn(at_us)
            if gone:
                self.committed -= gone
                self.dirty = True


class RingState:
    """The buckets of a rolling window. Turns forward only; counts the whole oldest bucket."""

    __slots__ = ("buckets", "head", "ring")

    def __init__(self, ring: Ring, head: int, buckets: dict[int, int] | None = None) -> None:
        self.ring = ring
        self.head = head
        self.buckets = buckets if buckets is not None else {}

    def turn(self, at_us: int) -> int:
        """Move the head to `at_us`, never back; return what left the window."""
        head = self.ring.bucket(at_us)
        if head <= self.head:
            return 0
        self.head = head
        oldest = head - self.ring.buckets
        gone = [bucket for bucket in self.buckets if bucket < oldest]
        return sum(self.buckets.pop(bucket) for bucket in gone)

    def is_empty(self, at_us: int) -> bool:
        """Say whether all that was added has left the window, or will have when it turns."""
        oldest = self.ring.bucket(at_us) - self.ring.buckets
        return all(bucket < oldest for bucket in self.buckets)

    def add(self, amount: int, counted_us: int) -> bool:
        """Add to the bucket of `counted_us`; False when that bucket has left the window."""
        bucket = self.ring.bucket(counted_us)
        if bucket < self.head - self.ring.buckets:
            return False
        self.buckets[bucket] = self.buckets.get(bucket, 0) + amount
        return True


class Check:
    """One policy, compiled for one subject and tool: which counter, which limit, what then.

    `slot` is the index of the counter in the candidate's `keys`, or -1 for `per_request`.
    `fallback` is the index of the candidate that a crossed `downgrade` leads to, or -1.
    """

    __slots__ = (
        "acts",
        "alert_at",
        "decision",
        "end_us",
        "fallback",
        "limit",
        "limit_type",
        "measure",
        "mode",
        "policy_id",
        "rank",
        "repeats",
        "scope",
        "scope_id",
        "shrinks",
        "slot",
        "stops",
    )

    def __init__(
        self,
        *,
        policy_id: str,
        scope: str,
        scope_id: str | None,
        limit_type: str,
        measure: int,
        limit: int,
        decision: str,
        mode: str,
        slot: int,
        fallback: int,
        end_us: int,
        alert_at: tuple[tuple[int, str], ...],
        rank: tuple[int, int, int, str],
        forgiven: bool = False,
        shrinks: bool = False,
        stops: bool = False,
        repeats: str = "",
    ) -> None:
        self.policy_id = policy_id
        self.scope = scope
        self.scope_id = scope_id
        self.limit_type = limit_type
        self.measure = measure
        self.limit = limit
        self.decision = decision
        self.mode = mode
        self.slot = slot
        self.fallback = fallback
        self.end_us = end_us
        self.alert_at = alert_at
        self.rank = rank
        #: Whether crossing it changes anything: `shadow` and `allow` limits only report, and so does
        #: a `downgrade` limit on its own fallback.
        self.acts = mode == "enforce" and decision != "allow" and not forgiven
        #: Whether a call that is too large for it may be granted with a smaller output cap.
        self.shrinks = shrinks and self.denies and measure <= TOKENS
        #: Whether a stream is to be stopped when its reservation is used up.
        self.stops = stops and mode == "enforce"
        #: Of a limit on repeats of one call: when they are counted, in words (`in the last 10m`).
        self.repeats = repeats

    @property
    def denies(self) -> bool:
        """Whether a call that crosses it is refused."""
        return self.acts and self.decision == "deny"


class _Fare:
    """What every call reads of a candidate, side by side as in `_Figures`."""

    __slots__ = ("fee", "input_rate", "max_output", "model", "output_rate", "rates")

    fee: int
    input_rate: int | None
    max_output: int
    model: str | None
    output_rate: int | None
    rates: Any


class Candidate(_Fare):
    """A tool that the request could run on: its prices, checks and counters.

    `rates` is the price card of its model; `unit_rate` is nano-USD per million units of its tool
    record. `checks` stand in the order in which they act. `repeats` are checks still without a
    counter, each with the label and the window's kind of the one it will have.
    """

    __slots__ = (
        "checks",
        "counts",
        "index",
        "keys",
        "repeats",
        "requested_tool",
        "stop_stream",
        "tool",
        "unit_rate",
    )

    def __init__(
        self,
        *,
        index: int,
        tool: str,
        model: str | None,
        requested_tool: str,
        rates: Any,
        unit_rate: int | None,
        max_output: int,
        checks: tuple[Check, ...] = (),
        keys: tuple[tuple[CounterKey, int], ...] = (),
        counts: tuple[int, ...] = (),
        repeats: tuple[tuple[str, str, Check], ...] = (),
    ) -> None:
        self.index = index
        self.tool = tool
        self.model = model
        self.requested_tool = requested_tool
        self.rates = rates
        #: Nano-USD per million tokens where one rate serves requests of every size, else None.
        self.input_rate = None
        self.output_rate = None
        self.fee = 0
        if rates is not None and not rates.steps:
            self.input_rate = rates.base.input
            self.output_rate = rates.output_rate(0)
            self.fee = rates.request_fee * PER_MILLION
        self.unit_rate = unit_rate
        self.max_output = max_output
        self.checks = checks
        #: Whether a policy that applies wants streams stopped once their reservation is used up.
        self.stop_stream = any(check.stops for check in checks)
        #: (counter key, end of its window) per slot.
        self.keys = keys
        #: The measure that each slot counts.
        self.counts = counts
        self.repeats = repeats


class CallCounter(NamedTuple):
    """A counter that each call will have for itself, where a policy limits repeats.

    Attributes:
        label: The name of the label whose value will name the call.
        same: What has to be the same besides the call: the user, or `label=value`.
        kind, start_us, end_us: The window.
    """

    label: str
    same: str
    kind: str
    start_us: int
    end_us: int


@lru_cache(maxsize=1_024)
def _one(instant_us: int) -> int:
    """Return one integer object for all equal ones: the plans of many tenants share their bounds."""
    return instant_us


class Route(NamedTuple):
    """A downgrade that happens only where a certificate covers the prompt.

    Attributes:
        policy_id: Whose it is.
        cheap: The tool that it leads to.
        certificate_id: What has to cover the prompt.
        threshold: Prompts that score at most this are covered; None where there is no certificate.
    """

    policy_id: str
    cheap: str
    certificate_id: str
    threshold: float | None


class _Course:
    """What every call reads of a plan, side by side as in `_Figures`."""

    __slots__ = (
        "asks",
        "bound",
        "end_us",
        "first",
        "lease",
        "reads_prompt",
        "start_us",
        "subject",
    )

    asks: bool
    bound: object
    end_us: int
    first: Candidate
    lease: Decimal | None
    reads_prompt: bool
    start_us: int
    subject: Subject


class Plan(_Course):
    """What to check for one subject and tool, compiled once and good from `start_us` to `end_us`.

    `version` is the policy version it was compiled from; the store refuses another as stale.
    `bound` belongs to the store that uses the plan, `origin` to the governor that made it. Where
    there are `repeats`, each call is decided by a plan of its own; `call` is that call's digest.
    """

    __slots__ = ("call", "candidates", "origin", "picking", "repeats", "routes", "version")

    def __init__(
        self,
        *,
        subject: Subject,
        version: tuple[int, int],
        start_us: int,
        end_us: int,
        candidates: tuple[Candidate, ...],
        lease: Decimal | None = None,
        repeats: tuple[CallCounter, ...] = (),
        call: str | None = None,
        routes: tuple[Route, ...] = (),
        picking: bool = False,
    ) -> None:
        self.subject = subject
        #: Downgrades that a certificate allows or not, and whether one picks its tool by the prompt.
        #: Each call is then decided by the plan for its prompt.
        self.routes = routes
        self.picking = picking
        self.reads_prompt = picking or bool(routes)
        #: The share of what is left that a process may take in advance; None where it may not.
        self.lease = lease
        self.version = version
        self.start_us = _one(start_us)
        self.end_us = _one(end_us)
        self.candidates = candidates
        #: The requested tool's candidate.
        self.first = candidates[0]
        self.repeats = repeats
        self.call = call
        #: Whether the request may be downgraded or need an approval, or its repeats are counted:
        #: then it is identified.
        self.asks = (
            len(candidates) > 1
            or bool(repeats)
            or any(check.decision == "require_approval" for check in candidates[0].checks)
        )
        self.bound = None
        #: What its maker needs to compile it again.
        self.origin: Any = None


class Need(NamedTuple):
    """What a request needs of one candidate, before the number of output tokens is known.

    Attributes:
        fixed: Nano-USD times a million, for everything but output tokens.
        per_output: Nano-USD per million output tokens (the dearest kind).
        input_tokens: Upper estimate.
        expected_input_tokens: Likely count.
        cap: Output tokens that the caller allows; None lets the store pick.
        output_max: Most that may be picked; 0 where nothing is generated.
        requests: Units of a tool priced per request, else 1.
    """

    fixed: int
    per_output: int
    input_tokens: int
    expected_input_tokens: int
    cap: int | None
    output_max: int
    requests: int = 1
    expected_fixed: int = 0


class Step(NamedTuple):
    """One candidate as it was judged, with the balances it was judged on."""

    candidate: Candidate
    amounts: Amounts
    output_tokens: int
    committed: tuple[int, ...]
    settled: tuple[int, ...]
    crossed: tuple[Check, ...]
    acted: Check | None

    def is_shrunk(self, need: Need) -> bool:
        """Whether less output was granted than the caller's cap."""
        return need.cap is not None and self.output_tokens < need.cap

    def shrunk_by(self, need: Need) -> tuple[Check, ...]:
        """List the limits that would have been crossed by the caller's own cap."""
        if need.cap is None or self.output_tokens >= need.cap:
            return ()
        asked = amounts_of(need, need.cap)
        return tuple(
            check
            for check in self.candidate.checks
            if check.shrinks
            and (self.committed[check.slot] if check.slot >= 0 else 0) + asked[check.measure]
            > check.limit
        )


class Verdict(NamedTuple):
    """What the rule says: the decision, and every candidate looked at, the last one decisive."""

    decision: str
    steps: tuple[Step, ...]

    @property
    def last(self) -> Step:
        """The step that decided."""
        return self.steps[-1]


#: A call without a cap is granted at least this many output tokens, or refused.
MIN_OUTPUT_TOKENS = 256
#: … and at most this many, unless the model's own maximum is smaller.
DEFAULT_OUTPUT_TOKENS = 4_096
#: … and, beyond the minimum, at most this share of what still fits (one part in N).
HEADROOM_SHARE = 4
#: A stated cap is shrunk to no less than the minimum or, if that is smaller, one part in N of it.
SHRUNK_SHARE = 4


def amounts_of(need: Need, output_tokens: int) -> Amounts:
    """Turn a need and a number of output tokens into what a hold adds to each measure."""
    cost = -(-(need.fixed + need.per_output * output_tokens) // PER_MILLION)
    return (cost, need.input_tokens + output_tokens, need.requests, 1)


def largest_output(step_checks: Sequence[Check], need: Need, committed: Sequence[int]) -> int:
    """Say how many output tokens fit under every acting limit; negative when none do."""
    most = need.output_max if need.cap is None else need.cap
    return min(most, _headroom(step_checks, need, committed))


def _headroom(step_checks: Sequence[Check], need: Need, committed: Sequence[int]) -> int:
    """Say how many output tokens the acting limits have room for, whatever the model can do."""
    most = NEVER
    for check in step_checks:
        if not check.acts or check.measure > TOKENS:
            continue
        headroom = check.limit - (committed[check.slot] if check.slot >= 0 else 0)
        if check.measure == TOKENS:
            fits = headroom - need.input_tokens
        elif need.per_output:
            fits = (headroom * PER_MILLION - need.fixed) // need.per_output
        else:
            fits = NEVER if headroom * PER_MILLION >= need.fixed else -1
        most = min(most, fits)
    return most


def pick_output(checks: Sequence[Check], need: Need, committed: Sequence[int]) -> int:
    """Choose the output tokens of a call: the caller's cap, or a fair share of the headroom."""
    if need.cap is not None:
        return need.cap
    least = min(MIN_OUTPUT_TOKENS, need.output_max)
    beyond = _headroom(checks, need, committed) - least
    return least + max(0, min(need.output_max - least, beyond // HEADROOM_SHARE))


def shrunk_output(step: Step, need: Need) -> int | None:
    """Choose the largest output that fits where every `deny` limit that is crossed allows that.

    Returns:
        The output tokens; None where the caller stated no cap, where nothing denies, where a limit
        does not allow it, or where less would fit than is worth calling for.
    """
    if need.cap is None:
        return None
    denying = [check for check in step.crossed if check.denies]
    if not denying or not all(check.shrinks for check in denying):
        return None
    fits = _headroom(denying, need, step.committed)
    least = min(MIN_OUTPUT_TOKENS, -(-need.cap // SHRUNK_SHARE))
    return fits if fits >= least else None


def judge_candidate(
    candidate: Candidate, need: Need, committed: Sequence[int], settled: Sequence[int]
) -> Step:
    """Judge one candidate: crossed means settled + reserved + requested > limit.

    A stated output cap that is too large for `deny` limits is shrunk first, where they allow it.
    """
    step = _step(
        candidate, need, pick_output(candidate.checks, need, committed), committed, settled
    )
    output_tokens = None if step.acted is None else shrunk_output(step, need)
    if output_tokens is None:
        return step
    return _step(candidate, need, output_tokens, committed, settled)


def _step(
    candidate: Candidate,
    need: Need,
    output_tokens: int,
    committed: Sequence[int],
    settled: Sequence[int],
) -> Step:
    checks = candidate.checks
    amounts = amounts_of(need, output_tokens)
    crossed = tuple(
        check
        for check in checks
        if (committed[check.slot] if check.slot >= 0 else 0) + amounts[check.measure] > check.limit
    )
    acted = next((check for check in crossed if check.acts), None)
    return Step(candidate, amounts, output_tokens, tuple(committed), tuple(settled), crossed, acted)


def judge(plan: Plan, needs: Sequence[Need | None], balances: Mapping[int, Balances]) -> Verdict:
    """Apply the rule to a request.

    The requested tool is judged first. The first acting check that is crossed, in the order of the
    plan, decides: `deny` refuses; `require_approval` holds the candidate as pending, unless a
    `deny` is crossed as well, for no policy forgives another's deny; `downgrade` moves to its
    fallback, once, and refuses where there is none. A candidate is judged on the output that
    `judge_candidate` has shrunk.

    Args:
        plan: The compiled checks.
        needs: One per candidate of the plan; None for a fallback that this request does not fit.
        balances: Per candidate index, the (committed, settled) of its counters, by slot.
    """
    steps: list[Step] = []
    index = 0
    while True:
        need = needs[index]
        assert need is not None  # noqa: S101 -- only fallbacks may be None, and those were asked
        step = judge_candidate(plan.candidates[index], need, *balances[index])
        steps.append(step)
        acted = step.acted
        if acted is None:
            return Verdict("downgraded" if index else "allowed", tuple(steps))
        if (
            acted.decision == "downgrade"
            and index == 0
            and acted.fallback > 0
            and needs[acted.fallback] is not None
        ):
            index = acted.fallback
            continue
        if acted.decision == "require_approval" and not any(check.denies for check in step.crossed):
            return Verdict("pending_approval", tuple(steps))
        return Verdict("denied", tuple(steps))


Balances = tuple[Sequence[int], Sequence[int]]
