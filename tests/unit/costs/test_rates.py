"""`Rates`: what a usage costs at the prices of one model."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxai.core.usage import TOKEN_KINDS, Usage
from fluxai.costs.prices import Rates

PER_MILLION = 10**6
counts = st.integers(0, 10**8)
rate = st.integers(0, 10**12)


def _rates(prices: dict[str, Any], **more: Any) -> Rates:
    return Rates(
        model="m",
        provider="p",
        version="v",
        valid_from_us=0,
        valid_until_us=1,
        prices=prices,
        **more,
    )


@given(
    st.builds(Usage, **dict.fromkeys(TOKEN_KINDS, counts)),
    st.fixed_dictionaries(dict.fromkeys(TOKEN_KINDS, rate)),
)
def test_cost_is_each_kind_at_its_rate_rounded_up_once(
    usage: Usage, prices: dict[str, int]
) -> None:
    """The cost is the exact sum over kinds, rounded up to a nano-USD once for the call."""
    exact = sum(getattr(usage, kind) * prices[kind] for kind in TOKEN_KINDS)
    assert _rates(prices).cost(usage) == -(-exact // PER_MILLION)


@given(counts, counts, counts, counts, rate, rate)
def test_plain_usage_costs_the_same_either_way(
    entering: int, cached: int, leaving: int, thought: int, price_in: int, price_out: int
) -> None:
    """The short way for plain text gives what the general way gives."""
    usage = Usage(input=entering, cache_read=cached, output=leaving, reasoning=thought)
    rates = _rates({"input": price_in, "output": price_out})
    assert rates.cost(usage) == -(-rates.numerator(usage) // PER_MILLION)


@given(st.integers(0, 10**6))
def test_a_step_holds_for_the_whole_request(tokens: int) -> None:
    """Input beyond a step's start sets the rate of every token, as providers bill it."""
    rates = _rates({"input": [2, [200_000, 4]], "output": [10, [200_000, 15]], "cache_read": 1})
    usage = Usage(input=tokens, output=7)
    expected = tokens * 4 + 7 * 15 if tokens > 200_000 else tokens * 2 + 7 * 10
    assert rates.numerator(usage) == expected
    assert rates.input_cost(tokens) == (tokens * 4 if tokens > 200_000 else tokens * 2)
    assert rates.output_rate(tokens) == (15 if tokens > 200_000 else 10)


def test_steps_count_all_input() -> None:
    """Cached, audio and image tokens count towards a step too."""
    rates = _rates({"input": [2, [100, 4]], "output": 1})
    usage = Usage(input=1, cache_read=50, cache_write_5m=20, audio_in=20, image_in=10)
    assert rates.step(usage.input_total).start == 100
    assert rates.step(usage.input_total - 1).start == 0


def test_several_steps() -> None:
    """Of several steps the highest that was passed holds."""
    rates = _rates({"input": [1, [32_000, 2], [128_000, 3]]})
    assert [rates.step(n).input for n in (32_000, 32_001, 128_000, 128_001)] == [1, 2, 2, 3]


@pytest.mark.parametrize(
    ("prices", "kind", "expected"),
    [
        ({"input": 3}, "cache_read", 3),
        ({"input": 3}, "cache_write_1h", 3),
        ({"input": 3, "cache_write_5m": 4}, "cache_write_1h", 4),
        ({"input": 3, "output": 5}, "reasoning", 5),
        ({"input": 3, "output": 5}, "audio_out", 5),
        ({"input": 3, "image_out": 9}, "output", 9),
        ({"input": 3, "image_in": 9}, "image_in", 9),
        ({"audio_in": 9}, "input", 9),
        ({"input": 3, "seconds": 7}, "audio_in", 0),
    ],
)
def test_a_kind_without_a_price_costs_what_it_is_part_of(
    prices: dict[str, int], kind: str, expected: int
) -> None:
    """A kind that a model does not price apart is billed like its parent, never for nothing."""
    assert _rates(prices).numerator(Usage(**{kind: 1})) == expected


def test_details_are_priced_instead_of_their_parent() -> None:
    """A finer kind costs its own price, and the rest of its parent the parent's."""
    rates = _rates({"input": 10, "cache_read": 1, "cache_read_audio": 4, "video_in": 20})
    usage = Usage(cache_read=10, image_in=5, details={"cache_read_audio": 3, "video_in": 2})
    assert rates.numerator(usage) == 7 * 1 + 3 * 4 + 3 * 10 + 2 * 20


def test_fees() -> None:
    """Searches, pages, characters and seconds are priced by the piece."""
    rates = _rates({"web_search": 100, "page": 7, "characters": 2, "seconds": 3})
    usage = Usage(requests={"web_search": 2, "page": 3, "unknown": 9}, characters=5, seconds=4)
    assert rates.numerator(usage) == 2 * 100 + 3 * 7 + 5 * 2 + 4 * 3


def test_parts_of_seconds_round_up() -> None:
    """Fractions of a second are billed, and a shortest length too."""
    assert _rates({"seconds": 10}).numerator(Usage(seconds=Decimal("2.55"))) == 26
    assert _rates({"seconds": 10}, seconds_min=10).numerator(Usage(seconds=2)) == 100


def test_request_fee() -> None:
    """A fee per request is due once for each call that used anything, or at its stated size."""
    rates = _rates({"input": 1, "request": 12 * PER_MILLION, "request_low": 5 * PER_MILLION})
    assert rates.request_fee == 12
    assert rates.cost(Usage(input=1)) == 13
    assert rates.cost(Usage(input=1, requests={"request_low": 1})) == 6
    assert rates.cost(Usage(input=1, requests={"request_medium": 1})) == 13
    assert rates.cost(Usage()) == 0


def test_image_fee_by_size() -> None:
    """An image costs what its quality and size cost, or else the model's image."""
    rates = _rates({"image": 9, "image_low_1x1": 2})
    assert rates.numerator(Usage(requests={"image_low_1x1": 1, "image_huge_9x9": 1})) == 11


def test_output_rate_is_the_dearest_text_token() -> None:
    """An output token may turn out to be thinking: what is held has to cover both."""
    assert _rates({"output": 8, "reasoning": 3}).output_rate(0) == 8
    assert _rates({"output": 8, "reasoning": 30}).output_rate(0) == 30


def test_parts_are_judged_each_on_its_own() -> None:
    """Several passes that together exceed a step each pay the rate of their own size."""
    rates = _rates({"input": [2, [200_000, 4]]})
    part = Usage(input=150_000)
    usage = Usage(input=300_000, parts=((None, part), (None, part)))
    assert rates.cost(usage) == -(-300_000 * 2 // PER_MILLION)
