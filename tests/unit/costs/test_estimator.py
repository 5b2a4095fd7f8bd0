"""`CostEstimator`: what a response cost, and what a request will."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxai.core.errors import InvalidRequest, UnknownModel
from fluxai.core.usage import TOKEN_KINDS, Usage
from fluxai.costs import CostEstimator
from fluxai.models import Model, ModelRegistry

AT = datetime(2026, 11, 22, tzinfo=UTC)


def _chat(
    model: str | None = "gpt-4o", entering: int = 1000, leaving: int = 100, **more: Any
) -> Any:
    return {
        "object": "chat.completion",
        "model": model,
        "choices": [],
        "usage": {
            "prompt_tokens": entering,
            "completion_tokens": leaving,
            "total_tokens": entering + leaving,
        },
        **more,
    }


@pytest.fixture(scope="module")
def estimator() -> CostEstimator:
    """Return an estimator over the bundled prices."""
    return CostEstimator()


def test_cost_of_a_response(estimator: CostEstimator) -> None:
    """A thousand tokens in and a hundred out at $2.50 and $10 per million."""
    cost = estimator.cost(_chat(), at=AT)
    assert cost.total == Decimal("0.0035")
    assert cost.nanousd == 3_500_000
    assert (cost.provider, cost.model, cost.priced, cost.flags) == ("openai", "gpt-4o", True, ())
    assert cost.price_version.startswith("genai-prices-")
    assert cost.usage == Usage(input=1000, output=100)


@given(
    st.builds(Usage, **dict.fromkeys(TOKEN_KINDS, st.integers(0, 10**6))),
    st.sampled_from(["gpt-4o", "claude-sonnet-4-5", "gemini-2.5-pro", "gpt-realtime", "grok-4.3"]),
)
def test_lines_add_up_to_the_cost(usage: Usage, model: str) -> None:
    """The lines explain the whole cost: their sum, rounded up once, is the total."""
    cost = CostEstimator().cost(usage, model=model, at=AT)
    exact = sum((line.amount for line in cost.lines), Decimal(0))
    assert 0 <= cost.total - exact < Decimal("1e-9")
    assert sum(line.quantity for line in cost.lines) == usage.total
    for line in cost.lines:
        assert line.amount == line.quantity * line.unit_price
        assert line.source == cost.price_version


def test_lines_say_what_was_paid_for(estimator: CostEstimator) -> None:
    """Each kind of token and each fee has its own line."""
    response = {
        "type": "message",
        "model": "claude-sonnet-4-5",
        "usage": {
            "input_tokens": 10,
            "cache_read_input_tokens": 20,
            "cache_creation": {"ephemeral_1h_input_tokens": 30, "ephemeral_5m_input_tokens": 0},
            "output_tokens": 5,
            "server_tool_use": {"web_search_requests": 2},
        },
    }
    cost = estimator.cost(response, at=AT)
    amounts = {line.kind: line.amount for line in cost.lines}
    assert amounts == {
        "input": Decimal("0.00003"),
        "cache_read": Decimal("0.000006"),
        "cache_write_1h": Decimal("0.00018"),
        "output": Decimal("0.000075"),
        "web_search": Decimal("0.02"),
    }
    assert cost.total == Decimal("0.020291")


def test_the_cost_that_the_provider_states_wins(estimator: CostEstimator) -> None:
    """A stated cost is taken, also of a model without a price; the token prices are not added."""
    response = _chat("some/unlisted-model")
    response["usage"]["cost"] = 0.0123
    cost = estimator.cost(response, provider="openrouter")
    assert (cost.total, cost.flags, cost.priced) == (Decimal("0.0123"), ("provider_cost",), True)
    assert cost.lines[0].source == "provider"
    assert cost.usage.total == 1100


def test_a_stated_cost_finer_than_a_nano_rounds_up(estimator: CostEstimator) -> None:
    """What is stated more finely than a ledger keeps is rounded up, never away."""
    response = _chat()
    response["usage"]["cost"] = "0.0000000001"
    assert estimator.cost(response).nanousd == 1


@pytest.mark.parametrize(
    ("response", "flag"),
    [
        ({"error": {"message": "no"}}, "error"),
        ({"input_tokens": 14}, "token_count"),
        ({"id": "modr-1", "results": []}, "free_endpoint"),
        (_chat(entering=0, leaving=0), "zero_usage"),
        (_chat("google/gemma-3-27b-it:free", id="gen-1", provider="x"), "free_model"),
        ({"model": "llama3", "prompt_eval_count": 5, "eval_count": 6}, "local_model"),
    ],
)
def test_zero_says_why(estimator: CostEstimator, response: Any, flag: str) -> None:
    """A call that costs nothing says why, and is priced."""
    cost = estimator.cost(response, at=AT)
    assert (cost.nanousd, cost.priced, cost.lines) == (0, True, cost.lines)
    assert flag in cost.flags


def test_no_usage_is_not_priced(estimator: CostEstimator) -> None:
    """A response that states no usage was not free: its cost is unknown, and says so."""
    cost = estimator.cost({"object": "chat.completion", "model": "gpt-4o", "choices": []})
    assert (cost.priced, cost.flags, cost.nanousd) == (False, ("no_usage",), 0)


@pytest.mark.parametrize(
    ("response", "arguments"),
    [
        (_chat("no-such-model"), {}),
        (_chat(None), {}),
        (_chat("my-deployment"), {"provider": "azure"}),
        (_chat("whisper-1"), {}),
        ({"data": [{"url": "x"}]}, {"provider": "openai"}),
    ],
)
def test_unknown_is_never_zero(
    estimator: CostEstimator, response: Any, arguments: dict[str, Any]
) -> None:
    """What no price is known for raises; it is never taken for free."""
    with pytest.raises(UnknownModel):
        estimator.cost(response, **arguments)


def test_the_model_asked_for_stands_in(estimator: CostEstimator) -> None:
    """Where the response names no model, or one without a price, the caller's is used."""
    assert estimator.cost(_chat(None), model="gpt-4o", at=AT).nanousd == 3_500_000
    cost = estimator.cost(_chat("/opt/ml/model"), model="gpt-4o", at=AT)
    assert (cost.model, cost.nanousd) == ("gpt-4o", 3_500_000)


def test_the_model_that_answered_counts(estimator: CostEstimator) -> None:
    """A router or a deployment's name is not what is billed, the model behind it is."""
    routed = estimator.cost(_chat("gpt-4o-mini-2024-07-18"), model="gpt-4o", at=AT)
    assert routed.model == "gpt-4o-mini"
    deployed = estimator.cost(_chat("gpt-4o-2024-08-06"), provider="azure", model="my-deployment")
    assert (deployed.provider, deployed.model) == ("azure", "gpt-4o")


def test_a_model_of_ones_own_counts() -> None:
    """A model that the caller gave a price wins over what its server calls itself."""
    registry = ModelRegistry()
    registry.put(Model(id="house", provider="acme", input_price="1", output_price="2"))
    cost = CostEstimator(registry).cost(_chat("gpt-4o"), model="house")
    assert (cost.model, cost.provider, cost.total) == ("house", "acme", Decimal("0.0012"))
    assert cost.price_version == "own"


def test_time_picks_the_prices(estimator: CostEstimator) -> None:
    """The prices in force when the call was made count: `at`, else the response's own time."""
    old = datetime(2025, 11, 1, tzinfo=UTC)
    dear = estimator.cost(_chat("mistral-large-latest"), at=old)
    cheap = estimator.cost(_chat("mistral-large-latest"), at=AT)
    assert dear.total > cheap.total
    stamped = _chat("mistral-large-latest", created=int(old.timestamp()))
    assert estimator.cost(stamped).total == dear.total
    assert estimator.cost(stamped, at=AT).total == cheap.total
    nonsense = _chat("mistral-large-latest", created=12)
    assert estimator.cost(nonsense).total == cheap.total


def test_a_naive_time_is_refused(estimator: CostEstimator) -> None:
    """A time without a zone could mean another day's prices."""
    with pytest.raises(InvalidRequest, match=r"^at: "):
        estimator.cost(_chat(), at=datetime(2026, 1, 1))  # noqa: DTZ001 -- that is the point


def test_tier(estimator: CostEstimator) -> None:
    """The tier that the response states, or the caller, sets the price."""
    standard = estimator.cost(_chat("gpt-5"), at=AT)
    flex = estimator.cost(_chat("gpt-5", service_tier="flex"), at=AT)
    told = estimator.cost(_chat("gpt-5"), at=AT, tier="flex")
    assert flex.nanousd == told.nanousd == standard.nanousd / 2
    assert estimator.cost(_chat("gpt-5", service_tier="default"), at=AT).total == standard.total


def test_parts_are_priced_each_as_its_own_model(estimator: CostEstimator) -> None:
    """An advisor's tokens cost the advisor's price, and the total is rounded up once."""
    usage = {
        "input_tokens": 1000,
        "output_tokens": 0,
        "iterations": [
            {"type": "message", "input_tokens": 1000, "output_tokens": 0},
            {"type": "advisor_message", "model": "claude-opus-4-1", "input_tokens": 1000},
        ],
    }
    response = {"type": "message", "model": "claude-haiku-4-5", "usage": usage}
    cost = estimator.cost(response, at=AT)
    assert cost.total == Decimal("0.001") + Decimal("0.015")
    assert [line.amount for line in cost.lines] == [Decimal("0.001"), Decimal("0.015")]
    rates = CostEstimator()._prices.rates("claude-haiku-4-5", 1_790_000_000_000_000)
    assert estimator.cost_of(cost.usage, rates) == cost.nanousd


def test_a_breakdown_needs_no_price_of_the_system(estimator: CostEstimator) -> None:
    """A compound system without a price of its own costs what its models cost."""
    models = [
        {"model": "llama-3.3-70b-versatile", "usage": {"prompt_tokens": 10, "completion_tokens": 1}}
    ]
    response = _chat("groq/compound", 10, 1, usage_breakdown={"models": models})
    cost = estimator.cost(response, provider="groq", at=AT)
    assert (cost.model, cost.provider) == ("llama-3.3-70b-versatile", "groq")


def test_an_unpriced_fee_is_flagged(estimator: CostEstimator) -> None:
    """What may be charged besides, but has no known price, is said."""
    response = {
        "object": "response",
        "model": "gpt-5",
        "output": [{"type": "code_interpreter_call"}],
        "usage": {"input_tokens": 5, "output_tokens": 6, "total_tokens": 11},
    }
    assert "unpriced_fee" in estimator.cost(response, at=AT).flags


def test_a_realtime_transcript_is_whispers(estimator: CostEstimator) -> None:
    """A session's transcript is billed by duration as another model than the session's."""
    event = {
        "type": "conversation.item.input_audio_transcription.completed",
        "usage": {"type": "duration", "seconds": 60},
    }
    cost = estimator.cost(event, provider="openai-realtime", model="gpt-realtime", at=AT)
    assert (cost.model, cost.total) == ("whisper-1", Decimal("0.006"))


def test_estimate_of_a_request(estimator: CostEstimator) -> None:
    """Known input tokens and an output limit give an exact upper bound."""
    estimate = estimator.estimate(model="gpt-4o", input_tokens=1000, max_output_tokens=100, at=AT)
    assert estimate.expected == estimate.highest == Decimal("0.0035")
    assert (estimate.input_tokens, estimate.method, estimate.confidence) == (1000, "exact", "high")


def test_estimate_of_a_prompt(estimator: CostEstimator) -> None:
    """A prompt's tokens are estimated; the highest covers more than the expected."""
    estimate = estimator.estimate(model="gpt-4o", prompt="word " * 1000, max_output_tokens=100)
    assert 800 < estimate.input_tokens < 1200
    assert estimate.highest > estimate.expected
    assert estimate.method == "heuristic"


def test_estimate_without_a_limit_uses_the_models_own(estimator: CostEstimator) -> None:
    """Without a limit the answer may be as long as the model allows, at most 4,096 tokens."""
    open_ended = estimator.estimate(model="gpt-4o", input_tokens=0, at=AT)
    assert open_ended.highest == Decimal("0.04096")
    assert open_ended.expected < open_ended.highest


@pytest.mark.parametrize("bad", [-1, 1.5, True, 10**13])
def test_estimate_refuses_wrong_numbers(estimator: CostEstimator, bad: Any) -> None:
    """A count that is none is refused by name."""
    with pytest.raises(InvalidRequest, match=r"^input_tokens: "):
        estimator.estimate(model="gpt-4o", input_tokens=bad)
    with pytest.raises(InvalidRequest, match=r"^max_output_tokens: "):
        estimator.estimate(model="gpt-4o", input_tokens=1, max_output_tokens=bad)


def test_estimate_of_an_unknown_model_raises(estimator: CostEstimator) -> None:
    """A request to a model without a price has no estimate, rather than one of zero."""
    with pytest.raises(UnknownModel):
        estimator.estimate(model="no-such-model", prompt="hi")
