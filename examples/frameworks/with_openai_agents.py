"""OpenAI Agents SDK: given a wrapped client, an agent is refused the model call that is too much."""

from __future__ import annotations

import asyncio
import os

from agents import Agent, OpenAIProvider, RunConfig, Runner, function_tool
from openai import AsyncOpenAI

from fluxai import BudgetExceeded, Governor
from fluxai.testing import FakeProvider, ToolCall


@function_tool
def order(item: str) -> str:
    """Order something."""
    return f"ordered: {item}"


async def main(provider: FakeProvider) -> None:
    key = os.environ.get("OPENAI_API_KEY")
    governor = Governor()
    client = AsyncOpenAI(api_key=key or "none", base_url=None if key else provider.openai_url)
    wrapped = governor.wrap(client, tenant="acme")
    config = RunConfig(model_provider=OpenAIProvider(openai_client=wrapped), tracing_disabled=True)
    agent = Agent(name="buyer", instructions="Order it.", model="gpt-4o", tools=[order])
    try:
        with governor.budget("0.01", tenant="acme", run="42") as run:
            result = await Runner.run(agent, "Two pencils, please.", run_config=config)
            print(result.final_output)
    except BudgetExceeded as refused:
        print(f"stopped: {refused}")
    print(f"{len(governor.events())} model calls, ${run.spent} of ${run.limit} spent")
    await client.close()


with FakeProvider() as provider:
    # Without a key this answers: a tool call that cost nearly all there is.
    provider.answer(
        tool_calls=[ToolCall(name="order", arguments={"item": "two pencils"})],
        usage={"input": 400, "output": 800},
    )
    asyncio.run(main(provider))
