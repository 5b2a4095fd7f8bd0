"""The governor's registries: records that people put, kept in the store."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from fluxai.arguments import check_tenant, count
from fluxai.core.errors import InvalidRequest, NotFound, StorageError, UnknownModel
from fluxai.core.ids import uuid_text
from fluxai.core.ledger import CounterFilter
from fluxai.core.money import to_nano
from fluxai.core.windows import from_us
from fluxai.costs.names import provider_name
from fluxai.policy.compile import find_cycle, name_of, unfed_by
from fluxai.policy.records import Grant, Policy, Tenant, Tool, User, dump
from fluxai.storage.base import Change

if TYPE_CHECKING:
    from fluxai.governor import Governor
    from fluxai.models.model import Model
    from fluxai.models.registry import ModelRegistry


class _Registry:
    kind: str

    def __init__(self, governor: Governor) -> None:
        self._governor = governor

    def _apply(self, *changes: Change, unfed: Iterable[CounterFilter] = ()) -> None:
        """Change records. `unfed` names the counters that nothing feeds any more after it.

        A counter is a sum kept at hand: one that is dropped too many is opened again from its
        events and open reservations, but one that stayed unfed would be wrong later.
        """
        governor = self._governor
        governor.storage.apply(changes, unfed=tuple(unfed))
        for change in changes:
            governor.planner.forget(change.scope)
            if governor.leases is not None:
                governor.leases.forget(change.scope)

    def _missing(self, record_id: str) -> NotFound:
        return NotFound(f"{self.kind}: no {self.kind} {record_id!r}")

    def _rows(self, **where: Any) -> list[dict[str, Any]]:
        return self._governor.storage.records(self.kind, **where)


def _matching(records: Iterable[Any], filters: dict[str, Any]) -> list[Any]:
    found = list(records)
    for name, wanted in filters.items():
        for record in found:
            if not hasattr(record, name):
                raise InvalidRequest(name, f"{type(record).__name__} has no such field")
        found = [record for record in found if getattr(record, name) == wanted]
    return found


class Tenants(_Registry):
    """`governor.tenants`."""

    kind = "tenant"

    def put(self, tenant: Tenant) -> Tenant:
        """Add or replace a tenant. A changed calendar opens new windows from the events."""
        tenant = Tenant.model_validate(tenant)
        self._apply(
            Change(kind=self.kind, scope=tenant.id, id=tenant.id, body=dump(tenant)),
            unfed=_unfed_by(self._rows(scope=tenant.id, id=tenant.id), tenant),
        )
        return tenant

    def get(self, id: str) -> Tenant:  # noqa: A002 -- the public name
        """Return a tenant. Raises `NotFound`."""
        rows = self._rows(scope=id, id=id)
        if not rows:
            raise self._missing(id)
        return Tenant.model_validate(rows[0])

    def list(self, **filters: Any) -> list[Tenant]:
        """List tenants, by any of their fields."""
        return _matching((Tenant.model_validate(row) for row in self._rows()), filters)

    def delete(self, id: str) -> None:  # noqa: A002 -- the public name
        """Delete a tenant's record; what it spent stays. Raises `NotFound`."""
        before = self._rows(scope=id, id=id)
        if not before:
            raise self._missing(id)
        self._apply(
            Change(kind=self.kind, scope=id, id=id, body=None),
            unfed=_unfed_by(before, Tenant(id=id)),
        )


def _unfed_by(before: Sequence[dict[str, Any]], now: Tenant) -> list[CounterFilter]:
    """Name the counters that a tenant's record no longer feeds: moved windows, lifted limits."""
    old = Tenant.model_validate(before[0]) if before else Tenant(id=now.id)
    if old.calendar() != now.calendar():
        return [CounterFilter(kinds=("hourly", "daily", "weekly", "monthly"))]
    limits = ("soft_limit", "hard_limit", "limit_period")
    if any(getattr(old, name) != getattr(now, name) for name in limits):
        return [CounterFilter(measure="cost", kinds=("daily", "monthly"))]
    return []


class Users(_Registry):
    """`governor.users`, keyed `(tenant_id, id)`."""

    kind = "user"

    def put(self, user: User) -> User:
        """Add or replace a user. Raises `NotFound` where tenants are registered and this is not."""
        user = User.model_validate(user)
        if self._governor.planner.registered:
            self._governor.tenants.get(user.tenant_id)
        self._apply(
            Change(kind=self.kind, scope=user.tenant_id, id=user.id, body=dump(user)),
            unfed=[CounterFilter(scope="user", value=user.id)] if user.personal_cap is None else [],
        )
        return user

    def get(self, id: str, *, tenant: str) -> User:  # noqa: A002 -- the public name
        """Return a user. Raises `NotFound`."""
        rows = self._rows(scope=tenant, id=id)
        if not rows:
            raise self._missing(id)
        return User.model_validate(rows[0])

    def list(self, *, tenant: str | None = None, **filters: Any) -> list[User]:
        """List users, of one tenant or of all, by any of their fields."""
        return _matching((User.model_validate(row) for row in self._rows(scope=tenant)), filters)

    def delete(self, id: str, *, tenant: str) -> None:  # noqa: A002 -- the public name
        """Delete a user's record; what it spent stays. Raises `NotFound`."""
        self.get(id, tenant=tenant)
        self._apply(
            Change(kind=self.kind, scope=tenant, id=id, body=None),
            unfed=[CounterFilter(scope="user", value=id)],
        )


class Tools(_Registry):
    """`governor.tools`: what is paid for by the unit."""

    kind = "tool"

    def put(self, tool: Tool) -> Tool:
        """Add or replace a tool."""
        tool = Tool.model_validate(tool)
        self._apply(Change(kind=self.kind, scope="*", id=tool.id, body=dump(tool)))
        return tool

    def get(self, id: str) -> Tool:  # noqa: A002 -- the public name
        """Return a tool. Raises `NotFound`."""
        rows = self._rows(scope="*", id=id)
        if not rows:
            raise self._missing(id)
        return Tool.model_validate(rows[0])

    def list(self, **filters: Any) -> list[Tool]:
        """List tools, by any of their fields."""
        return _matching((Tool.model_validate(row) for row in self._rows()), filters)

    def delete(self, id: str) -> None:  # noqa: A002 -- the public name
        """Delete a tool's record; what it cost stays. Raises `NotFound`."""
        self.get(id)
        self._apply(Change(kind=self.kind, scope="*", id=id, body=None))


class Models(_Registry):
    """`governor.models`: the bundled models, and records that add to or replace them.

    With `tenant=` a record holds for that tenant's calls alone: prices that it negotiated, models
    that only it has. Such a record comes before everybody's, and that before a bundled model.
    """

    kind = "model"

    def put(self, model: Model, *, tenant: str | None = None) -> Model:
        """Add or replace a model of your own, for everybody or for one tenant.

        Raises:
            NotFound: Tenants are registered, and this one is not.
        """
        from fluxai.models.model import Model as Record

        model = Record.model_validate(model)
        model = model.model_copy(update={"provider": provider_name(model.provider)})
        scope = self._scope(tenant)
        # The store first: what it refuses must not stay behind here.
        self._apply(Change(kind=self.kind, scope=scope, id=model.id, body=dump(model)))
        if tenant is None:
            return self._governor.registry.put(model)
        self._governor.planner.fresh_prices(tenant)
        return model

    def get(self, id: str, *, tenant: str | None = None) -> Model:  # noqa: A002 -- the public name
        """Return a model by any spelling, as it holds for a tenant. Raises `NotFound`."""
        try:
            return self._known(tenant).get(id)
        except UnknownModel as error:
            raise NotFound(f"model: {error}") from error

    def list(self, *, tenant: str | None = None, **filters: Any) -> list[Model]:
        """List models by `provider`, `tier`, `capability`, `enabled`, as they hold for a tenant."""
        return self._known(tenant).list(**filters)

    def delete(self, id: str, *, tenant: str | None = None) -> None:  # noqa: A002 -- the public name
        """Delete a model of your own, everybody's or a tenant's; what it stood before is back.

        Raises:
            NotFound: There is no such record.
        """
        scope = self._scope(tenant, registered=False)
        rows = self._rows(scope=scope, id=id)
        if not rows:
            raise self._missing(id)
        self._apply(Change(kind=self.kind, scope=scope, id=id, body=None))
        if tenant is None:
            self._governor.registry.delete(id, provider=rows[0]["provider"])
        else:
            self._governor.planner.fresh_prices(tenant)

    def _scope(self, tenant: str | None, *, registered: bool = True) -> str:
        if tenant is None:
            return "*"
        check_tenant(tenant)
        if registered and self._governor.planner.registered:
            self._governor.tenants.get(tenant)
        return tenant

    def _known(self, tenant: str | None) -> ModelRegistry:
        planner = self._governor.planner
        if tenant is None:
            planner.fresh_catalog()
            return self._governor.registry
        check_tenant(tenant)
        return planner.registry_of(tenant)


class Policies(_Registry):
    """`governor.policies`."""

    kind = "policy"

    def put(self, policy: Policy, *, move: bool = True) -> Policy:
        """Add or replace a policy. It applies from the next reserve.

        One without an id is named after what it counts and does, so that a program which puts its
        policies at every start replaces them, and a changed limit takes the old one's place.

        Args:
            policy: The policy.
            move: Whether it may take its id from another tenant, whose policy then is gone. What
                tenants put themselves may not.

        Raises:
            InvalidRequest: Its fallback closes a cycle, or names a tool without a price; or the id
                is another tenant's, and may not be moved.
        """
        policy = Policy.model_validate(policy)
        if policy.id is None:
            policy = policy.model_copy(update={"id": name_of(policy)})
        assert policy.id is not None  # noqa: S101 -- just given
        if policy.fallback_tool_id is not None:
            self._check_fallback(policy)
        before = [Policy.model_validate(row) for row in self._rows(id=policy.id)]
        elsewhere = [old for old in before if old.tenant_id != policy.tenant_id]
        if elsewhere and not move:
            raise _taken(policy.id)
        moved = [
            Change(kind=self.kind, scope=old.tenant_id, id=policy.id, body=None)
            for old in elsewhere
        ]
        put = Change(
            kind=self.kind,
            scope=policy.tenant_id,
            id=policy.id,
            body=dump(policy),
            sole=not move,
        )
        unfed = [counters for old in before for counters in unfed_by(old, policy)]
        try:
            self._apply(*moved, put, unfed=unfed)
        except StorageError:
            # Perhaps another tenant has taken the id since it was looked for.
            rows = [] if move else self._rows(id=policy.id)
            if any(row["tenant_id"] != policy.tenant_id for row in rows):
                raise _taken(policy.id) from None
            raise
        return policy

    def _check_fallback(self, policy: Policy) -> None:
        governor = self._governor
        catalog = governor.planner.fresh_catalog()
        if policy.tenant_id != "*":
            governor.planner.registry_of(policy.tenant_id)
            catalog = governor.planner.catalog_of(policy.tenant_id)
        together = [
            other
            for other in self.list()
            if other.id != policy.id
            and (policy.tenant_id == "*" or other.tenant_id in ("*", policy.tenant_id))
        ]
        edges: dict[str, list[str]] = {}
        for other in (*together, policy):
            if other.scope == "tool" and other.scope_id and other.fallback_tool_id:
                edges.setdefault(catalog.canonical(other.scope_id), []).append(
                    catalog.canonical(other.fallback_tool_id)
                )
        cycle = find_cycle(edges)
        if cycle is not None:
            raise InvalidRequest(
                "fallback_tool_id", f"the fallbacks would go round in a circle: {' → '.join(cycle)}"
            )
        named = policy.fallback_tool_id or ""
        try:
            catalog.any(named, governor._now())
        except NotFound as error:
            raise InvalidRequest(
                "fallback_tool_id",
                f"{named!r:.120} is neither a model with a price nor a tool that is registered",
            ) from error
        except UnknownModel as error:
            raise InvalidRequest("fallback_tool_id", str(error)) from error

    def get(self, id: str) -> Policy:  # noqa: A002 -- the public name
        """Return a policy. Raises `NotFound`."""
        rows = self._rows(id=id)
        if not rows:
            raise self._missing(id)
        return Policy.model_validate(rows[0])

    def list(self, *, tenant: str | None = None, **filters: Any) -> list[Policy]:
        """List policies: all, or those of a tenant and of every tenant; by any of their fields."""
        found = (Policy.model_validate(row) for row in self._rows())
        if tenant is not None:
            found = (policy for policy in found if policy.tenant_id in (tenant, "*"))
        return _matching(found, filters)

    def delete(self, id: str, *, tenant: str | None = None) -> None:  # noqa: A002 -- the public name
        """Delete a policy and its grants; what was spent under it stays counted.

        Args:
            id: Which policy.
            tenant: Whose it must be, `"*"` for one of every tenant.

        Raises:
            NotFound: No such policy, or it is another tenant's.
        """
        rows = self._rows(scope=tenant, id=id)
        if not rows:
            raise self._missing(id)
        policy = Policy.model_validate(rows[0])
        scope = policy.tenant_id
        grants = [
            Change(kind="grant", scope=scope, id=row["id"], body=None)
            for row in self._governor.storage.records("grant", scope=scope)
            if row["policy_id"] == id
        ]
        self._apply(
            Change(kind=self.kind, scope=scope, id=id, body=None),
            *grants,
            unfed=unfed_by(policy, None),
        )

    def grant(self, policy_id: str, amount: Decimal | str | int, until: datetime, by: str) -> Grant:
        """Raise a policy's limit by an amount until an instant; visible in `budgets`.

        Args:
            policy_id: Which policy.
            amount: USD for the measure `cost`, a whole number otherwise.
            until: Aware; from then on the limit is as before.
            by: Who grants it.

        Raises:
            NotFound: No such policy.
            InvalidRequest: `until` is past, or the amount is wrong.
        """
        policy = self.get(policy_id)
        if policy.limit_value is None:
            raise InvalidRequest(
                "policy_id", f"{policy_id!r} only limits repeats; put it with another repeat_limit"
            )
        governor = self._governor
        now_us = governor._now()
        if policy.counts == "cost":
            to_nano(amount, "amount")
        else:
            count("amount", amount, 1)
        grant = Grant(
            id=uuid_text(governor._ids(now_us)),
            policy_id=policy_id,
            tenant_id=policy.tenant_id,
            amount=amount,
            until=until,
            by=by,
            granted_at=from_us(now_us),
        )
        if grant.until <= from_us(now_us):
            raise InvalidRequest("until", "must be in the future")
        self._apply(Change(kind="grant", scope=policy.tenant_id, id=grant.id, body=dump(grant)))
        return grant


def _taken(policy_id: str) -> InvalidRequest:
    return InvalidRequest("id", f"{policy_id!r:.80} is taken; choose another, or leave it out")
