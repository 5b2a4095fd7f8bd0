"""Thread hops: how async code uses a store that waits for a disk.

Each whole verb is one hop. A store that never waits is called in place. Cancelling the caller never
loses money: a settle goes on to its end, and a hold that nobody waits for any more is released.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import threading
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

T = TypeVar("T")

log = logging.getLogger("fluxai")

#: Callers that may wait at once; the combiner takes them all into few commits.
THREADS_MAX = 128


class Started(Generic[T]):
    """A verb that is under way already, and runs to its end whether it is awaited or not."""

    def __init__(self, future: Future[T]) -> None:
        self._future = future
        #: Whether somebody took its outcome.
        self.awaited = False

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for its outcome."""
        return self._outcome().__await__()

    async def _outcome(self) -> T:
        if not self._future.done():
            await _done(self._future)
        self.awaited = True
        return self._future.result()

    def error(self) -> BaseException | None:
        """Wait in this thread; return how it failed, or None."""
        return self._future.exception()


class Hops:
    """Runs verbs in threads, or in place where nothing blocks."""

    def __init__(self, *, blocking: bool) -> None:
        self._blocking = blocking
        self._pool: ThreadPoolExecutor | None = None
        self._pid = os.getpid()
        # Reentrant, since garbage collection may ask for a thread while one is being made.
        self._lock = threading.RLock()

    def start(self, verb: Callable[[], T]) -> Started[T]:
        """Begin a verb, and do not wait for it."""
        if self._blocking:
            return Started(self._submit(verb))
        future: Future[T] = Future()
        try:
            future.set_result(verb())
        except Exception as error:  # noqa: BLE001 -- raised where it is awaited
            future.set_exception(error)
        return Started(future)

    async def run(self, verb: Callable[[], T]) -> T:
        """Run a verb to its end, even when the caller is cancelled meanwhile."""
        if not self._blocking:
            return verb()
        future = self._submit(verb)
        await _done(future)
        return future.result()

    async def hold(self, verb: Callable[[], T], undo: Callable[[T], Any]) -> T:
        """Run a verb that holds something; `undo` it if the caller is gone when it is done."""
        if not self._blocking:
            return verb()
        future = self._submit(verb)
        try:
            await _done(future)
        except BaseException:
            if not future.cancel():
                self._undo_when_done(future, undo)
            raise
        return future.result()

    def _undo_when_done(self, future: Future[T], undo: Callable[[T], Any]) -> None:
        def give_back(done: Future[T]) -> None:
            if done.cancelled() or done.exception() is not None:
                return
            try:
                undo(done.result())
            except Exception:
                # Nobody is left to tell; expiry gives the hold back.
                log.exception("a hold of a cancelled call could not be released; it will expire")

        if future.done():
            # In a thread of its own: the caller's is an event loop.
            self._submit(lambda: give_back(future))
        else:
            future.add_done_callback(give_back)

    def _submit(self, verb: Callable[[], T]) -> Future[T]:
        context = contextvars.copy_context()
        return self._threads().submit(context.run, verb)

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None or self._pid != os.getpid():
                self._pid = os.getpid()
                self._pool = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="fluxai")
            return self._pool

    def close(self) -> None:
        """Wait for what is under way. Not to be called from one of these threads."""
        with self._lock:
            pool, self._pool = self._pool, None
            if pool is None or self._pid != os.getpid():
                return
        pool.shutdown(wait=True)


async def _done(future: Future[Any]) -> None:
    """Wait in an event loop until a thread is done; cancelling the caller leaves the thread be."""
    loop = asyncio.get_running_loop()
    waiter = loop.create_future()

    def wake() -> None:
        if not waiter.done():
            waiter.set_result(None)

    def tell(_: Future[Any]) -> None:
        try:
            loop.call_soon_threadsafe(wake)
        except RuntimeError:
            # The loop is closed: nobody waits any more.
            return

    future.add_done_callback(tell)
    await waiter
