"""Follows an answer that is about another one, which comes later, or came before."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from fluxai.providers.events import object_in

if TYPE_CHECKING:
    from fluxai.governor import Governor

log = logging.getLogger("fluxai")


class Follower:
    """Hands on what an answer says of a response, however it is read: once, and without raising.

    Args:
        governor: Counts what went wrong.
        said: Takes the body, or the last event that holds a response; nothing if there was none.
    """

    #: Nothing is held for the time of the reading.
    overdue = False

    def __init__(self, governor: Governor, said: Callable[[bytes], None]) -> None:
        self.governor = governor
        self.ended = False
        self._said = said
        self._last = b""

    def extend(self) -> None:
        """Do nothing: see `overdue`."""

    def complete(self) -> None:
        """Do nothing: the last response says it."""

    def see(self, data: bytes) -> bool:
        """Note an event's data; all are for the caller's eyes."""
        if b'"response"' in data and isinstance(object_in(data).get("response"), dict):
            self._last = data
        return True

    def answer(self, body: bytes) -> None:
        """Hand on a whole body."""
        if self.ended:
            return
        self.ended = True
        try:
            self._said(body)
        except Exception:
            # What is read matters more to its reader than our bookkeeping.
            self.governor.settle_errors += 1
            log.exception("an answer could not be entered")

    def end(self, error: BaseException | None) -> None:
        """Hand on what has arrived."""
        if isinstance(error, GeneratorExit):
            self.governor.when_free(lambda: self.answer(self._last))
        else:
            self.answer(self._last)
