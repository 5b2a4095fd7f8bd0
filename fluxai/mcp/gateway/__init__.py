"""The gateway: a budget in front of other people's MCP servers. Needs the extra `mcp`.

An agent that speaks to the gateway can't call a tool around it: each call is reserved, forwarded
and settled, or refused before any server hears of it.
"""
