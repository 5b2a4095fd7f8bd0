"""How the fake provider misbehaves on request, whatever the wire format."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from fluxai import ConfigurationError, InvalidRequest, Usage
from fluxai.testing import Answer, FakeClock, FakeProvider
from tests.measure import records

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}]}
#: Longer than anything here takes; only a hang would use it up.
PATIENCE_SECONDS = 60


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A fake provider."""
    with FakeProvider() as opened:
        yield opened


class Caller:
    """A client that shows what is on the wire. One connection, kept alive."""

    def __init__(self, provider: FakeProvider, timeout: float = PATIENCE_SECONDS) -> None:
        self.connection = http.client.HTTPConnection(
            provider.url.removeprefix("http://"), timeout=timeout
        )

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def ask(self, *, stream: bool = False) -> http.client.HTTPResponse:
        """Ask for a chat; return the reply as it begins."""
        self.connection.request(
            "POST", "/v1/chat/completions", json.dumps({**CHAT, "stream": stream})
        )
        return self.connection.getresponse()

    def text(self) -> str:
        """Ask for a chat; return what was said."""
        with self.ask() as reply:
            body = json.loads(reply.read())
        return str(body["choices"][0]["message"]["content"])


def test_the_queue_is_taken_in_order_over_one_connection(provider: FakeProvider) -> None:
    """One entry a request, then the default; the connection is kept alive."""
    provider.answer("One")
    provider.answer("Two")
    with Caller(provider) as caller:
        first = caller.text()
        used = caller.connection.sock
        assert (first, caller.text()) == ("One", "Two")
        assert caller.text() == "This is an answer of the fake provider."
        assert caller.connection.sock is used
    assert [request.path for request in provider.requests] == ["/v1/chat/completions"] * 3


def test_clear_forgets_requests_and_queue(provider: FakeProvider) -> None:
    """A provider that many tests share begins anew."""
    with Caller(provider) as caller:
        caller.text()
        provider.answer("never said")
        provider.clear()
        assert (provider.requests, provider.queued) == ([], 0)
        assert caller.text() == "This is an answer of the fake provider."


def test_a_default_of_one_s_own() -> None:
    """A text, or an answer with its usage, whenever nothing is queued."""
    default = Answer(text="Always", usage=Usage(input=7, output=1))
    with FakeProvider(default=default) as provider, Caller(provider) as caller:
        for _ in range(2):
            with caller.ask() as reply:
                assert Usage.parse(reply.read()) == Usage(input=7, output=1)


def test_replies_are_dated_by_the_clock() -> None:
    """A clock that stands still makes the same body each time; one that is moved shows."""
    clock = FakeClock()
    with FakeProvider(clock=clock) as provider, Caller(provider) as caller:
        created = []
        for _ in range(2):
            with caller.ask() as reply:
                created.append(json.loads(reply.read())["created"])
            clock.advance("1h")
    assert created[1] - created[0] == 3600


def test_silence_lasts_until_the_client_gives_up(provider: FakeProvider) -> None:
    """The request arrives, no byte comes back, and the next one is answered again."""
    provider.hang()
    with Caller(provider) as caller:
        caller.connection.request("POST", "/v1/chat/completions", json.dumps(CHAT))
        assert len(provider.wait_for_requests(1)) == 1
        caller.connection.sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            caller.connection.sock.recv(1)
    with Caller(provider) as caller:
        assert caller.text()


def test_closing_ends_a_silence() -> None:
    """Who waits for a provider that closes is cut off, and nothing is left running."""
    before = threading.active_count()
    provider = FakeProvider().start()
    provider.hang()
    with Caller(provider) as caller:
        caller.connection.request("POST", "/v1/chat/completions", json.dumps(CHAT))
        provider.wait_for_requests(1)
        provider.close()
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            caller.connection.getresponse()
    provider.close()
    assert threading.active_count() == before


def test_a_slow_stream_waits_for_each_chunk(provider: FakeProvider) -> None:
    """A step lets on one chunk, and opening the gate all the rest."""
    gate = provider.slow("One two three")
    with Caller(provider) as caller, caller.ask(stream=True) as reply:
        assert gate.wait_until_reached()
        gate.step()
        assert b'"role":"assistant"' in reply.readline()
        assert reply.readline() == b"\n"
        gate.step(2)
        said = [reply.readline() for _ in range(4)]
        assert b'"One"' in said[0]
        assert b'" two"' in said[2]
        gate.open()
        assert reply.read().endswith(b"data: [DONE]\n\n")


def test_a_slow_answer_that_is_no_stream_waits_once(provider: FakeProvider) -> None:
    """It is one chunk."""
    gate = provider.slow("Hello")
    said: list[str] = []
    with Caller(provider) as caller:
        thread = threading.Thread(target=lambda: said.append(caller.text()))
        thread.start()
        assert gate.wait_until_reached()
        assert said == []
        gate.step()
        thread.join()
    assert said == ["Hello"]


def test_a_client_may_leave_a_slow_stream(provider: FakeProvider) -> None:
    """The gate holds nobody up who has gone, and the provider goes on."""
    gate = provider.slow("One two three")
    with Caller(provider) as caller, caller.ask(stream=True) as reply:
        gate.step()
        reply.readline()
    with Caller(provider) as caller:
        assert caller.text()


@pytest.mark.parametrize("stream", [False, True])
def test_a_cut_before_the_answer(provider: FakeProvider, *, stream: bool) -> None:
    """The connection ends without a byte."""
    provider.cut()
    with Caller(provider) as caller, pytest.raises(http.client.RemoteDisconnected):
        caller.ask(stream=stream)


def test_a_cut_in_the_middle_of_a_stream(provider: FakeProvider) -> None:
    """So many chunks arrive whole, and then the connection ends."""
    provider.cut("One two three", after_chunks=2)
    with (
        Caller(provider) as caller,
        caller.ask(stream=True) as reply,
        pytest.raises(http.client.IncompleteRead) as caught,
    ):
        reply.read()
    assert caught.value.partial.count(b"data: ") == 2
    assert b'"One"' in caught.value.partial


def test_a_cut_in_the_middle_of_a_body(provider: FakeProvider) -> None:
    """A part of an answer that is no stream arrives."""
    provider.cut("Hello", after_chunks=1)
    with (
        Caller(provider) as caller,
        caller.ask() as reply,
        pytest.raises(http.client.IncompleteRead) as caught,
    ):
        reply.read()
    assert caught.value.partial


def test_a_replay_is_exact(provider: FakeProvider) -> None:
    """Bytes, status, type and headers as they were given; a list becomes events."""
    provider.replay(b"\x00\x01", content_type="audio/wav", status=206, headers={"x-own": "yes"})
    provider.replay({"a": "é"})
    provider.replay([{"type": "ping"}, {"a": 1}, b": a comment\n\n", "[DONE]"])
    with Caller(provider) as caller:
        with caller.ask() as reply:
            assert (reply.status, reply.read()) == (206, b"\x00\x01")
            assert (reply.getheader("content-type"), reply.getheader("x-own")) == (
                "audio/wav",
                "yes",
            )
        with caller.ask() as reply:
            assert reply.read() == '{"a":"é"}'.encode()
        with caller.ask() as reply:
            assert reply.read() == (
                b'event: ping\ndata: {"type":"ping"}\n\n'
                b'data: {"a":1}\n\n'
                b": a comment\n\n"
                b"data: [DONE]\n\n"
            )


def test_recorded_answers_are_replayed_with_their_usage(
    provider: FakeProvider, recorded_responses: tuple[Mapping[str, Any], ...]
) -> None:
    """What was recorded, plain or a stream, is read as the same usage after it went over the wire."""
    chosen = [
        record
        for record in recorded_responses
        if record["status"] == 200
        and record["body_kind"] in {"json", "sse"}
        and record["host"] in {"api.openai.com", "api.anthropic.com"}
    ][::9]
    assert len(chosen) > 100
    with Caller(provider) as caller:
        for record in chosen:
            body = records.body(record)
            provider.replay(body)
            with caller.ask() as reply:
                text = reply.read()
            if isinstance(body, list):
                assert Usage.parse(_events(text)) == Usage.parse(body), record["id"]
            else:
                assert json.loads(text) == body


def _events(text: bytes) -> list[Any]:
    data = [line[6:].decode() for line in text.split(b"\n") if line.startswith(b"data: ")]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


def test_wrong_instructions_are_refused_at_once(provider: FakeProvider) -> None:
    """Each names the argument, and queues nothing."""
    with pytest.raises(InvalidRequest, match="status: .*200"):
        provider.fail(200)
    with pytest.raises(InvalidRequest, match="usage: .*inputs"):
        provider.answer("Hello", usage={"inputs": 1})
    with pytest.raises(InvalidRequest, match="input: "):
        provider.answer("Hello", usage={"input": -1})
    with pytest.raises(InvalidRequest, match="json: "):
        provider.answer("Hello", json={"a": 1})
    with pytest.raises(InvalidRequest, match="refusal: "):
        provider.answer("Hello", refusal="No")
    with pytest.raises(InvalidRequest, match="after_chunks: "):
        provider.cut(after_chunks=-1)
    with pytest.raises(TimeoutError, match="0 of 1 requests came"):
        provider.wait_for_requests(1, timeout=0)
    assert provider.queued == 0


def test_it_has_an_address_only_while_it_is_open() -> None:
    """Before and after, it says what to do; and it is started once."""
    provider = FakeProvider()
    with pytest.raises(ConfigurationError, match="start the fake provider first"):
        _ = provider.url
    with provider, pytest.raises(ConfigurationError, match="started already"):
        provider.start()
    with pytest.raises(ConfigurationError):
        _ = provider.openai_url


def test_what_is_no_http_is_dropped(provider: FakeProvider) -> None:
    """Garbage ends its own connection and no other."""
    host, port = provider.url.removeprefix("http://").split(":")
    for garbage in (
        b"hello\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: many\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ):
        with socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as line:
            line.sendall(garbage)
            # A reset is the other way to end it.
            with contextlib.suppress(ConnectionResetError):
                assert line.recv(1) == b""
    with Caller(provider) as caller:
        assert caller.text()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages/batches", {"requests": [{"params": {}}]}),
        ("/v1/chat/completions", {"stream": True, "stream_options": "all"}),
        ("/v1/audio/transcriptions", {"model": "whisper-1"}),
        ("/v1beta/models/m:generateContent", {"generationConfig": 1}),
    ],
)
def test_a_request_of_another_shape_is_refused_as_a_bad_one(
    provider: FakeProvider, path: str, body: object
) -> None:
    """It is answered with status 400, and the connection goes on."""
    with Caller(provider) as caller:
        caller.connection.request("POST", path, json.dumps(body))
        with caller.connection.getresponse() as reply:
            assert reply.status == 400
            assert "FakeProvider" in json.loads(reply.read())["error"]["message"]
        assert caller.text()


def test_a_body_may_come_in_chunks(provider: FakeProvider) -> None:
    """As clients send what they don't know the length of."""
    body = json.dumps(CHAT).encode()
    with Caller(provider) as caller:
        caller.connection.request(
            "POST",
            "/v1/chat/completions",
            iter([body[:9], body[9:]]),
            {"transfer-encoding": "chunked"},
            encode_chunked=True,
        )
        with caller.connection.getresponse() as reply:
            assert reply.status == 200
            reply.read()
    assert provider.requests[0].json == CHAT


STREAMS = 1000


@pytest.fixture
def many_files() -> Iterator[None]:
    """Room for both ends of every connection, where the system allows it."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * STREAMS + 500
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"a process may open {hard} files here, and {wanted} are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _stream(provider: FakeProvider, all_open: asyncio.Barrier) -> str:
    host, port = provider.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps({**CHAT, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
    await reader.readuntil(b"\r\n\r\n")
    await all_open.wait()
    said = await reader.readuntil(b"\r\n0\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    chunks = [json.loads(line[6:]) for line in said.split(b"\n") if line.startswith(b"data: {")]
    return "".join(
        choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]
    )


async def _all_streams(provider: FakeProvider, open_gates: Any) -> list[str]:
    # One party more than streams: the gates open when every stream stands at its own.
    all_open = asyncio.Barrier(STREAMS + 1)
    tasks = [asyncio.create_task(_stream(provider, all_open)) for _ in range(STREAMS)]
    await all_open.wait()
    open_gates()
    return await asyncio.gather(*tasks)


@pytest.mark.usefixtures("many_files")
def test_a_thousand_streams_at_once(provider: FakeProvider) -> None:
    """All are open before any is answered; each gets an answer of its own, and none is lost."""
    gates = [provider.slow(f"answer number {number}") for number in range(STREAMS)]

    def open_gates() -> None:
        for gate in gates:
            gate.open()

    said = asyncio.run(_all_streams(provider, open_gates))
    assert sorted(said) == sorted(f"answer number {number}" for number in range(STREAMS))
    assert len(provider.requests) == STREAMS
