"""Governed streams: settled once, exactly by their usage chunk, or at what arrived."""

from __future__ import annotations

import gc
from collections.abc import Generator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fluxai import CostEstimator, Governor
from fluxai.streams import CHUNKS_MAX, GovernedStream
from fluxai.testing import FakeClock
from tests.integration.stubs import daily, open_governor


@pytest.fixture(params=["memory", "sqlite"])
def governor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Governor]:
    """A governor whose tenant acme has $5 a day."""
    with open_governor(request.param, tmp_path) as governor:
        governor.policies.put(daily("5"))
        yield governor
        assert governor.reservations("reserved") == []
        assert governor.verify().ok


def openai_chunks(words: int = 5, *, usage: bool = True) -> list[dict[str, Any]]:
    """Return a chat completion's chunks, the last one with usage."""
    chunks: list[dict[str, Any]] = [
        {"model": "gpt-4o", "choices": [{"index": 0, "delta": {"content": "word "}}]}
        for _ in range(words)
    ]
    if usage:
        told = {"prompt_tokens": 20, "completion_tokens": words, "total_tokens": 20 + words}
        chunks.append({"model": "gpt-4o", "choices": [], "usage": told})
    return chunks


def anthropic_chunks(words: int = 5) -> list[dict[str, Any]]:
    """Return a message's events: input and one token of output first, the rest at the end."""
    started = {
        "type": "message_start",
        "message": {
            "model": "claude-3-haiku-20240307",
            "content": [],
            "usage": {"input_tokens": 20, "output_tokens": 1},
        },
    }
    deltas = [
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "word "}}
        for _ in range(words)
    ]
    ended = {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {"output_tokens": words},
    }
    return [started, *deltas, ended]


def _governed(governor: Governor, chunks: list[Any], model: str = "gpt-4o") -> Any:
    @governor.govern(model=model, tenant="acme")
    def stream(prompt: str, max_tokens: int = 500) -> Iterator[Any]:
        yield from chunks

    return stream


def _returned(governor: Governor, chunks: list[Any], model: str = "gpt-4o") -> Any:
    @governor.govern(model=model, tenant="acme")
    def stream(prompt: str, max_tokens: int = 500) -> Iterator[Any]:
        return iter(chunks)

    return stream


def _cost(chunks: list[Any]) -> Decimal:
    return CostEstimator().cost(chunks).total


@pytest.mark.parametrize("make", [_governed, _returned], ids=["generator", "returned iterator"])
@pytest.mark.parametrize("chunks", [openai_chunks(), anthropic_chunks()], ids=["openai", "claude"])
def test_a_stream_that_is_read_to_its_end_is_exact(
    governor: Governor, make: Any, chunks: list[Any]
) -> None:
    """The usage that the stream tells is charged, to the nano-dollar."""
    model = "gpt-4o" if "choices" in chunks[0] else "claude-3-haiku"
    assert list(make(governor, chunks, model)("Say hi.")) == chunks
    (event,) = governor.events()
    assert (event.cost, event.estimated) == (_cost(chunks), False)


@pytest.mark.parametrize("make", [_governed, _returned], ids=["generator", "returned iterator"])
@pytest.mark.parametrize("how", ["close", "let go", "error"])
def test_a_stream_that_is_left_is_charged_what_was_expected(
    governor: Governor, make: Any, how: str
) -> None:
    """More may have been generated than has arrived: the estimate of the whole call is charged."""
    words = 200
    stream = make(governor, openai_chunks(words))("Say hi.")
    for _ in range(words // 2):
        next(stream)
    if how == "close":
        stream.close()
    elif how == "error":
        with pytest.raises(ValueError, match="reader"):
            _fail(stream)
    del stream
    gc.collect()
    (event,) = governor.events()
    (reservation,) = governor.reservations()
    assert event.estimated
    assert event.cost == reservation.estimate.expected


@pytest.mark.parametrize("make", [_governed, _returned], ids=["generator", "returned iterator"])
@pytest.mark.parametrize(
    "chunks",
    [
        openai_chunks(),
        anthropic_chunks(),
        [
            {"modelVersion": "gemini-2.0-flash", "candidates": [{"content": {}}]},
            {
                "modelVersion": "gemini-2.0-flash",
                "candidates": [{"content": {}, "finishReason": "STOP"}],
                "usageMetadata": {"promptTokenCount": 20, "candidatesTokenCount": 5},
            },
        ],
        [
            {"type": "response.created", "response": {"model": "gpt-4o", "status": "in_progress"}},
            {
                "type": "response.completed",
                "response": {
                    "model": "gpt-4o",
                    "status": "completed",
                    "usage": {"input_tokens": 20, "output_tokens": 5, "total_tokens": 25},
                },
            },
        ],
    ],
    ids=["openai", "claude", "gemini", "responses"],
)
def test_a_stream_that_is_left_after_its_usage_is_exact(
    governor: Governor, make: Any, chunks: list[Any]
) -> None:
    """A reader that stops at the last chunk, as many do, is charged the usage it told."""
    stream = make(governor, chunks)("Say hi.")
    for _ in chunks:
        next(stream)
    stream.close()
    (event,) = governor.events()
    assert (event.cost, event.estimated) == (_cost(chunks), False)


def _fail(stream: Any) -> None:
    for _ in stream:
        raise ValueError("the reader's own")
    stream.close()


def test_usage_told_so_far_is_not_taken_for_the_whole(governor: Governor) -> None:
    """An aborted message whose first event counts one token is charged for what it may have cost."""
    words = 300
    stream = _governed(governor, anthropic_chunks(words), "claude-3-haiku")("Say hi.")
    for _ in range(1 + words):
        next(stream)
    stream.close()
    (event,) = governor.events()
    assert event.estimated
    assert event.cost >= _cost(anthropic_chunks(500))


@pytest.mark.parametrize("make", [_governed, _returned], ids=["generator", "returned iterator"])
def test_a_stream_without_usage_is_estimated_by_its_text(governor: Governor, make: Any) -> None:
    """Where the provider tells no usage, the text is counted."""
    list(make(governor, openai_chunks(300, usage=False))("Say hi."))
    (event,) = governor.events()
    assert event.estimated
    assert event.usage is not None
    assert 240 <= event.usage.output <= 600


@pytest.mark.parametrize("make", [_governed, _returned], ids=["generator", "returned iterator"])
def test_plain_text_chunks_are_estimated(governor: Governor, make: Any) -> None:
    """A stream of bare words is as good as any."""
    assert "".join(make(governor, ["word "] * 300)("Say hi.")) == "word " * 300
    (event,) = governor.events()
    assert event.estimated
    assert event.usage is not None
    assert 240 <= event.usage.output <= 600


def test_a_generator_that_nobody_begins_holds_nothing(governor: Governor) -> None:
    """Its body has not run, so nothing was called and nothing is held."""
    stream = _governed(governor, openai_chunks())("Say hi.")
    assert governor.reservations() == []
    del stream
    assert governor.events() == []


def test_a_stream_that_nobody_reads_is_charged(governor: Governor) -> None:
    """A function that returned a stream has made its call, whether or not it is read."""
    stream = _returned(governor, openai_chunks())("Say hi.")
    assert len(governor.reservations("reserved")) == 1
    del stream
    gc.collect()
    (event,) = governor.events()
    assert event.estimated


def test_a_provider_s_error_in_mid_stream_charges_what_arrived(governor: Governor) -> None:
    """What was generated before the error was generated all the same, and more than the cap too."""

    @governor.govern(model="gpt-4o", tenant="acme")
    def stream(prompt: str, max_tokens: int = 10) -> Iterator[Any]:
        yield from openai_chunks(100, usage=False)
        raise ValueError("overloaded")

    with pytest.raises(ValueError, match="overloaded"):
        list(stream("Say hi."))
    (event,) = governor.events()
    assert event.flags == ("estimated", "overrun")
    assert event.usage is not None
    assert event.usage.output >= 80


def test_an_error_before_the_first_chunk_gives_the_money_back(governor: Governor) -> None:
    """A stream that is refused at once costs nothing."""

    @governor.govern(model="gpt-4o", tenant="acme")
    def stream(prompt: str) -> Iterator[Any]:
        raise ValueError("401")
        yield  # pragma: no cover

    with pytest.raises(ValueError, match="401"):
        list(stream("Say hi."))
    assert governor.events() == []


def test_what_generators_can_do_still_works(governor: Governor) -> None:
    """Values sent, errors thrown and the returned value pass through the governed generator."""

    @governor.govern(model="gpt-4o", tenant="acme")
    def stream(prompt: str) -> Generator[str, str, str]:
        said = yield "first"
        try:
            yield f"heard {said}"
        except KeyError:
            yield "caught"
        return "result"

    generator = stream("Say hi.")
    assert next(generator) == "first"
    assert generator.send("you") == "heard you"
    assert generator.throw(KeyError()) == "caught"
    with pytest.raises(StopIteration) as stop:
        next(generator)
    assert stop.value.value == "result"
    assert len(governor.events()) == 1


class SdkStream:
    """A stream as SDKs return it: an iterator with a response, `close`, and `with`."""

    def __init__(self) -> None:
        self.closed = False
        self.response = "http 200"
        self._chunks = iter(openai_chunks())

    def __iter__(self) -> SdkStream:
        return self

    def __next__(self) -> Any:
        return next(self._chunks)

    def __enter__(self) -> SdkStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed = True


def test_a_stream_keeps_what_it_was(governor: Governor) -> None:
    """The governed stream has the SDK stream's attributes, closes it, and works in `with`."""
    inner = SdkStream()

    @governor.govern(model="gpt-4o", tenant="acme")
    def stream(prompt: str) -> SdkStream:
        return inner

    with stream("Say hi.") as chunks:
        assert isinstance(chunks, GovernedStream)
        assert chunks.response == "http 200"
        next(chunks)
        with pytest.raises(AttributeError):
            _ = chunks.nothing
    assert inner.closed
    (event,) = governor.events()
    assert event.estimated


def test_a_stream_is_settled_once(governor: Governor) -> None:
    """Reading to the end, closing and letting go settle a stream once between them."""
    stream = _returned(governor, openai_chunks())("Say hi.")
    list(stream)
    stream.close()
    del stream
    gc.collect()
    assert [event.estimated for event in governor.events()] == [False]


def test_a_long_stream_keeps_its_hold_alive(governor: Governor) -> None:
    """A stream that outlasts its hold extends it at half its time, and is not late."""
    clock = governor.clock
    assert isinstance(clock, FakeClock)
    chunks = openai_chunks(10)
    read = []
    for chunk in _governed(governor, chunks)("Say hi."):
        read.append(chunk)
        clock.advance("16m")
        assert governor.expire() == (0, 0)
    assert read == chunks
    (event,) = governor.events()
    assert (event.cost, event.flags) == (_cost(chunks), ())


def test_a_very_long_stream_is_counted_whole(governor: Governor) -> None:
    """Past a thousand chunks only text and usage are kept, and the sums stay right."""
    words = 3 * CHUNKS_MAX
    list(_governed(governor, openai_chunks(words))("Say hi."))
    stream = _governed(governor, openai_chunks(words, usage=False))("Say hi.")
    list(stream)
    exact, estimated = governor.events()
    assert exact.cost == _cost(openai_chunks(words)[-1:])
    assert estimated.usage is not None
    assert 0.8 * words <= estimated.usage.output <= 2 * words
