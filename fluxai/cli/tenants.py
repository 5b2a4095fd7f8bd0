"""Which tenants a ledger knows, and how they are called."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fluxai.core.decisions import UsageEvent
    from fluxai.governor import Governor

OPEN_MAX = 1_000
RECENT = 200


def titled(tenant: str, names: dict[str, str]) -> str:
    """Write a tenant's name with its id."""
    return f"{names[tenant]} ({tenant})" if tenant in names else tenant


def tenant_names(governor: Governor) -> dict[str, str]:
    """Name the registered tenants that have a name."""
    return {tenant.id: tenant.name for tenant in governor.tenants.list() if tenant.name}


def known_tenants(governor: Governor) -> list[str]:
    """List the tenants that are registered, limited, or have spent or held money lately."""
    found = {tenant.id: None for tenant in governor.tenants.list()}
    found |= {policy.tenant_id: None for policy in governor.policies.list()}
    found |= {
        reservation.subject.tenant: None
        for reservation in governor.reservations("reserved", limit=OPEN_MAX)
    }
    found |= {event.tenant: None for event in latest_events(governor, RECENT)}
    found.pop("*", None)
    return sorted(found)


def latest_events(governor: Governor, number: int) -> list[UsageEvent]:
    """Return the latest events of all tenants, newest first.

    Events are read forwards from a sequence number, so the last number is found by halving.
    """
    low, high = 0, 1
    while governor.events(after=high, limit=1):
        low, high = high, high * 2
    while low < high:
        middle = (low + high) // 2
        if governor.events(after=middle, limit=1):
            low = middle + 1
        else:
            high = middle
    return governor.events(after=max(0, high - number), limit=number)[::-1]
