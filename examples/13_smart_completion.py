"""A prompt in, the answer of a model that suits out: chosen, governed, and replaced if it fails."""

from __future__ import annotations

from anthropic import Anthropic
from openai import OpenAI

from fluxai import BudgetExceeded, Governor, Policy
from fluxai.testing import FakeProvider

with (
    FakeProvider(default="The Rhine.") as provider,
    OpenAI(base_url=provider.openai_url, api_key="any", max_retries=0) as openai,
    Anthropic(base_url=provider.anthropic_url, api_key="any", max_retries=0) as anthropic,
    Governor() as governor,
):
    governor.policies.put(Policy(tenant_id="acme", limit_type="daily", limit_value="0.02"))
    governor.providers(
        openai=openai, anthropic=anthropic, gemini=False, models={"simple": "gpt-4o-mini"}
    )

    done = governor.smart_complete("Name a river.", tenant="acme")
    print(f"{done.text} {done.model} by {done.provider}: ${done.cost}, ${done.saved} saved")

    provider.fail(503)
    done = governor.smart_complete("Name a river.", tenant="acme")
    print(f"{done.text} {done.model} by {done.provider}, {done.reason}")

    asked = len(provider.requests)
    try:
        governor.smart_complete("Name a river.", tenant="acme", max_tokens=60_000)
    except BudgetExceeded as refused:
        print(f"refused, and nothing was sent ({len(provider.requests) - asked}): {refused}")
