"""Recorded streams of real providers, replayed to the real SDKs: each costs what its usage says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import anthropic
import openai
import pytest

from fluxai import CostEstimator, Governor, UnknownModel, Usage
from fluxai.testing import FakeProvider
from tests.measure.records import Record, body, model_asked_for

#: Anthropic's SDK tells of models that are about to end, as most that were recorded are.
pytestmark = pytest.mark.filterwarnings("ignore:The model:DeprecationWarning")

#: The wrapped SDK's way to ask for each path.
_PATHS = ("/chat/completions", "/responses", "/messages")
#: What these SDKs talk to unless told otherwise: of others the usage is compared, for here nothing
#: but the address tells whose prices hold.
_OWN = ("openai", "anthropic")
_SAID = [{"role": "user", "content": "x"}]


def streamed(records: tuple[Record, ...]) -> Iterator[tuple[Record, str]]:
    """Return the streams that the SDKs of OpenAI and Anthropic read, and the path of each."""
    for record in records:
        path = next((path for path in _PATHS if record["endpoint"].endswith(path)), None)
        if record["body_kind"] == "sse" and record["status"] == 200 and path is not None:
            yield record, path


def complete(record: Record) -> bool:
    """Say whether every chunk was recorded."""
    stream = record["stream"]
    return bool(stream["n_chunks"] == len(stream["chunks"]))


def events(chunks: list[Any], path: str) -> bytes:
    """Write chunks as the provider sent them."""
    lines = []
    for chunk in chunks:
        named = path != "/chat/completions" and isinstance(chunk, Mapping) and chunk.get("type")
        lines.append(f"event: {chunk['type']}\n" if named else "")
        lines.append(f"data: {json.dumps(chunk)}\n\n")
    if path == "/chat/completions":
        lines.append("data: [DONE]\n\n")
    return "".join(lines).encode()


def ask(clients: tuple[Any, Any], path: str, model: str) -> None:
    """Stream once through the wrapped SDK."""
    gpt, claude = clients
    if path == "/messages":
        stream = claude.messages.create(model=model, messages=_SAID, max_tokens=8, stream=True)
    elif path == "/responses":
        stream = gpt.responses.create(model=model, input="x", stream=True)
    else:
        stream = gpt.chat.completions.create(
            model=model, messages=_SAID, stream=True, stream_options={"include_usage": True}
        )
    for _ in stream:
        pass


def test_every_recorded_stream(recorded_responses: tuple[Record, ...]) -> None:
    """Replayed as recorded, or rebuilt around its usage, each settles to what its usage costs."""
    seen = whole = without_usage = unknown_here = 0
    with (
        FakeProvider() as provider,
        Governor() as governor,
        openai.OpenAI(base_url=provider.openai_url, api_key="k") as gpt,
        anthropic.Anthropic(base_url=provider.anthropic_url, api_key="k") as claude,
    ):
        clients = (governor.wrap(gpt), governor.wrap(claude))
        for record, path in streamed(recorded_responses):
            if path == "/responses" and not hasattr(gpt, "responses"):
                unknown_here += 1  # the oldest SDK that is supported has no such call
                continue
            chunks = [chunk for chunk in body(record) if isinstance(chunk, dict)]
            model = model_asked_for(record) or record["model_response"]
            estimator = CostEstimator()
            try:
                estimator.estimate(model=model, input_tokens=1, max_output_tokens=1)
                expected = estimator.cost(chunks, model=model)
            except UnknownModel:
                continue
            provider.replay(events(chunks, path), content_type="text/event-stream")
            ask(clients, path, model)
            assert governor.reservations(state="reserved") == []
            event = governor.events(limit=1_000)[seen]
            if "no_usage" in Usage.parse(chunks).flags:
                without_usage += 1
                assert "estimated" in event.flags, record["id"]
            else:
                assert event.usage == expected.usage, record["id"]
                if record["provider"] in _OWN:
                    assert event.cost == expected.total, record["id"]
            seen += 1
            whole += complete(record)
    print(f"{seen} streams, {whole} of them complete, {without_usage} without usage")  # noqa: T201
    assert seen + unknown_here > 150
    assert seen > 100
