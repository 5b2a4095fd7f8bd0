"""What settled calls teach about the next estimate."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxai import CostEstimator
from fluxai.core.errors import InvalidRequest
from fluxai.costs.learning import CALLS_MIN, CALLS_TRUSTED, Learning, Trace

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Look up the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
SEARCH = {"type": "function", "function": {"name": "search", "description": "Look something up."}}


def asked(words: int) -> list[dict[str, str]]:
    """Return a conversation of one message with so many words."""
    return [{"role": "user", "content": "weather " * words}]


def settle(
    estimator: CostEstimator,
    words: int,
    billed: int,
    tools: Any = (WEATHER,),
    model: str = "gpt-4o",
) -> None:
    """Estimate a request and teach what it was billed."""
    trace = estimator.trace(model, messages=asked(words), tools=list(tools))
    assert trace is not None
    estimator.learn(model, trace, None, billed)


def billed_for(words: int) -> int:
    """Return what an imagined provider bills: 700 tokens for the tools, and 1.2 a word."""
    return 700 + words * 12 // 10


def test_a_set_of_tools_is_learned() -> None:
    """After some calls the estimate is what the provider bills, and says how it was found."""
    estimator = CostEstimator()
    before = estimator.count("gpt-4o", messages=asked(77), tools=[WEATHER])
    for words in range(20, 20 + 5 * CALLS_TRUSTED, 5):
        settle(estimator, words, billed_for(words))
    after = estimator.count("gpt-4o", messages=asked(77), tools=[WEATHER])
    assert before.method == "heuristic"
    assert (after.method, after.confidence) == ("learned", "high")
    assert abs(after.expected - billed_for(77)) <= 0.02 * billed_for(77)
    assert billed_for(77) <= after.upper <= 1.1 * billed_for(77)


def test_a_few_calls_are_not_yet_trusted() -> None:
    """Before enough calls the estimate stays; after some it changes, with more room above."""
    estimator = CostEstimator()
    for number in range(CALLS_MIN):
        assert estimator.count("gpt-4o", messages=asked(50), tools=[WEATHER]).method == "heuristic"
        settle(estimator, 40 + number, billed_for(40 + number))
    found = estimator.count("gpt-4o", messages=asked(50), tools=[WEATHER])
    assert (found.method, found.confidence) == ("learned", "medium")


def test_other_tools_and_models_learn_nothing_from_it() -> None:
    """What is known belongs to one model and one set of tools."""
    estimator = CostEstimator()
    fresh = CostEstimator()
    for words in range(20, 20 + CALLS_TRUSTED):
        settle(estimator, words, billed_for(words))
    for model, tools in (("gpt-4o", [SEARCH]), ("gpt-4o-mini", [WEATHER]), ("gpt-4o", None)):
        assert estimator.count(model, messages=asked(9), tools=tools) == fresh.count(
            model, messages=asked(9), tools=tools
        )


def test_one_strange_call_changes_little() -> None:
    """A call that is billed ten times as much, or almost nothing, does not spoil what is known."""
    for strange in (10_000, 3):
        estimator = CostEstimator()
        for words in range(20, 20 + CALLS_TRUSTED):
            settle(estimator, words, billed_for(words))
        settle(estimator, 55, strange)
        found = estimator.count("gpt-4o", messages=asked(56), tools=[WEATHER])
        assert abs(found.expected - billed_for(56)) < 0.1 * billed_for(56)


def test_a_conversation_continues_from_what_it_was_billed() -> None:
    """The next turn costs what the last one was billed, and its new messages."""
    estimator = CostEstimator()
    messages = [{"role": "user", "content": "Read the whole report."}]
    trace = estimator.trace("claude-sonnet-4-5", messages=messages)
    assert trace is not None
    estimator.learn("claude-sonnet-4-5", trace, None, 12_345)
    longer = [
        *messages,
        {"role": "assistant", "content": "I have read it."},
        {"role": "user", "content": "And now?"},
    ]
    found = estimator.count("claude-sonnet-4-5", messages=longer)
    assert found.method == "continued"
    assert 12_350 < found.expected < 12_380
    assert found.expected <= found.upper < 13_000
    other = [{"role": "user", "content": "Read another report."}, *longer[1:]]
    assert estimator.count("claude-sonnet-4-5", messages=other).method == "heuristic"


def test_plain_prompts_have_nothing_to_learn() -> None:
    """A prompt of plain text is not traced, and an estimator without learning traces nothing."""
    assert CostEstimator().trace("gpt-4o", prompt="Hello") is None
    assert CostEstimator(learning=None).trace("gpt-4o", messages=asked(3)) is None


def test_learning_is_shared_only_where_it_is_passed() -> None:
    """Two estimators know of each other's calls only when they were given the same learning."""
    shared = Learning()
    one, two, apart = (
        CostEstimator(learning=shared),
        CostEstimator(learning=shared),
        CostEstimator(),
    )
    for words in range(20, 20 + CALLS_TRUSTED):
        settle(one, words, billed_for(words))
    assert two.count("gpt-4o", messages=asked(9), tools=[WEATHER]).method == "learned"
    assert apart.count("gpt-4o", messages=asked(9), tools=[WEATHER]).method == "heuristic"


def test_tools_can_be_taught_by_their_definitions() -> None:
    """Without a trace, the definitions and the estimate of the messages say the same."""
    estimator = CostEstimator()
    for words in range(20, 20 + CALLS_TRUSTED):
        plain = estimator.count("gpt-4o", messages=asked(words))
        estimator.learn("gpt-4o", [WEATHER], plain, billed_for(words))
    assert estimator.count("gpt-4o", messages=asked(30), tools=[WEATHER]).method == "learned"
    with pytest.raises(InvalidRequest, match="estimate"):
        estimator.learn("gpt-4o", [WEATHER], 0, 100)


def test_memory_is_bounded() -> None:
    """However many sets of tools and conversations there are, only the latest are kept."""
    learning = Learning(sets_max=10, conversations_max=20)
    for number in range(1, 1_000):
        learning.learn("gpt-4o", Trace(number, number, 10.0), 100)
    assert len(learning._fits) == len(learning._evidence) == 10
    assert len(learning._conversations) == 20
    assert learning.longest_known([999]) == (1, 100)
    assert learning.longest_known([1]) is None


def test_threads_learn_together() -> None:
    """Many threads may learn and estimate at once, and no call is lost."""
    estimator = CostEstimator()
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        for words in range(20, 60):
            settle(estimator, words, billed_for(words))
            estimator.count("gpt-4o", messages=asked(words), tools=[WEATHER])

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    learning = estimator._learning
    assert learning is not None
    assert [fit.calls for fit in learning._fits.values()] == [8 * 40]


@given(
    st.lists(
        st.tuples(st.integers(0, 500), st.integers(-5, 10**7)), min_size=CALLS_MIN, max_size=30
    ),
    st.integers(0, 5_000),
)
def test_whatever_was_billed_the_estimate_stays_an_estimate(
    calls: list[tuple[int, int]], words: int
) -> None:
    """Contradicting, absurd and negative bills never break the next estimate."""
    estimator = CostEstimator()
    for size, billed in calls:
        settle(estimator, size, billed)
    found = estimator.count("gpt-4o", messages=asked(words), tools=[WEATHER])
    assert 0 < found.expected <= found.upper
