"""What the fake provider says has the keys and types of what real providers were recorded saying.

For each address: every key of ours occurs in some recorded answer, under the same key, with a type
that was recorded there; and every key that all recorded answers have is in ours. Streams are
compared event by event, by the event's type.
"""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

from fluxai import Usage
from fluxai.testing import FakeProvider, ToolCall

Record = Mapping[str, Any]

#: What recordings hold in place of the rest of a long list of numbers.
_CUT = re.compile(r"…\[\d+ numbers\]")


@dataclass
class Shape:
    """Where keys were seen in many JSON documents, and with which types.

    A place is a path such as `$.output[]<message>.role`: items of a list are told apart by their
    `type`.
    """

    #: How many objects stood at a place.
    objects: Counter[str] = field(default_factory=Counter)
    #: How many of those had a key.
    keys: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    types: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, value: object, place: str = "$") -> None:
        """See one more document."""
        if isinstance(value, str) and _CUT.fullmatch(value):
            return
        self.types[place].add(_type(value))
        if isinstance(value, dict):
            self.objects[place] += 1
            for key, inner in value.items():
                self.keys[place][key] += 1
                self.add(inner, f"{place}.{key}")
        elif isinstance(value, list):
            for inner in value:
                self.add(inner, f"{place}[]{_tag(inner)}")

    def faults(self, value: object, place: str = "$") -> Iterator[str]:
        """Say where a document of ours differs from all that was seen."""
        if place not in self.types:
            yield f"{place} was never recorded"
            return
        if _type(value) not in self.types[place]:
            yield f"{place} is {_type(value)}, recorded as {sorted(self.types[place])}"
        if isinstance(value, dict):
            for key, count in self.keys[place].items():
                if count == self.objects[place] and key not in value:
                    yield f"{place}.{key} is always there"
            for key, inner in value.items():
                if f"{place}.{key}" not in _FREE:
                    yield from self.faults(inner, f"{place}.{key}")
        elif isinstance(value, list):
            for inner in value:
                yield from self.faults(inner, f"{place}[]{_tag(inner)}")


def _type(value: object) -> str:
    # JSON has one kind of number; some writers leave out the point of a whole one.
    return "number" if type(value) in {int, float} else type(value).__name__


def _tag(item: object) -> str:
    kind = item.get("type") if isinstance(item, dict) else None
    return f"<{kind}>" if isinstance(kind, str) else ""


#: Arguments of tools are the test's own words.
_FREE = {
    "$.content[]<tool_use>.input",
    "$.candidates[].content.parts[].functionCall.args",
}


def _address(record: Record) -> str | None:
    """Name the endpoint of a record, where it is one that the fake provider has."""
    path = re.sub(r"/+", "/", record["endpoint"])
    host = record["host"]
    if host == "api.openai.com":
        return "openai " + re.sub(r"(resp|batch)_\w+", "ID", path)
    if host == "api.anthropic.com":
        return f"anthropic {path}"
    if "generativelanguage" in host:
        verb = re.search(r":(\w+)$", path)
        return f"gemini {verb[1]}" if verb else None
    if record["provider"] == "azure" and "/openai/deployments/" in path:
        return "azure chat" if path.endswith("/chat/completions") else None
    return None


def _event(record_event: str | None, data: object) -> str:
    """Name an event of a stream: by its type, or by what it carries."""
    if isinstance(data, dict):
        if isinstance(data.get("type"), str):
            return str(data["type"])
        if "choices" in data:
            return "chunk" if data["choices"] else "chunk without choices"
        return "chunk"
    return record_event or str(data)


@pytest.fixture(scope="module")
def shapes(recorded_responses: tuple[dict[str, Any], ...]) -> Mapping[str, Shape]:
    """What was recorded, by endpoint and status, and by type of event."""
    found: dict[str, Shape] = defaultdict(Shape)
    for record in recorded_responses:
        address = _address(record)
        if address is None:
            continue
        status = record["status"]
        if record["body_kind"] == "json":
            # One recorded answer of Azure carries an error under status 200.
            if status == 200 and "error" in record["response"] and address == "azure chat":
                continue
            found[f"{address} {status}"].add(record["response"])
        elif record["body_kind"] == "sse" and status == 200:
            for chunk in record["stream"]["chunks"]:
                name = _event(chunk["event"], chunk["data"])
                found[f"{address} {name}"].add(chunk["data"])
                # Of Azure's chunks few were kept that say anything; they are OpenAI's, and more.
                if (address, name) == ("openai /v1/chat/completions", "chunk"):
                    found["azure chat chunk"].add(chunk["data"])
    return found


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A fake provider."""
    with FakeProvider() as opened:
        yield opened


def _ask(
    provider: FakeProvider, path: str, body: object = None, *, headers: Mapping[str, str] = {}
) -> bytes:
    """Send a request without any SDK, which would add keys of its own."""
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"content-type": "application/json", **headers}
    request = urllib.request.Request(provider.url + path, data=data, headers=sent)  # noqa: S310
    try:
        with urllib.request.urlopen(request) as reply:  # noqa: S310
            whole: bytes = reply.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.read()
    return whole


def _events(body: bytes) -> list[tuple[str, Any]]:
    found = []
    for block in body.decode().strip().split("\n\n"):
        lines = block.split("\n")
        name = next((line[7:] for line in lines if line.startswith("event: ")), None)
        text = "\n".join(line[6:] for line in lines if line.startswith("data: "))
        data = text if text == "[DONE]" else json.loads(text)
        found.append((_event(name, data), data))
    return found


CALL = ToolCall(name="get_weather", arguments={"city": "Paris"})
MESSAGES = [{"role": "user", "content": "Hello"}]
CHAT = {"model": "gpt-4o", "messages": MESSAGES}
CLAUDE = {"model": "claude-haiku-4-5", "max_tokens": 50, "messages": MESSAGES}
CONTENTS = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
GEMINI = "/v1beta/models/gemini-2.5-flash"


class Case(NamedTuple):
    """A request, and the recorded endpoint that its answer is compared with."""

    address: str
    path: str
    body: Mapping[str, Any]


CONVERSATIONS = {
    "chat": Case("openai /v1/chat/completions", "/v1/chat/completions", CHAT),
    "responses": Case("openai /v1/responses", "/v1/responses", {"model": "m", "input": "Hello"}),
    "azure": Case(
        "azure chat",
        "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21",
        {"messages": MESSAGES},
    ),
    "messages": Case("anthropic /v1/messages", "/v1/messages", CLAUDE),
    "gemini": Case("gemini generateContent", f"{GEMINI}:generateContent", CONTENTS),
}
PLAIN = CONVERSATIONS | {
    "completions": Case(
        "openai /v1/completions", "/v1/completions", {"model": "m", "prompt": "Hello"}
    ),
    "input tokens": Case(
        "openai /v1/responses/input_tokens", "/v1/responses/input_tokens", {"input": "Hello"}
    ),
    "embeddings": Case("openai /v1/embeddings", "/v1/embeddings", {"model": "m", "input": ["Hi"]}),
    "embeddings in base64": Case(
        "openai /v1/embeddings",
        "/v1/embeddings",
        {"model": "m", "input": "Hi", "encoding_format": "base64"},
    ),
    "dall-e": Case(
        "openai /v1/images/generations", "/v1/images/generations", {"model": "dall-e-3"}
    ),
    "gpt-image": Case(
        "openai /v1/images/generations", "/v1/images/generations", {"model": "gpt-image-1"}
    ),
    "token count": Case("anthropic /v1/messages/count_tokens", "/v1/messages/count_tokens", CLAUDE),
    "gemini token count": Case("gemini countTokens", f"{GEMINI}:countTokens", CONTENTS),
    "gemini embeddings": Case(
        "gemini batchEmbedContents",
        f"{GEMINI}:batchEmbedContents",
        {"requests": [{"content": {"parts": [{"text": "Hello"}]}}]},
    ),
}


@pytest.mark.parametrize("case", PLAIN.values(), ids=PLAIN)
def test_a_body_has_the_keys_and_types_of_recorded_ones(
    provider: FakeProvider, shapes: Mapping[str, Shape], case: Case
) -> None:
    """Nothing in a plain answer is made up, and nothing that is always there is missing."""
    said = json.loads(_ask(provider, case.path, case.body))
    assert list(shapes[f"{case.address} 200"].faults(said)) == []


SPOKEN: dict[str, dict[str, Any]] = {
    "text": {"text": "Hello there"},
    "tool": {"tool_calls": [CALL]},
    "text and tool": {"text": "Let me look.", "tool_calls": [CALL, CALL]},
    "cut off": {"text": "Hello", "finish": "length"},
    "cached and thought": {
        "text": "Hello",
        "usage": {"input": 12, "output": 5, "cache_read": 3, "reasoning": 2},
    },
}
#: A response that is cut off was recorded as a stream only.
UNRECORDED = {("openai /v1/responses", "cut off")}


@pytest.mark.parametrize("kind", SPOKEN)
@pytest.mark.parametrize("case", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_whatever_is_said_keeps_the_recorded_shape(
    provider: FakeProvider,
    shapes: Mapping[str, Shape],
    case: Case,
    kind: str,
) -> None:
    """Text, calls of tools, cached input and thoughts stand where they were recorded."""
    if (case.address, kind) in UNRECORDED:
        pytest.skip("no such answer was recorded")
    provider.answer(**SPOKEN[kind])
    said = json.loads(_ask(provider, case.path, case.body))
    assert list(shapes[f"{case.address} 200"].faults(said)) == []


@pytest.mark.parametrize("name", ["responses", "messages", "gemini"])
def test_thoughts_stand_where_they_were_recorded(
    provider: FakeProvider, shapes: Mapping[str, Shape], name: str
) -> None:
    """Where a format shows thoughts, they have the recorded shape."""
    case = CONVERSATIONS[name]
    provider.answer("Hello", thinking="They greet me.")
    said = json.loads(_ask(provider, case.path, case.body))
    assert list(shapes[f"{case.address} 200"].faults(said)) == []


USAGE = {"stream_options": {"include_usage": True}}
STREAMS = {
    "chat": Case("openai /v1/chat/completions", "/v1/chat/completions", CHAT),
    "chat with usage": Case("openai /v1/chat/completions", "/v1/chat/completions", CHAT | USAGE),
    "completions": Case("openai /v1/completions", "/v1/completions", {"prompt": "Hello"}),
    "responses": CONVERSATIONS["responses"],
    "azure": CONVERSATIONS["azure"]._replace(body={"messages": MESSAGES} | USAGE),
    "messages": CONVERSATIONS["messages"],
    "gemini": Case(
        "gemini streamGenerateContent", f"{GEMINI}:streamGenerateContent?alt=sse", CONTENTS
    ),
}
#: Recordings keep the first event of a stream, the last two, and those with usage: of the others
#: the SDKs' own types are the measure, in the tests of each provider.
COMPARED = {
    "chunk",
    "chunk without choices",
    "[DONE]",
    "response.created",
    "response.in_progress",
    "response.output_item.done",
    "response.completed",
    "message_start",
    "message_delta",
    "message_stop",
}


@pytest.mark.parametrize("kind", ["text", "tool", "cut off"])
@pytest.mark.parametrize("case", STREAMS.values(), ids=STREAMS)
def test_events_have_the_keys_and_types_of_recorded_ones(
    provider: FakeProvider,
    shapes: Mapping[str, Shape],
    case: Case,
    kind: str,
) -> None:
    """Each event of a stream that was recorded is compared by its type."""
    if kind == "tool" and case.path == "/v1/completions":
        pytest.skip("text completions call no tools")
    provider.answer(**SPOKEN[kind])
    events = _events(_ask(provider, case.path, {**case.body, "stream": True}))
    compared = [(name, data) for name, data in events if name in COMPARED]
    assert compared
    faults = {
        f"{name}: {fault}"
        for name, data in compared
        for fault in shapes[f"{case.address} {name}"].faults(data)
    }
    # The arguments of a tool follow its name in chunks that recordings leave out.
    assert {fault for fault in faults if ".tool_calls[]" not in fault} == set()


ERRORS = {"chat": (400, 401, 404), "messages": (400, 401, 404), "gemini": (404, 429)}


@pytest.mark.parametrize(
    ("name", "status"), [(name, status) for name, known in ERRORS.items() for status in known]
)
def test_errors_have_the_keys_and_types_of_recorded_ones(
    provider: FakeProvider, shapes: Mapping[str, Shape], name: str, status: int
) -> None:
    """A failure is said in the provider's own form."""
    provider.fail(status)
    case = CONVERSATIONS[name]
    said = json.loads(_ask(provider, case.path, case.body))
    assert list(shapes[f"{case.address} {status}"].faults(said)) == []


def test_a_batch_has_the_recorded_shape(
    provider: FakeProvider, shapes: Mapping[str, Shape]
) -> None:
    """As it is made, and as it is asked for again."""
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": CHAT}
    form = (
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
        + json.dumps(line).encode()
        + b"\r\n--x--\r\n"
    )
    kind = {"content-type": "multipart/form-data; boundary=x"}
    file = json.loads(_ask(provider, "/v1/files", form, headers=kind))
    asked = {
        "input_file_id": file["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    begun = json.loads(_ask(provider, "/v1/batches", asked))
    assert list(shapes["openai /v1/batches 200"].faults(begun)) == []
    ended = json.loads(_ask(provider, f"/v1/batches/{begun['id']}"))
    assert list(shapes["openai /v1/batches/ID 200"].faults(ended)) == []
    assert ended["usage"]["total_tokens"] > 0


@pytest.mark.parametrize("stream", [False, True])
def test_transcriptions_have_the_recorded_shape(
    provider: FakeProvider, shapes: Mapping[str, Shape], *, stream: bool
) -> None:
    """Tokens or seconds, plain or as a stream."""
    models = ["gpt-4o-transcribe"] if stream else ["gpt-4o-transcribe", "whisper-1"]
    for model in models:
        form = (
            f'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\n{model}\r\n'
            f'--x\r\nContent-Disposition: form-data; name="stream"\r\n\r\n{str(stream).lower()}\r\n'
            '--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n\r\nabc\r\n'
            "--x--\r\n"
        ).encode()
        kind = {"content-type": "multipart/form-data; boundary=x"}
        body = _ask(provider, "/v1/audio/transcriptions", form, headers=kind)
        if not stream:
            shape = shapes["openai /v1/audio/transcriptions 200"]
            assert list(shape.faults(json.loads(body))) == []
            continue
        for name, data in _events(body):
            shape = shapes[f"openai /v1/audio/transcriptions {name}"]
            assert list(shape.faults(data)) == [], name


def test_the_comparison_sees_what_is_made_up_and_what_is_missing() -> None:
    """A key that was never recorded, another type, and a key that is left out are faults."""
    shape = Shape()
    shape.add({"id": "a", "usage": {"tokens": 1}})
    shape.add({"id": "b", "usage": {"tokens": 2}, "note": None})
    assert list(shape.faults({"id": "c", "usage": {"tokens": 3}})) == []
    assert list(shape.faults({"id": 1, "usage": {"tokens": 3}})) == [
        "$.id is number, recorded as ['str']"
    ]
    assert list(shape.faults({"id": "c", "usage": {"count": 3}})) == [
        "$.usage.tokens is always there",
        "$.usage.count was never recorded",
    ]


TOLD = {
    "openai": Usage(input=12, output=5, cache_read=3, reasoning=2),
    "anthropic": Usage(
        input=12,
        output=5,
        cache_read=3,
        cache_write_5m=7,
        cache_write_1h=4,
        requests={"web_search": 2},
    ),
    "gemini": Usage(input=12, output=5, cache_read=3, reasoning=2),
}


@pytest.mark.parametrize("case", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_a_usage_that_is_told_is_the_usage_that_is_read(provider: FakeProvider, case: Case) -> None:
    """Each wire format states the usage in its own way; read back, it is the same to the token."""
    told = TOLD.get(case.address.split()[0], TOLD["openai"])
    provider.answer("Hello there", usage=told)
    plain = json.loads(_ask(provider, case.path, case.body))
    assert Usage.parse(plain) == told
    provider.answer("Hello there", usage=told)
    wanted = {**case.body, **USAGE, "stream": True}
    streamed = case.path.replace(":generateContent", ":streamGenerateContent?alt=sse")
    chunks = [data for _, data in _events(_ask(provider, streamed, wanted))]
    assert Usage.parse(chunks) == told
