"""`PolicyEngine`: the ledger's rule, applied to balances that somebody hands in. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self

from fluxai.core.decisions import Decision
from fluxai.core.errors import InvalidRequest, UnknownModel
from fluxai.core.ledger import (
    COST,
    MEASURES,
    Balances,
    Check,
    CounterKey,
    Need,
    Plan,
    Subject,
    Verdict,
    judge,
)
from fluxai.core.money import to_nano
from fluxai.core.windows import to_us
from fluxai.policy.catalog import ToolCatalog
from fluxai.policy.compile import RuleIndex, RuleSet, compile_plan
from fluxai.policy.needs import Request, needs_of, repriced, whole

if TYPE_CHECKING:
    from fluxai.costs import CostEstimator
    from fluxai.models import ModelRegistry
    from fluxai.policy.records import Grant, Policy, Tenant, Tool, User

Amount = Decimal | str | int
#: What a counter holds: (settled, reserved), in nano-USD or plain counts.
BalanceReader = Callable[[CounterKey], tuple[int, int]]
#: Policy id, or (policy id, user, tool or `label=value`) → (settled, reserved), USD or counts.
PolicyBalances = Mapping[str | tuple[str, str], tuple[Amount, Amount]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyRequest:
    """A request to be judged: who wants to spend, on what, and how much.

    Attributes:
        model: What is called, by any spelling; or
        tool: a tool that the engine was given, priced by `units`.
        input_tokens: Of the input.
        max_output_tokens: The output cap. Without one a fair one is picked, as a store would.
    """

    tenant: str = "default"
    user: str | None = None
    model: str | None = None
    tool: str | None = None
    input_tokens: int = 0
    max_output_tokens: int | None = None
    units: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, request: PolicyRequest | Mapping[str, Any]) -> Self | PolicyRequest:
        """Read a request that may be a mapping.

        Raises:
            InvalidRequest: It has an unknown field, or is neither.
        """
        if isinstance(request, PolicyRequest):
            return request
        if not isinstance(request, Mapping):
            raise InvalidRequest(
                "request", f"must be a PolicyRequest or a mapping, got {type(request).__name__}"
            )
        known = [name.name for name in fields(cls)]
        for name in request:
            if name not in known:
                raise InvalidRequest(str(name)[:60], f"is not one of {', '.join(known)}")
        return cls(**request)

    def __post_init__(self) -> None:
        """Check what would otherwise fail far from here."""
        for name in ("tenant", "user", "model", "tool"):
            value = getattr(self, name)
            if name != "tenant" and value is None:
                continue
            if not isinstance(value, str) or not value or value == "*":
                raise InvalidRequest(name, f"must be one {name}'s id, got {value!r:.60}")
        if (self.model is None) is (self.tool is None):
            raise InvalidRequest("model", "give either model= or tool=")
        if not isinstance(self.labels, Mapping):
            raise InvalidRequest("labels", f"must be a mapping, got {self.labels!r:.60}")
        for name, value in self.labels.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise InvalidRequest("labels", f"must be texts, got {name!r:.60}: {value!r:.60}")


class PolicyEngine:
    """Judge requests by the same rule that storage applies under its locks.

    Args:
        policies: The rules.
        tenants: Records whose limits, plans and calendars count too.
        users: Records whose personal caps count too.
        tools: What can be paid for by the unit.
        grants: Temporary raises of the policies' limits.
        registry: Knows models and prices; the bundled table by default.
        estimator: Counts tokens.
    """

    def __init__(
        self,
        policies: Iterable[Policy] = (),
        *,
        tenants: Iterable[Tenant] = (),
        users: Iterable[User] = (),
        tools: Iterable[Tool] = (),
        grants: Iterable[Grant] = (),
        registry: ModelRegistry | None = None,
        estimator: CostEstimator | None = None,
    ) -> None:
        self._policies = [
            policy if policy.id is not None else policy.model_copy(update={"id": f"policy_{n}"})
            for n, policy in enumerate(policies, 1)
        ]
        ids = [policy.id for policy in self._policies]
        for policy_id in ids:
            if ids.count(policy_id) > 1:
                raise InvalidRequest("policies", f"two policies have the id {policy_id!r}")
        self._tenants = {tenant.id: tenant for tenant in tenants}
        self._users = {(user.tenant_id, user.id): user for user in users}
        self._tools = {tool.id: tool for tool in tools}
        self._grants = list(grants)
        self._registry = registry
        self._estimator = estimator

    def evaluate(
        self,
        request: PolicyRequest | Mapping[str, Any],
        balances: PolicyBalances | None = None,
        *,
        at: datetime,
    ) -> Decision:
        """Decide a request on the balances that are given, holding nothing. Pure.

        Args:
            request: A `PolicyRequest`, or a mapping with its fields.
            balances: (settled, reserved) of each policy's account in the window that holds `at`, by
                policy id, or by (policy id, user, tool or `label=value`). USD for the measure
                `cost`, counts otherwise. What is missing is empty. Policies that limit the same
                account share it, so that it need be given only once. Limits of records have the
                ids `hard_limit:<tenant>`, `soft_limit:<tenant>` and `personal_cap:<user>`.
            at: Aware; picks windows, prices and grants.

        Returns:
            The decision, as `Governor.check` would give it on such balances. Since nothing is kept,
            its id is the nil UUID.

        Raises:
            InvalidRequest: A field or a balance is wrong, or policies of one account are given
                different balances.
            UnknownModel, NotFound: There is no price.
        """
        asked = PolicyRequest.of(request)
        at_us = to_us(at, "at")
        catalog = ToolCatalog(self._models(), self._tools)
        subject = Subject(asked.tenant, asked.user, tuple(sorted(asked.labels.items())))
        name = asked.model or asked.tool or ""
        rules = self._rules(asked.tenant, catalog)
        try:
            priced = catalog.priced(name, at_us) if asked.tool is None else catalog.tool(name)
        except UnknownModel as unknown:
            said = rules.unpriced(subject, catalog.canonical(name))
            priced = catalog.stated(name, said, unknown, at_us)
        plan = compile_plan(
            rules,
            subject,
            priced,
            catalog,
            at_us=at_us,
            user=self._users.get((asked.tenant, asked.user or "")),
        )
        needs, method, _ = needs_of(
            plan,
            Request(
                by_unit=asked.tool is not None,
                input_tokens=asked.input_tokens,
                max_output_tokens=asked.max_output_tokens,
                units=asked.units,
            ),
            self._counter(),
            catalog,
        )
        verdict = self.judge(plan, needs, _by_counter(plan, balances or {}))
        decision = decided(0, subject, needs, verdict, method)
        offer_cheaper(decision, plan, needs, catalog)
        return decision

    def judge(
        self,
        plan: Plan,
        needs: Sequence[Need | None],
        balances: Mapping[CounterKey, tuple[int, int]] | BalanceReader,
    ) -> Verdict:
        """Judge a compiled plan.

        Args:
            plan: What has to be checked.
            needs: What the request needs of each candidate.
            balances: (settled, reserved) per counter, as a mapping (missing: empty) or a function.
        """
        read = balances if callable(balances) else lambda key: balances.get(key, (0, 0))
        seen: dict[int, Balances] = {}
        for candidate in plan.candidates:
            found = [read(key) for key, _ in candidate.keys]
            seen[candidate.index] = (
                [settled + reserved for settled, reserved in found],
                [settled for settled, _ in found],
            )
        return judge(plan, needs, seen)

    def _rules(self, tenant: str, catalog: ToolCatalog) -> RuleSet:
        def index(scope: str) -> RuleIndex:
            return RuleIndex(
                [policy for policy in self._policies if policy.tenant_id == scope],
                [grant for grant in self._grants if grant.tenant_id == scope],
                catalog.canonical,
            )

        return RuleSet(
            tenant_id=tenant,
            tenant=self._tenants.get(tenant),
            version=(0, 0),
            every=index("*"),
            own=index(tenant),
        )

    def _models(self) -> ModelRegistry:
        if self._registry is None:
            from fluxai.models import ModelRegistry

            self._registry = ModelRegistry()
        return self._registry

    def _counter(self) -> CostEstimator:
        if self._estimator is None:
            from fluxai.costs import CostEstimator

            self._estimator = CostEstimator(self._models())
        return self._estimator


def decided(
    uid: int,
    subject: Subject,
    needs: Sequence[Need | None],
    verdict: Verdict,
    method: str,
) -> Decision:
    """Make the decision that a verdict stands for; it holds nothing."""
    step = verdict.last
    need = needs[step.candidate.index]
    assert need is not None  # noqa: S101 -- the rule judges only candidates that fit
    decision = Decision.__new__(Decision)
    decision.uid = uid
    decision.subject = subject
    decision.candidate = step.candidate
    decision.need = need
    decision.amounts = step.amounts
    decision.output_tokens = step.output_tokens
    decision.decision = verdict.decision
    decision.verdict = verdict
    decision._balances = None
    decision._method = method
    decision._offers = ()
    decision._view = None
    return decision


def offer_cheaper(
    decision: Decision, plan: Plan, needs: Sequence[Need | None], catalog: ToolCatalog
) -> None:
    """Note on a refusal which cheaper models are able to do the same, and what they would need."""
    first, need = plan.candidates[0], needs[0]
    if decision.decision != "denied" or first.rates is None or need is None:
        return
    if decision._method == "units":
        return
    offers = []
    for name in catalog.cheaper_models(first.model or first.tool):
        priced = catalog.priced(name, plan.start_us)
        if priced.rates is not None:
            offers.append((name, repriced(priced, need)))
    decision._offers = tuple(offers)


def _by_counter(plan: Plan, balances: PolicyBalances) -> dict[CounterKey, tuple[int, int]]:
    """Turn balances per policy into balances per counter."""
    found: dict[CounterKey, tuple[int, int]] = {}
    sources: dict[CounterKey, Any] = {}
    for candidate in plan.candidates:
        for check in candidate.checks:
            if check.slot < 0:
                continue
            key = candidate.keys[check.slot][0]
            name = _given(check, balances)
            if name is None:
                continue
            pair = _read(name, check, balances[name])
            if found.setdefault(key, pair) != pair:
                raise InvalidRequest(
                    f"balances[{name!r}]",
                    f"limits the same account as {sources[key]!r}, so both must be given the same",
                )
            sources.setdefault(key, name)
    return found


def _given(check: Check, balances: PolicyBalances) -> str | tuple[str, str] | None:
    exact = (check.policy_id, check.scope_id or "")
    if exact in balances:
        return exact
    return check.policy_id if check.policy_id in balances else None


def _read(name: Any, check: Check, balance: Any) -> tuple[int, int]:
    where = f"balances[{name!r}]"
    try:
        settled, reserved = balance
    except (TypeError, ValueError):
        raise InvalidRequest(where, f"must be (settled, reserved), got {balance!r:.60}") from None
    if check.measure == COST:
        return to_nano(settled, where, signed=True), to_nano(reserved, where)
    if MEASURES[check.measure] == "concurrent":
        return 0, whole(where, reserved, 0)
    return whole(where, settled, 0), whole(where, reserved, 0)
