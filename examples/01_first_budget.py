"""A daily budget for a tenant: calls run until the limit would be crossed, then none is made."""

from __future__ import annotations

from typing import Any

from fluxai import BudgetExceeded, Governor, Policy

governor = Governor()  # in memory; Governor("sqlite:///fluxai.db") keeps it
governor.policies.put(
    Policy(tenant_id="acme", id="acme-daily", limit_type="daily", limit_value="0.01")
)


@governor.govern(tenant="acme")
def ask(prompt: str, *, model: str = "gpt-4o", max_tokens: int = 300) -> dict[str, Any]:
    """Stand in for a client that sends all three, and answers with the usage it was billed."""
    usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": max_tokens - 50}
    return {"model": model, "usage": usage}


answers = 0
try:
    while True:
        ask("Write a haiku about budgets.")
        answers += 1
except BudgetExceeded as refused:
    print(f"{answers} answers, then: {refused}")

(budget,) = governor.budgets("acme")
print(f"settled ${budget.settled} of ${budget.limit}, ${budget.remaining} left")
