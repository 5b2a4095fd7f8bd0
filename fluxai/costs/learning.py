"""What settled calls teach about the next estimate: a set of tools, and a conversation.

A request's input is billed as `constant + ratio * plain`, where `plain` is the estimate of its
messages alone. What a provider adds for a set of tools is the same on every call, so a few calls
tell it exactly. The fit is a weighted least square of relative errors that forgets old calls; a
ratio that the calls do not show stays near 1. The bound is the largest error of the latest calls,
each taken before the fit knew that call.

All state is in memory, bounded, and belongs to one `Learning`. Keys are digests of content, so two
tenants share what was learned only where they sent the same tools or the same messages.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

#: Calls after which what was learned replaces the estimate, and after which its bound is trusted.
CALLS_MIN: Final = 5
CALLS_TRUSTED: Final = 20
#: How much an older call still counts when the next one comes.
_MEMORY: Final = 0.97
#: How strongly the ratio stays at 1, as a share of the evidence.
_RIDGE: Final = 0.05
_RATIO_MIN: Final = 0.5
_RATIO_MAX: Final = 2.0
#: A call that is further off than this says something of itself, not of the next ones: less is
#: believed of it, and the more so the more calls are known.
_SURPRISE_MAX: Final = 2.0
_SURPRISE: Final = 1.25
_RECENT: Final = 40
_BOUND_MIN: Final = 1.03
#: Room above the largest error seen, while it was seen seldom and then.
_ROOM_EARLY: Final = 1.15
_ROOM: Final = 1.02
#: A prompt so much longer than all that were seen is beyond what was learned.
_BEYOND: Final = 4.0

Key = tuple[str, int]


class Trace(NamedTuple):
    """What of a request is remembered until it is settled; small, and without its content.

    Attributes:
        tools: Digest of the set of tools; 0 without any.
        conversation: Digest of all messages; 0 where there are no messages to continue.
        plain: The estimate of the messages alone.
    """

    tools: int
    conversation: int
    plain: float


class Fit(NamedTuple):
    """What is known of one set of tools at one model."""

    constant: float
    ratio: float
    bound: float
    calls: int
    plain_max: float

    def expected(self, plain: float) -> float:
        """Return the input that a request with that plain estimate will be billed."""
        return max(1.0, self.constant + self.ratio * plain)


class _Evidence:
    """Decayed sums over the calls of one key."""

    __slots__ = ("actual", "both", "calls", "plain", "plain_max", "recent", "square", "weight")

    def __init__(self) -> None:
        self.weight = self.plain = self.square = self.actual = self.both = 0.0
        self.plain_max = 0.0
        self.calls = 0
        self.recent: deque[float] = deque(maxlen=_RECENT)

    def add(self, plain: float, actual: float, fit: Fit | None) -> Fit:
        if fit is not None:
            likely = fit.expected(plain)
            if self.calls > 1:
                self.recent.append(actual / likely)
            most = _SURPRISE_MAX if self.calls < CALLS_MIN else _SURPRISE
            actual = min(max(actual, likely / most), likely * most)
        # A call that is cheap for a reason of its own must not weigh more for being cheap.
        scale = max(actual, fit.expected(plain)) if fit is not None else actual
        weight = 1 / (scale * scale)
        self.weight = self.weight * _MEMORY + weight
        self.plain = self.plain * _MEMORY + weight * plain
        self.square = self.square * _MEMORY + weight * plain * plain
        self.actual = self.actual * _MEMORY + weight * actual
        self.both = self.both * _MEMORY + weight * plain * actual
        self.plain_max = max(self.plain_max, plain)
        self.calls += 1
        ridge = _RIDGE * self.square + 1e-12
        ratio = (self.both - self.actual * self.plain / self.weight + ridge) / (
            self.square - self.plain * self.plain / self.weight + ridge
        )
        ratio = min(max(ratio, _RATIO_MIN), _RATIO_MAX)
        # Tools add to a request, they never take away.
        constant = max(0.0, (self.actual - ratio * self.plain) / self.weight)
        return Fit(constant, ratio, self._bound(), self.calls, self.plain_max)

    def _bound(self) -> float:
        worst = min(max(self.recent, default=_BOUND_MIN), _SURPRISE_MAX)
        room = _ROOM if self.calls >= CALLS_TRUSTED else _ROOM_EARLY
        return max(worst * room, _BOUND_MIN)


class Learning:
    """Learned corrections of estimates, by model and set of tools, and by conversation.

    Reading takes no lock; learning takes one for a few microseconds. Safe between threads.

    Args:
        sets_max: How many pairs of model and set of tools are kept; the longest unused goes first.
        conversations_max: How many conversations are kept.
    """

    def __init__(self, *, sets_max: int = 2_048, conversations_max: int = 8_192) -> None:
        self._sets_max = sets_max
        self._conversations_max = conversations_max
        self._evidence: dict[Key, _Evidence] = {}
        self._fits: dict[Key, Fit] = {}
        self._conversations: dict[int, int] = {}
        self._lock = threading.Lock()

    @property
    def empty(self) -> bool:
        """Whether nothing was learned yet, so that there is nothing to look up."""
        return not self._fits and not self._conversations

    @property
    def conversing(self) -> bool:
        """Whether any conversation is known, so that messages are worth a digest."""
        return bool(self._conversations)

    def fit(self, model: str, tools: int, plain: float) -> Fit | None:
        """Return what is known of a set of tools; `None` too early, or too far from what is."""
        found = self._fits.get((model, tools))
        if found is None or found.calls < CALLS_MIN or plain > _BEYOND * found.plain_max:
            return None
        return found

    def longest_known(self, digests: Sequence[int]) -> tuple[int, int] | None:
        """Return (messages, billed input) of the longest beginning that was settled before."""
        known = self._conversations
        for count in range(len(digests), 0, -1):
            billed = known.get(digests[count - 1])
            if billed is not None:
                return count, billed
        return None

    def learn(self, model: str, trace: Trace, actual: int) -> None:
        """Take in what one call's input was really billed; nothing where that is nothing."""
        if actual <= 0:
            return
        key = (model, trace.tools)
        with self._lock:
            if trace.plain > 0:
                evidence = self._evidence.pop(key, None) or _Evidence()
                self._evidence[key] = evidence  # now the latest
                self._fits[key] = evidence.add(trace.plain, float(actual), self._fits.get(key))
                if len(self._evidence) > self._sets_max:
                    oldest = next(iter(self._evidence))
                    del self._evidence[oldest], self._fits[oldest]
            if trace.conversation:
                self._conversations.pop(trace.conversation, None)
                self._conversations[trace.conversation] = actual
                if len(self._conversations) > self._conversations_max:
                    del self._conversations[next(iter(self._conversations))]
