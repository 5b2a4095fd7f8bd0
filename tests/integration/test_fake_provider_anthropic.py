"""Anthropic's own SDK against the fake provider: what it says is what the SDK understands."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from anthropic.types import MessageParam, RawMessageStreamEvent
from pydantic import TypeAdapter

from fluxai import Usage
from fluxai.testing import Answer, FakeProvider, ToolCall

MESSAGES: list[MessageParam] = [{"role": "user", "content": "Hello"}]
TOLD = Usage(
    input=12,
    output=5,
    reasoning=2,
    cache_read=3,
    cache_write_5m=7,
    cache_write_1h=4,
    requests={"web_search": 2},
)
CALL = ToolCall(name="get_weather", arguments={"city": "Paris"})


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A fake provider."""
    with FakeProvider() as opened:
        yield opened


@pytest.fixture
def client(provider: FakeProvider) -> Iterator[Anthropic]:
    """Anthropic's client, which retries nothing."""
    with Anthropic(base_url=provider.anthropic_url, api_key="k", max_retries=0) as opened:
        yield opened


def test_a_message_answers_with_the_usage_that_it_was_told(
    provider: FakeProvider, client: Anthropic
) -> None:
    """The input excludes what was cached, and both times of cache writes are apart."""
    provider.answer("Hello there", usage=TOLD)
    said = client.messages.create(model="claude-haiku-4-5", max_tokens=50, messages=MESSAGES)
    assert said.content[0].type == "text"
    assert said.content[0].text == "Hello there"
    assert (said.stop_reason, said.model) == ("end_turn", "claude-haiku-4-5")
    assert said.usage.input_tokens == 12
    assert said.usage.cache_creation_input_tokens == 11
    assert Usage.parse(said) == TOLD
    (request,) = provider.requests
    assert request.path == "/v1/messages"
    assert request.json["messages"] == MESSAGES
    assert request.headers["authorization"] == "Bearer k"


def test_a_stream_counts_its_input_first_and_its_output_as_it_grows(
    provider: FakeProvider, client: Anthropic
) -> None:
    """The first event has the exact input, the last the sum of the output."""
    provider.answer("Hello there", usage=TOLD)
    events = list(client.messages.create(model="m", max_tokens=50, messages=MESSAGES, stream=True))
    first, *_, delta, last = events
    assert first.type == "message_start"
    assert first.message.usage.input_tokens == 12
    assert first.message.usage.output_tokens == 1
    assert delta.type == "message_delta"
    assert delta.usage.output_tokens == 7
    assert last.type == "message_stop"
    assert Usage.parse([event.model_dump() for event in events]) == TOLD


@pytest.mark.parametrize("beta", [False, True])
def test_thoughts_text_and_tools(provider: FakeProvider, client: Anthropic, *, beta: bool) -> None:
    """The blocks of a stream add up to those of a plain message, in beta too."""
    answer = Answer(text="Let me look.", thinking="The weather?", tool_calls=(CALL,), usage=TOLD)
    provider.answer(answer)
    provider.answer(answer)
    messages: Any = client.beta.messages if beta else client.messages
    plain = messages.create(model="m", max_tokens=50, messages=MESSAGES)
    with messages.stream(model="m", max_tokens=50, messages=MESSAGES) as events:
        final = events.get_final_message()
    for said in (plain, final):
        thought, text, call = said.content
        assert (thought.type, text.type, call.type) == ("thinking", "text", "tool_use")
        assert (thought.thinking, text.text) == ("The weather?", "Let me look.")
        assert (call.name, call.input) == ("get_weather", {"city": "Paris"})
        assert said.stop_reason == "tool_use"
        assert Usage.parse(said) == TOLD


def test_each_event_is_one_that_the_sdk_knows(provider: FakeProvider) -> None:
    """Validated strictly against the SDK's types, whose readers would take anything; but a ping."""
    known: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)
    provider.answer("Hello there", thinking="They greet me.", tool_calls=[CALL], usage=TOLD)
    body = json.dumps({"model": "m", "max_tokens": 9, "messages": MESSAGES, "stream": True})
    with urllib.request.urlopen(f"{provider.url}/v1/messages", body.encode()) as reply:  # noqa: S310
        lines = reply.read().split(b"\n")
    kinds = [line[7:].decode() for line in lines if line.startswith(b"event: ")]
    data = [line[6:] for line in lines if line.startswith(b"data: ")]
    assert kinds.count("ping") == 1
    told = [event for event in data if event != b'{"type":"ping"}']
    assert {known.validate_json(event).type for event in told} == set(kinds) - {"ping"}


def test_a_refusal(provider: FakeProvider, client: Anthropic) -> None:
    """It is a reason to stop."""
    provider.answer(refusal="I can't help with that.")
    said = client.messages.create(model="m", max_tokens=50, messages=MESSAGES)
    assert said.stop_reason == "refusal"


ERRORS: dict[int, tuple[type[anthropic.APIStatusError], str]] = {
    400: (anthropic.BadRequestError, "invalid_request_error"),
    401: (anthropic.AuthenticationError, "authentication_error"),
    404: (anthropic.NotFoundError, "not_found_error"),
    429: (anthropic.RateLimitError, "rate_limit_error"),
    500: (anthropic.InternalServerError, "api_error"),
    529: (anthropic.OverloadedError, "overloaded_error"),
}


@pytest.mark.parametrize("status", ERRORS)
def test_each_error_is_the_sdk_s_own(
    provider: FakeProvider, client: Anthropic, status: int
) -> None:
    """The status chooses the class; the body says the kind and who asked."""
    error, kind = ERRORS[status]
    provider.fail(status, retry_after=7)
    with pytest.raises(error) as caught:
        client.messages.create(model="m", max_tokens=50, messages=MESSAGES)
    assert caught.value.status_code == status
    assert caught.value.response.headers["retry-after"] == "7"
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == kind
    assert caught.value.request_id == caught.value.body["request_id"]


def test_tokens_are_counted_without_an_answer(provider: FakeProvider, client: Anthropic) -> None:
    """At a token for each four characters; nothing is taken from the queue."""
    provider.answer("Later")
    messages: list[MessageParam] = [{"role": "user", "content": "x" * 41}]
    assert client.messages.count_tokens(model="m", messages=messages).input_tokens == 11
    assert provider.queued == 1


def test_batches(provider: FakeProvider, client: Anthropic) -> None:
    """Each request of a batch takes an answer; a batch has ended when it is asked for."""
    provider.answer("First", usage={"input": 10, "output": 1})
    provider.answer("Second", usage={"input": 20, "output": 2})
    begun = client.messages.batches.create(
        requests=[
            {
                "custom_id": name,
                "params": {"model": "m", "max_tokens": 50, "messages": MESSAGES},
            }
            for name in ("one", "two")
        ]
    )
    assert begun.processing_status == "in_progress"
    assert client.messages.batches.retrieve(begun.id).processing_status == "ended"
    results = {line.custom_id: line.result for line in client.messages.batches.results(begun.id)}
    assert results["two"].type == "succeeded"
    assert Usage.parse(results["two"].message) == Usage(input=20, output=2)
    assert [batch.id for batch in client.messages.batches.list()] == [begun.id]
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.retrieve("msgbatch_unknown")


def test_what_a_format_cannot_state_is_refused_and_named(
    provider: FakeProvider, client: Anthropic
) -> None:
    """A usage that would be lost on the way is a mistake of the test's, and says so."""
    provider.answer("Hello", usage={"input": 1, "audio_in": 5})
    with pytest.raises(anthropic.BadRequestError, match="can't state audio_in"):
        client.messages.create(model="m", max_tokens=50, messages=MESSAGES)


async def _async_calls(provider: FakeProvider) -> list[str]:
    said = []
    async with AsyncAnthropic(
        base_url=provider.anthropic_url, api_key="k", max_retries=0
    ) as client:
        whole = await client.messages.create(model="m", max_tokens=50, messages=MESSAGES)
        assert whole.content[0].type == "text"
        said.append(whole.content[0].text)
        async with client.messages.stream(model="m", max_tokens=50, messages=MESSAGES) as events:
            said.append(await events.get_final_text())
        with pytest.raises(anthropic.RateLimitError):
            await client.messages.create(model="m", max_tokens=50, messages=MESSAGES)
    return said


def test_the_async_client(provider: FakeProvider) -> None:
    """Plain, streams and errors are the same for the async client."""
    provider.answer("One")
    provider.answer("Two words")
    provider.fail(429)
    assert asyncio.run(_async_calls(provider)) == ["One", "Two words"]
