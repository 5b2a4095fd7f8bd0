"""From a request to a plan and its needs: what `reserve` hands to the store.

Plans are compiled once per subject, tool and version of the rules, and kept; the store says when
one has become stale.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fluxai.arguments import check_text, count
from fluxai.catalog import ToolCatalog
from fluxai.context import BUDGET_LABEL, NOWHERE, Surroundings, label_pairs, same_payer
from fluxai.core.decisions import Posting, Reservation
from fluxai.core.errors import InvalidRequest, NotFound, UnknownModel
from fluxai.core.ledger import DEFAULT_OUTPUT_TOKENS, Candidate, Need, Plan, Subject
from fluxai.core.money import PER_MILLION
from fluxai.policy.compile import Extra, PricedTool, RuleIndex, RuleSet, compile_plan
from fluxai.policy.records import Grant, Policy, Tenant, Tool, User
from fluxai.storage.base import Ask, Rules, Storage

if TYPE_CHECKING:
    from fluxai.costs import CostEstimator
    from fluxai.models import ModelRegistry

DEFAULT_TENANT = "default"
PLANS_MAX = 131_072


class Origin(NamedTuple):
    """Enough to compile a plan again."""

    tool: str
    by_unit: bool
    fixed_tool: bool
    limits: tuple[tuple[str, int], ...]


class Request(NamedTuple):
    """What a call says about its size; see `Governor.reserve`."""

    by_unit: bool
    prompt: Any = None
    messages: Any = None
    tools: Any = None
    input_tokens: Any = None
    max_output_tokens: Any = None
    units: Any = None


class Planner:
    """Compiles plans, and remembers them."""

    def __init__(
        self,
        storage: Storage,
        registry: ModelRegistry,
        estimator: CostEstimator,
        *,
        registered: bool,
    ) -> None:
        self._storage = storage
        self._registry = registry
        self._estimator = estimator
        #: Whether unknown tenants and users are refused.
        self.registered = registered
        #: By (tenant, user, tool, labels, by unit, fixed tool, limits of blocks).
        self.plans: dict[Any, Plan] = {}
        self._rules: dict[str, RuleSet] = {}
        self._every: tuple[int, RuleIndex] | None = None
        self._catalog_version = -1
        self._catalog = ToolCatalog(registry, {})
        self._own_models: set[tuple[str, str]] = set()

    @property
    def catalog(self) -> ToolCatalog:
        """What is known of tools and models."""
        if self._catalog_version < 0:
            self.rule_set(DEFAULT_TENANT)
        return self._catalog

    def forget(self, tenant: str) -> None:
        """Read a tenant's rules again on their next use; `"*"` means everybody's."""
        if tenant == "*":
            self._rules.clear()
        else:
            self._rules.pop(tenant, None)

    def plan(
        self,
        tenant: str | None,
        user: str | None,
        tool: str,
        labels: Mapping[str, str] | None,
        at_us: int,
        *,
        by_unit: bool = False,
        fixed_tool: bool = False,
        here: Surroundings = NOWHERE,
    ) -> Plan:
        """Return the compiled plan for a subject and tool at an instant."""
        if here is not NOWHERE:
            tenant = tenant if tenant is not None else here.tenant
            user = user if user is not None else here.user
        if tenant is None:
            tenant = DEFAULT_TENANT
        same_payer(here, tenant)
        pairs = label_pairs(labels, here)
        key = (tenant, user, tool, pairs, by_unit, fixed_tool, here.limits)
        plan = self.plans.get(key)
        if plan is not None and plan.start_us <= at_us < plan.end_us:
            return plan
        check_text("tenant", tenant)
        if user is not None:
            check_text("user", user)
        check_text("tool" if by_unit else "model", tool)
        plan = self.compile(
            Subject(tenant, user, pairs), at_us, Origin(tool, by_unit, fixed_tool, here.limits)
        )
        if len(self.plans) >= PLANS_MAX:
            self.plans.clear()
        self.plans[key] = plan
        return plan

    def compile(self, subject: Subject, at_us: int, origin: Origin) -> Plan:
        rules = self.rule_set(subject.tenant)
        user = self._user(subject)
        tool, by_unit, fixed_tool, limits = origin
        priced = self._catalog.tool(tool) if by_unit else self._catalog.priced(tool, at_us)
        plan = compile_plan(
            rules,
            subject,
            priced,
            self._catalog,
            at_us=at_us,
            user=user,
            fixed_tool=fixed_tool,
            extras=tuple(Extra(*limit) for limit in limits),
        )
        plan.origin = origin
        return plan

    def post_plan(self, source: Reservation | Posting) -> Plan:
        """Compile the plan that names every counter of money that is spent already."""
        subject = source.subject
        rules = self.rule_set(subject.tenant)
        limits = [
            Extra(f"{key}={value}", 0)
            for key, value in subject.labels
            if key.startswith(BUDGET_LABEL)
        ]
        return compile_plan(
            rules,
            subject,
            self._catalog.unpriced(source.final_tool),
            self._catalog,
            at_us=source.counted_us,
            user=self._user(subject),
            fixed_tool=True,
            extras=limits,
        )

    def rule_set(self, tenant: str) -> RuleSet:
        found = self._rules.get(tenant)
        if found is not None:
            return found
        stored = self._storage.rules(tenant)
        self._load_catalog(stored.version[0])
        every = self._every
        if every is None or every[0] != stored.version[0]:
            index = self._index(stored, every=True)
            every = self._every = (stored.version[0], index)
        if self.registered and stored.tenant is None:
            raise NotFound(
                f"tenant: {tenant!r} is not registered; add it with "
                f"governor.tenants.put(Tenant(id={tenant!r}))"
            )
        found = RuleSet(
            tenant_id=tenant,
            tenant=None if stored.tenant is None else Tenant.model_validate(stored.tenant),
            version=stored.version,
            every=every[1],
            own=self._index(stored, every=False),
        )
        if len(self._rules) >= PLANS_MAX:
            self._rules.clear()
        self._rules[tenant] = found
        return found

    def _index(self, stored: Rules, *, every: bool) -> RuleIndex:
        policies = [
            Policy.model_validate(row)
            for row in stored.policies
            if (row["tenant_id"] == "*") is every
        ]
        grants = [
            Grant.model_validate(row)
            for row in stored.grants
            if (row["tenant_id"] == "*") is every
        ]
        return RuleIndex(policies, grants, self._catalog.canonical)

    def _load_catalog(self, version: int) -> None:
        """Read tools and models of the store, once per version of what concerns every tenant."""
        if version == self._catalog_version:
            return
        from fluxai.models import Model

        tools = {row["id"]: Tool.model_validate(row) for row in self._storage.records("tool")}
        own = set()
        for row in self._storage.records("model"):
            model = Model.model_validate(row)
            self._registry.put(model)
            own.add((model.provider, model.id))
        for provider, model_id in self._own_models - own:
            self._registry.delete(model_id, provider=provider)
        self._own_models = own
        self._catalog = ToolCatalog(self._registry, tools)
        self._catalog_version = version
        self._rules.clear()

    def _user(self, subject: Subject) -> User | None:
        if subject.user is None:
            return None
        rows = self._storage.records("user", scope=subject.tenant, id=subject.user, limit=1)
        if not rows:
            if self.registered:
                raise NotFound(
                    f"user: {subject.user!r} is not registered with tenant {subject.tenant!r}; add "
                    f"it with governor.users.put(User(id=…, tenant_id=…))"
                )
            return None
        return User.model_validate(rows[0])

    def fresh_rules(self, tenant: str) -> RuleSet:
        """Return a tenant's rules, read again if the store has newer ones."""
        found = self._rules.get(tenant)
        if found is not None and found.version != self._storage.version(tenant):
            del self._rules[tenant]
        return self.rule_set(tenant)

    def recompiled(self, ask: Ask) -> Ask:
        """Compile an ask's plan again, from the rules as they are now."""
        plan = ask.plan
        self._rules.pop(plan.subject.tenant, None)
        fresh = self.compile(plan.subject, ask.reservation.counted_us, plan.origin)
        tool, by_unit, fixed_tool, limits = plan.origin
        subject = plan.subject
        key = (subject.tenant, subject.user, tool, subject.labels, by_unit, fixed_tool, limits)
        self.plans[key] = fresh
        first = ask.needs[0]
        assert first is not None  # noqa: S101 -- the requested tool always has a need
        needs = [first, *(need_for(candidate, first) for candidate in fresh.candidates[1:])]
        return Ask(ask.reservation, fresh, tuple(needs), ask.approval_expires_us)

    def needs(self, plan: Plan, request: Request) -> tuple[tuple[Need | None, ...], str]:
        """Work out what a request needs of each candidate, before any output is chosen.

        Returns:
            A need per candidate (None for a fallback that the request does not fit), and how the
            input was counted.
        """
        if request.by_unit or request.units is not None:
            units = count("units", request.units, 1)
            return tuple(_unit_need(candidate, units) for candidate in plan.candidates), "units"
        cap = request.max_output_tokens
        if cap is not None:
            cap = count("max_output_tokens", cap, 0)
        method = "exact"
        needs: list[Need | None] = []
        for candidate in plan.candidates:
            rates = candidate.rates
            if rates is None:
                if candidate.index == 0:
                    raise UnknownModel(
                        f"{candidate.tool!r} is priced by the unit; pass units= instead of tokens"
                    )
                needs.append(None)
                continue
            expected, upper, found = self._input(candidate, request)
            if candidate.index == 0:
                method = found
            window = rates.context_window
            if candidate.index and window is not None and upper + (cap or 0) > window:
                needs.append(None)
                continue
            fee = rates.request_fee * PER_MILLION
            needs.append(
                Need(
                    rates.input_cost(upper) + fee,
                    rates.output_rate(upper) if candidate.max_output else 0,
                    upper,
                    expected,
                    cap if candidate.max_output else 0,
                    candidate.max_output,
                    1,
                    rates.input_cost(expected) + fee if expected != upper else 0,
                )
            )
        return tuple(needs), method

    def _input(self, candidate: Candidate, request: Request) -> tuple[int, int, str]:
        """Count a request's input: likely, at most, and how that was found."""
        if request.input_tokens is not None:
            tokens = count("input_tokens", request.input_tokens, 0)
            return tokens, tokens, "exact"
        prompt = request.prompt
        if prompt is not None and not isinstance(prompt, str):
            raise InvalidRequest("prompt", f"must be text, got {type(prompt).__name__}")
        counted = self._estimator.count(
            candidate.model or candidate.tool, prompt, request.messages, request.tools
        )
        method = counted.method + ("-low" if counted.confidence == "low" else "")
        return counted.expected, max(counted.expected, counted.upper), method


def digest(plan: Plan, needs: Any, prompt: Any, messages: Any, tools: Any) -> str:
    """Bind a key or an approval to subject, tool, arguments and amount."""
    first = needs[0]
    said = json.dumps(
        [plan.subject, plan.candidates[0].tool, prompt, messages, tools, first.cap, first.requests]
        + ([first.input_tokens] if prompt is None and messages is None else []),
        sort_keys=True,
        default=repr,
    )
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()


def _unit_need(candidate: Candidate, units: int) -> Need | None:
    if candidate.unit_rate is None:
        if candidate.index == 0:
            raise NotFound(
                f"tool: {candidate.tool!r} has no price per unit; register it with "
                f"governor.tools.put(Tool(id={candidate.tool!r}, cost_per_unit=…))"
            )
        return None
    return Need(candidate.unit_rate * units, 0, 0, 0, 0, 0, units, 0)


def need_for(candidate: Candidate, need: Need) -> Need | None:
    """Price the same request on a fallback."""
    if need.output_max == 0 and need.input_tokens == 0:
        return _unit_need(candidate, need.requests)
    rates = candidate.rates
    if rates is None:
        return None
    fee = rates.request_fee * PER_MILLION
    return need._replace(
        fixed=rates.input_cost(need.input_tokens) + fee,
        per_output=rates.output_rate(need.input_tokens) if candidate.max_output else 0,
        output_max=candidate.max_output,
        expected_fixed=rates.input_cost(need.expected_input_tokens) + fee,
    )


def repriced(tool: PricedTool, need: Need) -> Need:
    rates = tool.rates
    return need._replace(
        fixed=rates.input_cost(need.input_tokens) + rates.request_fee * PER_MILLION,
        per_output=rates.output_rate(need.input_tokens),
        output_max=min(tool.max_output, DEFAULT_OUTPUT_TOKENS),
    )


def as_tool(candidate: Candidate) -> PricedTool:
    return PricedTool(
        candidate.tool,
        candidate.model,
        candidate.rates,
        candidate.unit_rate,
        candidate.max_output,
        False,
        0,
    )


def unchecked(candidate: Candidate) -> Candidate:
    return Candidate(
        index=0,
        tool=candidate.tool,
        model=candidate.model,
        requested_tool=candidate.requested_tool,
        rates=candidate.rates,
        unit_rate=candidate.unit_rate,
        max_output=candidate.max_output,
    )
