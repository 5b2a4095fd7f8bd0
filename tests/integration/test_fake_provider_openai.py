"""OpenAI's own SDK against the fake provider: what it says is what the SDK understands."""

from __future__ import annotations

import asyncio
import io
import json
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import openai
import pytest
from openai import AsyncOpenAI, AzureOpenAI, OpenAI
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from fluxai import Usage
from fluxai.testing import Answer, FakeProvider, ToolCall

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion, ChatCompletionMessageParam

MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
TOLD = Usage(input=12, output=5, cache_read=3, reasoning=2)
SEARCHED = Usage(input=9, requests={"web_search": 2})
CALL = ToolCall(name="get_weather", arguments={"city": "Paris"})


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A fake provider."""
    with FakeProvider() as opened:
        yield opened


@pytest.fixture
def client(provider: FakeProvider) -> Iterator[OpenAI]:
    """OpenAI's client, which retries nothing."""
    with OpenAI(base_url=provider.openai_url, api_key="k", max_retries=0) as opened:
        yield opened


def test_a_chat_answers_with_the_usage_that_it_was_told(
    provider: FakeProvider, client: OpenAI
) -> None:
    """Text, model, end and usage are as told; the request is kept."""
    provider.answer("Hello there", usage=TOLD)
    said = client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    assert said.choices[0].message.content == "Hello there"
    assert (said.choices[0].finish_reason, said.model) == ("stop", "gpt-4o")
    assert Usage.parse(said) == TOLD
    (request,) = provider.requests
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert request.json["messages"] == MESSAGES
    assert request.headers["authorization"] == "Bearer k"


def test_without_anything_queued_the_usage_follows_from_the_request(client: OpenAI) -> None:
    """A token for each four characters of the prompt and of the answer: the same each time."""
    first, again = (
        client.chat.completions.create(
            model="gpt-4o", messages=[{"role": "user", "content": "x" * 41}]
        )
        for _ in range(2)
    )
    assert first.usage == again.usage
    assert first.usage is not None
    assert first.usage.prompt_tokens == 11
    assert first.usage.completion_tokens == -(-len(first.choices[0].message.content or "") // 4)


def test_a_default_answer_keeps_to_the_limit_of_the_request(client: OpenAI) -> None:
    """What nobody told the price of is cut off where a provider would."""
    said = client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=2)
    assert said.choices[0].finish_reason == "length"
    assert said.usage is not None
    assert said.usage.completion_tokens == 2


def test_a_chat_stream_states_usage_only_where_it_is_asked_for(
    provider: FakeProvider, client: OpenAI
) -> None:
    """Without the option no chunk has any; with it, one last chunk has, and no choices."""
    provider.answer("Hello there", usage=TOLD)
    chunks = list(client.chat.completions.create(model="m", messages=MESSAGES, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello there"
    assert [chunk.usage for chunk in chunks] == [None] * len(chunks)
    provider.answer("Hello there", usage=TOLD)
    chunks = list(
        client.chat.completions.create(
            model="m", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    *others, last = chunks
    assert {chunk.usage for chunk in others} == {None}
    assert last.choices == []
    assert Usage.parse(last) == TOLD


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_calls_tools(provider: FakeProvider, client: OpenAI, *, stream: bool) -> None:
    """Name and arguments arrive, whole or in parts."""
    provider.answer(tool_calls=[CALL])
    said: ChatCompletion
    if stream:
        with client.chat.completions.stream(model="m", messages=MESSAGES) as events:
            said = events.get_final_completion()
    else:
        said = client.chat.completions.create(model="m", messages=MESSAGES)
    message = said.choices[0].message
    assert message.content is None
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert call.type == "function"
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}


class City(BaseModel):
    """What a model is asked to answer with."""

    name: str


def test_structured_output_and_refusals(provider: FakeProvider, client: OpenAI) -> None:
    """JSON is parsed into the asked type; a refusal is no text."""
    provider.answer(json={"name": "Paris"})
    said = client.chat.completions.parse(model="m", messages=MESSAGES, response_format=City)
    assert said.choices[0].message.parsed == City(name="Paris")
    provider.answer(refusal="I can't help with that.")
    said = client.chat.completions.parse(model="m", messages=MESSAGES, response_format=City)
    assert said.choices[0].message.refusal == "I can't help with that."
    assert said.choices[0].message.parsed is None
    provider.answer(json={"name": "Paris"})
    made = client.responses.parse(model="m", input="Hello", text_format=City)
    assert made.output_parsed == City(name="Paris")
    provider.answer(refusal="I can't help with that.")
    made = client.responses.parse(model="m", input="Hello", text_format=City)
    assert made.output_parsed is None


def test_several_choices(client: OpenAI) -> None:
    """`n` choices are answered, in a stream too."""
    said = client.chat.completions.create(model="m", messages=MESSAGES, n=3)
    assert [choice.index for choice in said.choices] == [0, 1, 2]
    chunks = client.chat.completions.create(model="m", messages=MESSAGES, n=2, stream=True)
    assert {choice.index for chunk in chunks for choice in chunk.choices} == {0, 1}


ERRORS: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    404: openai.NotFoundError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    529: openai.InternalServerError,
}


@pytest.mark.parametrize(("status", "error"), ERRORS.items())
def test_each_error_is_the_sdk_s_own(
    provider: FakeProvider, client: OpenAI, status: int, error: type[openai.APIStatusError]
) -> None:
    """The status chooses the class; the body says more."""
    provider.fail(status, message="no", retry_after=7)
    with pytest.raises(error, match="no") as caught:
        client.chat.completions.create(model="m", messages=MESSAGES)
    assert caught.value.status_code == status
    assert caught.value.response.headers["retry-after"] == "7"
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["message"] == "no"


def test_retries_take_one_entry_each(provider: FakeProvider) -> None:
    """Two failures and an answer are three requests of one call."""
    provider.fail(429, retry_after=0)
    provider.fail(500)
    provider.answer("At last")
    with OpenAI(base_url=provider.openai_url, api_key="k", max_retries=2) as client:
        said = client.chat.completions.create(model="m", messages=MESSAGES)
    assert said.choices[0].message.content == "At last"
    counts = [request.headers["x-stainless-retry-count"] for request in provider.requests]
    assert counts == ["0", "1", "2"]


@pytest.mark.parametrize("what", ["text", "tool", "refusal", "thinking", "search"])
def test_responses_and_their_events(provider: FakeProvider, client: OpenAI, what: str) -> None:
    """The stream of a response fills the very response that is answered at once otherwise."""
    answers: dict[str, dict[str, Any]] = {
        "text": {"text": "Hello there", "usage": TOLD},
        "tool": {"tool_calls": [CALL], "usage": TOLD},
        "refusal": {"refusal": "I can't help with that."},
        "thinking": {"text": "Hello there", "thinking": "They greet me.", "usage": TOLD},
        "search": {"text": "Found", "usage": SEARCHED},
    }
    provider.answer(**answers[what])
    plain = client.responses.create(model="m", input="Hello")
    provider.answer(**answers[what])
    with client.responses.stream(model="m", input="Hello") as events:
        seen = list(events)
        final = events.get_final_response()
    assert final.output_text == plain.output_text == answers[what].get("text", "")
    assert [item.type for item in final.output] == [item.type for item in plain.output]
    assert Usage.parse(final) == Usage.parse(plain)
    if "usage" in answers[what]:
        assert Usage.parse(plain) == answers[what]["usage"]
    assert (seen[0].type, seen[-1].type) == ("response.created", "response.completed")
    assert [event.sequence_number for event in seen] == list(range(len(seen)))


def test_each_event_of_a_response_is_one_that_the_sdk_knows(provider: FakeProvider) -> None:
    """Validated strictly against the SDK's types, whose readers would take anything."""
    known: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    kinds = set()
    for answer in (
        Answer(text="Hello there", thinking="They greet me.", tool_calls=(CALL,)),
        Answer(refusal="I can't help with that."),
        Answer(text="Hello", finish="length"),
    ):
        provider.answer(answer)
        body = json.dumps({"model": "m", "input": "Hello", "stream": True}).encode()
        with urllib.request.urlopen(f"{provider.openai_url}/responses", body) as reply:  # noqa: S310
            events = [line[6:] for line in reply.read().split(b"\n") if line[:6] == b"data: "]
        for event in events:
            kinds.add(known.validate_json(event, strict=True).type)
    assert kinds >= {
        "response.output_text.delta",
        "response.refusal.delta",
        "response.function_call_arguments.done",
        "response.reasoning_summary_text.done",
        "response.incomplete",
    }


def test_a_background_response_has_its_usage_when_it_is_asked_for_again(
    provider: FakeProvider, client: OpenAI
) -> None:
    """Queued without usage first, finished with it later; then it can be deleted."""
    provider.answer("Done", usage=TOLD)
    queued = client.responses.create(model="m", input="Hello", background=True)
    assert (queued.status, queued.usage) == ("queued", None)
    done = client.responses.retrieve(queued.id)
    assert (done.status, done.output_text) == ("completed", "Done")
    assert Usage.parse(done) == TOLD
    client.responses.delete(queued.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(queued.id)


def test_embeddings(provider: FakeProvider, client: OpenAI) -> None:
    """The same text has the same vector, of the asked size; the usage is as told."""
    provider.answer(usage={"input": 9})
    made = client.embeddings.create(model="m", input=["a", "b", "a"], dimensions=3)
    one, other, again = (item.embedding for item in made.data)
    assert one == again != other
    assert len(one) == 3
    assert made.usage.prompt_tokens == 9
    plain = client.embeddings.create(model="m", input="a", dimensions=3, encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(one)


def test_text_completions(provider: FakeProvider, client: OpenAI) -> None:
    """Plain and as a stream, whose usage comes last."""
    provider.answer("Hello there", usage={"input": 3, "output": 2})
    said = client.completions.create(model="m", prompt="Hi")
    assert said.choices[0].text == "Hello there"
    assert Usage.parse(said) == Usage(input=3, output=2)
    chunks = list(
        client.completions.create(
            model="m", prompt="Hi", stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].usage is not None
    assert chunks[-1].choices == []


def test_pictures_speech_and_transcriptions(provider: FakeProvider, client: OpenAI) -> None:
    """What is no text: bytes, and usage by tokens, by seconds, or none."""
    provider.answer(usage={"input": 8, "image_out": 272})
    made = client.images.generate(model="gpt-image-1", prompt="a cat")
    assert Usage.parse(made) == Usage(input=8, image_out=272)
    assert client.images.generate(model="dall-e-3", prompt="a cat").usage is None
    spoken = client.audio.speech.create(model="tts-1", voice="alloy", input="Hello")
    assert spoken.content.startswith(b"\xff\xfb")
    file = ("a.mp3", io.BytesIO(b"x" * 24_000))
    provider.answer("Hello", usage={"audio_in": 30, "output": 2})
    heard = client.audio.transcriptions.create(model="gpt-4o-transcribe", file=file)
    assert heard.text == "Hello"
    assert Usage.parse(heard) == Usage(audio_in=30, output=2)
    by_time = client.audio.transcriptions.create(model="whisper-1", file=file)
    assert Usage.parse(by_time).seconds == 3


def test_files_and_batches(provider: FakeProvider, client: OpenAI) -> None:
    """Each line of a batch takes an answer; the results are in a file, the sum in the batch."""
    lines = [
        {
            "custom_id": name,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "m", "messages": MESSAGES},
        }
        for name in ("one", "two")
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("in.jsonl", content), purpose="batch")
    provider.answer("First", usage={"input": 10, "output": 1})
    provider.answer("Second", usage={"input": 20, "output": 2})
    begun = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    assert begun.status == "validating"
    ended = client.batches.retrieve(begun.id)
    assert ended.status == "completed"
    assert ended.usage is not None
    assert (ended.usage.input_tokens, ended.usage.output_tokens) == (30, 3)
    assert ended.output_file_id is not None
    results = client.files.content(ended.output_file_id).text.splitlines()
    bodies = [json.loads(line)["response"]["body"] for line in results]
    assert [body["choices"][0]["message"]["content"] for body in bodies] == ["First", "Second"]


def test_models_can_be_listed_without_taking_an_answer(
    provider: FakeProvider, client: OpenAI
) -> None:
    """An answer waits for a request that asks a model for something."""
    provider.answer("For a chat")
    assert [model.object for model in client.models.list()] == ["model"]
    assert provider.queued == 1
    said = client.chat.completions.create(model="m", messages=MESSAGES)
    assert said.choices[0].message.content == "For a chat"


def test_azure(provider: FakeProvider) -> None:
    """Its addresses name the deployment, and its streams begin with a chunk without choices."""
    with AzureOpenAI(
        azure_endpoint=provider.url, api_version="2024-10-21", api_key="k", max_retries=0
    ) as client:
        provider.answer("Hello", usage=TOLD)
        said = client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
        assert (said.model, Usage.parse(said)) == ("gpt-4o", TOLD)
        chunks = list(
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES, stream=True)
        )
        assert chunks[0].choices == []
        provider.fail(401)
        with pytest.raises(openai.AuthenticationError, match="invalid subscription key"):
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
    request = provider.requests[0]
    assert request.path == "/openai/deployments/gpt-4o/chat/completions"
    assert request.parameters["api-version"] == "2024-10-21"


def test_what_a_format_cannot_state_is_refused_and_named(
    provider: FakeProvider, client: OpenAI
) -> None:
    """A usage that would be lost on the way is a mistake of the test's, and says so."""
    provider.answer("Hello", usage={"input": 1, "cache_write_1h": 5})
    with pytest.raises(openai.BadRequestError, match="can't state cache_write_1h"):
        client.chat.completions.create(model="m", messages=MESSAGES)
    with pytest.raises(openai.NotFoundError, match="nothing at GET /v1/fine_tuning/jobs"):
        client.fine_tuning.jobs.list()


async def _async_calls(provider: FakeProvider) -> list[str]:
    said = []
    async with AsyncOpenAI(base_url=provider.openai_url, api_key="k", max_retries=0) as client:
        whole = await client.chat.completions.create(model="m", messages=MESSAGES)
        said.append(whole.choices[0].message.content or "")
        stream = await client.chat.completions.create(model="m", messages=MESSAGES, stream=True)
        said.append("".join([chunk.choices[0].delta.content or "" async for chunk in stream]))
        async with client.responses.stream(model="m", input="Hello") as events:
            said.append((await events.get_final_response()).output_text)
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(model="m", messages=MESSAGES)
    return said


def test_the_async_client(provider: FakeProvider) -> None:
    """Plain, streams and errors are the same for the async client."""
    for text in ("One", "Two words", "Three"):
        provider.answer(text)
    provider.fail(429)
    assert asyncio.run(_async_calls(provider)) == ["One", "Two words", "Three"]
