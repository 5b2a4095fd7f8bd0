"""One request of a wrapped client, from its reservation to what it cost; the same for every SDK."""

from __future__ import annotations

import functools
import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from fluxai.charges import may_have_been_charged
from fluxai.core.errors import FluxAIError, UnknownModel
from fluxai.guard import Call, CallArguments, begin, begin_async, refusal
from fluxai.providers.paid import PaidCall

if TYPE_CHECKING:
    from fluxai.governor import Governor

log = logging.getLogger("fluxai")


class Payer(TypedDict):
    """Who spends, as the governor's verbs take it."""

    tenant: str | None
    user: str | None
    labels: Mapping[str, str] | None


class Terms(NamedTuple):
    """On whose account a client's calls go, and what happens to those that can't be governed."""

    governor: Governor
    tenant: str | None
    user: str | None
    labels: Mapping[str, str] | None
    allows_ungoverned: bool

    @property
    def payer(self) -> Payer:
        """Return who spends."""
        return Payer(tenant=self.tenant, user=self.user, labels=self.labels)


class Attempts:
    """How often a request was sent in vain, and was charged, or nobody knows.

    Attributes:
        lost: How often.
        answer: What came of the last attempt, where the SDK raised an error instead of returning it.
    """

    def __init__(self) -> None:
        self.lost = 0
        self.answer: Any = None
        #: How the attempt before the one under way ended. Where an SDK tries again while it handles
        #: that, Python notes it as the context of all errors that follow.
        self.before: BaseException | None = None
        self._failed: BaseException | None = None

    def start(self) -> None:
        """Note that the request is sent, once more perhaps: then the attempt before is lost."""
        failed, self._failed = self._failed, None
        if failed is not None:
            self.lost += self.answer is not None or may_have_been_charged(failed, self.before)
            self.before, self.answer = failed, None

    def fail(self, error: BaseException) -> None:
        """Note how an attempt ended."""
        self._failed = error

    def forget(self) -> None:
        """Let go of the answer, and of errors, which hold on to the frames that they passed."""
        self.before = self._failed = self.answer = None


#: The attempts of the request that is under way.
attempts_now: ContextVar[Attempts | None] = ContextVar("fluxai.attempts", default=None)
#: Where whoever asks through a wrapped client collects what became of its requests.
watching: ContextVar[list[Exchange] | None] = ContextVar("fluxai.watching", default=None)


class Exchange(ABC):
    """One request, and its answer.

    Args:
        terms: Who pays.
        calls: What is asked for; several in a batch.
    """

    def __init__(self, terms: Terms, calls: Sequence[PaidCall]) -> None:
        self.terms = terms
        self.governor = terms.governor
        self.paid = calls
        self.attempts = Attempts()
        self.calls: list[Call] = []
        watched = watching.get()
        if watched is not None:
            watched.append(self)

    def request_for(self, call: PaidCall) -> CallArguments:
        """Return what `reserve` takes for a call."""
        return {**self.terms.payer, **call.arguments}

    def begin(self, before: BaseException | None) -> None:
        """Reserve for all calls of the request, or for none and raise the refusal."""
        try:
            for call in self.paid:
                self._check_others(call)
                fits = functools.partial(self._serves, call)
                self.calls.append(begin(self.governor, self.request_for(call), before, fits))
        except BaseException:
            self._release()
            raise

    async def begin_async(self) -> None:
        """Reserve for all calls of the request in async code."""
        hops = self.governor.hops
        try:
            for call in self.paid:
                if call.others:
                    await hops.run(functools.partial(self._check_others, call))
                fits = functools.partial(self._serves, call)
                request = self.request_for(call)
                self.calls.append(await begin_async(self.governor, request, fits))
        except BaseException:
            await hops.run(self._release)
            raise

    def _check_others(self, call: PaidCall) -> None:
        """Raise a refusal where the payer may not use a model that may answer besides.

        Its money is held with the call's own, which a human is asked for, too; by itself it is only
        looked at.
        """
        for model in call.others:
            cap = call.arguments.get("max_output_tokens")
            decision = self.governor.check(
                **self.terms.payer,
                model=model,
                input_tokens=0,
                max_output_tokens=cap,
                fixed_tool=True,
            )
            if decision.decision == "denied":
                raise refusal(decision)

    def _release(self) -> None:
        for call in self.calls:
            call.release()

    def _serves(self, call: PaidCall, model: str) -> bool:
        """Say whether a model that a call was moved to can do what is asked."""
        models = self.governor.models
        try:
            before, after = models.get(str(call.arguments["model"])), models.get(model)
        except (UnknownModel, LookupError):
            return False
        cap = call.arguments.get("max_output_tokens")
        return (
            before.provider == after.provider
            and call.needs <= after.capabilities
            and (cap is None or after.max_output is None or cap <= after.max_output * call.choices)
        )

    def failed(self, error: BaseException) -> None:
        """End the calls by how the request failed; by its answer, where one had come."""
        if self.attempts.answer is not None:
            self.answered(self.attempts.answer)
            return
        for call in self.calls:
            call.end(error, self.attempts.before)
        self._charge_lost()

    def answered(self, answer: Any) -> None:
        """Settle by the answer, or see to it that it is settled as it is read. Never raises."""
        try:
            self.settle(answer)
        except Exception:
            # The answer matters more to its caller than our reading of it.
            self.governor.settle_errors += 1
            log.exception("an answer could not be read; settling at the expected cost")
            for call in self.calls:
                if not call.ended:
                    call.settle_expected()
        self._charge_lost()

    def run(self, send: Callable[[], Any]) -> Any:
        """Reserve, send, and settle by the answer.

        Args:
            send: Sends the request with what was granted, and returns the answer.
        """
        self.begin(sys.exception())
        token = attempts_now.set(self.attempts)
        try:
            answer = send()
        except BaseException as error:
            self.failed(error)
            raise
        finally:
            attempts_now.reset(token)
        self.answered(answer)
        return answer

    async def run_async(self, send: Callable[[], Awaitable[Any]]) -> Any:
        """Reserve, send, and settle by the answer; a caller that is cancelled leaves no hold."""
        hops = self.governor.hops
        await self.begin_async()
        token = attempts_now.set(self.attempts)
        try:
            answer = await send()
        except GeneratorExit as error:
            # Whoever closes a coroutine does not wait for it.
            closed = error
            hops.start(lambda: self.failed(closed))
            raise
        except BaseException as error:
            failed = error
            await hops.run(lambda: self.failed(failed))
            raise
        finally:
            attempts_now.reset(token)
        await hops.run(lambda: self.answered(answer))
        return answer

    @abstractmethod
    def settle(self, answer: Any) -> None:
        """Settle by the answer of this SDK, or see to it that it is settled as it is read."""

    def _charge_lost(self) -> None:
        """Record the attempts that were given up though they were charged, or may have been."""
        self.attempts.forget()
        for number in range(1, self.attempts.lost + 1):
            for call in self.calls:
                reservation = call.reservation
                try:
                    self.governor.record(
                        id=f"{reservation.id}/attempt-{number}",
                        **self.terms.payer,
                        model=reservation.model,
                        cost=reservation.estimate.expected,
                        estimated=True,
                    )
                except FluxAIError as error:
                    self.governor.settle_errors += 1
                    log.error("an attempt that was lost could not be recorded: %s", error)  # noqa: TRY400
