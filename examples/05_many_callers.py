"""64 threads ask for $0.10 each at the same moment, and the budget is $1: exactly ten get it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from fluxai import Governor, Policy, Tool

CALLERS = 64

governor = Governor()
governor.tools.put(Tool(id="report", cost_per_unit="0.10"))
governor.policies.put(Policy(tenant_id="acme", limit_type="total", limit_value="1.00"))
start = Barrier(CALLERS)


def call(number: int) -> bool:
    start.wait()
    reservation = governor.reserve(tenant="acme", user=f"worker-{number}", tool="report")
    if reservation.allowed:
        governor.settle(reservation)
    return reservation.allowed


with ThreadPoolExecutor(CALLERS) as pool:
    admitted = sum(pool.map(call, range(CALLERS)))

(budget,) = governor.budgets("acme")
print(f"{admitted} of {CALLERS} admitted, ${budget.settled} of ${budget.limit} spent")
