"""Lists a server's tools and calls one, some times over, with LangChain's client of MCP.

`langchain_client.py URL TOKEN TOOL ARGUMENTS TIMES`, in an environment of its own. Writes what came of it as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from langchain_core.messages import ToolMessage
from langchain_mcp_adapters.client import MultiServerMCPClient


async def main(url: str, token: str, name: str, given: str, times: str) -> None:
    """Talk to the server."""
    client = MultiServerMCPClient(
        {
            "gateway": {
                "transport": "streamable_http",
                "url": url,
                "headers": {"Authorization": f"Bearer {token}"},
            }
        }
    )
    tools = {tool.name: tool for tool in await client.get_tools()}
    answers: list[dict[str, Any]] = []
    for number in range(int(times)):
        call = {"type": "tool_call", "id": str(number), "name": name, "args": json.loads(given)}
        message = await tools[name].ainvoke(call)
        assert isinstance(message, ToolMessage)
        answers.append({"text": message.text, "refused": message.status == "error"})
    sys.stdout.write(json.dumps({"tools": sorted(tools), "answers": answers, "version": None}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
