"""What did this response cost? Any provider's: an object, a dict, JSON, a stream's chunks."""

from __future__ import annotations

from decimal import Decimal

from fluxai import CostEstimator

estimator = CostEstimator()

openai = {
    "model": "gpt-4o",
    "usage": {
        "prompt_tokens": 12_000,  # OpenAI counts cached tokens in here …
        "completion_tokens": 400,
        "total_tokens": 12_400,
        "prompt_tokens_details": {"cached_tokens": 10_000},
    },
}
anthropic_stream = [
    {
        "type": "message_start",
        "message": {
            "type": "message",
            "model": "claude-sonnet-4-5",
            "usage": {
                "input_tokens": 2_000,  # … Anthropic does not
                "cache_read_input_tokens": 10_000,
                "output_tokens": 1,
            },
        },
    },
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {"output_tokens": 400},
    },
]

for response in (openai, anthropic_stream):
    cost = estimator.cost(response)
    print(f"{cost.provider} {cost.model}: ${cost.total}")
    for line in cost.lines:
        price = (line.unit_price * 1_000_000).quantize(Decimal("0.01"))
        print(f"  {line.quantity:>6,} {line.kind} at ${price} per million")

estimate = estimator.estimate(model="gpt-4o", prompt="Why is the sky blue?", max_output_tokens=500)
print(f"before a call: likely ${estimate.expected}, at most ${estimate.highest}")
