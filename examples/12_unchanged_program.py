"""A program that knows nothing of FluxAI, on a budget: `fluxai run` does this for a script."""

from __future__ import annotations

import openai

import fluxai
from fluxai import BudgetExceeded, Governor
from fluxai.testing import FakeProvider


def agent(base_url: str) -> None:
    """Ask on and on, as somebody else's code does. No governor in sight."""
    with openai.OpenAI(base_url=base_url, api_key="any") as client:
        while True:
            answer = client.chat.completions.create(
                model="gpt-4o",
                messages=[{"role": "user", "content": "What next?"}],
                max_tokens=50,
            )
            print(answer.choices[0].message.content)


governor = Governor()
with (
    FakeProvider(default="Think again.") as provider,
    governor.budget("0.0016", tenant="acme") as block,
    fluxai.instrument(governor),
):
    for _ in range(3):
        provider.answer("Think again.", usage={"input": 11, "output": 50})
    try:
        agent(provider.openai_url)
    except BudgetExceeded:
        print(f"stopped after {len(provider.requests)} requests: ${block.spent} of ${block.limit}")
