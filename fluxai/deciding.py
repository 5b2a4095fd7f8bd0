"""What an ask meets on its way to the store: certificates, changed rules, a store out of reach.

A plain call needs none of it: see `Governor.reserve`.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from fluxai.arguments import one_of
from fluxai.context import unrouted
from fluxai.core.decisions import RESERVED, Decision, Reservation, ReservationExtra, Routing
from fluxai.core.errors import (
    ApprovalConflict,
    FluxAIError,
    IdempotencyConflict,
    NotFound,
    ReservationNotFound,
    SettlementConflict,
    StorageError,
)
from fluxai.core.ids import uuid_text
from fluxai.core.ledger import Need, Plan, Verdict, judge
from fluxai.planning import Request, digest, unchecked, why_routed
from fluxai.policy.engine import offer_cheaper
from fluxai.routing.certificates import rounded
from fluxai.storage.base import Ask, Conflict, Stale, Unknown

if TYPE_CHECKING:
    from fluxai.governor import Governor

log = logging.getLogger("fluxai")

RECOMPILED_MAX: Final = 5
REFUSALS_REMEMBERED: Final = 1_024


class Decider:
    """Has asks decided, again while the rules change, and remembers what was refused.

    Args:
        governor: Whose calls they are.
        reserve_one: Decides an ask, and holds its money.
        allow_unheld: Let calls through without a hold while the store is out of reach.
    """

    def __init__(
        self, governor: Governor, reserve_one: Callable[[Ask], Any], *, allow_unheld: bool
    ) -> None:
        self._governor = governor
        self._planner = governor.planner
        self._reserve_one = reserve_one
        self._allow_unheld = allow_unheld
        self._refusals: OrderedDict[int, Decision] = OrderedDict()

    @property
    def analyzer(self) -> Any:
        """What judges prompts: the governor's, or the shipped one."""
        governor = self._governor
        if governor.analyzer is None:
            from fluxai.prompts import PromptAnalyzer

            governor.analyzer = PromptAnalyzer()
        return governor.analyzer

    def submit(self, ask: Ask, request: Request) -> Reservation:
        """Hand an ask to the store, and take in what it decided."""
        try:
            answer = self._reserve_one(ask)
        except StorageError as error:
            return self.unheld(ask, error)
        return self.decided(ask, answer, request)

    def routed(
        self, plan: Plan, prompt: Any, messages: Any, at_us: int
    ) -> tuple[Plan, Routing | None]:
        """Return the plan that holds for a prompt, and what the prompt was found to be."""
        asked = prompt if prompt is not None else messages
        if asked is None:
            return plan, None
        try:
            analysis = self.analyzer.analyze(asked)
            score = rounded(analysis.gain)
            level = analysis.complexity
            one_of("complexity", level, ("simple", "medium", "complex"))
        except Exception:
            # Whose analyzer it is may be anybody's; the call runs on what it asked for.
            self._governor.unread_prompts += 1
            log.exception("a prompt could not be analysed; nothing is downgraded for it")
            return plan, None
        if unrouted.get() is not None:
            return plan, Routing(score, plan.first.tool, (), "it is compared on what it asks for")
        found = self._planner.for_prompt(plan, score, level, at_us)
        return found, Routing(score, plan.first.tool, found.origin.covered, why_routed(plan, score))

    def decided(self, ask: Ask, answer: Any, request: Request) -> Reservation:
        """Take in what the store decided, compiling the plan again while the rules change.

        Raises:
            StorageError: They change too often.
        """
        recompiled = 0
        while True:
            if type(answer) is Reservation:
                if answer.decision != "denied":
                    return answer
                if answer.routing is None or not answer.routing.covered:
                    self.refused(answer, ask.plan, ask.needs)
                    return answer
                ask = self._as_asked(ask, request)
            elif isinstance(answer, Stale):
                if recompiled == RECOMPILED_MAX:
                    raise StorageError(
                        f"the rules of tenant {ask.plan.subject.tenant!r} changed "
                        f"{RECOMPILED_MAX} times while one call was decided; try again"
                    )
                recompiled += 1
                ask = self._rerouted(self._planner.recompiled(ask, request), request)
                self._identify(ask, request)
            else:
                raise_refusal(answer)
            try:
                answer = self._reserve_one(ask)
            except StorageError as error:
                return self.unheld(ask, error)

    def unheld(self, ask: Ask, error: StorageError) -> Reservation:
        """Fail closed, or let the call through without a hold where that was chosen."""
        if not self._allow_unheld:
            raise error
        self._governor.unheld_calls += 1
        log.error("allowing a call without holding its money, as configured: %s", error)
        reservation, need = ask.reservation, ask.needs[0]
        assert need is not None  # noqa: S101 -- the requested tool always has a need
        verdict = judge(
            Plan(
                subject=ask.plan.subject,
                version=ask.plan.version,
                start_us=ask.plan.start_us,
                end_us=ask.plan.end_us,
                candidates=(unchecked(ask.plan.candidates[0]),),
            ),
            (need,),
            {0: ((), ())},
        )
        reservation.candidate = ask.plan.candidates[0]
        reservation.need = need
        reservation.amounts = verdict.last.amounts
        reservation.output_tokens = verdict.last.output_tokens
        reservation.verdict = verdict
        reservation.holds = None
        return reservation

    def judged(
        self,
        plan: Plan,
        needs: Sequence[Need | None],
        request: Request,
        at_us: int,
        *,
        by_unit: bool,
    ) -> tuple[Plan, Verdict]:
        """Judge a request by the balances as they are; return the plan that it was judged by."""
        if plan.repeats:
            plan = self._planner.counted(plan, needs, request, by_unit=by_unit)
        keys = dict(key for candidate in plan.candidates for key in candidate.keys)
        balances = self._governor.storage.balances(list(keys.items()), at_us)
        known = {balance.key: (balance.settled, balance.reserved) for balance in balances}
        return plan, self._governor.engine.judge(plan, needs, known)

    def refused(self, decision: Decision, plan: Plan, needs: Sequence[Need | None]) -> None:
        """Remember a refusal for `explain`, and work out which cheaper models to offer."""
        offer_cheaper(decision, plan, needs, self._planner.catalog_of(plan.subject.tenant))
        self.remember(decision)

    def remember(self, decision: Decision) -> None:
        """Keep a refusal for a while, to be explained."""
        self._refusals[decision.uid] = decision
        while len(self._refusals) > REFUSALS_REMEMBERED:
            self._refusals.popitem(last=False)

    def refusal(self, uid: int) -> Decision | None:
        """Return one of the last refusals."""
        return self._refusals.get(uid)

    def _rerouted(self, ask: Ask, request: Request) -> Ask:
        """Look again which certificates cover a prompt, after the rules have changed."""
        reservation, plan = ask.reservation, ask.plan
        if not plan.reads_prompt:
            return ask
        at_us = reservation.counted_us
        found, routing = self.routed(plan, request.prompt, request.messages, at_us)
        if reservation.extra is None:
            reservation.extra = ReservationExtra()
        reservation.extra.routing = routing
        if found is plan:
            return ask
        needs, method, _ = self._planner.needs(found, request)
        if None in needs:
            found, needs = self._planner.fitting(found, needs, at_us)
        if found.repeats:
            found = self._planner.counted(found, needs, request, by_unit=method == "units")
        reservation.subject = found.subject
        return Ask(reservation, found, needs, ask.approval_expires_us)

    def _identify(self, ask: Ask, request: Request) -> None:
        """Bind a call to its arguments where only the changed rules may have it wait for a human."""
        reservation = ask.reservation
        if not ask.plan.asks or (reservation.extra is not None and reservation.extra.digest):
            return
        if reservation.extra is None:
            reservation.extra = ReservationExtra()
        reservation.extra.digest = digest(
            ask.plan,
            ask.needs,
            request.prompt,
            request.messages,
            request.tools,
            request.beside,
            by_unit=reservation._method == "units",
        )

    def _as_asked(self, ask: Ask, request: Request) -> Ask:
        """Ask again for the model that was asked for, where the one it was led to has no room.

        What saves money must not refuse a call that its own model would be allowed.
        """
        reservation = ask.reservation
        plan, needs = self._planner.fitting(ask.plan, tuple(ask.needs), reservation.counted_us)
        if plan.repeats:
            by_unit = reservation._method == "units"
            plan = self._planner.counted(plan, needs, request, by_unit=by_unit)
        reservation.subject = plan.subject
        reservation.decision, reservation.state = "allowed", RESERVED
        reservation.verdict, reservation._view, reservation._offers = None, None, ()
        routing, extra = reservation.routing, reservation.extra
        if routing is not None and extra is not None:
            reason = (
                f"{routing.reason}; but there is no room for it, so it runs on what it asks for"
            )
            extra.routing = routing._replace(covered=(), reason=reason)
        return Ask(reservation, plan, needs, ask.approval_expires_us)


def raise_refusal(answer: Any) -> NoReturn:
    """Turn what a store answered into the error that names it."""
    if isinstance(answer, Unknown):
        shown = answer.uid if isinstance(answer.uid, str) else uuid_text(answer.uid)
        if answer.what == "reservation":
            raise ReservationNotFound(f"no open or remembered reservation {shown} of that tenant")
        raise NotFound(f"{answer.what}: no {answer.what} {shown}")
    if isinstance(answer, Conflict):
        known: dict[str, type[FluxAIError]] = {
            "IdempotencyConflict": IdempotencyConflict,
            "SettlementConflict": SettlementConflict,
            "ReservationNotFound": ReservationNotFound,
            "StorageError": StorageError,
        }
        kind = known.get(answer.error)
        if kind is None:
            raise ApprovalConflict(answer.message)
        raise kind(answer.message)
    raise StorageError(f"the store answered {answer!r}")
