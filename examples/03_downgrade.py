"""A dear model for small calls only: larger ones are answered by a cheaper model."""

from __future__ import annotations

from typing import Any

from fluxai import Governor, Policy

governor = Governor()
governor.policies.put(
    Policy(
        tenant_id="acme",
        scope="tool",
        scope_id="gpt-4o",
        limit_type="per_request",
        limit_value="0.01",
        decision="downgrade",
        fallback_tool_id="gpt-4o-mini",
    )
)


@governor.govern(tenant="acme")
def ask(prompt: str, *, max_tokens: int, model: str = "gpt-4o") -> dict[str, Any]:
    """Stand in for a client. `model` is the one that was granted."""
    print(f"  {prompt} (at most {max_tokens:,} tokens): answered by {model}")
    return {"model": model, "usage": {"prompt_tokens": 20, "completion_tokens": max_tokens}}


print("asking gpt-4o:")
ask("A short answer", max_tokens=200)
ask("A long answer", max_tokens=4_000)

for event in governor.events():
    print(f"  {event.decision}: {event.tool}, ${event.cost}")
