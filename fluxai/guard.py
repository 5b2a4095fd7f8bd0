"""`guard`: money is held for the body of a `with` block, and settled or given back at its end."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypedDict

from fluxai.charges import may_have_been_charged
from fluxai.core.decisions import RESERVED, Decision, Reservation, Settlement
from fluxai.core.errors import (
    ApprovalRequired,
    BudgetExceeded,
    FluxAIError,
    IdempotencyConflict,
    PolicyDenied,
    Refused,
    ReservationNotFound,
    SettlementConflict,
    StorageError,
)

if TYPE_CHECKING:
    from decimal import Decimal

    from fluxai.core.usage import Usage
    from fluxai.governor import Governor
    from fluxai.hops import Started

log = logging.getLogger("fluxai")


class CallArguments(TypedDict, total=False):
    """What `reserve` and `guard` take; see `Governor.reserve`."""

    tenant: str | None
    user: str | None
    model: str | None
    tool: str | None
    prompt: str | None
    messages: Any
    tools: Any
    input_tokens: int | None
    max_output_tokens: int | None
    units: int | None
    labels: Mapping[str, str] | None
    idempotency_key: str | None
    ttl: timedelta | str | int | None
    approval_id: str | None
    fixed_tool: bool
    beside: Usage | None


def refusal(decision: Decision) -> Refused:
    """Return the error that says a decision."""
    if decision.decision == "pending_approval":
        return ApprovalRequired(decision)
    acted = [reason for reason in decision.reasons if reason.acted]
    if acted and acted[0].limit_type != "per_request":
        return BudgetExceeded(decision)
    return PolicyDenied(decision)


class Granted:
    """What was granted to one governed call."""

    def __init__(self, reservation: Reservation) -> None:
        self.reservation = reservation

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


class Call(Granted):
    """One governed call: its reservation, and how it ends. Ends once."""

    def __init__(
        self, governor: Governor, reservation: Reservation, before: BaseException | None = None
    ) -> None:
        super().__init__(reservation)
        self.governor = governor
        #: How it was settled; None before, and where the store could not be reached.
        self.settlement: Settlement | None = None
        #: Whether it was settled or released.
        self.ended = False
        self._charged = False
        self._before = before
        self._ttl_us = reservation.expires_us - reservation.counted_us
        self._half_us = reservation.counted_us + self._ttl_us // 2

    @property
    def overdue(self) -> bool:
        """Whether half of the hold's time is gone: a stream that lives on extends it then."""
        return self.governor.clock.now_us() >= self._half_us

    def extend(self) -> None:
        """Let the hold live on, for as long again. Never raises."""
        try:
            self.governor.extend(self.reservation, ttl=f"{max(1, self._ttl_us // 1_000_000)}s")
        except FluxAIError as error:
            log.warning("a stream's hold could not be extended: %s", error)
        self._half_us = self.governor.clock.now_us() + self._ttl_us // 2

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

        A response that is not understood is settled at an estimate of what it holds, logged and
        counted in `governor.unread_responses`: an error here would lose it.

        Returns:
            The settlement; None where the store could not be reached. Then it is spooled, logged
            and counted, and the caller's result is not lost to an error.

        Raises:
            InvalidRequest: `usage` or `cost` is wrong. The call then counts as charged.
            SettlementConflict: It was settled before, at something else.
        """
        # Whoever settles has been answered, so whatever goes wrong from here on, it was charged.
        self._charged = True
        try:
            settled = self._keep(
                lambda: self.governor.settle(self.reservation, response, usage=usage, cost=cost)
            )
        except (SettlementConflict, ReservationNotFound):
            raise
        except Exception as error:
            if response is None or usage is not None or cost is not None:
                raise
            # Whatever it was about the response: an error here would lose it.
            self.governor.unread_responses += 1
            log.warning("settled at an estimate, since the response is not understood: %r", error)
            return self.settle_result(response)
        self.ended = True
        return settled

    def settle_result(self, result: Any, *, aborted: bool = False) -> Settlement | None:
        """Settle at what a function returned: its usage, else an estimate of what it holds.

        Never raises, whatever the result is.
        """
        self.ended = True
        try:
            return self._keep(
                lambda: self.governor.settle_result(self.reservation, result, aborted=aborted)
            )
        except Exception:
            # The body's result matters more to its caller than our reading of it.
            self.governor.settle_errors += 1
            log.exception("a result could not be read; settling at the expected cost")
            return self.settle_expected()

    def settle_expected(self) -> Settlement | None:
        """Settle at the expected cost, flagged `estimated`. Never raises."""
        self.ended = True
        return self._quietly(lambda: self.governor.settle_expected(self.reservation))

    def release(self) -> None:
        """Give the money back: the call was not made.

        Raises:
            SettlementConflict: It is settled.
        """
        self.ended = True
        self._keep(lambda: self.governor.release(self.reservation))

    def end(self, error: BaseException | None, before: BaseException | None = None) -> None:
        """End what was neither settled nor released, by how the body ended. Never raises.

        Args:
            error: How it ended.
            before: An error that was being handled meanwhile, and says nothing of how it ended.
        """
        if isinstance(error, GeneratorExit):
            self.governor.when_free(lambda: self._end(error, before))
        else:
            self._end(error, before)

    def _end(self, error: BaseException | None, before: BaseException | None) -> None:
        if self.ended:
            return
        before = self._before if before is None else before
        if error is None or self._charged or may_have_been_charged(error, before):
            self.settle_expected()
        else:
            self.ended = True
            self._quietly(lambda: self.governor.release(self.reservation))
        self._before = None

    def _quietly(self, verb: Callable[[], Any]) -> Settlement | None:
        """Run a verb at the end of a body, whose own result or error must not be replaced."""
        try:
            return self._keep(verb)
        except FluxAIError as error:
            self.governor.settle_errors += 1
            log.error("a governed call could not be ended: %s", error)  # noqa: TRY400
            return None

    def _keep(self, verb: Callable[[], Any]) -> Settlement | None:
        try:
            settled = verb()
        except StorageError as error:
            # The body's result matters more to its caller than our bookkeeping, which is spooled.
            self.governor.settle_errors += 1
            log.error("a governed call could not be settled: %s", error)  # noqa: TRY400
            return None
        if not isinstance(settled, Settlement):
            return None
        self.settlement = settled
        return settled


class AsyncCall(Granted):
    """A governed call in an `async with` block: the same verbs, awaited.

    A verb begins when it is called, and runs to its end; awaiting it gives its outcome.
    """

    def __init__(self, call: Call) -> None:
        super().__init__(call.reservation)
        self._call = call
        self._started: list[Started[Any]] = []

    @property
    def settlement(self) -> Settlement | None:
        """How it was settled; None before, and where the store could not be reached."""
        return self._call.settlement

    @property
    def ended(self) -> bool:
        """Whether it was settled or released."""
        return self._call.ended

    def charged(self) -> None:
        """Say that the provider has charged: an error later on no longer gives the money back."""
        self._call.charged()

    def settle(
        self,
        response: Any = None,
        *,
        usage: Usage | None = None,
        cost: Decimal | str | int | None = None,
    ) -> Started[Settlement | None]:
        """Settle at what it cost; see `Call.settle`."""
        self._call.charged()
        return self._start(lambda: self._call.settle(response, usage=usage, cost=cost))

    def release(self) -> Started[None]:
        """Give the money back: the call was not made."""
        return self._start(self._call.release)

    def _start(self, verb: Callable[[], Any]) -> Started[Any]:
        started = self._call.governor.hops.start(verb)
        self._started.append(started)
        return started

    def end(self, error: BaseException | None) -> None:
        """Wait for what was begun, and end the rest; raise what nobody has awaited."""
        failed = [(started, started.error()) for started in self._started]
        self._call.end(error)
        for started, problem in failed:
            if error is None and problem is not None and not started.awaited:
                raise problem


def begin(
    governor: Governor,
    request: CallArguments,
    before: BaseException | None = None,
    fits: Callable[[str], bool] | None = None,
) -> Call:
    """Reserve for a call, or raise its refusal.

    Args:
        governor: Holds the budgets.
        request: What `reserve` takes.
        before: The error that is being handled around the call, if any.
        fits: Says whether a model that the call was moved to can do what is asked. Where it can't,
            the call is decided once more, without a downgrade.
    """
    call = _begun(governor, request, before)
    if fits is None or call.decision != "downgraded":
        return call
    if call.model is not None and fits(call.model):
        return call
    call.release()
    return _begun(governor, {**request, "fixed_tool": True}, before)


def _begun(governor: Governor, request: CallArguments, before: BaseException | None) -> Call:
    reservation = governor.reserve(**request)
    if not reservation.allowed:
        governor.refused_calls += 1
        raise refusal(reservation)
    if reservation.state != RESERVED:
        raise IdempotencyConflict(
            f"the call under this idempotency key has run already (its reservation "
            f"{reservation.id} is {reservation.state}); use a new key for a new call"
        )
    return Call(governor, reservation, before)


async def begin_async(
    governor: Governor, request: CallArguments, fits: Callable[[str], bool] | None = None
) -> Call:
    """Reserve for a call in async code; a caller that is cancelled meanwhile leaves no hold.

    A hold under an idempotency key stays: the key is there for the retry, which finds it.
    """
    before = sys.exception()
    keeps = request.get("idempotency_key") is not None
    return await governor.hops.hold(
        lambda: begin(governor, request, before, fits), _leave if keeps else Call.release
    )


def _leave(call: Call) -> None:
    log.debug("a hold waits for a retry under its key: %s", call.reservation.id)


class Guard:
    """`with governor.guard(…) as call:`, and `async with` too."""

    def __init__(self, governor: Governor, request: CallArguments) -> None:
        self._governor = governor
        self._request = request
        self._call: Call | None = None
        self._async_call: AsyncCall | None = None

    def __enter__(self) -> Call:
        self._call = begin(self._governor, self._request, sys.exception())
        return self._call

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._call is not None:
            self._call.end(error)

    async def __aenter__(self) -> AsyncCall:
        self._async_call = AsyncCall(await begin_async(self._governor, self._request))
        return self._async_call

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        call, hops = self._async_call, self._governor.hops
        if call is None:
            return
        if isinstance(error, GeneratorExit):
            # Whoever closes a coroutine does not wait for it.
            hops.start(lambda: call.end(error))
        else:
            await hops.run(lambda: call.end(error))
