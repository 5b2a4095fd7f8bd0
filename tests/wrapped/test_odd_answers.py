"""Answers that came, and are charged, though the SDK or the provider makes something odd of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import anthropic
import openai
import pydantic
import pytest

from fluxai import CostEstimator, Governor, Usage
from fluxai.testing import FakeProvider
from tests.wrapped.surfaces import CAP, MESSAGES, Place

USED = Usage(input=12, output=5)


@pytest.fixture
def gpt(governor: Governor, provider: FakeProvider) -> Iterator[openai.OpenAI]:
    """A wrapped client of OpenAI's."""
    with openai.OpenAI(base_url=provider.openai_url, api_key="k", max_retries=0) as client:
        yield governor.wrap(client, tenant="acme")


def assert_settled_exactly(governor: Governor, model: str) -> None:
    """One call, settled at what its answer says, and nothing is held any more."""
    (event,) = governor.events()
    rates = CostEstimator().cost(
        {"model": model, "usage": {"prompt_tokens": 12, "completion_tokens": 5}}
    )
    assert event.cost == rates.total
    assert "estimated" not in event.flags
    assert governor.reservations(state="reserved") == []


#: Answers that don't fit what they are parsed into: how they end, and what the SDK raises.
UNFIT: tuple[tuple[Any, type[Exception]], ...] = (
    ("length", openai.LengthFinishReasonError),
    ("content_filter", openai.ContentFilterFinishReasonError),
    ("stop", pydantic.ValidationError),
)


def _parse(client: Any) -> Any:
    return client.chat.completions.parse(
        model="gpt-4o", messages=MESSAGES, max_tokens=CAP, response_format=Place
    )


@pytest.mark.parametrize(("finish", "error"), UNFIT, ids=[finish for finish, _ in UNFIT])
def test_an_answer_that_can_not_be_parsed_is_paid(
    finish: Any,
    error: type[Exception],
    gpt: openai.OpenAI,
    governor: Governor,
    provider: FakeProvider,
) -> None:
    """What raises behind the answer does not give back the money that the answer cost."""
    provider.answer('{"na', finish=finish, usage=USED)
    with pytest.raises(error):
        _parse(gpt)
    assert_settled_exactly(governor, "gpt-4o")


@pytest.mark.parametrize(("finish", "error"), UNFIT, ids=[finish for finish, _ in UNFIT])
def test_an_async_answer_that_can_not_be_parsed_is_paid(
    finish: Any, error: type[Exception], governor: Governor, provider: FakeProvider
) -> None:
    """The same, awaited."""
    provider.answer('{"na', finish=finish, usage=USED)

    async def once() -> None:
        async with openai.AsyncOpenAI(
            base_url=provider.openai_url, api_key="k", max_retries=0
        ) as client:
            with pytest.raises(error):
                await _parse(governor.wrap(client, tenant="acme"))

    asyncio.run(once())
    assert_settled_exactly(governor, "gpt-4o")


def test_a_structured_answer_of_claude_that_does_not_fit_is_paid(
    governor: Governor, provider: FakeProvider
) -> None:
    """The same with Anthropic's SDK."""
    provider.answer('{"na', usage=USED)
    with (
        anthropic.Anthropic(base_url=provider.anthropic_url, api_key="k", max_retries=0) as client,
        pytest.raises(pydantic.ValidationError),
    ):
        claude: Any = governor.wrap(client, tenant="acme")
        claude.messages.parse(
            model="claude-haiku-4-5", messages=MESSAGES, max_tokens=CAP, output_format=Place
        )
    assert_settled_exactly(governor, "claude-haiku-4-5")


@pytest.mark.skipif(not hasattr(anthropic, "RetryableError"), reason="an SDK that asks once")
@pytest.mark.parametrize("again", ["answered", "refused"])
@pytest.mark.parametrize("kind", ["RetryableError", "APIConnectionError"])
def test_an_answer_in_place_of_which_another_is_asked_for_is_paid_once(
    governor: Governor, provider: FakeProvider, kind: str, again: str
) -> None:
    """Anthropic's SDK asks again where what reads an answer raises an error that says so."""
    request: Any = None
    retryable = kind == "RetryableError"
    raised: list[Exception] = [
        anthropic.RetryableError("again")
        if retryable
        else anthropic.APIConnectionError(request=request)
    ]

    class Checked(Place):
        @pydantic.model_validator(mode="after")
        def check(self) -> Checked:
            if raised:
                raise raised.pop()
            return self

    provider.answer('{"name": "Rhine"}', usage=USED)
    if again == "answered":
        provider.answer('{"name": "Rhine"}', usage=USED)
    else:
        provider.fail(400)
    with (
        anthropic.Anthropic(base_url=provider.anthropic_url, api_key="k", max_retries=1) as client,
        nullcontext() if again == "answered" else pytest.raises(anthropic.BadRequestError),
    ):
        claude: Any = governor.wrap(client, tenant="acme")
        claude.messages.parse(
            model="claude-haiku-4-5", messages=MESSAGES, max_tokens=CAP, output_format=Checked
        )
    assert len(provider.requests) == 2
    lost = [event for event in governor.events() if event.flags == ("estimated",)]
    assert [event.cost > 0 for event in lost] == [True]
    assert len(governor.events()) == (2 if again == "answered" else 1)


def test_a_block_that_fails_at_a_paid_answer_pays(
    governor: Governor, provider: FakeProvider
) -> None:
    """`guard` around a client that is not wrapped knows that error, too, as one of an answer."""
    provider.answer('{"na', finish="length")
    with (
        openai.OpenAI(base_url=provider.openai_url, api_key="k", max_retries=0) as client,
        pytest.raises(openai.LengthFinishReasonError),
        governor.guard(
            tenant="acme", model="gpt-4o", prompt="Name a river.", max_output_tokens=CAP
        ),
    ):
        _parse(client)
    (event,) = governor.events()
    assert event.flags == ("estimated",)
    assert event.cost > 0
