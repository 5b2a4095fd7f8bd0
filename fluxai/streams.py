"""Governed streams: chunks are passed on as they come, and settled once, however they end.

A stream is settled by the usage it told, else by what arrived. One that nobody reads to its end is
settled when it is closed or let go: at the expected cost, unless its final usage has come.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

from fluxai.core.usage import Usage
from fluxai.texts import tells_final_usage, text_of

if TYPE_CHECKING:
    from fluxai.guard import Call

#: Chunks kept whole; of later ones only those with usage, and the text of the others.
CHUNKS_MAX = 1_000


class _Watched:
    """What has arrived of a stream, and whether its hold has to be extended."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self._chunks: list[Any] = []
        self._later: list[str] = []
        #: Whether the final usage has come: what a reader leaves unread then costs nothing.
        self._told = False

    def took(self, chunk: Any) -> bool:
        """Note a chunk; True when the hold should be extended."""
        self._told = self._told or tells_final_usage(chunk)
        if len(self._chunks) < CHUNKS_MAX or "no_usage" not in Usage.parse(chunk).flags:
            self._chunks.append(chunk)
        else:
            self._later.append(text_of(chunk))
        return self.call.overdue

    def end(self, error: BaseException | None) -> None:
        """Settle once: exactly where the stream told its usage, else at an estimate."""
        if self.call.ended:
            return
        if not self._chunks:
            self.call.end(error)
        elif isinstance(error, GeneratorExit):
            self.call.governor.when_free(lambda: self._settle(aborted=True))
        else:
            self._settle(aborted=error is not None)

    def _settle(self, *, aborted: bool) -> None:
        if not self.call.ended:
            arrived = [*self._chunks, "".join(self._later)] if self._later else self._chunks
            self.call.settle_result(arrived, aborted=aborted and not self._told)


class GovernedStream(Iterator[Any]):
    """A stream, governed: iterate, close, or use it with `with`; all else is the stream's own."""

    def __init__(self, call: Call, chunks: Iterator[Any]) -> None:
        self._watched = _Watched(call)
        self._chunks = chunks

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        return self._next(lambda: next(self._chunks))

    def send(self, value: Any) -> Any:
        """Send a value into a generator."""
        generator: Any = self._chunks
        return self._next(lambda: generator.send(value))

    def throw(self, *error: Any) -> Any:
        """Raise an error inside a generator."""
        generator: Any = self._chunks
        return self._next(lambda: generator.throw(*error))

    def _next(self, step: Callable[[], Any]) -> Any:
        try:
            chunk = step()
        except BaseException as error:
            self._watched.end(None if isinstance(error, StopIteration) else error)
            raise
        if self._watched.took(chunk):
            self._watched.call.extend()
        return chunk

    def close(self) -> None:
        """Settle at what arrived so far, and close the stream."""
        self._watched.end(GeneratorExit())
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Self:
        enter = getattr(self._chunks, "__enter__", None)
        if enter is not None:
            enter()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        """Return what the stream itself has under that name."""
        if name in {"_chunks", "_watched", "_hops"}:  # not made yet
            raise AttributeError(name)
        return getattr(self._chunks, name)

    def __del__(self) -> None:
        """Settle what nobody read to its end."""
        watched = self.__dict__.get("_watched")
        if watched is not None:
            watched.end(GeneratorExit())


class AsyncGovernedStream(AsyncIterator[Any]):
    """An async stream, governed; see `GovernedStream`."""

    def __init__(self, call: Call, chunks: AsyncIterator[Any]) -> None:
        self._watched = _Watched(call)
        self._chunks = chunks
        self._hops = call.governor.hops

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        try:
            chunk = await anext(self._chunks)
        except BaseException as error:
            await self._end(None if isinstance(error, StopAsyncIteration) else error)
            raise
        if self._watched.took(chunk):
            await self._hops.run(self._watched.call.extend)
        return chunk

    async def aclose(self) -> None:
        """Settle at what arrived so far, and close the stream."""
        try:
            await self._end(GeneratorExit(), closing=True)
        finally:
            await _close(self._chunks)

    async def close(self) -> None:
        """Settle at what arrived so far, and close the stream."""
        await self.aclose()

    async def _end(self, error: BaseException | None, *, closing: bool = False) -> None:
        watched = self._watched
        if watched.call.ended:
            return
        if isinstance(error, GeneratorExit) and not closing:
            # Whoever closes a coroutine does not wait for it.
            self._hops.start(lambda: watched.end(error))
        else:
            await self._hops.run(lambda: watched.end(error))

    async def __aenter__(self) -> Self:
        enter = getattr(self._chunks, "__aenter__", None)
        if enter is not None:
            await enter()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __getattr__(self, name: str) -> Any:
        """Return what the stream itself has under that name."""
        if name in {"_chunks", "_watched", "_hops"}:  # not made yet
            raise AttributeError(name)
        return getattr(self._chunks, name)

    def __del__(self) -> None:
        """Settle what nobody read to its end."""
        watched = self.__dict__.get("_watched")
        if watched is None or watched.call.ended:
            return
        # A RuntimeError: the interpreter is on its way out, and takes no more threads.
        with contextlib.suppress(RuntimeError):
            watched.call.governor.when_free(
                lambda: self._hops.start(lambda: watched.end(GeneratorExit()))
            )


async def _close(chunks: Any) -> None:
    close = getattr(chunks, "aclose", None) or getattr(chunks, "close", None)
    closed = None if close is None else close()
    if closed is None:
        return
    try:
        await closed
    except RuntimeError as error:
        # Before Python 3.13 a generator that was cut off inside a step counts as running for good.
        if "already running" not in str(error):
            raise
