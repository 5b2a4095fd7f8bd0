"""`guard`: money is held for the body of a `with` block, and settled or given back at its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fluxai.core.decisions import RESERVED, Decision, Reservation, Settlement
from fluxai.core.errors import (
    ApprovalRequired,
    BudgetExceeded,
    FluxAIError,
    IdempotencyConflict,
    PolicyDenied,
    Refused,
    StorageError,
)

if TYPE_CHECKING:
    from decimal import Decimal

    from fluxai.core.usage import Usage
    from fluxai.governor import Governor
    from fluxai.hops import Hops

log = logging.getLogger("fluxai")

# Names of errors, of whichever client, after which it is not known whether the call was charged.
_UNCERTAIN = (
    "Timeout",
    "TimeoutError",
    "TimeoutException",
    "ConnectionError",
    "NetworkError",
    "TransportError",
    "RemoteProtocolError",
    "ServerDisconnectedError",
    "ReadError",
    "ReadTimeout",
    "DeadlineExceeded",
    "IncompleteRead",
)
# … and of those that say that nothing was sent.
_NOT_SENT = (
    "ConnectError",
    "ConnectTimeout",
    "ConnectionRefusedError",
    "NewConnectionError",
    "PoolTimeout",
    "gaierror",
)


def refusal(decision: Decision) -> Refused:
    """Return the error that says a decision."""
    if decision.decision == "pending_approval":
        return ApprovalRequired(decision)
    acted = [reason for reason in decision.reasons if reason.acted]
    if acted and acted[0].limit_type != "per_request":
        return BudgetExceeded(decision)
    return PolicyDenied(decision)


def may_have_been_charged(error: BaseException) -> bool:
    """Say whether a call that ended with this error may have been charged all the same.

    Time-outs, lost connections and cancellation leave that open; an error that the provider
    answered, or one of the caller's own, does not. Errors are told by their classes' names, those
    of their causes included, so that no client needs to be imported.
    """
    if not isinstance(error, Exception):
        return True
    seen: set[int] = set()
    uncertain = False
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        names = {kind.__name__ for kind in type(cause).__mro__}
        if names & set(_NOT_SENT):
            return False
        uncertain = uncertain or any(name.endswith(_UNCERTAIN) for name in names)
        cause = cause.__cause__ or cause.__context__
    return uncertain


class Call:
    """One governed call: its reservation, and how it ends. Ends once."""

    def __init__(self, governor: Governor, reservation: Reservation) -> None:
        self._governor = governor
        self.reservation = reservation
        self.settlement: Settlement | None = None
        self._charged = False
        self._ended = False

    @property
    def model(self) -> str | None:
        """The model to send, which a downgrade may have changed."""
        return self.reservation.model

    @property
    def tool(self) -> str:
        """The tool to use, which a downgrade may have changed."""
        return self.reservation.final_tool

    @property
    def max_output_tokens(self) -> int | None:
        """The output cap to send."""
        return self.reservation.max_output_tokens

    @property
    def decision(self) -> str:
        """`allowed` or `downgraded`."""
        return self.reservation.decision

    def charged(self) -> None:
        """Say that the provider has charged: an error later on no longer gives the money back."""
        self._charged = True

    def settle(
        self,
        response: Any = None,
        *,
        usage: Usage | None = None,
        cost: Decimal | str | int | None = None,
    ) -> Settlement | None:
        """Settle at what it cost; see `Governor.settle`.

        Returns:
            The settlement; None where the store could not be reached. Then it is spooled, logged
            and counted, and the caller's result is not lost to an error.
        """
        settlement = self._keep(
            lambda: self._governor.settle(self.reservation, response, usage=usage, cost=cost)
        )
        self._ended = True
        return settlement

    def settle_result(self, result: Any) -> Settlement | None:
        """Settle at what a function returned: its usage, else an estimate of what it holds."""
        self._ended = True
        return self._keep(lambda: self._governor.settle_result(self.reservation, result))

    def settle_expected(self) -> Settlement | None:
        """Settle at the expected cost, flagged `estimated`."""
        self._ended = True
        return self._keep(lambda: self._governor.settle_expected(self.reservation))

    def release(self) -> None:
        """Give the money back: the call was not made."""
        self._ended = True
        self._keep(lambda: self._governor.release(self.reservation))

    def end(self, error: BaseException | None) -> None:
        """End what was neither settled nor released, by how the body ended."""
        if self._ended:
            return
        if error is None or self._charged or may_have_been_charged(error):
            self.settle_expected()
        else:
            self.release()

    @property
    def ended(self) -> bool:
        """Whether it was settled or released."""
        return self._ended

    def _keep(self, verb: Callable[[], Any]) -> Any:
        try:
            settled = verb()
        except StorageError as error:
            # The body's result matters more to its caller than our bookkeeping, which is spooled.
            self._governor.settle_errors += 1
            log.error("a governed call could not be settled: %s", error)  # noqa: TRY400
            return None
        if isinstance(settled, Settlement):
            self.settlement = settled
        return settled


def begin(governor: Governor, request: dict[str, Any]) -> Call:
    """Reserve for a call, or raise its refusal."""
    reservation = governor.reserve(**request)
    if not reservation.allowed:
        raise refusal(reservation)
    if reservation.state != RESERVED:
        raise IdempotencyConflict(
            f"the call under this idempotency key has run already (its reservation "
            f"{reservation.id} is {reservation.state}); use a new key for a new call"
        )
    return Call(governor, reservation)


class Guard:
    """`with governor.guard(…) as call:`, and `async with` too."""

    def __init__(self, governor: Governor, request: dict[str, Any]) -> None:
        self._governor = governor
        self._request = request
        self._call: Call | None = None

    def __enter__(self) -> Call:
        self._call = begin(self._governor, self._request)
        return self._call

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._call is not None:
            self._call.end(error)

    async def __aenter__(self) -> Call:
        hops = self._governor.hops
        self._call = await hops.hold(lambda: begin(self._governor, self._request), Call.release)
        return self._call

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        call = self._call
        if call is not None and not call.ended:
            await self._governor.hops.run(lambda: call.end(error))


class Stream:
    """What a governed stream's wrapper keeps: the chunks, for settling, and the hold alive."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self._chunks: list[Any] = []
        self._half_us = (call.reservation.expires_us + call.reservation.counted_us) // 2

    def took(self, chunk: Any) -> bool:
        """Note a chunk; True when the hold should be extended."""
        self._chunks.append(chunk)
        return self.call._governor.clock.now_us() >= self._half_us

    def extend(self) -> None:
        """Let a long stream's hold live on: streams extend at half their time."""
        reservation = self.call.reservation
        ttl_us = reservation.expires_us - reservation.counted_us
        try:
            self.call._governor.extend(reservation, ttl=f"{max(1, ttl_us // 1_000_000)}s")
        except FluxAIError as error:
            log.warning("a stream's hold could not be extended: %s", error)
        self._half_us += ttl_us // 2

    def end(self, error: BaseException | None) -> None:
        """Settle a stream once: exactly where it told its usage, else by what arrived."""
        call = self.call
        if call.ended:
            return
        if self._chunks:
            call.settle_result(self._chunks)
        else:
            call.end(error if not isinstance(error, asyncio.CancelledError) else error)


__all__ = ["Call", "Guard", "Hops", "Self", "Stream", "begin", "may_have_been_charged", "refusal"]
