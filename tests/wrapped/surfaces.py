"""Every way in which a program asks a model through the SDKs of OpenAI and Anthropic."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
from pydantic import BaseModel

from fluxai.testing import FakeProvider

MESSAGES = [{"role": "user", "content": "Name a river."}]
#: For each provider: what is asked for, a cheaper model that can stand in, and an output cap.
MODELS = {"openai": "gpt-4o", "anthropic": "claude-opus-4-1"}
CHEAPER = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5"}
CAP = 64


class Place(BaseModel):
    """What structured answers are parsed into."""

    name: str


#: An answer that is text, and JSON for `Place` too.
TEXT = '{"name": "Rhine"}'


@dataclass(frozen=True)
class Surface:
    """One way of asking: run it with a wrapped client, and it reads the answer to its end."""

    name: str
    provider: str
    run: Callable[[Any], Any]
    streams: bool = False
    is_async: bool = False

    def __str__(self) -> str:
        return f"{self.provider}-{self.name}{'-async' if self.is_async else ''}"

    def client(self, provider: FakeProvider, **options: Any) -> Any:
        """Return the SDK's own client."""
        if self.provider == "openai":
            kind: Any = openai.AsyncOpenAI if self.is_async else openai.OpenAI
            return kind(base_url=provider.openai_url, api_key="k", **options)
        kind = anthropic.AsyncAnthropic if self.is_async else anthropic.Anthropic
        return kind(base_url=provider.anthropic_url, api_key="k", **options)

    def ask(self, client: Any) -> None:
        """Ask, and read the answer to its end."""
        if self.is_async:
            asyncio.run(_with_closing(self.run, client))
            return
        try:
            self.run(client)
        finally:
            client.close()


async def _with_closing(run: Callable[[Any], Any], client: Any) -> None:
    try:
        await run(client)
    finally:
        await client.close()


def _chat(client: Any, **more: Any) -> Any:
    return client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=CAP, **more)


def _message(client: Any, **more: Any) -> Any:
    return client.messages.create(
        model="claude-opus-4-1", messages=MESSAGES, max_tokens=CAP, **more
    )


def _read(stream: Any) -> None:
    for _ in stream:
        pass


async def _aread(stream: Any) -> None:
    async for _ in stream:
        pass


# -- sync -------------------------------------------------------------------------------------


def _chat_parse(client: Any) -> None:
    parsed = client.chat.completions.parse(
        model="gpt-4o", messages=MESSAGES, max_tokens=CAP, response_format=Place
    )
    assert parsed.choices[0].message.parsed == Place(name="Rhine")


def _chat_stream(client: Any) -> None:
    for chunk in _chat(client, stream=True):
        # As a great many programs do: there is no chunk without a choice unless one asks for it.
        assert chunk.choices[0].delta is not None


def _chat_helper(client: Any) -> None:
    with client.chat.completions.stream(
        model="gpt-4o", messages=MESSAGES, max_tokens=CAP
    ) as stream:
        _read(stream)


def _chat_raw(client: Any) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="gpt-4o", messages=MESSAGES, max_tokens=CAP
    )
    assert raw.parse().choices[0].message.content == TEXT


def _chat_raw_stream(client: Any) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="gpt-4o", messages=MESSAGES, max_tokens=CAP, stream=True
    )
    _read(raw.parse())


def _chat_streaming_raw(client: Any) -> None:
    with client.chat.completions.with_streaming_response.create(
        model="gpt-4o", messages=MESSAGES, max_tokens=CAP
    ) as raw:
        assert raw.parse().choices[0].message.content == TEXT


def _chat_streaming_raw_lines(client: Any) -> None:
    with client.chat.completions.with_streaming_response.create(
        model="gpt-4o", messages=MESSAGES, max_tokens=CAP, stream=True
    ) as raw:
        _read(raw.iter_lines())


def _chat_options(client: Any) -> None:
    _chat(client.with_options(default_headers={"x-team": "rivers"}))


def _responses(client: Any) -> None:
    client.responses.create(model="gpt-4o", input="Name a river.", max_output_tokens=CAP)


def _responses_parse(client: Any) -> None:
    parsed = client.responses.parse(
        model="gpt-4o", input="Name a river.", max_output_tokens=CAP, text_format=Place
    )
    assert parsed.output_parsed == Place(name="Rhine")


def _responses_stream(client: Any) -> None:
    _read(
        client.responses.create(
            model="gpt-4o", input="Name a river.", max_output_tokens=CAP, stream=True
        )
    )


def _responses_helper(client: Any) -> None:
    with client.responses.stream(
        model="gpt-4o", input="Name a river.", max_output_tokens=CAP
    ) as stream:
        _read(stream)


def _completions(client: Any) -> None:
    client.completions.create(
        model="gpt-3.5-turbo-instruct", prompt="Name a river.", max_tokens=CAP
    )


def _message_stream(client: Any) -> None:
    _read(_message(client, stream=True))


def _message_helper(client: Any) -> None:
    with client.messages.stream(
        model="claude-opus-4-1", messages=MESSAGES, max_tokens=CAP
    ) as stream:
        assert "".join(stream.text_stream) == TEXT


def _message_raw(client: Any) -> None:
    raw = client.messages.with_raw_response.create(
        model="claude-opus-4-1", messages=MESSAGES, max_tokens=CAP
    )
    assert raw.parse().content[0].text == TEXT


def _message_streaming_raw(client: Any) -> None:
    with client.messages.with_streaming_response.create(
        model="claude-opus-4-1", messages=MESSAGES, max_tokens=CAP, stream=True
    ) as raw:
        _read(raw.iter_lines())


def _message_beta(client: Any) -> None:
    client.beta.messages.create(model="claude-opus-4-1", messages=MESSAGES, max_tokens=CAP)


# -- async ------------------------------------------------------------------------------------


async def _achat(client: Any) -> None:
    await _chat(client)


async def _achat_stream(client: Any) -> None:
    await _aread(await _chat(client, stream=True))


async def _achat_helper(client: Any) -> None:
    async with client.chat.completions.stream(
        model="gpt-4o", messages=MESSAGES, max_tokens=CAP
    ) as stream:
        await _aread(stream)


async def _achat_raw(client: Any) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model="gpt-4o", messages=MESSAGES, max_tokens=CAP
    )
    assert raw.parse().choices[0].message.content == TEXT


async def _achat_streaming_raw(client: Any) -> None:
    async with client.chat.completions.with_streaming_response.create(
        model="gpt-4o", messages=MESSAGES, max_tokens=CAP, stream=True
    ) as raw:
        await _aread(raw.iter_lines())


async def _aresponses(client: Any) -> None:
    await client.responses.create(model="gpt-4o", input="Name a river.", max_output_tokens=CAP)


async def _aresponses_stream(client: Any) -> None:
    await _aread(
        await client.responses.create(
            model="gpt-4o", input="Name a river.", max_output_tokens=CAP, stream=True
        )
    )


async def _amessage(client: Any) -> None:
    await _message(client)


async def _amessage_stream(client: Any) -> None:
    await _aread(await _message(client, stream=True))


async def _amessage_helper(client: Any) -> None:
    async with client.messages.stream(
        model="claude-opus-4-1", messages=MESSAGES, max_tokens=CAP
    ) as stream:
        await _aread(stream)


async def _amessage_raw(client: Any) -> None:
    raw = await client.messages.with_raw_response.create(
        model="claude-opus-4-1", messages=MESSAGES, max_tokens=CAP
    )
    parsed = raw.parse()
    if hasattr(parsed, "__await__"):
        parsed = await parsed
    assert parsed.content[0].text == TEXT


def _surfaces(provider: str, is_async: bool, *ways: tuple[str, Any, bool]) -> list[Surface]:  # noqa: FBT001
    return [
        Surface(name, provider, run, streams, is_async)
        for name, run, streams in ways
        if provider != "openai" or _offered_by_openai(name)
    ]


def _offered_by_openai(name: str) -> bool:
    """Say whether the SDK that is installed has this way: the oldest ones lack some."""
    if name.startswith("responses"):
        return hasattr(openai.OpenAI, "responses") or "responses" in openai.OpenAI.__annotations__
    if name in {"chat.parse", "chat.stream"}:
        return hasattr(openai.resources.chat.Completions, name.partition(".")[2])
    return True


SURFACES = [
    *_surfaces(
        "openai",
        False,
        ("chat", _chat, False),
        ("chat.parse", _chat_parse, False),
        ("chat-stream", _chat_stream, True),
        ("chat.stream", _chat_helper, True),
        ("chat-raw", _chat_raw, False),
        ("chat-raw-stream", _chat_raw_stream, True),
        ("chat-streaming-raw", _chat_streaming_raw, False),
        ("chat-streaming-raw-stream", _chat_streaming_raw_lines, True),
        ("chat-with_options", _chat_options, False),
        ("responses", _responses, False),
        ("responses.parse", _responses_parse, False),
        ("responses-stream", _responses_stream, True),
        ("responses.stream", _responses_helper, True),
        ("completions", _completions, False),
    ),
    *_surfaces(
        "openai",
        True,
        ("chat", _achat, False),
        ("chat-stream", _achat_stream, True),
        ("chat.stream", _achat_helper, True),
        ("chat-raw", _achat_raw, False),
        ("chat-streaming-raw-stream", _achat_streaming_raw, True),
        ("responses", _aresponses, False),
        ("responses-stream", _aresponses_stream, True),
    ),
    *_surfaces(
        "anthropic",
        False,
        ("messages", _message, False),
        ("messages-stream", _message_stream, True),
        ("messages.stream", _message_helper, True),
        ("messages-raw", _message_raw, False),
        ("messages-streaming-raw-stream", _message_streaming_raw, True),
        ("beta.messages", _message_beta, False),
    ),
    *_surfaces(
        "anthropic",
        True,
        ("messages", _amessage, False),
        ("messages-stream", _amessage_stream, True),
        ("messages.stream", _amessage_helper, True),
        ("messages-raw", _amessage_raw, False),
    ),
]
