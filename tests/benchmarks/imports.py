"""What it costs to import FluxAI: CPU seconds of a fresh process over a bare one."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

from tests.benchmarks.report import Figure, show


def _cpu_s(code: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def cpu() -> None:
    """Print the CPU time of both imports."""
    codes = ("pass", "import fluxai", "from fluxai import Governor, Policy")
    times: list[list[float]] = [[] for _ in codes]
    for _ in range(7):
        for spent, code in zip(times, codes, strict=True):
            spent.append(_cpu_s(code))
    bare, package, names = (statistics.median(spent) for spent in times)
    show(
        "Import, CPU of a fresh process (median of 7)",
        [
            Figure("bare interpreter", f"{bare:.3f} s"),
            Figure(
                "import fluxai",
                f"{package:.3f} s",
                f"over bare {package - bare:.3f} s",
                "≤ 0.15 s",
                package <= 0.15,
            ),
            Figure(
                "from fluxai import Governor, Policy",
                f"{names:.3f} s",
                f"over bare {names - bare:.3f} s",
                "≤ 0.7 s",
                names <= 0.7,
            ),
        ],
    )
