"""Many callers, one transaction: whoever waits while a batch is in flight is in the next one.

There is no timer and no thread of its own. A caller who finds nobody at work leads: it carries out
the batch in its own thread, its own item among the others', and then hands over to a caller who is
still waiting. So a lone caller pays nothing for the company it might have had.
"""

from __future__ import annotations

import copy
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

from fluxai.core.errors import StorageError

Item = TypeVar("Item")
Answer = TypeVar("Answer")

BATCH_MAX = 256
#: Of a full batch, this share (one part in N) is kept for items that are not urgent.
UNHURRIED_SHARE = 4
#: How often a leader lets others run before it takes its batch, while more of them keep coming.
YIELDS_MAX = 64
#: So many yields in a row that brought nobody end the waiting.
YIELDS_IN_VAIN_MAX = 2


class Withdrawn(Exception):
    """The item was withdrawn before anybody carried it out."""


class _Entry(Generic[Item, Answer]):
    """One caller's item on its way through a batch."""

    __slots__ = ("answer", "done", "error", "gone", "item", "name", "urgent", "wake")

    answer: Answer

    def __init__(self, item: Item, *, urgent: bool, name: Hashable) -> None:
        self.item = item
        self.urgent = urgent
        self.name = name
        self.done = False
        #: Its caller was interrupted and waits no more.
        self.gone = False
        self.error: BaseException | None = None
        #: Held while its caller sleeps; whoever releases it wakes the caller, once.
        self.wake: Any = None


class Combiner(Generic[Item, Answer]):
    """Carry out the items of many threads in common batches.

    Args:
        execute: Carries out a batch, whole or not at all, and returns an answer per item, in
            order. A `StorageError` says that the store is out of reach: everyone in the batch gets
            it. After any other `Exception` the batch is cut in two and tried again, until the item
            that causes it stands, and fails, alone. `execute` may see an item again after an
            interrupt (`BaseException`), so items must be idempotent.
        batch_max: Items per batch, at most.
    """

    def __init__(
        self,
        execute: Callable[[list[Item]], Sequence[Answer]],
        *,
        batch_max: int = BATCH_MAX,
    ) -> None:
        self._execute = execute
        self._batch_max = batch_max
        self._closed = False
        self._reset()
        _reset_after_fork(self)

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._urgent: deque[_Entry[Item, Answer]] = deque()
        self._unhurried: deque[_Entry[Item, Answer]] = deque()
        self._leader: _Entry[Item, Answer] | None = None
        #: What the leader has taken and not yet finished.
        self._flight: list[_Entry[Item, Answer]] = []
        self._last_size = 0
        self._idle = threading.Condition(self._mutex)

    def submit(self, item: Item, *, urgent: bool = False, name: Hashable = None) -> Answer:
        """Have an item carried out, and wait for its answer.

        Args:
            item: What `execute` understands.
            urgent: Goes before those that are not; within its kind, first come first served.
            name: What it asks for. Items of one name in one batch share one answer.

        Raises:
            StorageError: The store failed, or is closed.
            Withdrawn: Another thread withdrew it in time.
        """
        entry: _Entry[Item, Answer] = _Entry(item, urgent=urgent, name=name)
        try:
            if not self._enter(entry):
                entry.wake.acquire()
            if not entry.done:
                self._lead(entry)
        finally:
            self._leave(entry)
        if entry.error is not None:
            raise entry.error
        return entry.answer

    def withdraw(self, item: Item) -> bool:
        """Take an item back that nobody has begun to carry out; its caller gets `Withdrawn`.

        Returns:
            Whether it was taken back. If not, it is being carried out, or was, or never came.
        """
        with self._mutex:
            for queue in (self._urgent, self._unhurried):
                for entry in queue:
                    if entry.item is item and entry is not self._leader:
                        queue.remove(entry)
                        _finish(entry, error=Withdrawn("the item was withdrawn"))
                        return True
        return False

    @property
    def waiting(self) -> int:
        """How many items nobody has begun to carry out."""
        return len(self._urgent) + len(self._unhurried)

    def close(self) -> None:
        """Refuse new items, and wait until those that are queued are done."""
        with self._mutex:
            self._closed = True
            while self._leader is not None:
                self._idle.wait()

    # -- who leads --------------------------------------------------------------------------

    def _enter(self, entry: _Entry[Item, Answer]) -> bool:
        """Queue an entry; say whether its caller leads, rather than sleeps on its lock."""
        with self._mutex:
            if self._closed:
                raise StorageError("the store is closed; open a new one")
            if self._leader is not None:
                entry.wake = threading.Lock()
                entry.wake.acquire()
            (self._urgent if entry.urgent else self._unhurried).append(entry)
            if self._leader is not None:
                return False
            self._leader = entry
            return True

    def _leave(self, entry: _Entry[Item, Answer]) -> None:
        """Let go of what a caller still has: a place in the queue, the lead, the others' items."""
        if entry.done and self._leader is not entry:
            return
        with self._mutex:
            entry.gone = True
            if not entry.done:
                queue = self._urgent if entry.urgent else self._unhurried
                if entry in queue:
                    queue.remove(entry)
            if self._leader is entry:
                if self._flight:
                    self._land()
                heirs = self._urgent or self._unhurried
                self._leader = heirs[0] if heirs else None
                if self._leader is not None:
                    self._leader.wake.release()
                else:
                    self._idle.notify_all()

    def _land(self) -> None:
        """After an interrupt: wake those who are done, and queue the others again, in front."""
        for entry in reversed(self._flight):
            queue = self._urgent if entry.urgent else self._unhurried
            if entry.done:
                if entry.wake is not None and entry.wake.locked():
                    entry.wake.release()
            elif not entry.gone and entry not in queue:
                queue.appendleft(entry)
        self._flight = []

    def _lead(self, entry: _Entry[Item, Answer]) -> None:
        """Carry out batches until one's own item is done."""
        while not entry.done:
            if self._last_size > 1:
                self._await_company()
            self._take()
            groups: dict[Hashable, list[_Entry[Item, Answer]]] = {}
            for taken in self._flight:
                groups.setdefault(taken if taken.name is None else taken.name, []).append(taken)
            self._carry_out(list(groups.values()))
            self._flight = []

    def _await_company(self) -> None:
        """Let the callers of the last batch come back: they are about to, and a commit is dear.

        This takes no time that anyone could use: it ends as soon as nobody comes.
        """
        expected, seen, in_vain = self._last_size, 0, 0
        for _ in range(YIELDS_MAX):
            time.sleep(0)
            size = self.waiting
            in_vain = 0 if size > seen else in_vain + 1
            if size >= expected or in_vain >= YIELDS_IN_VAIN_MAX:
                return
            seen = size

    def _take(self) -> None:
        with self._mutex:
            kept = min(len(self._unhurried), self._batch_max // UNHURRIED_SHARE)
            self._board(self._urgent, self._batch_max - kept)
            self._board(self._unhurried, self._batch_max)
            self._last_size = len(self._flight)

    def _board(self, queue: deque[_Entry[Item, Answer]], most: int) -> None:
        while queue and len(self._flight) < most:
            # In this order an interrupt can't lose an entry between the two.
            self._flight.append(queue[0])
            queue.popleft()

    def _carry_out(self, groups: list[list[_Entry[Item, Answer]]]) -> None:
        """Carry out one item per group; its members share the answer."""
        try:
            answers = self._execute([group[0].item for group in groups])
        except StorageError as error:
            for group in groups:
                for entry in group:
                    _finish(entry, error=_own(error))
        except Exception as error:  # noqa: BLE001 -- reaches the one caller whose item causes it
            if len(groups) == 1:
                for entry in groups[0]:
                    _finish(entry, error=_own(error))
                return
            half = len(groups) // 2
            self._carry_out(groups[:half])
            self._carry_out(groups[half:])
        else:
            for group, answer in zip(groups, answers, strict=True):
                for entry in group:
                    _finish(entry, answer=answer)


def _finish(
    entry: _Entry[Item, Any], *, answer: Any = None, error: BaseException | None = None
) -> None:
    entry.answer = answer
    entry.error = error
    entry.done = True
    if entry.wake is not None:
        entry.wake.release()


def _own(error: Exception) -> Exception:
    """Copy an error, so that no two threads raise, and so write to, one object."""
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    own.__traceback__ = error.__traceback__
    return own


def _reset_after_fork(combiner: Combiner[Any, Any]) -> None:
    """Give a forked child fresh locks: those it inherits may be held by threads it lacks."""
    if not hasattr(os, "register_at_fork"):
        return
    reference = weakref.ref(combiner)

    def reset() -> None:
        alive = reference()
        if alive is not None:
            alive._reset()

    os.register_at_fork(after_in_child=reset)
