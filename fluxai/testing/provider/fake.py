"""A provider that answers as it is told, on a port of this machine."""

from __future__ import annotations

import json as json_format
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from fluxai.core.clock import Clock
from fluxai.core.errors import ConfigurationError, InvalidRequest
from fluxai.core.usage import Usage
from fluxai.testing.clock import FakeClock
from fluxai.testing.provider.anthropic import Anthropic
from fluxai.testing.provider.exchange import JSON, Reply, Request, dumped, event_stream, sse
from fluxai.testing.provider.gemini import Gemini
from fluxai.testing.provider.openai_api import OpenAI
from fluxai.testing.provider.scripts import (
    Answer,
    Failure,
    Finish,
    Gate,
    Script,
    ToolCall,
    Turn,
    usage_of,
)
from fluxai.testing.provider.server import Delivery, Server
from fluxai.testing.provider.wire import Wire

_DEFAULT: Final = Answer(text="This is an answer of the fake provider.")


class FakeProvider:
    """OpenAI, Anthropic and Gemini on one port of 127.0.0.1, for tests: no network, no keys.

    Each request takes one entry of the queue, in the order in which they were put in: an answer
    waits for a request that asks a model for something, all else meets whatever request comes
    next. Where nothing is queued, the default answer is given.

    Args:
        default: What is answered when nothing is queued.
        clock: What replies are dated by; one that stands still, by default, so that bodies are the
            same in each run.

    Attributes:
        clock: The clock.
    """

    def __init__(self, *, default: str | Answer = _DEFAULT, clock: Clock | None = None) -> None:
        self.clock: Clock = clock or FakeClock()
        self._default = Answer(text=default) if isinstance(default, str) else default
        self._script = Script()
        self._lock = threading.Condition()
        self._requests: list[Request] = []
        self._server: Server | None = None
        self._wires: tuple[Wire, ...] = ()

    # -------------------------------------------------------------------------------- its life

    def start(self) -> Self:
        """Open the port; `with` does it for you.

        Raises:
            ConfigurationError: It is open already.
        """
        if self._server is not None:
            raise ConfigurationError("this fake provider has been started already")
        self._server = Server(self._respond)
        # What fits none of the others is OpenAI's, as its base URL is what people change.
        self._wires = (Gemini(), Anthropic(self.url), OpenAI())
        return self

    def close(self) -> None:
        """Cut every connection and close the port. May be repeated."""
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # ------------------------------------------------------------------------------- addresses

    @property
    def url(self) -> str:
        """Where it listens: what Azure's clients take as `azure_endpoint`.

        Raises:
            ConfigurationError: It isn't open.
        """
        if self._server is None:
            raise ConfigurationError("start the fake provider first: with FakeProvider() as …")
        return f"http://127.0.0.1:{self._server.port}"

    @property
    def openai_url(self) -> str:
        """What OpenAI's clients take as `base_url`."""
        return f"{self.url}/v1"

    @property
    def anthropic_url(self) -> str:
        """What Anthropic's clients take as `base_url`."""
        return self.url

    @property
    def gemini_url(self) -> str:
        """What google-genai takes as `base_url` in its `http_options`."""
        return self.url

    # ----------------------------------------------------------------------------- what to say

    def answer(
        self,
        text: str | Answer = "",
        *,
        json: object = None,
        tool_calls: Sequence[ToolCall] = (),
        thinking: str | None = None,
        refusal: str | None = None,
        finish: Finish | None = None,
        usage: Usage | Mapping[str, Any] | None = None,
        model: str | None = None,
    ) -> None:
        """Queue an answer.

        Args:
            text: What the model says; or a whole `Answer`, and then nothing else.
            json: What it says as JSON, in place of a text: for structured output.
            tool_calls: Tools that it asks to call.
            thinking: What it thinks first, where the wire format shows that.
            refusal: Why it refuses, in place of a text.
            finish: Why it ends; by default that follows from the rest.
            usage: What is billed, in the words of `fluxai.Usage`, such as
                `{"input": 12, "output": 5, "cache_read": 3}`. By default it is made from the
                request's texts and the answer's, at a token for each four characters, rounded up.
            model: The model that answers; by default the one that was asked for.

        Raises:
            InvalidRequest: Arguments that exclude each other, or a usage that can't be. Names it.
        """
        if isinstance(text, Answer):
            self._script.add(Turn(what=text))
            return
        if json is not None:
            if text:
                raise InvalidRequest("json", "is said in place of a text; both were given")
            text = json_format.dumps(json, ensure_ascii=False)
        if refusal is not None and (text or tool_calls):
            raise InvalidRequest("refusal", "is said in place of all else, which was given too")
        made = Answer(
            text=text,
            tool_calls=tuple(tool_calls),
            thinking=thinking,
            refusal=refusal,
            finish=finish,
            usage=usage_of(usage),
            model=model,
        )
        self._script.add(Turn(what=made))

    def fail(
        self, status: int, *, message: str | None = None, retry_after: int | None = None
    ) -> None:
        """Queue an HTTP error, in the words of the provider that is asked.

        Args:
            status: From 400 to 599; 529 is how Anthropic says that it is overloaded.
            message: What it says; by default what the provider says.
            retry_after: Seconds that clients are asked to wait; by default nothing is asked.

        Raises:
            InvalidRequest: The status is no error.
        """
        if not 400 <= status <= 599:
            raise InvalidRequest("status", f"an error has a status from 400 to 599, got {status}")
        self._script.add(
            Turn(what=Failure(status=status, message=message, retry_after=retry_after))
        )

    def hang(self) -> None:
        """Queue silence: the request is read and never answered, until the client gives up."""
        self._script.add(Turn(what=None))

    def slow(self, what: str | Answer | None = None) -> Gate:
        """Queue an answer each of whose chunks waits until the test lets it on.

        Args:
            what: The answer; by default the default one.

        Returns:
            The gate: `step()` lets on one more chunk, `open()` all. An answer that is no stream is
            one chunk.
        """
        gate = Gate()
        self._script.add(Turn(what=self._answer(what), gate=gate))
        return gate

    def cut(self, what: str | Answer | None = None, *, after_chunks: int = 0) -> None:
        """Queue an answer whose connection is cut.

        Args:
            what: The answer; by default the default one.
            after_chunks: Chunks of a stream that are sent first; 0 cuts before any answer. Of an
                answer that is no stream, half is sent for any number but 0.

        Raises:
            InvalidRequest: `after_chunks` is negative.
        """
        if after_chunks < 0:
            raise InvalidRequest("after_chunks", f"is 0 or more, got {after_chunks}")
        self._script.add(Turn(what=self._answer(what), cut_after=after_chunks))

    def replay(
        self,
        body: bytes | str | Mapping[str, Any] | Sequence[object],
        *,
        content_type: str | None = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Queue exactly this, whatever is asked.

        Args:
            body: Bytes or a text go out as they are; a mapping as JSON. A list is a stream of
                events: bytes go out as they are, a text is an event's data (`"[DONE]"`), all else
                is that as JSON, under the event's name where it has a `type`.
            content_type: By default that of JSON, or of server-sent events for a list.
            status: The HTTP status.
            headers: Further headers.
        """
        more = headers or {}
        if isinstance(body, Mapping):
            body = dumped(body)
        if isinstance(body, str):
            body = body.encode()
        if isinstance(body, bytes):
            kind = content_type or JSON
            reply = Reply(status=status, content_type=kind, headers=more, chunks=(body,))
        else:
            chunks = event_stream(_event(item) for item in body)
            kind = content_type or chunks.content_type
            reply = Reply(
                status=status, content_type=kind, headers=more, chunks=chunks.chunks, stream=True
            )
        self._script.add(Turn(what=reply))

    # ---------------------------------------------------------------------------- what was asked

    @property
    def requests(self) -> list[Request]:
        """What was asked so far, in the order in which it came."""
        with self._lock:
            return list(self._requests)

    @property
    def queued(self) -> int:
        """How many entries of the queue nobody took yet."""
        return len(self._script)

    def wait_for_requests(self, count: int, timeout: float = 30) -> list[Request]:
        """Wait until so many requests have come; return them.

        Raises:
            TimeoutError: The seconds are over first. Says how many came.
        """
        with self._lock:
            if not self._lock.wait_for(lambda: len(self._requests) >= count, timeout):
                raise TimeoutError(f"{len(self._requests)} of {count} requests came")
            return list(self._requests)

    def clear(self) -> None:
        """Forget what was asked, and what is queued."""
        self._script.clear()
        with self._lock:
            self._requests.clear()

    # ---------------------------------------------------------------------------------- inside

    def _answer(self, what: str | Answer | None) -> Answer:
        if what is None:
            return self._default
        return Answer(text=what) if isinstance(what, str) else what

    def _respond(self, request: Request) -> Delivery:
        """Answer one request; the server's thread asks for one at a time."""
        with self._lock:
            self._requests.append(request)
            self._lock.notify_all()
        desk = _Desk(self._script, self._default, self.clock)
        wire = next((wire for wire in self._wires if wire.serves(request)), self._wires[-1])
        fault = self._script.take_fault()
        if fault is None:
            reply = self._reply(wire, request, desk)
        elif isinstance(fault.what, Failure):
            reply = wire.error(request, fault.what, desk)
        else:
            assert not isinstance(fault.what, Answer)
            return Delivery(reply=fault.what)
        return Delivery(reply=reply, gate=desk.gate, cut_after=desk.cut_after)

    @staticmethod
    def _reply(wire: Wire, request: Request, desk: _Desk) -> Reply:
        try:
            reply = wire.reply(request, desk)
        except InvalidRequest as error:
            # Said to the client, since that is where the test is looking; and 400 is not retried.
            return wire.error(request, Failure(status=400, message=f"FakeProvider: {error}"), desk)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # A request of another shape than the provider's; real ones refuse it as well.
            message = f"FakeProvider can't read the request: {error!r}"
            return wire.error(request, Failure(status=400, message=message), desk)
        if reply is None:
            message = f"FakeProvider has nothing at {request.method} {request.path}"
            return wire.error(request, Failure(status=404, message=message), desk)
        return reply


def _event(item: object) -> bytes:
    if isinstance(item, bytes):
        return item
    if isinstance(item, str):
        return sse(item)
    name = item.get("type") if isinstance(item, Mapping) else None
    return sse(item, event=name if isinstance(name, str) else None)


class _Desk:
    """What a wire format may ask for while it answers one request."""

    def __init__(self, script: Script, default: Answer, clock: Clock) -> None:
        self._script = script
        self._default = default
        self._clock = clock
        self.gate: Gate | None = None
        self.cut_after: int | None = None

    def take(self) -> Answer:
        """Return the next answer that was queued, or the default one."""
        turn = self._script.take_answer()
        if turn is None:
            return self._default
        self.gate, self.cut_after = turn.gate, turn.cut_after
        assert isinstance(turn.what, Answer)
        return turn.what

    def new_id(self, prefix: str) -> str:
        """Return an id that was not given before by this provider."""
        return f"{prefix}fake{self._script.next_number():08}"

    def now(self) -> int:
        """Return seconds since the epoch, UTC."""
        return self._clock.now_us() // 1_000_000
