"""Async code and streams: held before the first chunk, settled by the usage in the last one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import fluxai
from fluxai import AsyncGovernor, Policy

governor = AsyncGovernor()


@governor.govern(tenant="acme")
async def answer(prompt: str, *, model: str = "gpt-4o-mini") -> AsyncIterator[dict[str, Any]]:
    """Stand in for a streaming client: text in chunks, and usage at the end."""
    for word in prompt.split():
        await asyncio.sleep(0)
        yield {"model": model, "choices": [{"delta": {"content": word}}]}
    usage = {"prompt_tokens": 12, "completion_tokens": 4}
    yield {"model": model, "choices": [], "usage": usage}


async def talk(user: str) -> str:
    words = []
    with fluxai.subject(user=user):
        async for chunk in answer("Spend less, know more."):
            words += [choice["delta"]["content"] for choice in chunk["choices"]]
    return " ".join(words)


async def main() -> None:
    await governor.policies.put(Policy(tenant_id="acme", limit_type="daily", limit_value="1.00"))
    mottos = await asyncio.gather(*(talk(f"user-{number}") for number in range(8)))
    print(mottos[0])
    summary = await governor.usage("acme", group_by=("user",))
    print(f"{summary.total_events} streams by {len(summary.groups)} users: ${summary.total_cost}")
    await governor.close()


asyncio.run(main())
