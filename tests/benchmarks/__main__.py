"""Run the benchmarks: all, or those named (`pairs scaling room sqlite usage imports`)."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable

from tests.benchmarks import costs, imports, memory, sqlite, usage

BENCHMARKS: dict[str, Callable[[], None]] = {
    "pairs": memory.pairs,
    "scaling": memory.scaling,
    "room": memory.room,
    "sqlite": sqlite.group_commit,
    "imports": imports.cpu,
    "usage": usage.month,
    "costs": costs.prices,
}


def main(names: list[str]) -> int:
    """Run benchmarks by name."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        print(f"no benchmark {unknown[0]!r}; there are: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 2
    print(
        f"Python {platform.python_version()} on {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}"
    )
    for name in names or BENCHMARKS:
        BENCHMARKS[name]()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
