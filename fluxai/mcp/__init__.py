"""MCP: FluxAI's server. Needs the extra `mcp`.

Every verb here acts for an `Identity`: a tenant, perhaps a user, and scopes, taken from a verified
credential or from the launch configuration, never from what a model writes.
"""
