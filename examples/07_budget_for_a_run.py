"""A budget around an agent's run, and a smaller one around a step of it."""

from __future__ import annotations

from fluxai import Governor, Tool

governor = Governor()
governor.tools.put(Tool(id="search", category="search", cost_per_unit="0.01"))


def searches(wanted: int) -> int:
    """Search until the money is used up, or it is enough. Return how often it was done."""
    for done in range(wanted):
        reservation = governor.reserve(tool="search")
        if not reservation.allowed:
            return done
        governor.settle(reservation)
    return wanted


with governor.budget("0.30", tenant="acme", run="42") as run:
    print(f"planning: {searches(5)} searches, ${run.remaining} left of ${run.limit}")
    with governor.budget("0.10", step="fact-check") as step:
        print(f"fact check: {searches(50)} searches, ${step.spent} of ${step.limit} spent")
    print(f"writing: {searches(50)} searches, ${run.remaining} left")

print(f"all of it: ${governor.usage('acme').total_cost}")
