"""Never run: wrapped clients as their users write them, for type checkers to read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import assert_type

from anthropic import Anthropic, AsyncAnthropic
from anthropic import Stream as MessageStream
from anthropic.types import Message, RawMessageStreamEvent
from google import genai
from openai import AsyncOpenAI, AzureOpenAI, OpenAI, Stream
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response

from fluxai import AsyncGovernor, Governor

governor = Governor()

gpt = governor.wrap(OpenAI(), tenant="acme", user="alice", labels={"run": "1"})
assert_type(gpt, OpenAI)
assert_type(
    gpt.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}]),
    ChatCompletion,
)
assert_type(
    gpt.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "Hi"}], stream=True
    ),
    Stream[ChatCompletionChunk],
)
assert_type(gpt.responses.create(model="gpt-4o", input="Hi"), Response)
assert_type(gpt.with_options(timeout=5), OpenAI)
assert_type(governor.wrap(AsyncOpenAI()), AsyncOpenAI)
assert_type(governor.wrap(AzureOpenAI(api_version="2024-10-21")), AzureOpenAI)

claude = governor.wrap(Anthropic())
assert_type(claude, Anthropic)
assert_type(
    claude.messages.create(
        model="claude-haiku-4-5", max_tokens=9, messages=[{"role": "user", "content": "Hi"}]
    ),
    Message,
)
assert_type(
    claude.messages.create(
        model="claude-haiku-4-5",
        max_tokens=9,
        messages=[{"role": "user", "content": "Hi"}],
        stream=True,
    ),
    MessageStream[RawMessageStreamEvent],
)
assert_type(governor.wrap(AsyncAnthropic()), AsyncAnthropic)

# What its methods take names a class of Pillow, which need not be installed.
# pyright: reportUnknownMemberType=false
gemini = governor.wrap(genai.Client())
assert_type(gemini, genai.Client)
assert_type(
    gemini.models.generate_content(model="gemini-2.5-flash", contents="Hi"),
    genai.types.GenerateContentResponse,
)
assert_type(
    gemini.models.generate_content_stream(model="gemini-2.5-flash", contents="Hi"),
    Iterator[genai.types.GenerateContentResponse],
)
assert_type(governor.wrap(gemini.aio), genai.client.AsyncClient)

assert_type(AsyncGovernor().wrap(AsyncOpenAI(), tenant="acme"), AsyncOpenAI)

governor.wrap(OpenAI(), ungoverned="perhaps")  # type: ignore[arg-type]
