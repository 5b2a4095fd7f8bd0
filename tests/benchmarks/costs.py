"""Prices, parsing and counting, beside the price library's own calls in the same run."""

from __future__ import annotations

import json
import random
import statistics
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any

from fluxai.costs import CostEstimator, PriceBook
from fluxai.costs.table import PriceTable
from tests.benchmarks.report import Figure, show

#: The shape and size of an everyday answer.
RESPONSE: dict[str, Any] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_780_000_000,
    "model": "gpt-4o-2024-08-06",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    ],
    "usage": {
        "prompt_tokens": 1200,
        "completion_tokens": 300,
        "total_tokens": 1500,
        "prompt_tokens_details": {"cached_tokens": 1024, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 64, "audio_tokens": 0},
    },
    "service_tier": "default",
}
CLAUDE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-4-5-20250929",
    "content": [{"type": "text", "text": "Hi"}],
    "usage": {
        "input_tokens": 200,
        "cache_creation_input_tokens": 1000,
        "cache_read_input_tokens": 5000,
        "cache_creation": {"ephemeral_5m_input_tokens": 800, "ephemeral_1h_input_tokens": 200},
        "output_tokens": 300,
    },
}
AT_US = 1_790_000_000_000_000
WORDS = ("the", "budget", "of", "a", "team", "is", "held", "before", "each", "call", "and", "so,")


def _us(function: Callable[[], object], *, each: int = 200, rounds: int = 15) -> float:
    """Return the best of several rounds, in microseconds a call."""
    function()
    best = float("inf")
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(each):
            function()
        best = min(best, (time.perf_counter() - start) / each)
    return best * 1e6


def _prose(length: int) -> str:
    chance = random.Random(3)
    text = " ".join(chance.choice(WORDS) for _ in range(length // 4))
    return text[:length]


def _table_megabytes() -> tuple[float, float]:
    """Return the memory of the whole table once read, and the milliseconds to read all of it."""
    from fluxai.costs import table

    text = (table.Path(table.__file__).parent / "data" / "prices.jsonl").read_text("utf-8")
    start = time.perf_counter()
    for provider in PriceTable(text).providers.values():
        _ = provider.lines
    spent = (time.perf_counter() - start) * 1e3
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    whole = PriceTable(text)
    for provider in whole.providers.values():
        _ = provider.lines
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / 1e6, spent


def _library() -> tuple[float, float] | None:
    """Return what genai-prices takes for a price, and for reading and pricing, in microseconds."""
    if find_spec("genai_prices") is None:
        return None
    import genai_prices

    usage = genai_prices.Usage(input_tokens=1200, cache_read_tokens=1024, output_tokens=300)

    def one() -> object:
        return genai_prices.calc_price(usage, "gpt-4o", provider_id="openai")

    def both() -> object:
        found = genai_prices.extract_usage(RESPONSE, provider_id="openai", api_flavor="chat")
        return found.calc_price()

    return _us(one, each=20, rounds=8), _us(both, each=20, rounds=8)


def prices() -> None:
    """Print what a price, a cost and a count take, and how large the table is."""
    book = PriceBook()
    estimator = CostEstimator(book)
    text = json.dumps(RESPONSE).encode()
    at = datetime(2026, 9, 1, tzinfo=UTC)
    lookup = _us(lambda: book.rates("gpt-4o-2024-08-06", AT_US))
    with_provider = _us(lambda: book.rates("gpt-4o", AT_US, provider="openai", tier="batch"))
    whole = _us(lambda: estimator.cost(RESPONSE, at=at))
    claude = _us(lambda: estimator.cost(CLAUDE, "anthropic", at=at))
    raw = _us(lambda: estimator.cost(text, at=at))
    theirs = _library()
    price, both = (
        ("", "")
        if theirs is None
        else (
            f"genai-prices {theirs[0]:.0f} µs: {theirs[0] / lookup:.0f}× faster",
            f"genai-prices {theirs[1]:.0f} µs: {theirs[1] / whole:.0f}× faster",
        )
    )
    prose, code, chinese = (
        _prose(1000),
        ("    return {'a': [1, 2], 'b': f(x)}\n" * 40)[:1000],
        "价格是多少,请告诉我。" * 100,
    )
    counts = [
        (name, _us(lambda t=sample: estimator.count("gpt-4o", prompt=t)) * 1000 / len(sample))
        for name, sample in (("prose", prose), ("code", code), ("Chinese", chinese))
    ]
    huge = (prose + "\n") * 10_500
    spent = []
    for _ in range(5):
        start = time.perf_counter()
        estimator.count("gpt-4o", prompt=huge)
        spent.append((time.perf_counter() - start) * 1e3)
    megabytes, milliseconds = _table_megabytes()
    trace = _us(lambda: estimator.trace("gpt-4o", prompt=prose))
    show(
        "Costs",
        [
            Figure("price lookup, warm", f"{lookup:.2f} µs", price, "≤ 2 µs", lookup <= 2),
            Figure(
                "… with provider and tier",
                f"{with_provider:.2f} µs",
                "",
                "≤ 2 µs",
                with_provider <= 2,
            ),
            Figure(
                "parse + cost, OpenAI dictionary", f"{whole:.1f} µs", both, "≤ 25 µs", whole <= 25
            ),
            Figure(
                "parse + cost, Anthropic with caches",
                f"{claude:.1f} µs",
                "",
                "≤ 25 µs",
                claude <= 25,
            ),
            Figure("parse + cost, JSON bytes", f"{raw:.1f} µs", "", "≤ 25 µs", raw <= 25),
            *(
                Figure(f"count 1,000 characters, {name}", f"{us:.1f} µs", "", "≤ 10 µs", us <= 10)
                for name, us in counts
            ),
            Figure(
                "count 10 MB",
                f"{statistics.median(spent):.0f} ms",
                f"{len(huge) / 1e6:.1f} MB",
                "≤ 100 ms",
                statistics.median(spent) <= 100,
            ),
            Figure(
                "nothing to learn: trace of a plain prompt",
                f"{trace:.2f} µs",
                "",
                "≤ 1 µs",
                trace <= 1,
            ),
            Figure(
                "price table in memory, all of it read",
                f"{megabytes:.1f} MB",
                f"read in {milliseconds:.0f} ms",
                "≤ 10 MB",
                megabytes <= 10,
            ),
        ],
    )
