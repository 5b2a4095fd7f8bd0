"""The memory store: what a governed call costs over the least it could, and how that scales."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any

from fluxai import Governor, Policy, Usage
from tests.benchmarks import baseline
from tests.benchmarks.report import Figure, ratio, show

RESPONSE: dict[str, Any] = {
    "id": "chatcmpl-benchmark",
    "object": "chat.completion",
    "created": 1_763_883_144,
    "model": "gpt-4o-2024-08-06",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Yes.", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 92,
        "completion_tokens": 50,
        "total_tokens": 142,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    },
    "service_tier": "default",
    "system_fingerprint": "fp_benchmark",
}
PROMPT = ("Please summarise the following report in three sentences for a busy reader. " * 6)[:400]
ASSUMED = Usage(input=92, output=50)


def governed(policies: int = 100, tenants: int = 1) -> Governor:
    """A governor with that many policies, of which five apply to alice of tenant t0."""
    governor = Governor()
    put = governor.policies.put
    put(Policy(tenant_id="*", limit_type="total", limit_value="900000000"))
    put(Policy(tenant_id="*", limit_type="daily", limit_value="900000"))
    put(Policy(tenant_id="*", limit_type="monthly", limit_value="900000"))
    put(Policy(tenant_id="*", scope="user", limit_type="daily", limit_value="900000"))
    put(
        Policy(
            tenant_id="*",
            scope="tool",
            scope_id="gpt-4o",
            limit_type="monthly",
            limit_value="900000",
        )
    )
    for number in range(policies - 5):
        put(
            Policy(
                tenant_id="t0",
                scope="user",
                scope_id=f"user-{number}",
                limit_type="daily",
                limit_value="5",
            )
        )
    for number in range(tenants if tenants > 1 else 0):
        one_call(governor, f"t{number}")
    return governor


def one_call(governor: Governor, tenant: str) -> None:
    """Reserve with counts, and settle with a usage."""
    reservation = governor.reserve(
        tenant=tenant, user="alice", model="gpt-4o", input_tokens=100, max_output_tokens=100
    )
    governor.settle(reservation, usage=ASSUMED)


def pairs() -> None:
    """Print what a reserve and settle cost over the baseline."""
    governor = governed()

    def with_counts() -> None:
        one_call(governor, "t0")

    def with_prompt() -> None:
        reservation = governor.reserve(
            tenant="t0", user="alice", model="gpt-4o", prompt=PROMPT, max_output_tokens=100
        )
        governor.settle(reservation, RESPONSE)

    base, counts, prompt = baseline.in_turn(baseline.pair, with_counts, with_prompt)
    assert governor.verify().ok
    show(
        "Memory: reserve + settle, 100 policies of which 5 apply (p50)",
        [
            Figure("baseline pair", f"{base:.2f} µs"),
            ratio("with counts and a Usage", counts, base, 7),
            ratio("with a 400-character prompt and an OpenAI dict", prompt, base, 12),
        ],
    )


def scaling() -> None:
    """Print how the cost of a decision grows with policies and tenants."""
    few, many = governed(policies=10), governed(policies=10_000)
    a, b = baseline.in_turn(lambda: one_call(few, "t0"), lambda: one_call(many, "t0"))
    chance = random.Random(1)
    names = [f"t{chance.randrange(10)}" for _ in range(50_000)]
    wide_names = [f"t{chance.randrange(100_000)}" for _ in range(50_000)]
    small, large = governed(tenants=10), governed(tenants=100_000)
    turn, wide_turn = iter(names * 2), iter(wide_names * 2)
    c, d = baseline.in_turn(
        lambda: one_call(small, next(turn)),
        lambda: one_call(large, next(wide_turn)),
        rounds=400,
        each=50,
    )
    narrow, wide = baseline.in_turn(baseline.wide_pairs(10), baseline.wide_pairs(100_000))
    show(
        "Memory: reserve + settle as policies and tenants grow (p50)",
        [
            Figure(
                "the baseline pair itself with 100,000 tenants",
                f"{wide:.2f} µs",
                f"10 tenants {narrow:.2f} µs: {wide / narrow:.2f}×",
            ),
            ratio("10,000 policies", b, a, 1.5, base_name="10 policies"),
            ratio("100,000 tenants, drawn at random", d, c, 1.5, base_name="10 tenants"),
        ],
    )


def room() -> None:
    """Print what an open reservation takes in memory."""
    governor = governed()
    one_call(governor, "t0")
    count = 10_000
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    held = [
        governor.reserve(
            tenant="t0", user="alice", model="gpt-4o", input_tokens=100, max_output_tokens=100
        )
        for _ in range(count)
    ]
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = (after - before) / len(held)
    show(
        "Memory: room",
        [
            Figure(
                "one open reservation, its caller's reference included",
                f"{size:.0f} bytes",
                "",
                "≤ 1,024 bytes",
                size <= 1024,
            )
        ],
    )
