"""Tenants never see or move each other's money."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fluxai.core.errors import NotFound, ReservationNotFound
from fluxai.governor import Governor
from fluxai.testing.contract.case import DIME, TENANT, TOOL, Case, dimes, limit, sums

OTHER = "globex"

VERBS: dict[str, Callable[[Governor, Any], object]] = {
    "settle by id": lambda governor, held: governor.settle(held.id, cost="1", tenant=OTHER),
    "settle": lambda governor, held: governor.settle(held, cost="1", tenant=OTHER),
    "release by id": lambda governor, held: governor.release(held.id, tenant=OTHER),
    "release": lambda governor, held: governor.release(held, tenant=OTHER),
    "extend by id": lambda governor, held: governor.extend(held.id, ttl="9h", tenant=OTHER),
    "extend": lambda governor, held: governor.extend(held, ttl="9h", tenant=OTHER),
}


class Tenants(Case):
    """Every verb carries the tenant; a mismatch finds nothing."""

    @pytest.mark.parametrize("verb", VERBS)
    def test_a_reservation_of_another_tenant_is_not_found(
        self, governor: Governor, verb: str
    ) -> None:
        """Settling, releasing or extending under another tenant's name changes nothing."""
        limit(governor, "1")
        held = dimes(governor)
        with pytest.raises(ReservationNotFound):
            VERBS[verb](governor, held)
        assert sums(governor) == (0, DIME)
        assert governor.storage.find(TENANT, held.uid).state == "reserved"  # type: ignore[union-attr]

    def test_events_approvals_and_decisions_of_another_tenant_are_not_found(
        self, governor: Governor
    ) -> None:
        """Adjusting, approving, rejecting and explaining ask for the tenant as well."""
        limit(governor, "0", decision="require_approval")
        held = dimes(governor)
        event = governor.record(id="e", tenant=TENANT, tool=TOOL, cost="1")
        for verb in (
            lambda: governor.adjust(event.id, "1", reason="r", by="b", tenant=OTHER),
            lambda: governor.approvals.get(held.id, tenant=OTHER),
            lambda: governor.approvals.approve(held.id, by="b", tenant=OTHER),
            lambda: governor.approvals.reject(held.id, by="b", tenant=OTHER),
            lambda: governor.explain(held.id, tenant=OTHER),
        ):
            with pytest.raises(NotFound):
                verb()
        assert sums(governor) == (1, DIME)

    def test_lists_show_one_tenant(self, governor: Governor) -> None:
        """Events, reservations, approvals, budgets and usage of a tenant are its own."""
        limit(governor, "1", tenant_id="*")
        for tenant in (TENANT, OTHER):
            dimes(governor, tenant=tenant, user=tenant)
            governor.settle(dimes(governor, tenant=tenant, user=tenant), cost="0.10")
            governor.record(id="same", tenant=tenant, tool=TOOL, cost="0.5")
        for tenant in (TENANT, OTHER):
            assert {event.tenant for event in governor.events(tenant=tenant)} == {tenant}
            held = governor.reservations(tenant=tenant)
            assert {one.subject.tenant for one in held} == {tenant}
            assert len(held) == 2
            usage = governor.usage(tenant, group_by=("user",))
            assert str(usage.total_cost) == "0.60"
            assert sums(governor, tenant=tenant)[1] == DIME

    def test_users_tools_and_labels_of_one_name_are_not_shared(self, governor: Governor) -> None:
        """Two tenants' users, tools and labels of the same name have accounts of their own."""
        for scope in ("user", "tool", "label"):
            limit(governor, "0.10", id=scope, tenant_id="*", scope=scope)
        for tenant in (TENANT, OTHER, "third"):
            who: dict[str, Any] = {"tenant": tenant, "user": "alice", "labels": {"run": "1"}}
            assert dimes(governor, **who).allowed
            assert not dimes(governor, **who).allowed

    @pytest.mark.parametrize(
        ("one", "two"),
        [
            ("a", "A"),
            ("a", "a "),
            ("é", "e\u0301"),
            ("a/b", "a"),
            ("'; DROP TABLE events; --", "x"),
            ("*", "acme"),
            ("🙂", "🙃"),
            ("%", "_"),
            ("\\", "\\\\"),
        ],
    )
    def test_names_are_what_they_are(self, governor: Governor, one: str, two: str) -> None:
        """Names that look alike, or mean something to a database, are different names."""
        limit(governor, "0.10", scope="user")
        limit(governor, "0.10", id="label", scope="label")
        for name in (one, two):
            who: dict[str, Any] = {"user": name, "labels": {"run": name}}
            assert dimes(governor, **who).allowed
            assert not dimes(governor, **who).allowed

    def test_one_governor_without_tenants_is_the_tenant_default(self, governor: Governor) -> None:
        """A program that names no tenant has one all the same."""
        limit(governor, "0.10", tenant_id="default")
        assert governor.reserve(tool=TOOL).allowed
        assert not governor.reserve(tool=TOOL).allowed
