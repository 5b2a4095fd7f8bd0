"""From policies to a plan: which checks apply to one subject and tool, in which order they act.

Pure. What decides about a tenant is indexed once per version (`RuleSet`), so that compiling a plan
looks at the policies that apply, not at all there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from fluxai.core.ledger import (
    CALL_LABEL,
    DEFAULT_OUTPUT_TOKENS,
    MEASURES,
    REQUESTS,
    CallCounter,
    Candidate,
    Check,
    CounterFilter,
    CounterKey,
    Plan,
    Route,
    Subject,
)
from fluxai.core.money import to_nano
from fluxai.core.windows import MAX_US, MIN_US, Calendar, Window, to_us, window_at
from fluxai.policy.promises import certificate_id
from fluxai.policy.records import Grant, Policy, PolicyDecision, Tenant, User
from fluxai.policy.repeats import call_label, counts_calls, fed_by_repeats, when_counted

_SCOPE_ORDER = {"tool": 0, "label": 1, "user": 2, "tenant": 3}
_DECISION_ORDER = {"deny": 0, "require_approval": 1, "downgrade": 2, "allow": 3}
_UTC_DAY_US = 86_400_000_000
#: How the rule is called by which a free plan leads away from premium tools.
PLAN_FREE = "plan_free:"


class PricedTool(NamedTuple):
    """What is known of a tool or model that a request may run on.

    Attributes:
        id: Canonical; policies and counters use it.
        model: The id to send, None for a tool that is no model.
        rates: The model's price card, None without one.
        unit_rate: Nano-USD per million units of the tool's record, None without one.
        premium: Whether a `free` plan moves away from it.
        until_us: Until when these prices are in force.
    """

    id: str
    model: str | None
    rates: Any
    unit_rate: int | None
    max_output: int
    premium: bool
    until_us: int


class Catalog(Protocol):
    """What a compiler asks about tools."""

    def canonical(self, tool_id: str) -> str:
        """Return the id under which a tool is counted, for any spelling."""
        ...

    def priced(self, tool_id: str, at_us: int) -> PricedTool:
        """Return a tool's prices. Raises `UnknownModel` or `NotFound`."""
        ...

    def fallback(
        self, tool: PricedTool, named: str | None, at_us: int, level: str | None = None
    ) -> PricedTool | None:
        """Return what can stand in for a tool: able, and never dearer; None where nothing can."""
        ...


class Rule(NamedTuple):
    """One policy, ready to be compiled."""

    policy: Policy
    id: str
    measure: int
    limit: int
    kind: str
    rank: tuple[int, int, int, str]
    #: (amount, until when) of what was granted for a time.
    grants: tuple[tuple[int, int], ...]

    def limit_at(self, at_us: int) -> tuple[int, int]:
        """Return the limit with what is granted at an instant, and until when that holds."""
        limit, until_us = self.limit, MAX_US
        for amount, end_us in self.grants:
            if at_us < end_us:
                limit += amount
                until_us = min(until_us, end_us)
        return limit, until_us


class RuleIndex:
    """Policies of one scope of validity (`"*"`, or one tenant), found by whom they concern."""

    __slots__ = ("label", "named", "repeats", "rules", "tenant", "tool", "user")

    def __init__(
        self,
        policies: Iterable[Policy],
        grants: Iterable[Grant],
        canonical: Callable[[str], str],
    ) -> None:
        raised: dict[str, list[tuple[int, int]]] = {}
        measures: dict[str, str] = {}
        self.rules: dict[str, Rule] = {}
        policies = list(policies)
        for policy in policies:
            measures[policy.id or ""] = policy.counts
        for grant in grants:
            amount = (
                to_nano(grant.amount)
                if measures.get(grant.policy_id) == "cost"
                else int(grant.amount)
            )
            raised.setdefault(grant.policy_id, []).append((amount, to_us(grant.until, "until")))
        self.tenant: list[Rule] = []
        self.user: dict[str | None, list[Rule]] = {}
        self.tool: dict[str | None, list[Rule]] = {}
        self.label: dict[str | None, list[Rule]] = {}
        #: Those that limit repeats.
        self.repeats: list[Rule] = []
        for policy in policies:
            rule = rule_of(policy, tuple(raised.get(policy.id or "", ())))
            self.rules[rule.id] = rule
            if policy.repeat_limit is not None:
                self.repeats.append(rule)
            if policy.scope == "tenant":
                self.tenant.append(rule)
            elif policy.scope == "user":
                self.user.setdefault(policy.scope_id, []).append(rule)
            elif policy.scope == "tool":
                tool = None if policy.scope_id is None else canonical(policy.scope_id)
                self.tool.setdefault(tool, []).append(rule)
            else:
                self.label.setdefault(policy.scope_id, []).append(rule)
        #: The accounts that policies name; a tenant's own is named by the empty text.
        self.named = {account_of(rule, "") for rule in self.tenant if _limits(rule)}
        for by_value in (self.user, self.tool):
            for value, rules in by_value.items():
                if value is not None:
                    self.named.update(account_of(rule, value) for rule in rules if _limits(rule))

    def applying(
        self, subject: Subject, tool: str, apart: Collection[str] = ()
    ) -> Iterable[tuple[Rule, str, str]]:
        """List (rule, scope, value) of what applies; labels `apart` (`key=value`) are left out."""
        for rule in self.tenant:
            yield rule, "tenant", subject.tenant
        if self.user and subject.user is not None:
            for user in (subject.user, None):
                for rule in self.user.get(user, ()):
                    yield rule, "user", subject.user
        if self.tool:
            for name in (tool, None):
                for rule in self.tool.get(name, ()):
                    yield rule, "tool", tool
        if self.label:
            for key, value in subject.labels:
                pair = f"{key}={value}"
                if pair in apart:
                    continue
                for name in (pair, key, None):
                    for rule in self.label.get(name, ()):
                        yield rule, "label", pair


def _limits(rule: Rule) -> bool:
    """Say whether a rule limits more than repeats."""
    return rule.policy.limit_value is not None


class Account(NamedTuple):
    """Whose account a rule limits, over which window, and to what effect."""

    scope: str
    value: str
    measure: int
    kind: str
    effect: str


def account_of(rule: Rule, value: str) -> Account:
    """Name the account that a rule limits; what only watches never stands for what acts."""
    policy = rule.policy
    if policy.mode == "shadow":
        effect = "shadow"
    else:
        effect = "warn" if policy.decision == "allow" else "act"
    return Account(policy.scope, value, rule.measure, rule.kind, effect)


def rule_of(policy: Policy, grants: tuple[tuple[int, int], ...] = ()) -> Rule:
    """Prepare one policy."""
    name = policy.id or "unnamed"
    return Rule(
        policy,
        name,
        MEASURES.index(policy.counts),
        policy.limit_units(),
        policy.window_kind,
        (
            -policy.priority,
            _SCOPE_ORDER[policy.scope],
            _DECISION_ORDER[policy.decision],
            name,
        ),
        grants,
    )


class Extra(NamedTuple):
    """A limit that a request brings along: that of a `governor.budget()` block."""

    value: str
    limit: int


class RuleSet:
    """All that decides about one tenant at one version."""

    __slots__ = (
        "_windows",
        "calendar",
        "certificates",
        "every",
        "own",
        "registered",
        "tenant",
        "version",
    )

    def __init__(
        self,
        *,
        tenant_id: str,
        tenant: Tenant | None,
        version: tuple[int, int],
        every: RuleIndex,
        own: RuleIndex,
        certificates: Mapping[str, tuple[float, int]] = MappingProxyType({}),
    ) -> None:
        #: The threshold of each valid certificate, and until when it holds.
        self.certificates = certificates
        #: Whether the tenant has a record.
        self.registered = tenant is not None
        self.tenant = tenant if tenant is not None else Tenant.model_construct(id=tenant_id)
        self.version = version
        self.every = every
        self.own = own
        self.calendar = tenant.calendar() if tenant is not None else Calendar.UTC
        self._windows: dict[str, Window] = {}

    def window(self, kind: str, at_us: int) -> Window:
        """Return the window of a kind that holds an instant, remembering the last one."""
        if kind in {"total", "concurrent"} or kind.startswith("rolling:"):
            return Window(MIN_US, MAX_US)
        window = self._windows.get(kind)
        if window is None or not window.start_us <= at_us < window.end_us:
            window = self._windows[kind] = window_at(kind, at_us, self.calendar)  # type: ignore[arg-type]
        return window

    def applying(
        self,
        subject: Subject,
        tool: PricedTool,
        user: User | None,
        apart: Collection[str] = (),
    ) -> list[tuple[Rule, str, str]]:
        """List every (rule, scope, value) that applies, those derived from records included."""
        found = [
            *self.own.applying(subject, tool.id, apart),
            *self.every.applying(subject, tool.id, apart),
        ]
        for rule in self.derived([] if user is None else [user]):
            policy = rule.policy
            found.append((rule, policy.scope, policy.scope_id or subject.tenant))
        if self.tenant.plan == "free" and tool.premium:
            rule = rule_of(
                Policy(
                    tenant_id=self.tenant.id,
                    scope="tool",
                    scope_id=tool.id,
                    limit_type="per_request",
                    limit_value=Decimal(0),
                    decision="downgrade",
                    id=f"{PLAN_FREE}{tool.id}",
                )
            )
            account = account_of(rule, tool.id)
            if account not in self.own.named and account not in self.every.named:
                found.append((rule, "tool", tool.id))
        return found

    def repeat_kinds(self, label: str) -> list[str]:
        """List the windows in which repeats of a call are counted under a label that names it.

        Of every policy that may count there, so that all plans agree on the counters of a label.
        """
        found = {
            rule.kind
            for index in (self.own, self.every)
            for rule in index.repeats
            if counts_calls(rule.policy, label)
        }
        return sorted(found)

    def unpriced(self, subject: Subject, tool: str) -> Policy | None:
        """Return the policy that says what a call costs whose model has no price.

        The first in the order in which policies act; None where none says anything but `refuse`.
        One that only watches says nothing.
        """
        found = [
            rule
            for index in (self.own, self.every)
            for rule, _, _ in index.applying(subject, tool)
            if rule.policy.on_unpriced != "refuse" and rule.policy.mode == "enforce"
        ]
        first = min(found, key=lambda rule: (*rule.rank[:2], rule.rank[3]), default=None)
        return None if first is None else first.policy

    def derived(self, users: Iterable[User]) -> Iterable[Rule]:
        """List the rules that the limits on records stand for.

        A policy of the tenant's own that names the same account, with the same measure and window,
        replaces one: a policy that acts replaces a limit, a warning replaces a warning. A rule for
        every tenant, or for each user alike, does not lift the limit of a single one.
        """
        for policy in self.derived_policies(users):
            rule = rule_of(policy)
            if account_of(rule, policy.scope_id or "") not in self.own.named:
                yield rule

    def derived_policies(self, users: Iterable[User]) -> Iterable[Policy]:
        """List the policies that the limits on records stand for."""
        tenant = self.tenant
        period = tenant.limit_period
        limits: tuple[tuple[str, Decimal | None, PolicyDecision], ...] = (
            ("hard_limit", tenant.hard_limit, "deny"),
            ("soft_limit", tenant.soft_limit, "allow"),
        )
        for name, limit, decision in limits:
            if limit is not None:
                yield Policy(
                    tenant_id=tenant.id,
                    limit_type=period,
                    limit_value=limit,
                    decision=decision,
                    id=f"{name}:{tenant.id}",
                )
        for user in users:
            if user.personal_cap is not None:
                yield Policy(
                    tenant_id=tenant.id,
                    scope="user",
                    scope_id=user.id,
                    limit_type=period,
                    limit_value=user.personal_cap,
                    id=f"personal_cap:{user.id}",
                )


def compile_plan(
    rules: RuleSet,
    subject: Subject,
    requested: PricedTool,
    catalog: Catalog,
    *,
    at_us: int,
    user: User | None = None,
    fixed_tool: bool = False,
    extras: Sequence[Extra] = (),
    default_output: int = DEFAULT_OUTPUT_TOKENS,
    covered: Collection[str] = (),
    level: str | None = None,
    by_prompt: bool = False,
) -> Plan:
    """Compile what has to be checked for one subject and tool.

    Args:
        rules: The tenant's rules.
        subject: Who spends.
        requested: The tool that was asked for, with its prices.
        catalog: Knows tools and their prices.
        at_us: Picks windows, prices and grants.
        user: The user's record, where there is one.
        fixed_tool: The caller can't change the tool, so there are no fallbacks.
        extras: Limits of the surrounding `budget()` blocks.
        default_output: Most output tokens granted to a call without a cap of its own.
        level: The prompt's complexity, by which a downgrade that names no tool picks one.
        by_prompt: Whether such a downgrade goes by the prompt at all.
        covered: Policies whose downgrade needs a certificate that covers the prompt, and has it.
    """
    apart = {extra.value for extra in extras}
    # The labels that name a call are nobody's choice either.
    apart.update(f"{key}={value}" for key, value in subject.labels if key.startswith(CALL_LABEL))

    def applying_to(tool: PricedTool) -> list[tuple[Rule, str, str]]:
        return sorted(rules.applying(subject, tool, user, apart), key=lambda found: found[0].rank)

    applying = applying_to(requested)
    own = {rule.id for rule, _, _ in applying}
    ends_us = MAX_US
    tools = [requested]
    leads: dict[str, int] = {}
    routes: list[Route] = []
    picking = False
    saving: set[int] = set()
    for rule, _, _ in applying:
        policy = rule.policy
        if policy.decision != "downgrade" or (policy.mode != "enforce" and not policy.promise):
            continue
        named = policy.fallback_tool_id
        if named is not None and catalog.canonical(named) == requested.id:
            leads[rule.id] = 0
            continue
        # A window's limit that would be crossed is a budget that is used up: the cheapest has to do.
        # A free plan leads away from a tier, so that no prompt may lead back to it.
        picks = (
            by_prompt
            and named is None
            and policy.limit_type == "per_request"
            and not rule.id.startswith(PLAN_FREE)
        )
        called = level if picks and policy.promise is None else None
        stand_in = None if fixed_tool else catalog.fallback(requested, named, at_us, called)
        if stand_in is None:
            continue
        picking = picking or (picks and policy.promise is None)
        if policy.promise is not None:
            # It acts only on prompts that a certificate covers: those have a plan of their own.
            certificate = certificate_id(requested.id, stand_in.id, *policy.promise)
            threshold, until_us = rules.certificates.get(certificate, (None, MAX_US))
            if policy.mode != "enforce" or at_us >= until_us:
                threshold = None
            elif threshold is not None:
                ends_us = min(ends_us, until_us)
            routes.append(Route(rule.id, stand_in.id, certificate, threshold))
            if threshold is None or rule.id not in covered:
                continue
        known = next((n for n, tool in enumerate(tools) if tool.id == stand_in.id), None)
        if known is None:
            tools.append(stand_in)
            known = len(tools) - 1
        leads[rule.id] = known
        if policy.promise is not None:
            saving.add(known)
    end_us = min(
        (at_us // _UTC_DAY_US + 1) * _UTC_DAY_US, ends_us, *(tool.until_us for tool in tools)
    )
    start_us = at_us // _UTC_DAY_US * _UTC_DAY_US
    candidates = []
    for index, tool in enumerate(tools):
        found = applying_to(tool) if index else applying
        # Nobody is asked for the sake of saving: the call then runs on what it asks for.
        closed = {rule.id for rule, _, _ in found} - own if index in saving else ()
        candidate, window = _candidate(
            index,
            tool,
            requested,
            found,
            leads,
            rules,
            subject,
            at_us,
            extras,
            default_output,
            closed,
        )
        candidates.append(candidate)
        start_us, end_us = max(start_us, window.start_us), min(end_us, window.end_us)
    repeats = _call_counters(candidates, rules, subject, at_us)
    for counter in repeats:
        if counter.end_us < MAX_US:
            start_us, end_us = max(start_us, counter.start_us), min(end_us, counter.end_us)
    return Plan(
        subject=subject,
        version=rules.version,
        start_us=start_us,
        end_us=end_us,
        candidates=tuple(candidates),
        lease=None if extras or repeats or len(tools) > 1 else _lease(applying),
        repeats=repeats,
        routes=tuple(routes),
        picking=picking,
    )


def _call_counters(
    candidates: Sequence[Candidate], rules: RuleSet, subject: Subject, at_us: int
) -> tuple[CallCounter, ...]:
    """List the counters that each call will have for itself."""
    labels = {label for candidate in candidates for label, _, _ in candidate.repeats}
    found = []
    for label in sorted(labels):
        same = ""
        if label == call_label("user", ""):
            same = subject.user or ""
        elif label != CALL_LABEL:
            same = next(
                pair
                for pair in (f"{key}={value}" for key, value in subject.labels)
                if call_label("label", pair) == label
            )
        for kind in rules.repeat_kinds(label):
            window = rules.window(kind, at_us)
            found.append(CallCounter(label, same, kind, window.start_us, window.end_us))
    return tuple(found)


def _lease(applying: Sequence[tuple[Rule, str, str]]) -> Decimal | None:
    """Return the smallest share that may be leased, None unless every counted limit allows it."""
    counted = [rule.policy for rule, _, _ in applying if rule.kind != "per_request"]
    shares = [policy.lease for policy in counted if policy.lease is not None]
    single = [rule.policy for rule, _, _ in applying if rule.kind == "per_request"]
    if not shares or len(shares) < len(counted):
        return None
    if any(policy.decision not in ("deny", "allow") for policy in single):
        return None
    if any(policy.shrink_output for policy in single):
        # The store shrinks; a lease would be given back for each call that is too large.
        return None
    return min(shares)


def _candidate(
    index: int,
    tool: PricedTool,
    requested: PricedTool,
    applying: Sequence[tuple[Rule, str, str]],
    leads: Mapping[str, int],
    rules: RuleSet,
    subject: Subject,
    at_us: int,
    extras: Sequence[Extra],
    default_output: int,
    closed: Collection[str],
) -> tuple[Candidate, Window]:
    slots: dict[CounterKey, int] = {}
    keys: list[tuple[CounterKey, int]] = []
    counts: list[int] = []
    checks: list[Check] = []
    start_us, until_us = MIN_US, MAX_US

    def slot_of(scope: str, value: str, measure: int, kind: str, window: Window) -> int:
        # Open reservations are counted the same whatever they cost: one counter per value.
        name = "requests" if MEASURES[measure] == "concurrent" else MEASURES[measure]
        key = CounterKey(subject.tenant, scope, value, name, kind, window.start_us)
        slot = slots.get(key)
        if slot is None:
            slot = slots[key] = len(keys)
            keys.append((key, window.end_us))
            counts.append(measure)
        return slot

    repeats: list[tuple[str, str, Check]] = []

    for rule, scope, value in applying:
        policy = rule.policy
        lead = leads.get(rule.id, -1)
        if policy.repeat_limit is not None:
            repeats.append(
                (
                    call_label(scope, value),
                    rule.kind,
                    Check(
                        policy_id=rule.id,
                        scope=scope,
                        scope_id=None if scope == "tenant" else value,
                        limit_type=policy.limit_type,
                        measure=REQUESTS,
                        limit=policy.repeat_limit,
                        decision=_decision(policy, rule.id, closed),
                        mode=policy.mode,
                        slot=-1,
                        fallback=lead if lead > 0 else -1,
                        end_us=rules.window(rule.kind, at_us).end_us,
                        # A first call is no repeat, so it announces nothing.
                        alert_at=tuple(
                            share
                            for share in alerts_of(policy, policy.repeat_limit)
                            if share[0] > 1
                        ),
                        rank=rule.rank,
                        forgiven=_forgiven(policy, lead, index),
                        stops=policy.stop_stream,
                        repeats=when_counted(policy),
                    ),
                )
            )
        if policy.limit_value is None:
            continue
        limit, granted_until_us = rule.limit_at(at_us)
        until_us = min(until_us, granted_until_us)
        slot, end_us = -1, MAX_US
        if rule.kind != "per_request":
            window = rules.window(rule.kind, at_us)
            start_us, until_us = max(start_us, window.start_us), min(until_us, window.end_us)
            slot = slot_of(scope, value, rule.measure, rule.kind, window)
            end_us = window.end_us
        checks.append(
            Check(
                policy_id=rule.id,
                scope=scope,
                scope_id=None if scope == "tenant" else value,
                limit_type=policy.limit_type,
                measure=rule.measure,
                limit=limit,
                decision=_decision(policy, rule.id, closed),
                mode=policy.mode,
                slot=slot,
                fallback=lead if lead > 0 else -1,
                end_us=end_us,
                alert_at=alerts_of(policy, limit) if slot >= 0 else (),
                rank=rule.rank,
                forgiven=_forgiven(policy, lead, index),
                shrinks=policy.shrink_output,
                stops=policy.stop_stream,
            )
        )
    # Money of a call that was counted before has its label already.
    for key, value in subject.labels:
        if key.startswith(CALL_LABEL):
            for kind in rules.repeat_kinds(key):
                slot_of("label", f"{key}={value}", REQUESTS, kind, rules.window(kind, at_us))
    for extra in extras:
        window = Window(MIN_US, MAX_US)
        checks.append(
            Check(
                policy_id=f"budget:{extra.value.partition('=')[2]}",
                scope="label",
                scope_id=extra.value,
                limit_type="total",
                measure=0,
                limit=extra.limit,
                decision="deny",
                mode="enforce",
                slot=slot_of("label", extra.value, 0, "total", window),
                fallback=-1,
                end_us=MAX_US,
                alert_at=(),
                rank=(0, 1, 0, extra.value),
            )
        )
    candidate = Candidate(
        index=index,
        tool=tool.id,
        model=tool.model,
        requested_tool=requested.id,
        rates=tool.rates,
        unit_rate=tool.unit_rate,
        max_output=min(tool.max_output, default_output),
        checks=tuple(checks),
        keys=tuple(keys),
        counts=tuple(counts),
        repeats=tuple(repeats),
    )
    return candidate, Window(start_us, until_us)


def _decision(policy: Policy, rule_id: str, closed: Collection[str]) -> PolicyDecision:
    """Say what a limit does where it is crossed: what would ask a human refuses where it is closed."""
    if policy.decision == "require_approval" and rule_id in closed:
        return "deny"
    return policy.decision


def _forgiven(policy: Policy, lead: int, index: int) -> bool:
    """Say whether a candidate may cross a limit: the one that the limit's downgrade leads to.

    A downgrade that needs a certificate saves money and limits nothing, so that it refuses nothing.
    """
    if policy.decision != "downgrade":
        return False
    if policy.promise is not None:
        return index > 0 or lead <= 0
    return lead == index


def alerts_of(policy: Policy, limit: int) -> tuple[tuple[int, str], ...]:
    """Return (amount, share) of the shares that a policy announces."""
    return tuple((_share_of(limit, share), str(share)) for share in policy.alert_at)


def _share_of(limit: int, share: Decimal) -> int:
    """Return a share of a limit, rounded up; exact whatever the caller's decimal context is."""
    numerator, denominator = share.as_integer_ratio()
    return -(-limit * numerator // denominator)


def name_of(policy: Policy) -> str:
    """Return the id of a policy that was given none: what it counts and does, but not its limit."""
    parts = [policy.tenant_id]
    if policy.scope != "tenant":
        parts.append(
            policy.scope if policy.scope_id is None else f"{policy.scope}={policy.scope_id}"
        )
    window = policy.window_kind
    parts.append(window if policy.limit_type != "rolling" else window.replace(":", "-") + "us")
    if policy.measure != "cost" and policy.limit_type != "concurrent":
        parts.append(policy.measure)
    parts.append(policy.decision)
    if policy.fallback_tool_id is not None:
        parts.append(policy.fallback_tool_id)
    if policy.mode != "enforce":
        parts.append(policy.mode)
    if policy.priority:
        parts.append(str(policy.priority))
    if policy.limit_value is None:
        parts.append("repeats")
    if policy.promise is not None:
        parts.append("certified")
    name = "/".join(parts)
    return name if len(name) <= 128 else hashlib.sha256(name.encode()).hexdigest()[:32]


def unfed_by(old: Policy, new: Policy | None) -> list[CounterFilter]:
    """Say which counters are fed no more where a policy takes another one's place, or goes."""
    found = []
    for feeds in (fed_by, fed_by_repeats):
        before = feeds(old)
        if before is not None:
            found.append(before._replace(besides=None if new is None else feeds(new)))
    return found


def fed_by(policy: Policy) -> CounterFilter | None:
    """Say which counters a policy makes calls count in.

    A tool's spelling is left aside: its limit is taken to feed every tool's. None for one that
    only limits repeats.
    """
    if policy.limit_value is None:
        return None
    measure = "requests" if policy.counts == "concurrent" else policy.measure
    value = label = None
    if policy.scope == "user" or (policy.scope == "label" and "=" in (policy.scope_id or "")):
        value = policy.scope_id
    elif policy.scope == "label":
        label = policy.scope_id
    return CounterFilter(
        tenant=None if policy.tenant_id == "*" else policy.tenant_id,
        scope=policy.scope,
        value=value,
        label=label,
        measure=measure,
        kinds=(policy.window_kind,),
    )


def find_cycle(edges: Mapping[str, Iterable[str]]) -> list[str] | None:
    """Return a cycle of fallbacks, first tool repeated at its end, or None."""
    done: set[str] = set()
    for start in edges:
        path: list[str] = []
        stack: list[tuple[str, bool]] = [(start, False)]
        while stack:
            node, leaving = stack.pop()
            if leaving:
                path.pop()
                done.add(node)
                continue
            if node in path:
                return [*path[path.index(node) :], node]
            if node in done:
                continue
            path.append(node)
            stack.append((node, True))
            stack.extend((target, False) for target in edges.get(node, ()))
    return None
