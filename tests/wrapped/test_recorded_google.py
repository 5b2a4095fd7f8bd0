"""Recorded answers of Gemini, replayed to the real SDK: each costs what its usage says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from google.genai import Client, types

from fluxai import CostEstimator, Governor, UnknownModel, Usage
from fluxai.testing import FakeProvider
from tests.measure.records import Record, body, model_asked_for
from tests.wrapped.google import make

_GENERATED = re.compile(r":(generateContent|streamGenerateContent)\b")


def generated(records: tuple[Record, ...]) -> Iterator[tuple[Record, str, bool]]:
    """Return the answers of Google's models, the model of each, and whether it was streamed."""
    for record in records:
        found = _GENERATED.search(record["endpoint"])
        google = record["provider"] in ("google-gla", "google-vertex")
        if google and found and record["status"] == 200:
            model = model_asked_for(record)
            assert model is not None, record["id"]
            yield record, model, found[1] == "streamGenerateContent"


def readable(said: Any) -> Any:
    """Return chunks without the texts that were shortened: the SDK can't read those."""
    if isinstance(said, list):
        return [readable(item) for item in said]
    if isinstance(said, dict):
        return {
            key: readable(value)
            for key, value in said.items()
            if not (isinstance(value, str) and key in ("thoughtSignature", "data"))
        }
    return said


def ask(client: Client, model: str, *, streams: bool) -> None:
    """Ask once; whole answers unparsed, for older models' ones are not all as the SDK wants."""
    if streams:
        for _ in client.models.generate_content_stream(model=model, contents="x"):
            pass
    else:
        raw = types.GenerateContentConfig(should_return_http_response=True)
        client.models.generate_content(model=model, contents="x", config=raw)


def test_every_recorded_answer(recorded_responses: tuple[Record, ...]) -> None:
    """Replayed as recorded, streams around their usage, each settles to what its usage costs."""
    seen = streamed = 0
    with FakeProvider() as provider:
        client = make(provider)
        for record, model, streams in generated(recorded_responses):
            said: Any = body(record)
            estimator = CostEstimator()
            try:
                estimator.estimate(model=model, input_tokens=1, max_output_tokens=1)
                expected = estimator.cost(said, model=model)
            except UnknownModel:
                continue
            if streams:
                events = "".join(f"data: {json.dumps(chunk)}\r\n\r\n" for chunk in readable(said))
                provider.replay(events, content_type="text/event-stream")
            else:
                provider.replay(said)
            with Governor() as governor:
                ask(governor.wrap(client), model, streams=streams)
                (event,) = governor.events()
                assert governor.reservations(state="reserved") == []
            if "no_usage" in Usage.parse(said).flags:
                assert "estimated" in event.flags, record["id"]
            else:
                assert event.usage == expected.usage, record["id"]
                assert event.cost == expected.total, record["id"]
            seen += 1
            streamed += streams
    print(f"{seen} answers, {streamed} of them streams")  # noqa: T201
    assert seen > 400
    assert streamed > 25
