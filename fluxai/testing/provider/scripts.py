"""What a fake provider is told to do: answers, faults, and the queue that they wait in."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from fluxai.core.errors import InvalidRequest
from fluxai.core.usage import Usage
from fluxai.testing.provider.exchange import Reply

Finish = Literal["stop", "length", "tool_use", "content_filter"]

_PIECES: Final = re.compile(r"\s*\S+\s*?(?=\s|$)|\s+$")
#: The output that a usage made from the request counts a token for, and the same for its input.
CHARACTERS_PER_TOKEN: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of a tool that the model asks for.

    Attributes:
        name: The tool's name.
        arguments: What it is called with.
        id: The provider makes one up where this is None.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the model says, in no provider's words.

    Attributes:
        text: The text. A stream sends it word by word.
        tool_calls: Tools to call, after the text.
        thinking: What it thinks first, where the wire format shows that.
        refusal: Why it refuses; in place of the text.
        finish: Why it ends; None follows from the rest.
        usage: What is billed, exactly; None is made from request and answer, at four characters a
            token.
        model: The model that answers; None is the one asked for.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    thinking: str | None = None
    refusal: str | None = None
    finish: Finish | None = None
    usage: Usage | None = None
    model: str | None = None

    @property
    def pieces(self) -> tuple[str, ...]:
        """The text, or the refusal, as a stream sends it."""
        said = self.text if self.refusal is None else self.refusal
        return tuple(_PIECES.findall(said)) or ((said,) if said else ())

    @property
    def finished(self) -> Finish:
        """Why it ends."""
        return self.finish or ("tool_use" if self.tool_calls else "stop")

    @property
    def characters(self) -> int:
        """How much it says, for a usage that nobody told."""
        calls = sum(
            len(call.name) + len(json.dumps(dict(call.arguments))) for call in self.tool_calls
        )
        return len(self.text) + len(self.refusal or "") + calls

    def within(self, tokens: int | None) -> Answer:
        """Return the answer as a provider would cut it off at a limit of output tokens.

        What has a usage was told what to do, and is left alone.
        """
        if tokens is None or self.usage is not None:
            return self
        room = tokens * CHARACTERS_PER_TOKEN
        if self.tool_calls or self.refusal is not None or len(self.text) <= room:
            return self
        return replace(self, text=self.text[:room], finish="length")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An HTTP error in the provider's own words.

    Attributes:
        status: From 400 to 599.
        message: What it says; None is what the provider says.
        retry_after: Seconds in the header `retry-after`; None sends none.
    """

    status: int
    message: str | None = None
    retry_after: int | None = None


class Gate:
    """Holds a slow answer back, chunk by chunk, until a test lets it on.

    Events that the server waits at are counted, so a step may be allowed before it is waited for.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Future[None]] = deque()
        self._steps = 0
        self._open = False
        self._reached = threading.Event()

    def step(self, chunks: int = 1) -> None:
        """Let on so many more chunks."""
        with self._lock:
            self._steps += chunks
            self._let_on()

    def open(self) -> None:
        """Let on everything, now and from now on."""
        with self._lock:
            self._open = True
            self._let_on()

    def wait_until_reached(self, timeout: float = 30) -> bool:
        """Wait until an answer stands at the gate; False when the seconds are over first."""
        return self._reached.wait(timeout)

    def arrive(self) -> Future[None]:
        """Stand in line; the future is done when the next chunk may go. Asked by the server."""
        future: Future[None] = Future()
        with self._lock:
            self._waiting.append(future)
            self._let_on()
            if self._waiting:
                self._reached.set()
        return future

    def _let_on(self) -> None:
        while self._waiting and (self._open or self._steps):
            future = self._waiting.popleft()
            # One whose client has left was cancelled, and takes no step.
            if future.set_running_or_notify_cancel():
                if not self._open:
                    self._steps -= 1
                future.set_result(None)
        if not self._waiting:
            self._reached.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One entry of the queue.

    Attributes:
        what: What to send; None never sends anything.
        gate: What each chunk waits for.
        cut_after: Cut the connection after so many chunks; 0 is before the answer.
    """

    what: Answer | Failure | Reply | None
    gate: Gate | None = None
    cut_after: int | None = None


class Script:
    """The queue of turns. Tests add, the server takes; each from a thread of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: deque[Turn] = deque()
        self._numbers = itertools.count(1)

    def add(self, turn: Turn) -> None:
        """Put a turn last."""
        with self._lock:
            self._turns.append(turn)

    def clear(self) -> None:
        """Forget what was not taken."""
        with self._lock:
            self._turns.clear()

    def __len__(self) -> int:
        with self._lock:
            return len(self._turns)

    def next_number(self) -> int:
        """Return a number that was not given before."""
        with self._lock:
            return next(self._numbers)

    def take_fault(self) -> Turn | None:
        """Take the next turn, if it is one that any request meets: all but an answer."""
        with self._lock:
            if self._turns and not isinstance(self._turns[0].what, Answer):
                return self._turns.popleft()
            return None

    def take_answer(self) -> Turn | None:
        """Take the next turn, if it is an answer."""
        with self._lock:
            if self._turns and isinstance(self._turns[0].what, Answer):
                return self._turns.popleft()
            return None


def usage_of(value: Usage | Mapping[str, Any] | None) -> Usage | None:
    """Read a usage that a test told.

    Raises:
        InvalidRequest: A mapping has a name that `Usage` doesn't have, or an impossible count.
    """
    if value is None or isinstance(value, Usage):
        return value
    try:
        return Usage(**value)
    except TypeError as error:
        raise InvalidRequest("usage", f"fluxai.Usage doesn't take it: {error}") from error
