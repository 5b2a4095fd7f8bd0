"""A governor learns from settled calls what the next ones will be billed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fluxai import AsyncGovernor, CostEstimator, Governor, Policy, Reservation, Usage
from tests.integration.stubs import completion, open_governor

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Look up the weather of a city.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


@pytest.fixture(params=["memory", "sqlite"])
def governor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Governor]:
    """A governor without limits."""
    with open_governor(request.param, tmp_path) as governor:
        yield governor
        assert governor.verify().ok


def asking(words: int = 50, **more: Any) -> dict[str, Any]:
    """Return the arguments of a call that offers a tool."""
    return {
        "tenant": "acme",
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "weather " * words}],
        "tools": TOOLS,
        "max_output_tokens": 100,
        **more,
    }


def billed(words: int) -> int:
    """Return what an imagined provider bills for such a call."""
    return 700 + words


def method(governor: Governor, words: int = 77) -> str:
    """Return how the next call of another conversation would be estimated."""
    return governor.check(**asking(words)).estimate.method


def test_settled_calls_make_the_next_estimate_learned(governor: Governor) -> None:
    """After a few calls of a set of tools the estimate is what the provider bills."""
    assert method(governor) == "heuristic"
    for words in range(20, 40):
        reservation = governor.reserve(**asking(words))
        governor.settle(reservation, completion(tokens_in=billed(words)))
    estimate = governor.check(**asking(45)).estimate
    assert (estimate.method, estimate.confidence) == ("learned", "high")
    assert abs(estimate.input_tokens - billed(45)) <= 10
    held = governor.reserve(**asking(45))
    assert held.estimate.method == "learned"
    assert held.need.input_tokens >= held.need.expected_input_tokens
    assert held.estimate.lines[0].found == "learned"


def test_a_conversation_is_estimated_from_its_last_bill(governor: Governor) -> None:
    """The next turn costs what the last one was billed, and its new messages."""
    messages = [{"role": "user", "content": "Tell me of the sea."}]
    first = governor.reserve(tenant="acme", model="gpt-4o", messages=messages, max_output_tokens=50)
    governor.settle(first, completion(tokens_in=5_000))
    messages += [
        {"role": "assistant", "content": "It is wide."},
        {"role": "user", "content": "How wide?"},
    ]
    estimate = governor.check(
        tenant="acme", model="gpt-4o", messages=messages, max_output_tokens=50
    ).estimate
    assert estimate.method == "continued"
    assert 5_000 < estimate.input_tokens < 5_050


def test_guards_functions_and_streams_teach_too(governor: Governor) -> None:
    """Whichever way a call is settled, it teaches when its usage is the provider's own."""
    for words in range(20, 23):
        with governor.guard(**asking(words)) as call:
            call.settle(completion(tokens_in=billed(words)))

    @governor.govern(model="gpt-4o", tenant="acme")
    def ask(messages: Any, tools: Any, *, model: str, max_tokens: int | None = None) -> Any:
        return completion(model, tokens_in=billed(30))

    @governor.govern(model="gpt-4o", tenant="acme")
    def stream(messages: Any, tools: Any, *, model: str, max_tokens: int | None = None) -> Any:
        yield {"object": "chat.completion.chunk", "model": model, "choices": []}
        yield {**completion(model, tokens_in=billed(31)), "object": "chat.completion.chunk"}

    ask(messages=asking(30)["messages"], tools=TOOLS)
    assert len(list(stream(messages=asking(31)["messages"], tools=TOOLS))) == 2
    assert method(governor) == "learned"


def test_a_coroutine_s_calls_teach_too() -> None:
    """The async governor learns as the other one does."""

    async def run() -> str:
        async with AsyncGovernor() as governor:
            for words in range(20, 26):
                reservation = await governor.reserve(**asking(words))
                await governor.settle(reservation, completion(tokens_in=billed(words)))
            return (await governor.check(**asking(77))).estimate.method

    assert asyncio.run(run()) == "learned"


def calls_learned(governor: Governor) -> int:
    """Return how many calls of the set of tools were learned."""
    learning = governor.estimator._learning
    assert learning is not None
    return sum(fit.calls for fit in learning._fits.values())


def test_repeats_teach_once(governor: Governor) -> None:
    """A key that is used again, and an outcome that is told again, are the same call."""
    for _ in range(3):
        reservation = governor.reserve(**asking(), idempotency_key="once")
        governor.settle(reservation, completion(tokens_in=billed(50)))
        governor.settle(reservation.id, completion(tokens_in=billed(50)), tenant="acme")
    assert calls_learned(governor) == 1


@pytest.mark.parametrize("model", ["gpt-4o", "text-embedding-3-small"])
def test_a_repeat_is_the_same_call_however_it_is_estimated(governor: Governor, model: str) -> None:
    """A key binds the caller's arguments, and not an estimate that was learned meanwhile."""
    call = asking(model=model, idempotency_key="once")
    first = governor.reserve(**call)
    governor.settle(first, usage=Usage(input=5_000))
    assert governor.check(**asking(model=model)).estimate.method == "continued"
    assert governor.reserve(**call).id == first.id


def test_an_approved_call_teaches_once(governor: Governor) -> None:
    """A call that waited for a person teaches when it has run."""
    governor.policies.put(
        Policy(
            id="ask",
            tenant_id="acme",
            limit_type="per_request",
            limit_value="0",
            decision="require_approval",
        )
    )
    waiting = governor.reserve(**asking())
    assert waiting.approval_id is not None
    governor.approvals.approve(waiting.approval_id, by="ann")
    running = governor.reserve(**asking(), approval_id=waiting.approval_id)
    assert running.allowed
    for _ in range(2):
        governor.settle(running, completion(tokens_in=billed(50)))
    assert calls_learned(governor) == 1


@pytest.mark.parametrize(
    "outcome",
    [
        {"cost": "0.01"},
        {"usage": Usage(input=700, output=5), "estimated": True},
        {"usage": Usage(output=5)},
    ],
)
def test_an_outcome_without_a_real_input_teaches_nothing(
    governor: Governor, outcome: dict[str, Any]
) -> None:
    """Money alone, an estimate, and a usage without input say nothing of the next input."""
    governor.settle(governor.reserve(**asking()), **outcome)
    assert calls_learned(governor) == 0


def test_the_exact_count_after_an_estimate_teaches(governor: Governor) -> None:
    """An estimated settlement may be followed by one exact one, which is what is learned."""
    reservation = governor.reserve(**asking())
    governor.settle(reservation, usage=Usage(input=600, output=5), estimated=True)
    governor.settle(reservation, usage=Usage(input=billed(50), output=5))
    assert calls_learned(governor) == 1


def test_calls_without_tools_teach_no_ratio_to_others(governor: Governor) -> None:
    """What one tenant's messages were billed changes no estimate of other messages."""
    before = governor.check(**asking(80, tools=None, tenant="other")).estimate
    for words in range(20, 45):
        reservation = governor.reserve(**asking(words, tools=None))
        governor.settle(reservation, completion(tokens_in=50_000))
    assert governor.check(**asking(80, tools=None, tenant="other")).estimate == before


def test_what_is_remembered_stays_in_the_process(governor: Governor) -> None:
    """Digests are salted by the process, so a reservation that travels carries none."""
    reservation = governor.reserve(**asking())
    assert reservation.trace is not None
    assert "trace" not in reservation.to_dict()
    assert Reservation.from_json(reservation.to_json()).trace is None


def test_an_estimator_may_learn_nothing() -> None:
    """Whoever wants estimates to stay as they are can have that."""
    with Governor(estimator=CostEstimator(learning=None)) as governor:
        for words in range(20, 30):
            governor.settle(governor.reserve(**asking(words)), completion(tokens_in=billed(words)))
        assert method(governor) == "heuristic"


def test_a_call_that_says_nothing_is_estimated_after_learning_too(governor: Governor) -> None:
    """A call without prompt, messages and tools is reserved as before others were learned from."""
    silent: dict[str, Any] = {"tenant": "acme", "model": "gpt-4o", "max_output_tokens": 100}
    before = governor.check(**silent).estimate.highest
    held = governor.reserve(**asking())
    governor.settle(held, completion(tokens_in=120))
    assert governor.reserve(**silent).allowed
    assert governor.check(**silent).estimate.highest == before
