"""`Governor`: stands between agent code and everything that costs money.

It plans (pure), asks the store to hold, and settles. See `fluxai.core.ledger` for the rule, and
`fluxai.storage.book` for what the store does under its locks.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from decimal import Decimal
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self, TypeVar, Unpack

from fluxai.arguments import (
    check_reason,
    check_tenant,
    check_text,
    count,
    event_key,
    instant_us,
    one_of,
    read_uid,
    ttl_us,
)
from fluxai.context import (
    NOWHERE,
    budget_block,
    label_pairs,
    same_payer,
    surroundings,
    unrouted,
)
from fluxai.core.clock import Clock, SystemClock, as_clock
from fluxai.core.decisions import (
    OPEN_STATES,
    RESERVED,
    Decision,
    Posting,
    Reservation,
    ReservationExtra,
    Settlement,
    UsageEvent,
)
from fluxai.core.errors import (
    ApprovalConflict,
    FluxAIError,
    InvalidRequest,
    NotFound,
    ReservationNotFound,
    SettlementConflict,
    StorageError,
)
from fluxai.core.ids import IdSource, Uuid7Source, uuid_text
from fluxai.core.ledger import (
    BUDGET_LABEL,
    Need,
    Plan,
    Subject,
)
from fluxai.core.money import to_nano
from fluxai.costs import CostEstimator
from fluxai.costs.learning import Trace
from fluxai.deciding import RECOMPILED_MAX, REFUSALS_REMEMBERED, Decider, raise_refusal
from fluxai.hops import Hops
from fluxai.models import ModelRegistry
from fluxai.planning import (
    DEFAULT_TENANT,
    Planner,
    Request,
    digest,
    unchecked,
)
from fluxai.policy.engine import PolicyEngine, decided
from fluxai.settling import Pricer
from fluxai.storage.base import (
    Adjust,
    Approve,
    Ask,
    Claim,
    Conflict,
    Extend,
    LedgerReport,
    NeedPlan,
    Overdue,
    Record,
    Release,
    Resolution,
    Settle,
    Stale,
    Storage,
    Unknown,
)
from fluxai.storage.memory import MemoryStorage
from fluxai.storage.opening import open_storage

if TYPE_CHECKING:
    from fluxai.analytics import BlockBudget, Budget, RouteResult, UsageSummary
    from fluxai.approvals import Approvals
    from fluxai.core.usage import Usage
    from fluxai.govern import GovernOptions
    from fluxai.guard import CallArguments, Guard
    from fluxai.learning import Learned
    from fluxai.leases import Leases
    from fluxai.providers.clients import Providers
    from fluxai.providers.completing import Completion
    from fluxai.providers.images import Image
    from fluxai.registries import Models, Policies, Tenants, Tools, Users
    from fluxai.routing import Outcome
    from fluxai.spool import Spool

log = logging.getLogger("fluxai")

DEFAULT_TTL_US = 30 * 60 * 1_000_000
APPROVAL_TTL_US = 24 * 3600 * 1_000_000
REPLAYED_MAX = 64
TOKENS_MAX = 10**12
#: Up to this many characters a prompt fits every model, so its window needs no look.
SHORT_PROMPT = 8_000
CLOCK_STEP_LOGGED_US = 5_000_000
#: Code that may be interrupted while it holds a lock that a verb needs.
_LOCKING = ("fluxai.storage.", "fluxai.spool", "fluxai.leases", "fluxai.journal")
_LOCKING_CALLS = frozenset({"submit", "_adjust_thread_count", "shutdown"})

Sink = Callable[[Any], None]
C = TypeVar("C")
F = TypeVar("F", bound=Callable[..., Any])
_make = tuple.__new__


class Governor:
    """Reserve before the call, settle after it; never overspend in between.

    Args:
        storage: A store, or a URL: `memory://`, `sqlite:///file.db`. Its schema is created or
            upgraded here; one that is newer than this library is refused.
        registry: Knows models and prices; the bundled table by default.
        estimator: Prices responses and counts tokens.
        analyzer: Judges prompts where policies ask for it (`quality_risk`): `PromptAnalyzer()` without
            one. Where it is given, `downgrade` policies on a single request that name no tool pick
            one by the prompt's complexity, rather than the cheapest.
        engine: Applies the rule in `check`.
        clock: Tells the time: an object with `now_us()`, or a function returning aware UTC.
        sinks: Called with each `Alert`; one that raises is logged and counted.
        subjects: `"open"`: tenants and users are free text. `"registered"`: unknown ones are
            refused.
        on_storage_error: `"deny"`: a reserve that can't reach the store raises. `"allow"`: it is
            allowed without a hold, logged and counted.
        on_expiry: What becomes of reservations that nobody resolved: `"release"` gives their money
            back, `"settle"` charges what they were expected to cost.
        spool: File for settlements that can't reach the store. By default beside a SQLite file.
        ids: Makes ids; UUIDv7 by default.

    Raises:
        ConfigurationError, StorageError: The store can't be used; says why and what to do.
    """

    def __init__(
        self,
        storage: Storage | str = "memory://",
        *,
        registry: ModelRegistry | None = None,
        estimator: CostEstimator | None = None,
        analyzer: Any = None,
        engine: PolicyEngine | None = None,
        clock: Clock | Callable[[], datetime] | None = None,
        sinks: Sequence[Sink] = (),
        subjects: Literal["open", "registered"] = "open",
        on_storage_error: Literal["deny", "allow"] = "deny",
        on_expiry: Literal["release", "settle"] = "release",
        spool: str | os.PathLike[str] | None = None,
        ids: IdSource | None = None,
    ) -> None:
        one_of("subjects", subjects, ("open", "registered"))
        one_of("on_storage_error", on_storage_error, ("deny", "allow"))
        one_of("on_expiry", on_expiry, ("release", "settle"))
        self.registry = registry if registry is not None else ModelRegistry()
        self.estimator = estimator if estimator is not None else CostEstimator(self.registry)
        self.engine = engine if engine is not None else PolicyEngine()
        self.clock = as_clock(clock)
        self.sinks = tuple(sinks)
        #: Alerts that a sink refused, and calls that were let through without a hold.
        self.sink_errors = 0
        self.unheld_calls = 0
        #: Guarded calls that were refused, those of functions and clients included.
        self.refused_calls = 0
        #: Settlements of guarded calls that the store could not take (they are spooled).
        self.settle_errors = 0
        #: Settlements that were kept on disk and that the store will never take, mostly since the
        #: call was settled otherwise meanwhile. They lie beside the spool, in `….rejected`.
        self.rejected_settlements = 0
        #: Responses of guarded calls that were not understood, and settled at an estimate.
        self.unread_responses = 0
        #: Prompts that the analyzer failed on; they were not downgraded.
        self.unread_prompts = 0
        #: Comparisons of two models that failed; their callers have their answers.
        self.failed_comparisons = 0
        self.analyzer = analyzer
        self._ids = ids if ids is not None else Uuid7Source()
        self._subjects = subjects
        self._allow_unheld = on_storage_error == "allow"
        self._on_expiry = on_expiry
        self._providers: Providers | None = None
        self._spool_path = spool
        self._spool: Spool | None = None
        self.storage: Storage = open_storage(storage)
        try:
            self.storage.migrate()
        except BaseException:
            if isinstance(storage, str):
                self.storage.close()
            raise
        self.storage.settle_on_expiry = on_expiry == "settle"
        #: Alerts for the sinks, and what has to be done after the next verb.
        self._alerts: deque[Any] = self.storage.notices.alerts
        self._reserve_one = self.storage.reserve_one
        self._resolve_one = self.storage.resolve_one
        self._find = self.storage.find
        #: In memory a settle needs no batch, and so no item to queue.
        self._settle_now = self.storage.settle_now if type(self.storage) is MemoryStorage else None
        self._latest_us = 0
        self._stepped_us = 0
        self._offset_us = 0
        self._measure_offset()
        self.planner = Planner(
            self.storage,
            self.registry,
            self.estimator,
            registered=subjects == "registered",
            without_rules=self._allow_unheld,
            by_prompt=analyzer is not None,
        )
        self._plans = self.planner.plans
        self._pricer = Pricer(self.planner, self.registry, self.estimator)
        self.hops = Hops(blocking=self.storage.capabilities.blocking)
        self._learned: Learned | None = None
        self.leases = self._open_leases()
        self._decider = Decider(self, self._reserve_one, allow_unheld=self._allow_unheld)
        try:
            if self._allow_unheld:
                # Prices of tools have to be at hand when the store is not.
                self.planner.fresh_catalog()
            self.replay_spool()
            if self.leases is not None:
                self.leases.recover()
        except StorageError as error:
            log.warning("the store can't be read yet; spooled settlements wait: %s", error)
            self._alerts.append(self._replay_some)
            self._alerts.append(self._recover_leases)

    def _open_leases(self) -> Leases | None:
        """Decide out of leases what may be, where the store grants any and this machine can."""
        spool = self._spool_file()
        if not self.storage.capabilities.lease or spool is None or sys.platform == "win32":
            return None
        if self._on_expiry == "settle":
            # What nobody resolved has to be charged: so the store has to know of it.
            return None
        from fluxai.leases import Leases

        leases = Leases(
            self.storage, spool.path, ids=self._ids, now=self._now, settle_lost=self._replay_one
        )
        self._reserve_one, self._resolve_one = leases.reserve_one, leases.resolve_one
        self._find = leases.find
        return leases

    def _recover_leases(self) -> None:
        """Take over what dead processes leased, now that the store has answered."""
        try:
            if self.leases is not None:
                self.leases.recover()
        except StorageError as error:
            log.warning("the journals of dead processes wait: %s", error)
            self._alerts.append(self._recover_leases)

    def _report_leases(self) -> None:
        """Tell the store what was settled out of leases, so that it is in what is read next."""
        if self.leases is not None:
            self.leases.report()

    # -- time and ids -----------------------------------------------------------------------

    def _now(self) -> int:
        """Return the present, which never runs backwards within a process."""
        at_us = self.clock.now_us() + self._offset_us
        if at_us < self._latest_us:
            if self._latest_us != self._stepped_us:
                self._stepped_back(self._latest_us - at_us)
            return self._latest_us
        self._latest_us = at_us
        return at_us

    def _stepped_back(self, by_us: int) -> None:
        """Log a step back of the clock, once for each time that it steps."""
        if by_us > CLOCK_STEP_LOGGED_US:
            self._stepped_us = self._latest_us
            log.warning(
                "the clock stepped back by %.1f s; FluxAI stays at the later time until it has "
                "caught up",
                by_us / 1e6,
            )

    def _measure_offset(self) -> None:
        """Follow the store's clock where several machines share one; never a clock passed in."""
        at_us = self.clock.now_us()
        if not isinstance(self.clock, SystemClock):
            return
        self._offset_us = self.storage.now_offset_us(at_us)
        if abs(self._offset_us) > CLOCK_STEP_LOGGED_US:
            log.warning(
                "this machine's clock differs from the store's by %.1f s; the store's is used",
                self._offset_us / 1e6,
            )

    # -- registries -------------------------------------------------------------------------

    @property
    def tenants(self) -> Tenants:
        """The tenants' records."""
        from fluxai.registries import Tenants

        return Tenants(self)

    @property
    def users(self) -> Users:
        """The users' records, keyed `(tenant_id, id)`."""
        from fluxai.registries import Users

        return Users(self)

    @property
    def tools(self) -> Tools:
        """The records of what is paid for by the unit."""
        from fluxai.registries import Tools

        return Tools(self)

    @property
    def models(self) -> Models:
        """All known models, and records of your own."""
        from fluxai.registries import Models

        return Models(self)

    @property
    def policies(self) -> Policies:
        """The policies."""
        from fluxai.registries import Policies

        return Policies(self)

    @property
    def routing(self) -> Learned:
        """What outcomes of calls have taught, and what they prove."""
        if self._learned is None:
            from fluxai.learning import Learned

            self._learned = Learned(self)
        return self._learned

    def feedback(
        self,
        id: str,  # noqa: A002 -- the public name
        *,
        quality: float | None = None,
        ok: bool | None = None,
        model: str | None = None,
        source: str = "human",
        prompt: Any = None,
        tenant: str | None = None,
    ) -> Outcome:
        """Say how good a call's answer was. Saying it again of the same model replaces it.

        Args:
            id: Of the reservation that the call was made under.
            quality: From 0 to 1; or
            ok: whether the answer was right.
            model: Whose answer it was; that of the call without it.
            source: Who says so: `human`, `tests`, or any word of yours.
            prompt: The prompt or messages, where the call was not reserved under a policy with
                `quality_risk`, so that how hard it is was not kept.
            tenant: Whose call it must be.

        Raises:
            NotFound: No such call.
            InvalidRequest: The quality is no number from 0 to 1.
            StorageError: It can't be kept.
        """
        return self.routing.feedback(
            id, quality=quality, ok=ok, model=model, source=source, prompt=prompt, tenant=tenant
        )

    @property
    def approvals(self) -> Approvals:
        """Calls that wait for a human, and their answers."""
        from fluxai.approvals import Approvals

        return Approvals(self)

    def estimator_of(self, tenant: str) -> CostEstimator:
        """Return the estimator at the prices that hold for a tenant, see `models.put(tenant=…)`."""
        check_tenant(tenant)
        self.planner.fresh_prices(tenant)
        return self._pricer.estimator_of(tenant)

    # -- one call ---------------------------------------------------------------------------

    def reserve(
        self,
        *,
        tenant: str | None = None,
        user: str | None = None,
        model: str | None = None,
        tool: str | None = None,
        prompt: str | None = None,
        messages: Any = None,
        tools: Any = None,
        input_tokens: int | None = None,
        max_output_tokens: int | None = None,
        units: int | None = None,
        labels: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        ttl: timedelta | str | int | None = None,
        approval_id: str | None = None,
        fixed_tool: bool = False,
        beside: Usage | None = None,
    ) -> Reservation:
        """Reserve the highest cost of one call in every budget that applies, in all or in none.

        Args:
            tenant: Whose budgets; `"default"` without one, and without a `subject()` block.
            user: Which user of it.
            model: What is called, by any spelling; or
            tool: a tool with a record, priced by `units`.
            prompt: The text, or
            messages: the messages in any provider's form, or
            input_tokens: the count of the input, from which its cost is estimated.
            tools: Tool definitions sent along, in any provider's form.
            max_output_tokens: The output cap that will be sent. Without one the store picks a fair
                one, which the reservation returns.
            units: How many units of a tool; 1 by default.
            labels: At most 16 free labels, such as `{"run": "42"}`.
            idempotency_key: A repeat with the same key and arguments returns the same reservation.
            ttl: How long it may stay open: a `timedelta`, `"30m"`, or seconds. 30 minutes.
            approval_id: Run the one call that was approved under this id.
            fixed_tool: The caller can't change the model, so there is no downgrade.
            beside: What it will use besides its tokens: `Usage(requests={"image": 2})`, seconds or
                characters.

        Returns:
            The reservation. A refusal is a value too: `allowed` is False, `reasons` and
            `counter_offer` say why and what would fit.

        Raises:
            InvalidRequest: An argument is wrong; nothing was changed.
            UnknownModel, NotFound: There is no price, and nothing is priced at zero.
            IdempotencyConflict: The key was used with other arguments.
            StorageError: The store can't be reached (and `on_storage_error="deny"`).
        """
        here = surroundings.get()
        name = model if model is not None else tool
        if name is None or (tool is not None and model is not None):
            raise InvalidRequest("model", "give either model= or tool=")
        at_us = self._now()
        reservation = Reservation()
        if here is NOWHERE and labels is None and tenant is not None and model is not None:
            try:
                plan = self._plans.get((tenant, user, name, (), False, fixed_tool, ()))
            except TypeError:  # what can't be looked up is no text; the planner says which
                plan = None
            if plan is None or not plan.start_us <= at_us < plan.end_us:
                plan = self.planner.plan(tenant, user, name, None, at_us, fixed_tool=fixed_tool)
        else:
            plan = self.planner.plan(
                tenant,
                user,
                name,
                labels,
                at_us,
                by_unit=model is None,
                fixed_tool=fixed_tool,
                here=here,
            )
        routing = None
        if plan.reads_prompt:
            plan, routing = self._decider.routed(plan, prompt, messages, at_us)
        candidate = plan.first
        rate = candidate.input_rate
        expected = upper = -1
        traces: Sequence[Trace | None] = ()
        if (
            rate is not None
            and type(max_output_tokens) is int
            and 0 <= max_output_tokens <= TOKENS_MAX
            and units is None
            and beside is None
            and not plan.asks
        ):
            if type(input_tokens) is int:
                if 0 <= input_tokens <= TOKENS_MAX:
                    expected = upper = input_tokens
                    reservation._method = "exact"
            elif (
                input_tokens is None
                and messages is None
                and tools is None
                and type(prompt) is str
                and 0 < len(prompt) <= SHORT_PROMPT
            ):
                expected, upper, method, confidence = self.estimator.count(name, prompt)
                upper = max(expected, upper)
                reservation._method = method if confidence == "high" else f"{method}-{confidence}"
            elif (
                input_tokens is None
                and prompt is None
                and messages is not None
                and candidate.max_output
            ):
                (likely, most, method, confidence), trace = self.estimator.count_and_trace(
                    candidate.model or candidate.tool, None, messages, tools
                )
                window = candidate.rates.context_window
                if window is None or likely <= window:
                    expected, upper = likely, max(likely, most)
                    reservation._method = (
                        method if confidence == "high" else f"{method}-{confidence}"
                    )
                    traces = () if trace is None else (trace,)
        if rate is not None and expected >= 0:
            needs: tuple[Need | None, ...] = (
                _make(
                    Need,
                    (
                        upper * rate + candidate.fee,
                        candidate.output_rate,
                        upper,
                        expected,
                        max_output_tokens,
                        candidate.max_output,
                        1,
                        0 if expected == upper else expected * rate + candidate.fee,
                    ),
                ),
            )
        else:
            request = Request(
                model is None,
                prompt,
                messages,
                tools,
                input_tokens,
                max_output_tokens,
                units,
                beside,
            )
            needs, reservation._method, traces = self.planner.needs(plan, request)
            if routing is not None and None in needs:
                plan, needs = self.planner.fitting(plan, needs, at_us)
            if plan.repeats:
                by_unit = reservation._method == "units"
                plan = self.planner.counted(plan, needs, request, by_unit=by_unit)
        reservation.uid = self._ids(at_us)
        if (plan.asks or plan.reads_prompt) and (seen := unrouted.get()) is not None:
            seen.append(reservation.uid)
        reservation.subject = plan.subject
        reservation.decision = "allowed"
        reservation.verdict = None
        reservation._offers = ()
        reservation._view = None
        reservation.counted_us = at_us
        reservation.expires_us = at_us + (DEFAULT_TTL_US if ttl is None else ttl_us(ttl))
        reservation.state = RESERVED
        reservation.event = None
        reservation.extra = None if routing is None else ReservationExtra(routing=routing)
        reservation.trace = None
        if idempotency_key is not None or approval_id is not None or here.approval_id is not None:
            return self._reserve_bound(
                reservation,
                plan,
                needs,
                idempotency_key,
                approval_id,
                here.approval_id,
                digest(
                    plan,
                    needs,
                    prompt,
                    messages,
                    tools,
                    beside,
                    by_unit=reservation._method == "units",
                ),
                traces,
                Request(
                    model is None,
                    prompt,
                    messages,
                    tools,
                    input_tokens,
                    max_output_tokens,
                    units,
                    beside,
                ),
            )
        if plan.asks:
            reservation.extra = ReservationExtra(
                digest=digest(
                    plan,
                    needs,
                    prompt,
                    messages,
                    tools,
                    beside,
                    by_unit=reservation._method == "units",
                ),
                routing=routing,
            )
        ask = _make(Ask, (reservation, plan, needs, at_us + APPROVAL_TTL_US))
        try:
            answer = self._reserve_one(ask)
        except StorageError as error:
            return self._decider.unheld(ask, error)
        if answer is not reservation or reservation.decision == "denied":
            request = Request(
                model is None,
                prompt,
                messages,
                tools,
                input_tokens,
                max_output_tokens,
                units,
                beside,
            )
            answer = self._decider.decided(ask, answer, request)
        if traces:
            _trace(answer, plan, traces)
        if self._alerts:
            self._announce()
        return reservation if answer is reservation else answer

    def _reserve_bound(
        self,
        reservation: Reservation,
        plan: Plan,
        needs: tuple[Need | None, ...],
        key: str | None,
        approval_id: str | None,
        surrounding_approval: str | None,
        digest: str,
        traces: Sequence[Trace | None],
        request: Request,
    ) -> Reservation:
        """Reserve under an idempotency key, or take an approved reservation."""
        if approval_id is not None:
            try:
                return self._claim(approval_id, reservation, plan, digest, traces)
            except ApprovalConflict as conflict:
                refused = _refuse(reservation, plan, needs, str(conflict))
                self._decider.remember(refused)
                return refused
        if surrounding_approval is not None:
            try:
                return self._claim(surrounding_approval, reservation, plan, digest, traces)
            except ApprovalConflict:
                # The block was opened for one call; the others in it are reserved as ever.
                log.debug("the approval of the surrounding block is not for this call")
        if key is not None:
            check_text("idempotency_key", key)
        reservation.extra = ReservationExtra(key=key, digest=digest, routing=reservation.routing)
        answer = self._decider.submit(
            Ask(reservation, plan, needs, reservation.counted_us + APPROVAL_TTL_US), request
        )
        if answer is reservation:  # not a repeat, which teaches nothing that the first does not
            _trace(answer, plan, traces)
        self._announce()
        return answer

    def _claim(
        self,
        approval_id: str,
        reservation: Reservation,
        plan: Plan,
        digest: str,
        traces: Sequence[Trace | None],
    ) -> Reservation:
        """Take an approved reservation for its one run. Raises `ApprovalConflict`."""
        item = Claim(
            tenant=plan.subject.tenant,
            uid=read_uid(approval_id, "approval_id"),
            at_us=reservation.counted_us,
            digest=digest,
            claim=uuid_text(reservation.uid),
            expires_us=reservation.expires_us,
        )
        claimed: Reservation = self._resolve(item)
        _trace(claimed, plan, traces)
        return claimed

    def check(
        self,
        *,
        tenant: str | None = None,
        user: str | None = None,
        model: str | None = None,
        tool: str | None = None,
        prompt: str | None = None,
        messages: Any = None,
        tools: Any = None,
        input_tokens: int | None = None,
        max_output_tokens: int | None = None,
        units: int | None = None,
        labels: Mapping[str, str] | None = None,
        fixed_tool: bool = False,
        beside: Usage | None = None,
    ) -> Decision:
        """Say what `reserve` would decide now, holding nothing. Same arguments, same errors."""
        name = model if model is not None else tool
        if name is None or (tool is not None and model is not None):
            raise InvalidRequest("model", "give either model= or tool=")
        at_us = self._now()
        plan = self.planner.plan(
            tenant,
            user,
            name,
            labels,
            at_us,
            by_unit=model is None,
            fixed_tool=fixed_tool,
            here=surroundings.get(),
        )
        if plan.version != self.storage.version(plan.subject.tenant):
            self.planner.forget(plan.subject.tenant)
            plan = self.planner.compile(plan.subject, at_us, plan.origin)
        routing = None
        if plan.reads_prompt:
            plan, routing = self._decider.routed(plan, prompt, messages, at_us)
        request = Request(
            model is None,
            prompt,
            messages,
            tools,
            input_tokens,
            max_output_tokens,
            units,
            beside,
        )
        needs, method, _ = self.planner.needs(plan, request)
        if routing is not None and None in needs:
            plan, needs = self.planner.fitting(plan, needs, at_us)
        by_unit = method == "units"
        plan, verdict = self._decider.judged(plan, needs, request, at_us, by_unit=by_unit)
        if verdict.decision == "denied" and plan.origin.covered:
            plan, needs = self.planner.fitting(plan, needs, at_us)
            plan, verdict = self._decider.judged(plan, needs, request, at_us, by_unit=by_unit)
        decision = decided(self._ids(at_us), plan.subject, needs, verdict, method)
        if not decision.allowed:
            self._decider.refused(decision, plan, needs)
        return decision

    def settle(
        self,
        reservation: Reservation | str,
        response: Any = None,
        *,
        usage: Usage | None = None,
        cost: Decimal | str | int | None = None,
        tenant: str | None = None,
        estimated: bool = False,
    ) -> Settlement:
        """Settle a reservation at what the call really cost.

        Args:
            reservation: The reservation, or its id. An id that the store lacks is an error; an
                object is taken in, since money that was charged is always recorded.
            response: Any provider's response, object or dict, or the chunks of a stream; or
            usage: the usage; or
            cost: USD. With none of them a tool costs its units, as reserved.
            tenant: With a bare id: whose it must be.
            estimated: The figures are an estimate; one exact settle may follow.

        Returns:
            The settlement. Settling again with the same outcome returns the same one.

        Raises:
            SettlementConflict: It was settled before with another outcome.
            ReservationNotFound: No such reservation, or another tenant's.
            InvalidRequest: The response has no usage that is understood; nothing was changed.
            StorageError: The store can't be reached. With `spooled` the settlement is kept on disk
                and replayed.
        """
        if type(reservation) is Reservation:
            known = reservation
            if tenant is not None and tenant != known.subject.tenant:
                raise ReservationNotFound(f"reservation {known.id} is not of tenant {tenant!r}")
        else:
            known = self._found(reservation, tenant)
        event = self._pricer.settled(known, response, usage, cost, self._now(), estimated)
        if known is not reservation or known.state != RESERVED:
            return self._settle(known, event, lost_ok=known is reservation)
        if self._settle_now is not None and self._settle_now(known.uid, event) is event:
            if known.trace is not None:
                self._learn(known, event)
            if self._alerts:
                self._announce()
            return event
        item = _make(Settle, (known.subject.tenant, known.uid, event, None, 0))
        try:
            answer = self._resolve_one(item)
            if answer is not event:
                answer = self._settled_otherwise(item, answer)
        except StorageError as error:
            self._keep(item, known, error)
        if known.trace is not None:
            self._learn(known, event)
        if self._alerts:
            self._announce()
        return answer

    def _learn(self, known: Reservation, event: UsageEvent) -> None:
        """Teach the estimator what a request was really billed, once."""
        trace, usage = known.trace, event.usage
        # Several passes of one call are billed together; the request shows the first one's input.
        if trace is None or usage is None or usage.parts or not usage.input_total:
            return
        if "estimated" in event.flags or "clamped" in usage.flags:
            return
        known.trace = None
        model, request = trace
        self.estimator.learn(model, request, None, usage.input_total)

    def _settled_otherwise(self, item: Settle, answer: Any) -> Settlement:
        settled: Settlement = answer if type(answer) is UsageEvent else self._retried(item, answer)
        return settled

    def _settle(self, known: Reservation, event: UsageEvent, *, lost_ok: bool) -> Settlement:
        if known.state == "refused":
            raise ReservationNotFound(
                f"{known.id} was refused and holds nothing; if it was charged all the same, enter "
                f"it with record()"
            )
        if not lost_ok:
            event.source = Posting(
                subject=known.subject,
                final_tool=known.final_tool,
                model=known.model,
                counted_us=known.counted_us,
            )
        item = _make(Settle, (known.subject.tenant, known.uid, event, None, 0))
        try:
            answer = self._resolve_one(item)
            if type(answer) is not UsageEvent:
                answer = self._retried(item, answer)
        except StorageError as error:
            self._keep(item, known, error)
        if known.trace is not None:
            self._learn(known, event)
        if self._alerts:
            self._announce()
        settled: Settlement = answer
        return settled

    def _found(self, reservation: Any, tenant: str | None) -> Reservation:
        if not isinstance(reservation, str):
            raise InvalidRequest(
                "reservation", f"must be a Reservation or its id, got {type(reservation).__name__}"
            )
        found = self._find(tenant, read_uid(reservation, "reservation"))
        if found is None:
            raise ReservationNotFound(
                f"reservation {reservation} is not in this store; pass the Reservation object (it "
                f"travels as to_json()) to record what was charged"
            )
        return found

    def _resolve(self, item: Resolution) -> Any:
        """Hand an item to the store; supply the plan it asks for; turn refusals into errors."""
        answer = self._resolve_one(item)
        if isinstance(answer, (Stale, NeedPlan, Unknown, Conflict)):
            answer = self._retried(item, answer)
        self._announce()
        return answer

    def _retried(self, item: Any, answer: Any) -> Any:
        source = None
        for _ in range(RECOMPILED_MAX + 1):
            match answer:
                case NeedPlan(source=source):
                    pass
                case Stale():
                    self.planner.forget(_tenant_of(item))
                case Unknown() | Conflict():
                    raise_refusal(answer)
                case _:
                    return answer
            item = self._planned(item, source)
            answer = self.storage.resolve_one(item)
        if isinstance(answer, (Stale, NeedPlan)):
            raise StorageError("the rules kept changing while one item was resolved; try again")
        if isinstance(answer, (Unknown, Conflict)):
            raise_refusal(answer)
        return answer

    def _planned(self, item: Any, source: Any) -> Any:
        """Give an item the plan for its money's windows."""
        if isinstance(item, Record):
            item.plan = self.planner.post_plan(item.event.source)
        elif isinstance(item, Settle):
            return item._replace(
                plan=self.planner.post_plan(source), correction_uid=self._ids(item.event.at_us)
            )
        elif isinstance(item, Approve):
            moved = Posting(
                subject=source.subject,
                final_tool=source.final_tool,
                model=source.model,
                counted_us=item.at_us,
            )
            item.plan = self.planner.post_plan(moved)
        else:
            item.plan = self.planner.post_plan(source)
        return item

    def settle_result(
        self, reservation: Reservation, result: Any, *, aborted: bool = False
    ) -> Settlement:
        """Settle at what a function returned: its usage, else an estimate of what it holds.

        `aborted`: it is what arrived of a stream that was not read to its end.
        """
        event = self._pricer.returned(reservation, result, self._now(), aborted=aborted)
        if (
            self._settle_now is not None
            and reservation.state == RESERVED
            and self._settle_now(reservation.uid, event) is event
        ):
            if reservation.trace is not None:
                self._learn(reservation, event)
            if self._alerts:
                self._announce()
            return event
        return self._settle(reservation, event, lost_ok=True)

    def settle_expected(self, reservation: Reservation) -> Settlement:
        """Settle at the expected cost, flagged `estimated`; one exact settle may follow."""
        event = self._pricer.expected(reservation, self._now())
        return self._settle(reservation, event, lost_ok=True)

    def release_if_held(self, reservation: Reservation) -> None:
        """Release what nobody waits for any more; a refusal, or a pending call, stays as it is."""
        if reservation.state == RESERVED:
            self.release(reservation)

    def release(self, reservation: Reservation | str, *, tenant: str | None = None) -> Reservation:
        """Give a reservation's money back: the call was not made, or was not charged.

        Returns:
            The reservation as it stands; a repeat changes nothing.

        Raises:
            SettlementConflict: It is settled.
            ReservationNotFound: No such reservation.
        """
        uid, owner = self._named(reservation, tenant)
        released: Reservation = self._resolve(Release(tenant=owner, uid=uid, at_us=self._now()))
        return released

    def extend(
        self,
        reservation: Reservation | str,
        *,
        ttl: timedelta | str | int,
        tenant: str | None = None,
    ) -> Reservation:
        """Let a reservation stay open for another `ttl` from now; never shortens it.

        Raises:
            ReservationNotFound: It is not open any more.
        """
        uid, owner = self._named(reservation, tenant)
        at_us = self._now()
        extended: Reservation = self._resolve(
            Extend(tenant=owner, uid=uid, at_us=at_us, expires_us=at_us + ttl_us(ttl))
        )
        return extended

    def _named(self, reservation: Any, tenant: str | None) -> tuple[int, str]:
        if isinstance(reservation, Reservation):
            if tenant is not None and tenant != reservation.subject.tenant:
                raise ReservationNotFound(
                    f"reservation {reservation.id} is not of tenant {tenant!r}"
                )
            return reservation.uid, reservation.subject.tenant
        if tenant is not None:
            return read_uid(reservation, "reservation"), tenant
        found = self._found(reservation, None)
        return found.uid, found.subject.tenant

    def record(
        self,
        response: Any = None,
        *,
        id: str,  # noqa: A002 -- the public name
        tenant: str | None = None,
        user: str | None = None,
        model: str | None = None,
        tool: str | None = None,
        labels: Mapping[str, str] | None = None,
        usage: Usage | None = None,
        cost: Decimal | str | int | None = None,
        units: int | None = None,
        provider: str | None = None,
        at: datetime | None = None,
        estimated: bool = False,
    ) -> Settlement:
        """Enter money that was already spent. Never refused by a limit; idempotent by id.

        Args:
            response: A provider's response; or `usage=`, or `cost=` in USD, or `units=` of a tool.
            id: Your name for this event; a repeat with the same arguments changes nothing.
            model: Which model it was, where the response does not say.
            provider: Whose it was, where the response does not show it: the same model costs
                differently at Azure, Groq or OpenRouter.
            estimated: The figure is an estimate.
            at: When it was spent, aware; it picks the windows. By default now.

        Raises:
            IdempotencyConflict: The id was used with other arguments.
            UnknownModel: No price is known.
            InvalidRequest: An argument is wrong.
        """
        check_text("id", id)
        here = surroundings.get()
        now_us = self._now()
        counted_us = now_us if at is None else instant_us("at", at)
        if counted_us > now_us + CLOCK_STEP_LOGGED_US:
            raise InvalidRequest("at", "must not be in the future")
        subject = Subject(
            _first(tenant, here.tenant, DEFAULT_TENANT),
            user if user is not None else here.user,
            label_pairs(labels, here),
        )
        check_tenant(subject.tenant)
        same_payer(here, subject.tenant)
        if subject.user is not None:
            check_text("user", subject.user)
        if tool is not None:
            self.planner.fresh_catalog()
        self.planner.fresh_prices(subject.tenant)
        self.planner.required(subject)
        event = self._pricer.recorded(
            id,
            subject,
            self.planner.catalog_of(subject.tenant),
            response=response,
            usage=usage,
            cost=cost,
            units=units,
            model=model,
            tool=tool,
            provider=provider,
            counted_us=counted_us,
            at=at,
            now_us=now_us,
            estimated=estimated,
        )
        item = Record(event=event, plan=self.planner.post_plan(event.source))
        recorded: Settlement = self._resolve(item)
        return recorded

    def adjust(
        self,
        event_id: str,
        amount: Decimal | str | int,
        *,
        reason: str,
        by: str,
        id: str | None = None,  # noqa: A002 -- the public name
        tenant: str | None = None,
    ) -> Settlement:
        """Enter a signed correction of an event, in the same windows. Events never change.

        Args:
            event_id: The event's id.
            amount: USD to add; negative to take off.
            reason: Why; kept on the correction.
            by: Who says so.
            id: Your name for the correction, which makes it idempotent.

        Raises:
            NotFound: No such event.
        """
        nanousd = to_nano(amount, "amount", signed=True)
        check_reason("reason", reason)
        check_text("by", by)
        key = event_key(event_id)
        self._report_leases()
        event = self.storage.find_event(tenant, key)
        if event is None:
            raise NotFound(f"event_id: no event {event_id!r}")
        at_us = self._now()
        correction: Settlement = self._resolve(
            Adjust(
                tenant=event.tenant,
                event_key=event.key,
                key=event_key(id, "id") if id is not None else self._ids(at_us),
                at_us=at_us,
                cost_nanousd=nanousd,
                note=f"{reason} (by {by})",
                outcome=(event.id, nanousd, reason, by),
            )
        )
        return correction

    # -- around a call ----------------------------------------------------------------------

    def wrap(
        self,
        client: C,
        *,
        tenant: str | None = None,
        user: str | None = None,
        labels: Mapping[str, str] | None = None,
        ungoverned: Literal["refuse", "allow"] = "refuse",
    ) -> C:
        """Return a governed copy of a client: the same type, the same methods, shared connections.

        Each call that costs money is reserved before a request is sent, and settled by the usage of
        its answer, a stream as it is read. A downgrade changes the model that is sent, and the
        granted output cap is sent along.

        Args:
            client: Of `openai`, `anthropic` or `google-genai`, sync or async.
            tenant: Whose budgets; otherwise that of the `subject()` block.
            user: Which user of it.
            labels: Labels of every call.
            ungoverned: What to do with paid requests whose cost can't be told beforehand, such as
                fine-tuning: `"refuse"` them, or `"allow"` them to pass unseen.

        Raises:
            ConfigurationError: It is no such client, or is wrapped already.

        The calls themselves raise `PolicyDenied`, `BudgetExceeded`, `ApprovalRequired` and
        `UnknownModel` before anything is sent, and `NotGoverned`.
        """
        from fluxai.providers.wrapping import wrap

        return wrap(self, client, tenant=tenant, user=user, labels=labels, ungoverned=ungoverned)

    def providers(
        self,
        *,
        openai: Any = None,
        anthropic: Any = None,
        gemini: Any = None,
        models: Mapping[str, str] | None = None,
    ) -> None:
        """Say by which clients `smart_complete` and `generate_image` ask.

        Without this, and for a provider that is left out, it is the SDK's own client where the SDK
        is installed and its key is in the environment.

        Args:
            openai: A client of `openai`, not wrapped, sync or async (async ones need
                `AsyncGovernor`); `True` for the environment's, which must be there then; `False`
                to leave the provider out.
            anthropic: The same of `anthropic`.
            gemini: The same of `google-genai`.
            models: A model of your own for a level: `{"simple": "gpt-4o-mini"}`.

        Raises:
            ConfigurationError: What was given is no such client, `True` can't be had, or there is
                no such level.
        """
        from fluxai.providers.clients import Providers

        given = {"openai": openai, "anthropic": anthropic, "google": gemini}
        before, self._providers = self._providers, Providers(given, models=models)
        if before is not None:
            before.close()

    def providers_at_hand(self) -> Providers:
        """Return what `providers` was told, or what the environment has."""
        if self._providers is None:
            self.providers()
        assert self._providers is not None  # noqa: S101 -- set just above
        return self._providers

    def smart_complete(
        self,
        prompt: str,
        *,
        tenant: str | None = None,
        user: str | None = None,
        labels: Mapping[str, str] | None = None,
        context: str | Sequence[Mapping[str, str]] | None = None,
        preferences: Mapping[str, Any] | None = None,
        system_instruction: str | None = None,
        max_tokens: int | None = None,
        temperature: float | Decimal | None = None,
        images: Sequence[Any] | bytes | None = None,
    ) -> Completion:
        """Answer a prompt by the model that suits it, of the providers at hand.

        It is reserved and settled like any call of a wrapped client. Where a provider fails, another
        model answers, of another provider if there is one.

        Args:
            prompt: What is asked. What it says of its own difficulty does not count.
            tenant: Whose budgets; otherwise that of the `subject()` block.
            user: Which user of it.
            labels: Labels of the call.
            context: What was said before: a text, or messages with `role` and `content`.
            preferences: `prefer_cost`, `prefer_speed` or `prefer_quality` as `True`, and
                `max_cost_per_request` in USD, which all attempts together have to keep to.
            system_instruction: The system's instruction.
            max_tokens: How long the answer may be.
            temperature: From 0 to 2. Models that refuse any are asked without it: OpenAI's for
                reasoning, and Anthropic's since Opus 4.7; the older of those with 1 at most.
            images: Pictures to look at: bytes, or `data:` URLs with base64.

        Returns:
            The answer, with the model, the reason, and what it cost. A prompt that asks for a
            picture is answered by one, in `images`.

        Raises:
            Refused: A policy refused the call, and what its counter-offer says to fit, too.
            AllProvidersFailed: No provider answered; nothing is made up in its place.
            ConfigurationError: No provider is at hand, or none that can do what is asked.
            InvalidRequest: An argument is wrong.
        """
        from fluxai.providers.completing import CompletionOptions, complete

        options = CompletionOptions(
            tenant=tenant,
            user=user,
            labels=labels,
            context=context,
            preferences=preferences,
            system_instruction=system_instruction,
            max_tokens=max_tokens,
            temperature=temperature,
            images=images,
        )
        return complete(self, prompt, options)

    def generate_image(
        self,
        prompt: str,
        *,
        tenant: str | None = None,
        user: str | None = None,
        labels: Mapping[str, str] | None = None,
        model: str | None = None,
        size: str | None = None,
    ) -> Image:
        """Make a picture, by the image model that suits or by the one that is named.

        Args:
            prompt: What it is to show.
            tenant: Whose budgets; otherwise that of the `subject()` block.
            user: Which user of it.
            labels: Labels of the call.
            model: The model that has to make it; then no other is asked.
            size: Such as `1024x1024`; Gemini is asked for the same shape.

        Raises:
            Refused, AllProvidersFailed, ConfigurationError, InvalidRequest: As `smart_complete`.
            UnknownModel: `model` has no price.
        """
        from fluxai.providers.completing import ImageOptions, draw

        options = ImageOptions(tenant=tenant, user=user, labels=labels, model=model, size=size)
        return draw(self, prompt, options)

    def guard(self, **request: Unpack[CallArguments]) -> Guard:
        """Hold money for the body of a `with` block: same arguments as `reserve`.

        Raises, on entering: `PolicyDenied`, `BudgetExceeded`, `ApprovalRequired`.
        """
        from fluxai.guard import Guard

        return Guard(self, request)

    def govern(self, **options: Unpack[GovernOptions]) -> Callable[[F], F]:
        """Decorate a function that makes a paid call; see `fluxai.govern.govern`."""
        from fluxai.govern import govern

        return govern(self, **options)

    def compare(
        self,
        *,
        cheap: str,
        judge: Callable[[Any, Any, Any], Any],
        asked: str | None = None,
        share: float = 0.05,
        tenant: str | None = None,
        random: Callable[[], float] | None = None,
    ) -> Callable[[F], F]:
        """Decorate a function that answers a prompt: some of its calls are answered by both models.

        A drawn call is answered by the model it asks for, whatever a certificate allows, and its
        caller gets that answer. Then the cheaper model answers too, under the label
        `comparing=<cheap>`: a policy on that label is the budget of comparing. What the judge says
        of both is kept as an outcome; what fails meanwhile is logged and counted.

        Args:
            cheap: The cheaper model.
            judge: Called with the prompt and both answers; returns the quality of each, from 0 to
                1, or whether each is right. May be a coroutine function where the function is.
            asked: The model that is asked for, where a call names none.
            share: How many of the calls are compared.
            tenant: Whose outcomes; otherwise that of the `subject()` block.
            random: Draws from 0 to 1.

        Raises:
            InvalidRequest: The function has no parameter `model`, or is a stream.
        """
        from fluxai.comparing import compare

        drawn = {} if random is None else {"random": random}
        return compare(
            self, cheap=cheap, judge=judge, asked=asked, share=share, tenant=tenant, **drawn
        )

    @contextmanager
    def budget(
        self,
        limit: Decimal | str | int,
        *,
        tenant: str | None = None,
        **labels: str,
    ) -> Iterator[BlockBudget]:
        """Put one more limit around every governed call inside, whoever makes it.

        Blocks nest: a call counts in each, so an inner block never exceeds an outer one. The limit
        is kept in the store like any other, so threads, tasks and other governors on the same store
        count together.

        Args:
            limit: USD for everything inside.
            tenant: Whose budgets the calls inside also count in.
            **labels: Labels of the calls inside.

        Yields:
            The block, which shows `spent`, `reserved` and `remaining`.

        Raises:
            InvalidRequest: The limit is no amount, a label can't be one, or there is a `user` among
                them: whose calls are inside is said by `fluxai.subject()`.
        """
        from fluxai.analytics import BlockBudget

        nanousd = to_nano(limit, "limit")
        here = surroundings.get()
        owner = _first(tenant, here.tenant, DEFAULT_TENANT)
        check_tenant(owner)
        value = f"{BUDGET_LABEL}{len(here.limits) + 1}={uuid_text(self._ids(self._now()))}"
        with budget_block(value, nanousd, tenant=owner, labels=labels):
            yield BlockBudget(self.storage, owner, value, nanousd, self._now)

    def check_and_route(
        self,
        tenant_id: str,
        user_id: str | None,
        tool_id: str,
        estimated_units: int,
        params: Mapping[str, Any] | None = None,
        *,
        hold: bool = False,
    ) -> RouteResult:
        """Reserve units of a tool, and settle them at `units × price` unless `hold` is said.

        Args:
            tenant_id: Whose budgets.
            user_id: Which user of it, if any.
            tool_id: A tool with a record.
            estimated_units: How many of its units, at least 1.
            params: What the tool will be called with. It binds an approval; `approval_id` in it
                runs the call that was approved, whose other parameters must be the same.
            hold: Only reserve; settle or release the `reservation_id` afterwards.

        Returns:
            A `RouteResult`. `pending_approval` charges nothing.
        """
        from fluxai.analytics import RouteResult

        if params is not None and not isinstance(params, Mapping):
            raise InvalidRequest("params", f"must be a mapping, got {type(params).__name__}")
        said = dict(params or {})
        approval = said.pop("approval_id", None)
        check_text("tool_id", tool_id)
        if estimated_units is None:
            raise InvalidRequest("estimated_units", "must be a whole number, got None")
        reservation = self.reserve(
            tenant=tenant_id,
            user=user_id,
            tool=tool_id,
            messages=said or None,
            units=count("estimated_units", estimated_units, 1),
            approval_id=approval,
        )
        if reservation.allowed and not hold:
            self.settle(reservation, estimated=True)
        return RouteResult.of(reservation)

    # -- looking ----------------------------------------------------------------------------

    def budgets(self, tenant: str, user: str | None = None) -> list[Budget]:
        """List the running accounts of the limits that concern a tenant, and one of its users.

        A limit for each user, tool or label value shows the accounts that have been opened.
        """
        from fluxai.analytics import budgets

        self._report_leases()
        check_tenant(tenant)
        if user is not None:
            check_text("user", user)
        rules = self.planner.fresh_rules(tenant)
        catalog = self.planner.catalog_of(tenant)
        return budgets(self.storage, rules, catalog.canonical, tenant, user, self._now())

    def usage(
        self,
        tenant: str,
        *,
        user: str | None = None,
        period: Literal["day", "month"] = "day",
        start: datetime | None = None,
        end: datetime | None = None,
        group_by: Sequence[str] = ("tool",),
    ) -> UsageSummary:
        """Sum what was settled in a period, by default today or this month of the tenant."""
        from fluxai.analytics import usage

        self._report_leases()
        check_tenant(tenant)
        if user is not None:
            check_text("user", user)
        rules = self.planner.fresh_rules(tenant)
        return usage(
            self.storage,
            rules,
            self.planner.catalog_of(tenant),
            tenant,
            user=user,
            period=period,
            start=start,
            end=end,
            group_by=group_by,
            at_us=self._now(),
        )

    def events(
        self, after: int | str | None = None, limit: int = 100, tenant: str | None = None
    ) -> list[UsageEvent]:
        """List usage events in the order they were settled, after a sequence number."""
        self._report_leases()
        if isinstance(after, str) and after.isdecimal() and len(after) < 24:
            after = int(after)
        return self.storage.events(
            after=0 if after is None else count("after", after, 0),
            limit=count("limit", limit, 1),
            tenant=tenant,
        )

    def reservations(
        self, state: str | None = None, tenant: str | None = None, limit: int = 1_000
    ) -> list[Reservation]:
        """List reservations, newest first."""
        if state is not None:
            one_of("state", state, ("pending", "reserved", "settled", "released", "expired"))
        self._report_leases()
        return self.storage.reservations(state=state, tenant=tenant, limit=count("limit", limit, 1))

    def explain(self, decision: Decision | str, *, tenant: str | None = None) -> Decision:
        """Return a decision with every policy that was looked at (`looked_at`), in order.

        Raises:
            NotFound: It is neither a stored reservation nor one of the last refusals.
        """
        if isinstance(decision, Decision):
            return decision
        uid = read_uid(decision, "id")
        found = self._decider.refusal(uid) or self._find(tenant, uid)
        if found is None or (tenant is not None and found.subject.tenant != tenant):
            raise NotFound(
                f"id: no decision {decision!r}; reservations are kept in the store, refusals only "
                f"the last {REFUSALS_REMEMBERED} of this process"
            )
        return found

    def expire(self, limit: int = 1_000) -> Overdue:
        """End reservations whose time is over. Says how many were released and settled."""
        if self.leases is not None:
            self.leases.sweep()
        done = self.storage.expire(
            self._now(), limit=count("limit", limit, 1), on_expiry=self._on_expiry
        )
        self._announce()
        return done

    def verify(self) -> LedgerReport:
        """Prove that every balance equals its events and open reservations."""
        return self.storage.verify()

    # -- faults -----------------------------------------------------------------------------

    def _announce(self) -> None:
        """Hand alerts to the sinks. A sink that raises must not lose money: logged, counted."""
        alerts = self._alerts
        for _ in range(len(alerts)):
            try:
                alert = alerts.popleft()
            except IndexError:  # another thread announced it
                return
            if callable(alert):  # see when_free, _replay_some
                alert()
                continue
            for sink in self.sinks:
                try:
                    sink(alert)
                except Exception:
                    self.sink_errors += 1
                    log.exception("a sink failed on %s", alert)

    def when_free(self, verb: Callable[[], object]) -> None:
        """Run a verb that garbage collection may be asking for.

        The collector may run in the midst of any line of this thread, also where the store holds
        its lock: then the verb waits until the one under way is done.
        """
        # The one way to see who is interrupted.
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            module = frame.f_globals.get("__name__", "")
            if module.startswith(_LOCKING) or (
                module == "concurrent.futures.thread" and frame.f_code.co_name in _LOCKING_CALLS
            ):
                self._alerts.append(verb)
                return
            frame = frame.f_back
        verb()

    def _spool_file(self) -> Spool | None:
        if self._spool is None:
            from fluxai.spool import open_spool

            self._spool = open_spool(self._spool_path, self.storage)
        return self._spool

    def _keep(self, item: Settle, known: Reservation, error: StorageError) -> NoReturn:
        """Keep a settlement on disk that the store could not take."""
        spool = self._spool_file()
        if spool is None:
            raise error
        spool.keep(item, known)
        if self._replay_some not in self._alerts:
            self._alerts.append(self._replay_some)
        raise StorageError(
            f"{error}; the settlement of {known.id} is kept in {spool.path} and will be replayed",
            spooled=True,
        ) from error

    def replay_spool(self) -> int:
        """Settle what was spooled. Runs on open, and when the store has answered again.

        Returns:
            How many were settled.

        Raises:
            StorageError: The store fails again; what was not settled stays in the spool.
        """
        spool = self._spool_file()
        return 0 if spool is None else spool.replay(self._replay_one)

    def _replay_some(self) -> None:
        """Settle part of what was spooled, now that the store has answered; then the rest."""
        spool = self._spool_file()
        if spool is None:
            return
        try:
            if spool.replay(self._replay_one, limit=REPLAYED_MAX) < REPLAYED_MAX:
                return
        except StorageError as error:
            log.warning("the spool %s waits: %s", spool.path, error)
        self._alerts.append(self._replay_some)

    def _replay_one(self, item: Settle) -> None:
        answer = self.storage.resolve_one(item)
        if type(answer) is UsageEvent:
            return
        try:
            self._retried(item, answer)
        except StorageError:
            raise
        except FluxAIError as error:
            if isinstance(error, SettlementConflict) and "estimated" in item.event.flags:
                log.warning("a kept estimate came after the exact cost, which stands: %s", error)
                return
            self.rejected_settlements += 1
            raise

    def close(self) -> None:
        """Finish what is queued and let go of the store."""
        self.hops.close()
        if self._providers is not None:
            self._providers.close()
        if self.leases is not None:
            self.leases.close()
        self.storage.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _trace(reservation: Reservation, plan: Plan, traces: Sequence[Trace | None]) -> None:
    """Remember of a request what its settlement will teach, until then and in this process."""
    if reservation.state not in OPEN_STATES or reservation.trace is not None:
        return
    candidate = reservation.candidate
    model = candidate.model
    for found, trace in zip(plan.candidates, traces, strict=False):
        if found.tool == candidate.tool and model is not None and trace is not None:
            # Without tools every tenant's calls would teach one ratio, so only a conversation,
            # which is known by its content, is learned then.
            learned = trace if trace.tools else Trace(0, trace.conversation, 0.0)
            reservation.trace = (model, learned)


def _first(*tenants: str | None) -> str:
    return next(tenant for tenant in tenants if tenant is not None)


def _refuse(
    reservation: Reservation, plan: Plan, needs: Sequence[Need | None], why: str
) -> Reservation:
    """Make a refusal that no policy's numbers explain."""
    need = needs[0]
    assert need is not None  # noqa: S101 -- the requested tool always has a need
    reservation.candidate, reservation.need = unchecked(plan.candidates[0]), need
    reservation.amounts, reservation.output_tokens = (0, 0, 0, 0), 0
    reservation._balances, reservation.holds = None, None
    reservation.decision, reservation.state = "denied", "refused"
    reservation.extra = ReservationExtra(note=why)
    return reservation


def _tenant_of(item: Any) -> str:
    tenant: str = item.event.tenant if isinstance(item, Record) else item.tenant
    return tenant
