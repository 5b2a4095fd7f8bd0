"""Google's own SDK against the fake provider: what it says is what the SDK understands."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from google import genai
from google.genai import errors, types

from fluxai import Usage
from fluxai.testing import Answer, FakeProvider, ToolCall

MODEL = "gemini-2.5-flash"
TOLD = Usage(input=12, output=5, cache_read=3, reasoning=2, audio_in=4, image_in=6)
CALL = ToolCall(name="get_weather", arguments={"city": "Paris"})


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A fake provider."""
    with FakeProvider() as opened:
        yield opened


@pytest.fixture
def client(provider: FakeProvider) -> Iterator[genai.Client]:
    """Google's client."""
    opened = genai.Client(api_key="k", http_options=types.HttpOptions(base_url=provider.gemini_url))
    yield opened
    opened.close()


def test_content_answers_with_the_usage_that_it_was_told(
    provider: FakeProvider, client: genai.Client
) -> None:
    """The prompt includes what was cached; thoughts are apart from candidates."""
    provider.answer("Hello there", usage=TOLD)
    said = client.models.generate_content(model=MODEL, contents="Hello")
    assert (said.text, said.model_version) == ("Hello there", MODEL)
    usage = said.usage_metadata
    assert usage is not None
    assert usage.prompt_token_count == 25
    assert (usage.candidates_token_count, usage.thoughts_token_count) == (5, 2)
    assert usage.total_token_count == 32
    assert Usage.parse(said) == TOLD
    (request,) = provider.requests
    assert request.path.endswith(f"/models/{MODEL}:generateContent")
    assert request.json["contents"][0]["parts"] == [{"text": "Hello"}]


def test_each_chunk_of_a_stream_states_the_sum_so_far(
    provider: FakeProvider, client: genai.Client
) -> None:
    """Counts grow and never shrink; the last ones are the bill."""
    provider.answer("One two three", usage=TOLD)
    chunks = list(client.models.generate_content_stream(model=MODEL, contents="Hello"))
    assert "".join(chunk.text or "" for chunk in chunks) == "One two three"
    counts = [
        chunk.usage_metadata.candidates_token_count or 0
        for chunk in chunks
        if chunk.usage_metadata is not None
    ]
    assert len(counts) == len(chunks) == 3
    assert counts == sorted(counts)
    assert counts[-1] == 5
    assert Usage.parse(chunks[-1]) == TOLD


def test_thoughts_and_tools(provider: FakeProvider, client: genai.Client) -> None:
    """Parts of a candidate, plain and as a stream."""
    answer = Answer(text="Let me look.", thinking="The weather?", tool_calls=(CALL,))
    provider.answer(answer)
    provider.answer(answer)
    plain = client.models.generate_content(model=MODEL, contents="Hello")
    chunks = list(client.models.generate_content_stream(model=MODEL, contents="Hello"))
    for calls in (plain.function_calls, chunks[-1].function_calls):
        assert calls is not None
        assert [(call.name, call.args) for call in calls] == [("get_weather", {"city": "Paris"})]
    assert plain.parts is not None
    assert plain.parts[0].thought


def test_structured_output_and_refusals(provider: FakeProvider, client: genai.Client) -> None:
    """JSON is parsed; a refusal has no parts and says why."""
    provider.answer(json={"name": "Paris"})
    config = types.GenerateContentConfig(
        response_mime_type="application/json", response_schema={"type": "OBJECT"}
    )
    said = client.models.generate_content(model=MODEL, contents="Hello", config=config)
    assert said.parsed == {"name": "Paris"}
    provider.answer(refusal="Not safe.")
    said = client.models.generate_content(model=MODEL, contents="Hello")
    assert said.candidates is not None
    assert said.candidates[0].finish_reason == types.FinishReason.SAFETY
    assert said.text is None


@pytest.mark.parametrize(
    ("status", "error", "word"),
    [
        (400, errors.ClientError, "INVALID_ARGUMENT"),
        (401, errors.ClientError, "UNAUTHENTICATED"),
        (404, errors.ClientError, "NOT_FOUND"),
        (429, errors.ClientError, "RESOURCE_EXHAUSTED"),
        (500, errors.ServerError, "INTERNAL"),
        (529, errors.ServerError, "UNAVAILABLE"),
    ],
)
def test_each_error_is_the_sdk_s_own(
    provider: FakeProvider,
    client: genai.Client,
    status: int,
    error: type[errors.APIError],
    word: str,
) -> None:
    """The status chooses the class; the body says it in a word."""
    provider.fail(status)
    with pytest.raises(error) as caught:
        client.models.generate_content(model=MODEL, contents="Hello")
    assert (caught.value.code, caught.value.status) == (status, word)


def test_embeddings_token_counts_and_pictures(provider: FakeProvider, client: genai.Client) -> None:
    """Embeddings and pictures report no usage; a count takes no answer."""
    made = client.models.embed_content(model="gemini-embedding-001", contents=["a", "b"])
    assert made.embeddings is not None
    assert len(made.embeddings) == 2
    assert made.embeddings[0].values != made.embeddings[1].values
    provider.answer("Later")
    counted = client.models.count_tokens(model=MODEL, contents="x" * 41)
    assert counted.total_tokens == 11
    assert provider.queued == 1


def test_vertex_ai_has_the_same_at_other_addresses(provider: FakeProvider) -> None:
    """Content, and pictures as Imagen makes them."""
    options = types.HttpOptions(base_url=provider.gemini_url)
    client = genai.Client(vertexai=True, api_key="k", http_options=options)
    assert client.models.generate_content(model=MODEL, contents="Hello").text
    with pytest.warns(Warning, match="generate_images method is deprecated"):
        drawn = client.models.generate_images(model="imagen-4.0-generate-001", prompt="a cat")
    client.close()
    assert drawn.generated_images is not None
    picture = drawn.generated_images[0].image
    assert picture is not None
    assert picture.image_bytes is not None
    assert picture.image_bytes.startswith(b"\x89PNG")


def test_interactions(provider: FakeProvider, client: genai.Client) -> None:
    """Plain, asked for again, and as a stream, whose steps fill the same interaction."""
    usage = {"input": 12, "output": 5, "cache_read": 3, "reasoning": 2}
    for _ in range(2):
        provider.answer("Hello there", thinking="Hm.", tool_calls=[CALL], usage=usage)
    made: Any = client.interactions.create(model=MODEL, input="Hello")
    assert made.output_text == "Hello there"
    assert made.usage is not None
    assert (made.usage.total_input_tokens, made.usage.total_cached_tokens) == (15, 3)
    assert (made.usage.total_output_tokens, made.usage.total_thought_tokens) == (5, 2)
    assert made.id is not None
    found: Any = client.interactions.get(made.id)
    assert found.usage.total_tokens == made.usage.total_tokens == 22
    events: list[Any] = list(client.interactions.create(model=MODEL, input="Hello", stream=True))
    assert "UNKNOWN" not in {event.event_type for event in events}
    last = events[-1]
    assert last.event_type == "interaction.completed"
    assert last.interaction.usage.total_tokens == 22
    # The SDK asks again by itself after a 429 or a 5xx, here but not elsewhere.
    provider.fail(400, message="Too odd")
    with pytest.raises(Exception, match="Too odd") as caught:
        client.interactions.create(model=MODEL, input="Hello")
    assert type(caught.value).__name__ == "BadRequestError"


async def _async_calls(client: genai.Client) -> list[str]:
    said = []
    async with client.aio as opened:
        whole = await opened.models.generate_content(model=MODEL, contents="Hello")
        said.append(whole.text or "")
        stream = await opened.models.generate_content_stream(model=MODEL, contents="Hello")
        said.append("".join([chunk.text or "" async for chunk in stream]))
        with pytest.raises(errors.ClientError):
            await opened.models.generate_content(model=MODEL, contents="Hello")
    return said


def test_the_async_client(provider: FakeProvider, client: genai.Client) -> None:
    """Plain, streams and errors are the same for the async client."""
    provider.answer("One")
    provider.answer("Two words")
    provider.fail(429)
    assert asyncio.run(_async_calls(client)) == ["One", "Two words"]
