"""From a request to a plan and its needs: what `reserve` hands to the store.

Plans are compiled once per subject, tool and version of the rules, and kept; the store says when
one has become stale.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

# Imported here rather than by some thread's first call: a process that forks meanwhile would leave
# its child waiting for that import for ever.
import fluxai.models.catalog
import fluxai.models.standins  # noqa: F401 -- see above
from fluxai.arguments import check_tenant, check_text
from fluxai.context import NOWHERE, Surroundings, label_pairs, same_payer
from fluxai.core.errors import InvalidRequest, NotFound, StorageError, UnknownModel
from fluxai.core.ledger import BUDGET_LABEL, NEVER, Candidate, Need, Plan, Subject
from fluxai.models.model import Model
from fluxai.policy.catalog import ToolCatalog
from fluxai.policy.compile import Extra, RuleIndex, RuleSet, compile_plan
from fluxai.policy.needs import Request, need_again, needs_of, units_of
from fluxai.policy.records import Grant, Policy, Tenant, Tool, User, use_validators
from fluxai.policy.repeats import for_call, without_call
from fluxai.routing.certificates import Certificate
from fluxai.storage.base import Ask, Rules, Storage

if TYPE_CHECKING:
    from fluxai.core.decisions import Posting, Reservation
    from fluxai.core.usage import Usage
    from fluxai.costs import CostEstimator
    from fluxai.costs.learning import Trace
    from fluxai.models import ModelRegistry

__all__ = ["Planner", "Request", "digest", "unchecked"]

log = logging.getLogger("fluxai")

DEFAULT_TENANT = "default"
PLANS_MAX = 131_072


class Origin(NamedTuple):
    """Enough to compile a plan again."""

    tool: str
    by_unit: bool
    fixed_tool: bool
    limits: tuple[tuple[str, int], ...]
    #: Policies whose downgrade is certified for the prompt.
    covered: tuple[str, ...] = ()
    #: The prompt's complexity, where a downgrade picks its tool by it.
    level: str | None = None


class Planner:
    """Compiles plans, and remembers them.

    Args:
        storage: Where the rules are.
        registry: Knows models.
        estimator: Counts tokens.
        registered: Refuse unknown tenants and users.
        without_rules: Plan without any limit while the rules can't be read, for a governor that
            then lets calls through.
        by_prompt: A downgrade that names no tool picks one by the prompt's complexity.
    """

    def __init__(
        self,
        storage: Storage,
        registry: ModelRegistry,
        estimator: CostEstimator,
        *,
        registered: bool,
        without_rules: bool = False,
        by_prompt: bool = False,
    ) -> None:
        use_validators()
        self._storage = storage
        self._registry = registry
        self._estimator = estimator
        #: Whether unknown tenants and users are refused.
        self.registered = registered
        self._without_rules = without_rules
        self._by_prompt = by_prompt
        #: By (tenant, user, tool, labels, by unit, fixed tool, limits of blocks).
        self.plans: dict[Any, Plan] = {}
        self._rules: dict[str, RuleSet] = {}
        self._every: tuple[int, RuleIndex] | None = None
        self._catalog_version = -1
        self._catalog = ToolCatalog(registry, {})
        self._tools: dict[str, Tool] = {}
        #: Models of records, by whose they are (`"*"`: everybody's): what is in the registries.
        self._own_models: dict[str, set[tuple[str, str]]] = {}
        #: The registries of tenants with models or prices of their own, and what they make of it.
        self.layers: dict[str, ModelRegistry] = {}
        self._catalogs: dict[str, ToolCatalog] = {}

    @property
    def catalog(self) -> ToolCatalog:
        """What is known of tools and models."""
        if self._catalog_version < 0:
            return self.fresh_catalog()
        return self._catalog

    def fresh_catalog(self) -> ToolCatalog:
        """Return what is known of tools and models, read again if the store has newer records."""
        self._load_catalog(self._storage.version(DEFAULT_TENANT)[0])
        return self._catalog

    def catalog_of(self, tenant: str) -> ToolCatalog:
        """Return what is known of tools and models for a tenant, as read last."""
        return self._catalogs.get(tenant, self._catalog)

    def registry_of(self, tenant: str) -> ModelRegistry:
        """Return the registry that holds for a tenant, read again if the store has newer records.

        Raises:
            StorageError: The store can't be read.
        """
        found = self._rules.get(tenant)
        if found is None or found.version != self._storage.version(tenant):
            self._rules.pop(tenant, None)
            self._rule_set(tenant)
        return self.layers.get(tenant, self._registry)

    def fresh_prices(self, tenant: str) -> None:
        """Read a tenant's prices again if the store has newer ones, for money spent elsewhere.

        What was charged is recorded in any case: at the prices known, where the store can't be
        read.
        """
        try:
            self.registry_of(tenant)
        except StorageError as error:
            log.warning(
                "prices of tenant %r may be old, the store can't be read: %s", tenant, error
            )

    def unpriced(self, subject: Subject, tool: str) -> Policy | None:
        """Return the policy that says what a call costs whose model has no price, as it is now.

        For money that was spent: where the store can't be read, as it was known last.
        """
        self.fresh_prices(subject.tenant)
        rules = self._rules.get(subject.tenant)
        catalog = self.catalog_of(subject.tenant)
        return None if rules is None else rules.unpriced(subject, catalog.canonical(tool))

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
        try:
            plan = self.plans.get(key)
        except TypeError:  # something that can't be looked up, and is no text either
            plan = None
        if plan is not None and plan.start_us <= at_us < plan.end_us:
            return plan
        check_tenant(tenant)
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

    def for_prompt(self, plan: Plan, score: float, level: str, at_us: int) -> Plan:
        """Return the plan for a prompt: downgrades certified for it act, others go by its level.

        Args:
            plan: The one for whatever prompt.
            score: How hard the prompt is, as `PromptAnalysis.gain`.
            level: Its complexity.
            at_us: The present.
        """
        covered = tuple(
            route.policy_id
            for route in plan.routes
            if route.threshold is not None and score <= route.threshold
        )
        if not covered and not plan.picking:
            return plan
        subject = without_call(plan.subject)
        origin = plan.origin._replace(covered=covered, level=level if plan.picking else None)
        key = _key(subject, origin)
        found = self.plans.get(key)
        if (
            found is None
            or found.version != plan.version
            or not found.start_us <= at_us < found.end_us
        ):
            found = self.compile(subject, at_us, origin)
            if found.version != plan.version:
                # The rules have changed since: the store will say so, and it is looked at again.
                return plan
            self.plans[key] = found
        return found

    def fitting(
        self, plan: Plan, needs: tuple[Need | None, ...], at_us: int
    ) -> tuple[Plan, tuple[Need | None, ...]]:
        """Leave certified downgrades out, where the prompt or a limit does not let them be."""
        if not plan.origin.covered:
            return plan, needs
        bare = plan.origin._replace(covered=())
        found = self.compile(without_call(plan.subject), at_us, bare)
        if found.version != plan.version:
            # What was priced by older rules: the store will say so.
            return plan, needs
        by_tool = {c.tool: need for c, need in zip(plan.candidates, needs, strict=True)}
        return found, tuple(by_tool.get(candidate.tool) for candidate in found.candidates)

    def compile(self, subject: Subject, at_us: int, origin: Origin) -> Plan:
        """Compile a plan anew."""
        try:
            rules, user = self.required(subject)
        except StorageError:
            if not self._without_rules:
                raise
            rules, user = _no_rules(subject.tenant), None
        tool, by_unit, fixed_tool, limits, covered, level = origin
        catalog = self.catalog_of(subject.tenant)
        try:
            priced = catalog.tool(tool) if by_unit else catalog.priced(tool, at_us)
        except (UnknownModel, NotFound) as unknown:
            if self._storage.version(subject.tenant) != rules.version:
                # Somebody else has put records meanwhile; it may be one of them.
                self.fresh_catalog()
                self._rules.pop(subject.tenant, None)
                return self.compile(subject, at_us, origin)
            if not isinstance(unknown, UnknownModel):
                raise
            said = rules.unpriced(subject, catalog.canonical(tool))
            priced = catalog.stated(tool, said, unknown, at_us)
        plan = compile_plan(
            rules,
            subject,
            priced,
            catalog,
            at_us=at_us,
            user=user,
            fixed_tool=fixed_tool,
            extras=tuple(Extra(*limit) for limit in limits),
            covered=covered,
            level=level,
            by_prompt=self._by_prompt,
        )
        plan.origin = origin
        return plan

    def post_plan(self, source: Reservation | Posting) -> Plan:
        """Compile the plan that names every counter of money that is spent already.

        Also for a tenant or user that is not registered any more: what was charged is recorded.
        """
        subject = source.subject
        rules = self._rule_set(subject.tenant)
        catalog = self.catalog_of(subject.tenant)
        limits = [
            Extra(f"{key}={value}", NEVER)
            for key, value in subject.labels
            if key.startswith(BUDGET_LABEL)
        ]
        return compile_plan(
            rules,
            subject,
            catalog.unpriced(source.final_tool),
            catalog,
            at_us=source.counted_us,
            user=self._user(subject),
            fixed_tool=True,
            extras=limits,
        )

    def required(self, subject: Subject) -> tuple[RuleSet, User | None]:
        """Return what decides about a subject.

        Raises:
            NotFound: Subjects must be registered, and this one is not.
        """
        rules, user = self.rule_set(subject.tenant), self._user(subject)
        if self.registered and user is None and subject.user is not None:
            raise NotFound(
                f"user: {subject.user!r} is not registered with tenant {subject.tenant!r}; add it "
                f"with governor.users.put(User(id=…, tenant_id=…))"
            )
        return rules, user

    def rule_set(self, tenant: str) -> RuleSet:
        """Return a tenant's rules. Raises `NotFound` where it should be registered and is not."""
        found = self._rule_set(tenant)
        if self.registered and not found.registered:
            # Somebody else may have registered it meanwhile.
            self._rules.pop(tenant, None)
            found = self._rule_set(tenant)
        if self.registered and not found.registered:
            raise NotFound(
                f"tenant: {tenant!r} is not registered; add it with "
                f"governor.tenants.put(Tenant(id={tenant!r}))"
            )
        return found

    def _rule_set(self, tenant: str) -> RuleSet:
        found = self._rules.get(tenant)
        if found is not None:
            return found
        stored = self._storage.rules(tenant)
        self._load_catalog(stored.version[0])
        record = None if stored.tenant is None else Tenant.model_validate(stored.tenant)
        if self._load_own(tenant, None if record is None else record.allowed_models):
            # Its own models may be counted under other ids.
            catalog = self._catalogs[tenant]
            every = (stored.version[0], self._index(stored, catalog, every=True))
        elif self._every is None or self._every[0] != stored.version[0]:
            index = self._index(stored, self._catalog, every=True)
            every = self._every = (stored.version[0], index)
        else:
            every = self._every
        found = RuleSet(
            tenant_id=tenant,
            tenant=record,
            version=stored.version,
            every=every[1],
            own=self._index(stored, self.catalog_of(tenant), every=False),
            certificates=self._certificates(stored, tenant),
        )
        if len(self._rules) >= PLANS_MAX:
            self._rules.clear()
        self._rules[tenant] = found
        return found

    def _certificates(self, stored: Rules, tenant: str) -> dict[str, tuple[float, int]]:
        """Read what was certified of a tenant's routes, where a policy asks for any."""
        if all(row.get("quality_risk") is None for row in stored.policies):
            return {}
        found = {}
        for row in self._storage.records("certificate", scope=tenant):
            certificate = Certificate.from_dict(row)
            if certificate.state == "valid" and certificate.certified is not None:
                found[certificate.id] = (certificate.certified.threshold, certificate.expires_us)
        return found

    def _index(self, stored: Rules, catalog: ToolCatalog, *, every: bool) -> RuleIndex:
        policies = [
            Policy.model_validate(row)
            for row in stored.policies
            if (row["tenant_id"] == "*") is every
        ]
        grants = [
            Grant.model_validate(row) for row in stored.grants if (row["tenant_id"] == "*") is every
        ]
        return RuleIndex(policies, grants, catalog.canonical)

    def _load_catalog(self, version: int) -> None:
        """Read tools and models of the store, once per version of what concerns every tenant."""
        if version == self._catalog_version:
            return
        self._tools = {row["id"]: Tool.model_validate(row) for row in self._storage.records("tool")}
        self._sync("*", self._registry, self._storage.records("model", scope="*"))
        self._catalog = ToolCatalog(self._registry, self._tools)
        self._catalog_version = version
        self._catalogs.clear()
        self._rules.clear()

    def _load_own(self, tenant: str, allowed: Sequence[str] | None) -> bool:
        """Read the models that only one tenant has; say whether its registry differs from ours."""
        rows = self._storage.records("model", scope=tenant)
        if (
            not rows
            and allowed is None
            and tenant not in self._own_models
            and not self._registry.has_tenant(tenant)
        ):
            return False
        layer = self._registry.for_tenant(tenant)
        layer.allow(allowed)
        self._sync(tenant, layer, rows)
        self._catalogs[tenant] = ToolCatalog(layer, self._tools)
        self.layers[tenant] = layer
        return True

    def _sync(self, scope: str, registry: ModelRegistry, rows: Sequence[dict[str, Any]]) -> None:
        """Put the models of a store's records into a registry; take out those that are gone."""
        own = set()
        for row in rows:
            model = Model.model_validate(row)
            registry.put(model)
            own.add((model.provider, model.id))
        for provider, model_id in self._own_models.get(scope, set()) - own:
            registry.delete(model_id, provider=provider)
        self._own_models[scope] = own

    def _user(self, subject: Subject) -> User | None:
        if subject.user is None:
            return None
        rows = self._storage.records("user", scope=subject.tenant, id=subject.user, limit=1)
        return User.model_validate(rows[0]) if rows else None

    def fresh_rules(self, tenant: str) -> RuleSet:
        """Return a tenant's rules, read again if the store has newer ones."""
        found = self._rules.get(tenant)
        if found is not None and found.version != self._storage.version(tenant):
            self._rules.pop(tenant, None)
        return self.rule_set(tenant)

    def recompiled(self, ask: Ask, request: Request) -> Ask:
        """Compile an ask's plan again, from the rules as they are now.

        Args:
            ask: What was stale.
            request: What was asked for, in case that the new rules count its repeats.
        """
        plan = ask.plan
        catalog = self.catalog_of(plan.subject.tenant)
        self._rules.pop(plan.subject.tenant, None)
        subject = without_call(plan.subject)
        # What covers the prompt has to be looked up again, see `Decider`.
        origin = plan.origin._replace(covered=(), level=None)
        fresh = self.compile(subject, ask.reservation.counted_us, origin)
        self.plans[_key(subject, origin)] = fresh
        first = ask.needs[0]
        assert first is not None  # noqa: S101 -- the requested tool always has a need
        units = None
        if ask.reservation._method == "units":
            units = units_of(plan.candidates[0], first, catalog)
        catalog = self.catalog_of(plan.subject.tenant)
        before = plan.candidates[0]
        needs = [need_again(found, before, first, units, catalog) for found in fresh.candidates]
        if fresh.repeats:
            fresh = self.counted(fresh, needs, request, by_unit=units is not None)
        ask.reservation.subject = fresh.subject
        return Ask(ask.reservation, fresh, tuple(needs), ask.approval_expires_us)

    def counted(
        self, plan: Plan, needs: Sequence[Need | None], request: Request, *, by_unit: bool
    ) -> Plan:
        """Make the plan of one call whose repeats are counted. It is not remembered."""
        call = call_digest(plan, needs, request, by_unit=by_unit)
        return for_call(plan, call, needs)

    def needs(
        self, plan: Plan, request: Request
    ) -> tuple[tuple[Need | None, ...], str, Sequence[Trace | None]]:
        """Work out what a request needs of each candidate; see `needs_of`."""
        tenant, estimator = plan.subject.tenant, self._estimator
        if request.beside is not None and tenant in self.layers:
            # Other models may be among that, at prices of the tenant's own.
            estimator = estimator.priced_by(self.layers[tenant])
        return needs_of(plan, request, estimator, self.catalog_of(tenant))


def why_routed(plan: Plan, score: float) -> str:
    """Say what certificates make of a prompt's score."""
    found = []
    for route in plan.routes:
        if route.threshold is None:
            found.append(f"nothing certifies {route.cheap} for it (policy {route.policy_id})")
        else:
            side = "covers" if score <= route.threshold else "does not cover"
            found.append(
                f"the certificate {route.certificate_id!r} {side} prompts that score {score:.4f} "
                f"(up to {route.threshold:.4f}; policy {route.policy_id})"
            )
    return "; ".join(found)


def _key(subject: Subject, origin: Origin) -> tuple[Any, ...]:
    """Name a plan among those that are remembered."""
    tool, by_unit, fixed_tool, limits, covered, level = origin
    key = (subject.tenant, subject.user, tool, subject.labels, by_unit, fixed_tool, limits)
    return (*key, covered, level) if covered or level else key


def digest(
    plan: Plan,
    needs: Sequence[Need | None],
    prompt: Any,
    messages: Any,
    tools: Any,
    beside: Usage | None = None,
    *,
    by_unit: bool,
) -> str:
    """Bind a key or an approval to subject, tool, arguments and amount.

    The arguments are the caller's own: units or a count where they were given, else the text, but
    never what it was estimated to be, which may be estimated better the next time.

    Raises:
        InvalidRequest: The messages or tools hold something that is no data.
    """
    first = needs[0]
    assert first is not None  # noqa: S101 -- the requested tool always has a need
    subject = without_call(plan.subject)
    said = [subject, plan.candidates[0].tool, prompt, messages, tools, first.cap]
    said.append(first.requests)
    if beside is not None:
        said.append(beside.to_dict())
    if by_unit or (prompt is None and messages is None):
        said.append(first.input_tokens)
    return _hashed(said)


def call_digest(
    plan: Plan, needs: Sequence[Need | None], request: Request, *, by_unit: bool
) -> str:
    """Name a call by what it asks for, whoever makes it and however long its answer may be.

    Raises:
        InvalidRequest: The messages or tools hold something that is no data.
    """
    first = needs[0]
    assert first is not None  # noqa: S101 -- the requested tool always has a need
    said = [plan.first.tool, request.prompt, request.messages, request.tools, first.requests]
    if request.beside is not None:
        said.append(request.beside.to_dict())
    if by_unit or (request.prompt is None and request.messages is None):
        said.append(first.input_tokens)
    return _hashed(said)


def _hashed(said: Sequence[Any]) -> str:
    try:
        text = json.dumps(said, sort_keys=True, default=repr)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest("messages", f"can't be read as data: {error}") from error
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _no_rules(tenant: str) -> RuleSet:
    """Return no rules at all, at a version that no store has."""
    nothing = RuleIndex((), (), str)
    return RuleSet(tenant_id=tenant, tenant=None, version=(-1, -1), every=nothing, own=nothing)


def unchecked(candidate: Candidate) -> Candidate:
    """Return a candidate without its checks."""
    return Candidate(
        index=0,
        tool=candidate.tool,
        model=candidate.model,
        requested_tool=candidate.requested_tool,
        rates=candidate.rates,
        unit_rate=candidate.unit_rate,
        max_output=candidate.max_output,
    )
