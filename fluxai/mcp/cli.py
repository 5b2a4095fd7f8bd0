"""The command line `fluxai-mcp`. Needs the extra `mcp`.

Exit codes: 0 done, 1 error, 2 usage.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import NoReturn

_NEEDED = ("click", "jwt", "mcp", "uvicorn")


def main() -> NoReturn:
    """Run the command line with the process's arguments, and exit."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        sys.exit(
            f"fluxai-mcp: this needs {' and '.join(missing)}; "
            f"install with: pip install 'fluxai[mcp]'"
        )
    from fluxai.mcp.commands import app
    from fluxai.mcp.gateway.command import gateway, pins

    app.add_command(gateway)
    app.add_command(pins)
    app(prog_name="fluxai-mcp")
    raise AssertionError("click exits")
