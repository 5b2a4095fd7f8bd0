"""`guard`: hold the highest cost for the body of a block, settle what the call really cost."""

from __future__ import annotations

from typing import Any

from fluxai import Governor, Policy, PolicyDenied


def complete(model: str | None, prompt: str, max_tokens: int | None) -> dict[str, Any]:
    """Stand in for a provider: answers with the usage that its API would report."""
    usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": min(120, max_tokens or 120)}
    return {"model": model, "usage": usage}


governor = Governor()
governor.policies.put(
    Policy(id="one-call", tenant_id="acme", limit_type="per_request", limit_value="0.05")
)

prompt = "Summarise the minutes of the meeting in three sentences."
with governor.guard(tenant="acme", user="ana", model="gpt-4o", prompt=prompt) as call:
    print(f"held: at most ${call.reservation.estimate.highest}")
    call.settle(complete(call.model, prompt, call.max_output_tokens))

(event,) = governor.events()
print(f"settled: ${event.cost}")

try:
    with governor.guard(
        tenant="acme", user="ana", model="gpt-4o", prompt=prompt, max_output_tokens=16_000
    ):
        print("this is never reached: the block does not run")
except PolicyDenied as refused:
    print(f"refused. {refused.decision.counter_offer}")
