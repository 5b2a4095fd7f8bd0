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
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

log = logging.getLogger("fluxai")

#: Callers that may wait at once; the combiner takes them all into few commits.
THREADS_MAX = 128


class Hops:
    """Runs verbs in threads, or in place where nothing blocks."""

    def __init__(self, *, blocking: bool) -> None:
        self._blocking = blocking
        self._pool: ThreadPoolExecutor | None = None
        self._pid = os.getpid()
        self._lock = threading.Lock()

    async def run(self, verb: Callable[[], T]) -> T:
        """Run a verb to its end, even when the caller is cancelled meanwhile."""
        if not self._blocking:
            return verb()
        return await asyncio.shield(asyncio.wrap_future(self._submit(verb)))

    async def hold(self, verb: Callable[[], T], undo: Callable[[T], Any]) -> T:
        """Run a verb that holds something; `undo` it if the caller is gone when it is done."""
        if not self._blocking:
            return verb()
        future = self._submit(verb)
        try:
            return await asyncio.shield(asyncio.wrap_future(future))
        except BaseException:
            if not future.cancel():
                self._undo_when_done(future, undo)
            raise

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
        """Wait for what is under way."""
        with self._lock:
            if self._pool is not None and self._pid == os.getpid():
                self._pool.shutdown(wait=True)
            self._pool = None
