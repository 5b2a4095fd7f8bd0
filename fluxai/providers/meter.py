"""What arrives of one call's answer, and when it has to stop. Pure but for settling.

A meter is fed with the events of a stream as they arrive, keeps of them what tells their cost, and
settles its call once, however the stream ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fluxai.core.errors import StreamStopped
from fluxai.core.ledger import COST
from fluxai.core.usage import Usage
from fluxai.providers.events import object_in
from fluxai.texts import tells_final_usage, text_of

if TYPE_CHECKING:
    from fluxai.guard import Call

#: Bytes of text kept to estimate a stream by that ends without usage; of what is beyond, its size.
KEPT_BYTES = 4_000_000
#: Of events that tell usage, the first and the last ones are kept: between them they count along.
TOLD_FIRST = 2
TOLD_LAST = 4
BYTES_PER_TOKEN = 4
#: An event that tells usage, rather than that there is none yet.
_TELLS_USAGE = re.compile(rb'"usage\w*"\s*:\s*(?!null|\s)')


class Meter:
    """Settles one call at what its answer says.

    Args:
        call: What was reserved.
        hides_usage: The usage was asked for on behalf of a caller who did not ask: the event that
            holds it and nothing else is not for the caller's eyes.
        told: Completes a whole body by what only its request tells of its cost.
    """

    def __init__(
        self,
        call: Call,
        *,
        hides_usage: bool = False,
        told: Callable[[Any], Any] | None = None,
    ) -> None:
        self.call = call
        self.governor = call.governor
        self.hides_usage = hides_usage
        self._complete_body = told
        self._told: list[Any] = []
        self._final = False
        self._complete = False
        self._kept: list[bytes] = []
        self._bytes = 0
        self._unkept = 0
        reservation = call.reservation
        self._stops = bool(getattr(reservation, "stop_stream", False))
        self._output = 0
        self._text: list[str] = []

    @property
    def ended(self) -> bool:
        """Whether its call was settled or released."""
        return self.call.ended

    @property
    def overdue(self) -> bool:
        """Whether the hold has to be extended, since the stream lives on."""
        return self.call.overdue

    def extend(self) -> None:
        """Let the hold of a long stream live on."""
        self.call.extend()

    def complete(self) -> None:
        """Note that the provider has said all: what a reader leaves unread costs nothing more."""
        self._complete = True

    def see(self, data: bytes) -> bool:
        """Note an event's data; say whether the caller is to see it.

        Raises:
            StreamStopped: What was reserved is used up, and a policy says that streams stop then.
        """
        if _TELLS_USAGE.search(data) and (event := object_in(data)):
            self._tell(event)
            # The one with the usage, that OpenAI adds behind the last one with a choice.
            if self.hides_usage and event.get("choices") == []:
                return False
        if self._bytes < KEPT_BYTES:
            self._kept.append(data)
            self._bytes += len(data)
        else:
            self._unkept += len(data)
        if self._stops:
            self._stop_in_time(data)
        return True

    def _tell(self, event: dict[str, Any]) -> None:
        self._final = self._final or tells_final_usage(event)
        if len(self._told) >= TOLD_FIRST + TOLD_LAST:
            del self._told[TOLD_FIRST]
        self._told.append(event)

    def _stop_in_time(self, data: bytes) -> None:
        reservation = self.call.reservation
        rates = reservation.candidate.rates
        text = "" if self._final else text_of(object_in(data))
        if rates is None or not text:
            return
        self._text.append(text)
        model = reservation.model or reservation.final_tool
        self._output += self.governor.estimator.count(model, text).expected
        stated = Usage.parse(self._told, None) if self._told else None
        tokens = reservation.need.expected_input_tokens
        if stated is None or not stated.input_total:
            used = Usage(input=tokens, output=self._output)
        else:
            missing = max(0, self._output - stated.output_total)
            used = stated.replaced(output=stated.output + missing, parts=())
        if rates.cost(used) > reservation.amounts[COST]:
            raise StreamStopped(reservation, "".join(self._text))

    def answer(self, body: bytes) -> None:
        """Settle at a whole body, which is no stream."""
        if self.call.ended:
            return
        parsed = object_in(body)
        if parsed:
            complete = self._complete_body
            self.call.settle_result(parsed if complete is None else complete(parsed))
        else:
            self.call.settle_expected()

    def end(self, error: BaseException | None) -> None:
        """Settle once: exactly where the usage was told, else at an estimate. Never raises."""
        if self.call.ended:
            return
        if isinstance(error, GeneratorExit):
            self.governor.when_free(lambda: self._settle(error))
        else:
            self._settle(error)

    def _settle(self, error: BaseException | None) -> None:
        if self.call.ended:
            return
        if self._final:
            self.call.settle_result(self._told)
        elif self._kept:
            chunks: list[Any] = [event for event in map(object_in, self._kept) if event]
            if self._unkept:
                chunks.append("x" * (self._unkept // BYTES_PER_TOKEN))
            self.call.settle_result(chunks, aborted=error is not None and not self._complete)
        else:
            # An answer had begun, so it was charged, whatever came of it.
            self.call.settle_expected()
