"""HTTP responses whose bytes pass a meter, of httpx and of httpx2, plain and async.

The SDKs read every stream, and every raw response, through `iter_bytes` or `aiter_bytes` of the
response that their HTTP client returned. A response is tapped by giving it a subclass of its own
class, so that it is still what callers, and the SDK, take it for.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from fluxai.core.errors import StreamStopped
from fluxai.providers.disguise import dress, kind_of
from fluxai.providers.events import EVENT_END, data_of

if TYPE_CHECKING:
    from fluxai.providers.follower import Follower
    from fluxai.providers.meter import Meter

_DONE = b"[DONE]"


class Tap:
    """Passes bytes on, an event at a time, and feeds their data to the meter.

    Args:
        meter: Settles the call, or follows what is said of another one.
        events: The body is a stream of server-sent events; otherwise it is read as a whole.
    """

    def __init__(self, meter: Meter | Follower, *, events: bool) -> None:
        self.meter = meter
        self.events = events
        #: What stopped the stream, to be raised behind what arrived before.
        self.stopped: StreamStopped | None = None
        self._rest = b""
        self._body: list[bytes] = []

    def take(self, chunk: bytes) -> bytes:
        """Take bytes in; return those that the caller is to see now."""
        if not self.events:
            self._body.append(chunk)
            return chunk
        # An end may lie across two chunks; what was searched before holds none.
        searched = max(0, len(self._rest) - len(b"\r\n\r"))
        self._rest += chunk
        passed, begin = [], 0
        while self.stopped is None and (end := EVENT_END.search(self._rest, searched)):
            event = self._rest[begin : end.end()]
            begin = searched = end.end()
            if self._see(event):
                passed.append(event)
        self._rest = self._rest[begin:]
        return b"".join(passed)

    def finish(self) -> bytes:
        """Return what is left when the body has ended: an event without an end."""
        rest, self._rest = self._rest, b""
        return rest if rest and self._see(rest) else b""

    def _see(self, event: bytes) -> bool:
        data = data_of(event)
        if data == _DONE:
            self.meter.complete()
        if not data or data == _DONE:
            return True
        try:
            return self.meter.see(data)
        except StreamStopped as stopped:
            self.stopped = stopped
            return True

    def raise_stop(self) -> None:
        """Raise what stopped the stream, when all that came before is passed on."""
        if self.stopped is not None:
            raise self.stopped

    def end(self, error: BaseException | None) -> None:
        """Settle, by what has arrived."""
        if self.events or error is not None:
            self.meter.end(error)
        else:
            self.meter.answer(b"".join(self._body))


def tap(response: Any, meter: Meter | Follower) -> None:
    """Feed what will be read of a response to a meter; one that was read already settles now."""
    kind = response.headers.get("content-type", "").lower()
    if hasattr(response, "_content"):
        meter.answer(response.content)
        return
    response.__class__ = _tapped(kind_of(response))
    response._fluxai_tap = Tap(meter, events=kind.startswith("text/event-stream"))
    response._fluxai_pulling = False


def let_go(meter: Meter | Follower) -> None:
    """Settle a stream that nobody reads any more, as the garbage collector finds it."""
    if meter.ended:
        return
    governor = meter.governor
    # A RuntimeError: the interpreter is on its way out, and takes no more threads.
    with contextlib.suppress(RuntimeError):
        governor.when_free(lambda: governor.hops.start(lambda: meter.end(GeneratorExit())))


@functools.cache
def _tapped(kind: Any) -> type:
    """Return the subclass of a response's class that feeds a meter."""

    class Tapped(kind):  # type: ignore[misc]
        _fluxai_tap: Tap
        _fluxai_pulling: bool

        def iter_bytes(self, chunk_size: int | None = None) -> Iterator[bytes]:
            held = self._fluxai_tap
            inner = super().iter_bytes(chunk_size)
            try:
                while True:
                    self._fluxai_pulling = True
                    try:
                        chunk = next(inner, None)
                    finally:
                        self._fluxai_pulling = False
                    passed = held.finish() if chunk is None else held.take(chunk)
                    if passed:
                        yield passed
                    held.raise_stop()
                    if held.meter.overdue and not held.meter.ended:
                        held.meter.extend()
                    if chunk is None:
                        break
            except BaseException as error:
                held.end(error)
                raise
            held.end(None)

        async def aiter_bytes(self, chunk_size: int | None = None) -> AsyncIterator[bytes]:
            held, hops = self._fluxai_tap, self._fluxai_tap.meter.governor.hops
            inner = super().aiter_bytes(chunk_size)
            try:
                while True:
                    self._fluxai_pulling = True
                    try:
                        chunk = await anext(inner, None)
                    finally:
                        self._fluxai_pulling = False
                    passed = held.finish() if chunk is None else held.take(chunk)
                    if passed:
                        yield passed
                    held.raise_stop()
                    if held.meter.overdue and not held.meter.ended:
                        await hops.run(held.meter.extend)
                    if chunk is None:
                        break
            except GeneratorExit as error:
                # Whoever closes a generator does not wait for it.
                closed = error
                hops.start(lambda: held.end(closed))
                raise
            except BaseException as error:
                failed = error
                await hops.run(lambda: held.end(failed))
                raise
            await hops.run(lambda: held.end(None))

        def close(self) -> None:
            try:
                super().close()
            finally:
                if not self._fluxai_pulling:
                    self._fluxai_tap.end(GeneratorExit())

        async def aclose(self) -> None:
            try:
                await super().aclose()
            finally:
                held = self._fluxai_tap
                if not self._fluxai_pulling and not held.meter.ended:
                    await held.meter.governor.hops.run(lambda: held.end(GeneratorExit()))

        def __del__(self) -> None:
            held = self.__dict__.get("_fluxai_tap")
            if held is not None:
                let_go(held.meter)

    dress(Tapped, kind)
    return Tapped
