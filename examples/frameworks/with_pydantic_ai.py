"""Pydantic AI: a run ends with an answer that says why, and a tool has a price of its own."""

from __future__ import annotations

import asyncio
import os

from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from fluxai import Governor, Policy, Tool
from fluxai.integrations.pydantic_ai import BudgetCapability
from fluxai.testing import FakeProvider, ToolCall


def search(text: str) -> str:
    """Search the web."""
    return f"nothing about {text}"


async def main(provider: FakeProvider) -> None:
    key = os.environ.get("OPENAI_API_KEY")
    governor = Governor()
    governor.tools.put(Tool(id="search", category="search", cost_per_unit="0.005"))
    governor.policies.put(
        Policy(
            id="each-conversation",
            tenant_id="acme",
            scope="label",
            scope_id="conversation",
            limit_type="total",
            limit_value="0.02",
        )
    )
    client = AsyncOpenAI(api_key=key or "none", base_url=None if key else provider.openai_url)
    models = OpenAIProvider(openai_client=governor.wrap(client))
    agent = Agent(
        OpenAIChatModel("gpt-4o", provider=models),
        tools=[search],
        capabilities=[BudgetCapability(governor, tenant="acme", on_refusal="end")],
    )
    result = await agent.run("Who was here in 1925?", conversation_id="7")
    print(result.output)
    for event in governor.events():
        print(f"{event.tool}: ${event.cost}, conversation {event.labels['conversation']}")
    await client.close()


with FakeProvider() as provider:
    # Without a key this answers: it searches, and that was most of what there is.
    provider.answer(
        tool_calls=[ToolCall(name="search", arguments={"text": "1925"})],
        usage={"input": 900, "output": 1_200},
    )
    asyncio.run(main(provider))
