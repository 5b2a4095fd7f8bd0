"""A dear call waits for a human; once approved, exactly that call runs, once."""

from __future__ import annotations

from fluxai import Governor, Policy, Tool

governor = Governor()
governor.tools.put(Tool(id="deep-research", cost_per_unit="4.00"))
governor.policies.put(
    Policy(
        tenant_id="acme",
        limit_type="per_request",
        limit_value="1.00",
        decision="require_approval",
    )
)

asked = governor.reserve(tenant="acme", user="ana", tool="deep-research")
approval_id = asked.approval_id or ""
print(f"asked: {asked.decision}, ${asked.estimate.highest} held")

for waiting in governor.approvals.list(state="pending"):
    print(f"waiting: {waiting.user} wants {waiting.tool} for ${waiting.amount}")
    governor.approvals.approve(waiting.id, by="boss@acme.example")

run = governor.reserve(tenant="acme", user="ana", tool="deep-research", approval_id=approval_id)
settlement = governor.settle(run)
print(f"run: {run.decision}, settled ${settlement.cost}")

again = governor.reserve(tenant="acme", user="ana", tool="deep-research", approval_id=approval_id)
print(f"run again: {again.decision}")
