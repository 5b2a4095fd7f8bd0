"""Run the benchmarks: all, or those named (`pairs scaling room sqlite postgres usage imports costs wrapped gateway`)."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable

from tests.benchmarks import (
    costs,
    gateway,
    imports,
    memory,
    postgres,
    postgres_growth,
    sqlite,
    usage,
    wrapped,
)

BENCHMARKS: dict[str, Callable[[], None]] = {
    "pairs": memory.pairs,
    "scaling": memory.scaling,
    "room": memory.room,
    "sqlite": sqlite.group_commit,
    "postgres": postgres.postgres,
    "imports": imports.cpu,
    "usage": usage.month,
    "costs": costs.prices,
    "wrapped": wrapped.overhead,
    "gateway": gateway.overhead,
}
BY_NAME: dict[str, Callable[[], None]] = {"postgres_growth": postgres_growth.growth}


def main(names: list[str]) -> int:
    """Run benchmarks by name."""
    known = BENCHMARKS | BY_NAME
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no benchmark {unknown[0]!r}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    print(
        f"Python {platform.python_version()} on {os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}"
    )
    for name in names or BENCHMARKS:
        known[name]()
    if not names:
        print(f"\nBy name only, since they take minutes: {', '.join(BY_NAME)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
