"""The verbs of stores in which many callers share a transaction."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from fluxai.core.windows import MIN_US
from fluxai.storage.base import Ask, Capabilities, Notices, Refusal, Resolution
from fluxai.storage.combiner import Combiner
from fluxai.storage.items import Item, at_the_door, name_of

if TYPE_CHECKING:
    from fluxai.core.decisions import Reservation


class CombinedStorage(ABC):
    """Carries out what many threads ask for in common transactions, see `Combiner`."""

    capabilities = Capabilities(durable=True, shared=True, blocking=True, lease=True)

    def __init__(self) -> None:
        self.notices = Notices()
        self.settle_on_expiry = False
        #: How often tidying up failed. Nothing is lost by that.
        self.tidying_errors = 0
        self._latest_us = MIN_US
        self._combiner: Combiner[Item, Any] = Combiner(_weakly(self))
        # At exit, threads that nobody waits for may still be in the middle of a verb.
        weakref.finalize(self, self._combiner.close)

    def reserve_one(self, ask: Ask) -> Reservation | Refusal:
        """Decide one ask, in one transaction with whatever else is waiting."""
        reservation = ask.reservation
        extra = reservation.extra
        digest = None if extra is None else extra.digest
        name = ("reserve", reservation.subject.tenant, reservation.uid, digest)
        answer: Reservation | Refusal = self._submit(ask, name, urgent=False)
        return answer

    def resolve_one(self, item: Resolution) -> Any:
        """Resolve one item, in one transaction with whatever else is waiting."""
        item = at_the_door(item)
        return self._submit(item, name_of(item), urgent=True)

    def reserve(self, asks: Sequence[Ask]) -> list[Reservation | Refusal]:
        """Decide asks, in as few transactions as they need."""
        return self._together(asks)

    def resolve(self, items: Sequence[Resolution]) -> list[Any]:
        """Resolve items, in as few transactions as they need."""
        return self._together([at_the_door(item) for item in items])

    def withdraw(self, ask: Ask) -> bool:
        """Take back an ask that waits in another thread, which then gets `Withdrawn`.

        Returns:
            Whether that came in time; if not, the ask is decided, and may hold money.
        """
        return self._combiner.withdraw(ask)

    def _submit(self, item: Item, name: Hashable, *, urgent: bool) -> Any:
        with self._item_faults():
            answer = self._combiner.submit(item, urgent=urgent, name=name)
        self._tidy()
        return answer

    def _together(self, items: Sequence[Item]) -> list[Any]:
        with self._item_faults():
            answers = self._carry_out_in_order(items)
        self._tidy()
        return answers

    @abstractmethod
    def _carry_out(self, items: Sequence[Item]) -> list[Any]:
        """Carry out items of many callers, in any order; return an answer to each."""

    @abstractmethod
    def _carry_out_in_order(self, items: Sequence[Item]) -> list[Any]:
        """Carry out items of one caller, each after the one before it."""

    @abstractmethod
    def _item_faults(self) -> AbstractContextManager[None]:
        """Let what the database can't take leave as `StorageError`."""

    @abstractmethod
    def _tidy(self) -> None:
        """Do once in a while, after a verb's transaction, what keeps the store small."""


def _weakly(storage: CombinedStorage) -> Callable[[Sequence[Item]], list[Any]]:
    """Carry out batches of a store without keeping it alive."""
    reference = weakref.ref(storage)

    def carry_out(items: Sequence[Item]) -> list[Any]:
        alive = reference()
        assert alive is not None  # noqa: S101 -- the caller is inside one of its methods
        return alive._carry_out(items)

    return carry_out
