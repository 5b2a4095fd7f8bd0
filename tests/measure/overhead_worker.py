"""Times calls of OpenAI's SDK beside the same calls governed: one JSON line. Needs only the SDK.

It runs in the environment of whatever governs, so it imports nothing of this package but FluxAI
itself, and that only when it is what is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from openai import OpenAI

MESSAGES: Any = [{"role": "user", "content": "Name a river, and say where it ends. " * 8}]
WARM_UP = 20


def _ask(client: Any) -> Callable[[], object]:
    return lambda: client.chat.completions.create(
        model="gpt-4o", messages=MESSAGES, max_completion_tokens=500
    )


def _governed(
    how: str, url: str, proxy: str | None, key: str
) -> tuple[Any, AbstractContextManager[Any]]:
    """Return a governed client, and the block that its calls run in."""
    client = OpenAI(base_url=url, api_key="any", max_retries=0)
    if how == "fluxai":
        package: Any = importlib.import_module("fluxai")
        governor = package.Governor()
        for kind in ("daily", "monthly"):
            for scope in ("tenant", "user"):
                governor.policies.put(
                    package.Policy(
                        tenant_id="acme", scope=scope, limit_type=kind, limit_value="100000"
                    )
                )
        return governor.wrap(client, tenant="acme", user="alice"), contextlib.nullcontext()
    if how == "shekel":
        package = importlib.import_module("shekel")
        return client, package.budget(max_usd=100_000)
    return OpenAI(base_url=proxy, api_key=key, max_retries=0), contextlib.nullcontext()


def _round(call: Callable[[], object], calls: int) -> tuple[list[float], float]:
    """Return how long each call took, and the CPU time of one, both in microseconds."""
    took = []
    cpu = time.process_time()
    for _ in range(calls):
        start = time.perf_counter()
        call()
        took.append((time.perf_counter() - start) * 1e6)
    return took, (time.process_time() - cpu) / calls * 1e6


def main() -> None:
    """Measure in turns, so that whatever else the machine does falls on both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("how", choices=("fluxai", "shekel", "proxy"))
    parser.add_argument("url")
    parser.add_argument("--proxy")
    parser.add_argument("--key", default="any")
    parser.add_argument("--calls", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=80)
    given = parser.parse_args()
    plain = _ask(OpenAI(base_url=given.url, api_key="any", max_retries=0))
    client, block = _governed(given.how, given.url, given.proxy, given.key)
    governed = _ask(client)
    alone_us: list[float] = []
    more_us: list[float] = []
    cpu_us: list[float] = []
    _round(plain, WARM_UP)
    with block:
        _round(governed, WARM_UP)
    for number in range(given.rounds):
        # Whoever comes second finds a warmer machine, so they take turns in that too.
        if number % 2:
            alone, alone_cpu = _round(plain, given.calls)
        with block:
            under, under_cpu = _round(governed, given.calls)
        if not number % 2:
            alone, alone_cpu = _round(plain, given.calls)
        alone_us.append(statistics.median(alone))
        more_us.append(statistics.median(under) - statistics.median(alone))
        cpu_us.append(under_cpu - alone_cpu)
    json.dump(
        {
            "plain_us": statistics.median(alone_us),
            "more_us": statistics.median(more_us),
            "more_cpu_us": statistics.median(cpu_us),
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
