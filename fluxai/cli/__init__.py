"""The command line: `fluxai`, also `python -m fluxai`. Needs the extra `cli`.

Exit codes: 0 done, 1 error, 2 usage, 3 refused by a policy.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import NoReturn

__all__ = ["main"]

_NEEDED = ("click", "rich")


def main() -> NoReturn:
    """Run the command line with the process's arguments, and exit."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        sys.exit(
            f"fluxai: the command line needs {' and '.join(missing)}; "
            f"install with: pip install 'fluxai[cli]'"
        )
    from fluxai.cli.app import run

    run()
