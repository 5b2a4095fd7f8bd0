"""Every way in which a program asks Gemini through google-genai."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google import genai
from google.genai import types

from fluxai.testing import FakeProvider

MODEL, CHEAPER, CAP = "gemini-2.5-pro", "gemini-2.5-flash-lite", 64
QUESTION = "Name a river."
CONFIG = types.GenerateContentConfig(max_output_tokens=CAP)
GENERATION: Any = {"max_output_tokens": CAP}


def make(provider: FakeProvider, *, vertex: bool = False, **options: Any) -> genai.Client:
    """Return the SDK's own client; `options` are those of its `HttpOptions`.

    It tries once unless told otherwise: interactions would try five times.
    """
    options.setdefault("retry_options", types.HttpRetryOptions(attempts=1))
    return genai.Client(
        api_key="k",
        vertexai=vertex,
        http_options=types.HttpOptions(base_url=provider.gemini_url, **options),
    )


@dataclass(frozen=True)
class Surface:
    """One way of asking: run it with a wrapped client, and it reads the answer to its end."""

    name: str
    run: Callable[[genai.Client], Any]
    streams: bool = False
    is_async: bool = False
    vertex: bool = False

    @property
    def retries_silence(self) -> bool:
        """Whether the SDK asks again when no answer came."""
        return not self.name.startswith("interaction")

    def __str__(self) -> str:
        return f"{self.name}{'-async' if self.is_async else ''}"

    def client(self, provider: FakeProvider, **options: Any) -> genai.Client:
        """Return the SDK's own client."""
        return make(provider, vertex=self.vertex, **options)

    def ask(self, client: genai.Client) -> None:
        """Ask, and read the answer to its end."""
        if self.is_async:
            asyncio.run(_with_closing(self.run, client))
        else:
            self.run(client)


async def _with_closing(run: Callable[[Any], Any], client: genai.Client) -> None:
    try:
        await run(client)
    finally:
        await client.aio.aclose()


# -- sync -------------------------------------------------------------------------------------


def _content(client: genai.Client) -> None:
    said = client.models.generate_content(model=MODEL, contents=QUESTION, config=CONFIG)
    assert isinstance(said, types.GenerateContentResponse)


def _stream(client: genai.Client) -> None:
    for chunk in client.models.generate_content_stream(
        model=MODEL, contents=QUESTION, config=CONFIG
    ):
        assert isinstance(chunk, types.GenerateContentResponse)


def _raw(client: genai.Client) -> None:
    config = CONFIG.model_copy(update={"should_return_http_response": True})
    said = client.models.generate_content(model=MODEL, contents=QUESTION, config=config)
    assert said.sdk_http_response is not None
    assert said.sdk_http_response.body


def _chat(client: genai.Client) -> None:
    client.chats.create(model=MODEL, config=CONFIG).send_message(QUESTION)


def _chat_stream(client: genai.Client) -> None:
    for _ in client.chats.create(model=MODEL, config=CONFIG).send_message_stream(QUESTION):
        pass


def _interaction(client: Any) -> None:
    client.interactions.create(model=MODEL, input=QUESTION, generation_config=GENERATION)


def _interaction_stream(client: Any) -> None:
    for _ in client.interactions.create(
        model=MODEL, input=QUESTION, generation_config=GENERATION, stream=True
    ):
        pass


def _interaction_raw(client: Any) -> None:
    raw = client.interactions.with_raw_response.create(
        model=MODEL, input=QUESTION, generation_config=GENERATION
    )
    assert raw.parse().status == "completed"


def _interaction_streaming_raw(client: Any) -> None:
    with client.interactions.with_streaming_response.create(
        model=MODEL, input=QUESTION, generation_config=GENERATION
    ) as raw:
        assert raw.parse().status == "completed"


# -- async ------------------------------------------------------------------------------------


async def _acontent(client: genai.Client) -> None:
    await client.aio.models.generate_content(model=MODEL, contents=QUESTION, config=CONFIG)


async def _astream(client: genai.Client) -> None:
    async for _ in await client.aio.models.generate_content_stream(
        model=MODEL, contents=QUESTION, config=CONFIG
    ):
        pass


async def _achat(client: genai.Client) -> None:
    await client.aio.chats.create(model=MODEL, config=CONFIG).send_message(QUESTION)


async def _achat_stream(client: genai.Client) -> None:
    chat = client.aio.chats.create(model=MODEL, config=CONFIG)
    async for _ in await chat.send_message_stream(QUESTION):
        pass


async def _ainteraction(client: Any) -> None:
    await client.aio.interactions.create(model=MODEL, input=QUESTION, generation_config=GENERATION)


async def _ainteraction_stream(client: Any) -> None:
    async for _ in await client.aio.interactions.create(
        model=MODEL, input=QUESTION, generation_config=GENERATION, stream=True
    ):
        pass


SURFACES = [
    Surface("content", _content),
    Surface("content-vertex", _content, vertex=True),
    Surface("content-raw", _raw),
    Surface("content-stream", _stream, streams=True),
    Surface("content-stream-vertex", _stream, streams=True, vertex=True),
    Surface("chat", _chat),
    Surface("chat-stream", _chat_stream, streams=True),
    Surface("interaction", _interaction),
    Surface("interaction-stream", _interaction_stream, streams=True),
    Surface("interaction-raw", _interaction_raw),
    Surface("interaction-streaming-raw", _interaction_streaming_raw),
    Surface("content", _acontent, is_async=True),
    Surface("content-stream", _astream, streams=True, is_async=True),
    Surface("chat", _achat, is_async=True),
    Surface("chat-stream", _achat_stream, streams=True, is_async=True),
    Surface("interaction", _ainteraction, is_async=True),
    Surface("interaction-stream", _ainteraction_stream, streams=True, is_async=True),
]
