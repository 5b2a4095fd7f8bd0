"""The tools of the MCP server: each a name, typed arguments, a typed result, and one function."""

from __future__ import annotations

from typing import Any

from fluxai.mcp.tools.answering import ANSWERING
from fluxai.mcp.tools.approving import APPROVING
from fluxai.mcp.tools.limiting import LIMITING
from fluxai.mcp.tools.looking import LOOKING
from fluxai.mcp.tools.spending import SPENDING
from fluxai.mcp.tools.tool import GovernorTool

__all__ = ["TOOLS", "GovernorTool"]

TOOLS: tuple[GovernorTool[Any], ...] = (
    *SPENDING,
    *ANSWERING,
    *LOOKING,
    *LIMITING,
    *APPROVING,
)
