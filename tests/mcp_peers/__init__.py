"""MCP clients and servers of others; run by `python3 -m tests mcp`, which brings them."""
