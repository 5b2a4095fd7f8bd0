"""What governing a call of an SDK costs, beside the same call of the same SDK in the same run."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import anthropic
import httpx
import httpx2
import openai

from fluxai import Governor, Policy
from tests.benchmarks.costs import CLAUDE, RESPONSE
from tests.benchmarks.report import Figure, show

MESSAGES: Any = [{"role": "user", "content": "Name a river, and say where it ends. " * 8}]
CALLS = 200
ROUNDS = 15


def _gpt() -> openai.OpenAI:
    """Return a client whose answers come from memory: what is measured is this side alone."""
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=RESPONSE))
    return openai.OpenAI(api_key="k", http_client=httpx.Client(transport=transport))


def _claude() -> anthropic.Anthropic:
    transport = httpx2.MockTransport(
        lambda _: httpx2.Response(200, json={**CLAUDE, "stop_reason": "end_turn"})
    )
    return anthropic.Anthropic(api_key="k", http_client=httpx2.Client(transport=transport))


def _ask_gpt(client: Any) -> Callable[[], object]:
    return lambda: client.chat.completions.create(
        model="gpt-4o", messages=MESSAGES, max_completion_tokens=500
    )


def _ask_claude(client: Any) -> Callable[[], object]:
    return lambda: client.messages.create(
        model="claude-haiku-4-5", messages=MESSAGES, max_tokens=500
    )


def _pairs(plain: Callable[[], object], wrapped: Callable[[], object]) -> tuple[float, float]:
    """Return CPU microseconds a call, plain and wrapped, measured in turns: the best of each."""
    best = [float("inf"), float("inf")]
    differences = []
    for _ in range(ROUNDS):
        took = []
        for index, call in enumerate((plain, wrapped)):
            gc.collect()
            start = time.process_time()
            for _ in range(CALLS):
                call()
            took.append((time.process_time() - start) / CALLS * 1e6)
            best[index] = min(best[index], took[-1])
        differences.append(took[1] - took[0])
    return best[0], statistics.median(differences)


def overhead() -> None:
    """Measure a governed call of each SDK, with four policies that apply."""
    figures = []
    for name, make, ask in (("openai", _gpt, _ask_gpt), ("anthropic", _claude, _ask_claude)):
        with Governor() as governor:
            for kind in ("daily", "monthly"):
                for scope in ("tenant", "user"):
                    governor.policies.put(
                        Policy(tenant_id="acme", scope=scope, limit_type=kind, limit_value="100000")
                    )
            client = make()
            plain = ask(client)
            wrapped = ask(governor.wrap(client, tenant="acme", user="alice"))
            plain()
            wrapped()
            alone, more = _pairs(plain, wrapped)
        figures.append(
            Figure(
                f"{name}: what governing adds to a call",
                f"{more:.0f} µs CPU",
                f"the plain call {alone:.0f} µs",
                "≤ 150 µs",
                more <= 150,
            )
        )
    show("wrapped clients", figures)
