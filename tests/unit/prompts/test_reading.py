"""Prompts are read whichever way they are written."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from fluxai.prompts.reading import read_prompt

QUESTION = "What is the weather in Paris?"

FORMS: dict[str, Any] = {
    "text": QUESTION,
    "bytes": QUESTION.encode(),
    "a message": {"role": "user", "content": QUESTION},
    "OpenAI": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}],
    "OpenAI parts": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
    "OpenAI responses": {
        "instructions": "Be brief.",
        "input": [{"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}],
    },
    "Anthropic": {"system": "Be brief.", "messages": [{"role": "user", "content": QUESTION}]},
    "Anthropic, after a tool": [
        {"role": "user", "content": QUESTION},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "name": "weather", "input": {"city": "Paris"}}],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "1", "content": "18 degrees"}],
        },
    ],
    "OpenAI, after a tool": [
        {"role": "user", "content": QUESTION},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "Paris"}'}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "18 degrees"},
    ],
    "Gemini": {"contents": [{"role": "user", "parts": [{"text": QUESTION}]}]},
    "Gemini, a text": {"contents": QUESTION},
    "SDK objects": [SimpleNamespace(role="user", parts=[SimpleNamespace(text=QUESTION)])],
    "an earlier question": [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello! What can I do?"},
        {"role": "user", "content": QUESTION},
    ],
}


@pytest.mark.parametrize("prompt", FORMS.values(), ids=FORMS)
def test_what_was_asked_last_is_found(prompt: object) -> None:
    """In the messages of every provider; neither instructions nor what tools answer is the question."""
    assert read_prompt(prompt).asked == QUESTION


def test_texts_hold_all_that_is_sent() -> None:
    """Instructions, calls of tools and what they answered are tokens too."""
    read = read_prompt(
        {
            "system": "Be brief.",
            "messages": FORMS["Anthropic, after a tool"],
            "tools": [{"name": "w"}],
        }
    )
    assert {"Be brief.", QUESTION, "Paris", "18 degrees"} <= set(read.texts)
    assert "1" not in read.texts
    assert read.messages == 3
    assert read.tools == 1


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "input_image", "image_url": "https://example.org/a.png"},
        {"type": "image", "source": {"type": "base64", "data": "AAAA"}},
        {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
        SimpleNamespace(inline_data=SimpleNamespace(mime_type="image/png", data=b"AAAA")),
    ],
)
def test_a_file_is_counted_and_its_bytes_are_no_text(part: object) -> None:
    """An image in the form of each provider."""
    read = read_prompt([{"role": "user", "content": [part, {"type": "text", "text": "Look."}]}])
    assert (read.media, read.asked) == (1, "Look.")


def test_gemini_s_tools_are_counted_one_by_one() -> None:
    """Several functions are declared in one tool."""
    tools = [{"functionDeclarations": [{"name": "a"}, {"name": "b"}]}]
    assert read_prompt({"contents": "hi", "tools": tools}).tools == 2
