"""Money that is spent already: recorded once, corrected openly, and looked at by tool and user."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from fluxai import Governor, Usage

governor = Governor()
now = datetime.now(UTC)

usage = Usage(input=10_000, cache_read=40_000, output=2_000)
for _ in range(2):  # a retry changes nothing: the id names one event
    event = governor.record(
        id="invoice-17",
        usage=usage,
        model="gpt-4o",
        tenant="acme",
        user="ana",
        at=now - timedelta(minutes=5),
    )
print(f"recorded ${event.cost} for {event.user}")

governor.record(cost="0.25", tool="search", tenant="acme", user="bob", id="invoice-18")
governor.adjust("invoice-17", "-0.01", reason="credit note", by="accounting", tenant="acme")

day = timedelta(days=1)
summary = governor.usage("acme", start=now - day, end=now + day, group_by=("user", "tool"))
for (user, tool), group in summary.groups.items():
    print(f"  {user} on {tool}: ${group.cost}")
print(f"in {len(governor.events())} events: ${summary.total_cost}")
