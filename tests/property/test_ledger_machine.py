"""Every store against the model, step by step: any verbs in any order, clocks, edits and crashes."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fluxai import (
    ApprovalConflict,
    Governor,
    IdempotencyConflict,
    Policy,
    ReservationNotFound,
    SettlementConflict,
    Tenant,
    Tool,
)
from fluxai import (
    Model as LanguageModel,
)
from fluxai.core.decisions import Reservation
from fluxai.core.ids import Uuid7Source, uuid_int
from fluxai.core.money import to_decimal, to_nano
from fluxai.core.windows import from_us
from fluxai.models import ModelRegistry
from fluxai.storage.base import Storage
from fluxai.storage.memory import MemoryStorage
from fluxai.storage.postgres import PostgresStorage
from fluxai.storage.sqlite import SqliteStorage
from fluxai.storage.supabase import SupabaseStorage
from fluxai.testing import FakeClock
from tests.property.crashes import Crash, crash_at_next_commit
from tests.property.ledger_model import (
    CHEAP,
    LARGE,
    PRICES,
    SECOND,
    SMALL,
    START,
    UNIT,
    UNITS,
    Call,
    Held,
    Model,
    Rule,
    Verdict,
    Who,
)
from tests.servers.ledger import Ledger, Project

T = TypeVar("T")
TENANTS = ("acme", "globex")
POLICIES = ("p1", "p2", "p3", "p4")
DIME = 100_000_000
WINDOWS = ("per_minute", "hourly", "daily", "weekly", "monthly")

someone = st.builds(
    Who,
    st.sampled_from(["acme", "acme", "acme", "globex"]),
    st.sampled_from([None, "alice", "bob"]),
    st.sampled_from([None, "red", "blue"]),
)
unit_calls = st.builds(Call, st.sampled_from([UNIT, UNIT, CHEAP]), st.integers(1, 4))
token_calls = st.builds(
    Call,
    st.sampled_from([LARGE, LARGE, SMALL]),
    st.just(1),
    st.sampled_from([0, 10, 50, 100]),
    st.sampled_from([None, None, 0, 50, 100, 300]),
)
calls = unit_calls | token_calls
costs = st.sampled_from([0, 1, DIME // 2, DIME, DIME, 3 * DIME, 12 * DIME])
ttls = st.sampled_from(["30s", "10m", "30m", "2h", "3d"])
picks = st.integers(0, 60)


@st.composite
def rules(draw: Any) -> Rule:
    """Draw a policy, mostly one that a few calls can cross."""
    scope = draw(st.sampled_from(["tenant", "tenant", "user", "tool", "label"]))
    scope_id = draw(
        st.sampled_from(
            {
                "tenant": [None],
                "user": [None, "alice"],
                "tool": [None, UNIT, LARGE],
                "label": [None, "team", "team=red"],
            }[scope]
        )
    )
    kind = draw(
        st.sampled_from(["total", "daily", "rolling", "concurrent", "per_request", *WINDOWS])
    )
    measure = draw(st.sampled_from(["cost", "cost", "tokens", "requests"]))
    if kind == "concurrent":
        measure, limit = "requests", draw(st.integers(0, 4))
    elif measure == "cost":
        limit = draw(st.integers(0, 24)) * DIME // 2
    else:
        limit = draw(st.integers(0, 8)) * (1 if measure == "requests" else 150)
    decision = draw(
        st.sampled_from(["require_approval", "deny", "downgrade", "deny", "downgrade", "allow"])
    )
    shrinks = decision == "deny" and measure != "requests" and draw(st.booleans())
    return Rule(
        id=draw(st.sampled_from(POLICIES)),
        tenant=draw(st.sampled_from(["acme", "acme", "*"])),
        scope=scope,
        scope_id=scope_id,
        kind=kind,
        measure=measure,
        limit=limit,
        decision=decision,
        fallback=draw(st.sampled_from([None, CHEAP, SMALL])) if decision == "downgrade" else None,
        shadow=draw(st.sampled_from([False] * 5 + [True])),
        priority=draw(st.sampled_from([0, 0, 1])),
        ring=draw(st.sampled_from([60, 3_600, 86_400, 1_001])) * SECOND if kind == "rolling" else 0,
        shrinks=shrinks,
    )


def policy_of(one: Rule) -> Policy:
    """Write a rule as the policy that people put."""
    return Policy(
        id=one.id,
        tenant_id=one.tenant,
        scope=one.scope,  # type: ignore[arg-type]
        scope_id=one.scope_id,
        limit_type=one.kind,  # type: ignore[arg-type]
        limit_value=to_decimal(one.limit) if one.measure == "cost" else Decimal(one.limit),
        measure=one.measure,  # type: ignore[arg-type]
        decision=one.decision,  # type: ignore[arg-type]
        fallback_tool_id=one.fallback,
        window=timedelta(microseconds=one.ring) if one.ring else None,
        mode="shadow" if one.shadow else "enforce",
        priority=one.priority,
        alert_at=(Decimal("0.5"), Decimal(1)),
        shrink_output=one.shrinks,
    )


def asked(call: Call, who: Who) -> dict[str, Any]:
    """Write a call as the arguments of `reserve`."""
    request: dict[str, Any] = {"tenant": who.tenant, "user": who.user}
    if who.team is not None:
        request["labels"] = {"team": who.team}
    if call.by_unit:
        return {**request, "tool": call.tool, "units": call.units}
    return {
        **request,
        "model": call.tool,
        "input_tokens": call.input,
        "max_output_tokens": call.cap,
    }


def seconds(text: str) -> int:
    """Read a duration such as `10m`, in microseconds."""
    return int(text[:-1]) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[text[-1]] * SECOND


class LedgerMachine(RuleBasedStateMachine):
    """Verbs in any order, on a governor and on the model."""

    storage: Storage

    def open_storage(self) -> Storage:
        """Open the store, or open it again."""
        raise NotImplementedError

    @initialize(settle=st.booleans(), first=st.lists(rules(), min_size=1, max_size=4))
    def begin(self, first: list[Rule], *, settle: bool) -> None:
        self.clock = FakeClock(START)
        self.alerts: list[Any] = []
        self.said: set[tuple[Any, ...]] = set()
        self.model = Model(START, settle_on_expiry=settle)
        self.names = itertools.count()
        self.keys: list[tuple[str, Call, Who]] = []
        self.ids = Uuid7Source(seed=7)
        self.open()
        for model in (LARGE, SMALL):
            price = Decimal(PRICES[model]) / 1_000
            self.governor.models.put(
                LanguageModel(
                    id=model,
                    provider="machine",
                    input_price=price,
                    output_price=price,
                    max_output=4_096,
                    context_window=1_000_000,
                )
            )
        for tool in UNITS:
            self.governor.tools.put(Tool(id=tool, cost_per_unit=to_decimal(PRICES[tool])))
        for one in first:
            self.put_policy(one)

    def open(self) -> None:
        """Open the store, and a governor on it."""
        self.use(self.open_storage())

    def use(self, storage: Storage) -> None:
        """Go on with a governor on this store; its clock is never behind what the store has seen."""
        if self.clock.now < from_us(self.model.now):
            self.clock.set(from_us(self.model.now))
        self.storage = storage
        self.governor = Governor(
            storage,
            clock=self.clock,
            sinks=[self.alerts.append],
            registry=ModelRegistry(),
            ids=self.ids,
            on_expiry="settle" if self.model.settle_on_expiry else "release",
        )

    def attempt(self, verb: Callable[[], T]) -> T:
        """Carry out a verb, and again where a crash took its answer."""
        try:
            return verb()
        except Crash:
            self.storage.close()
            self.open()
            return verb()

    def tick(self) -> None:
        """Take over the clock, as a governor does: never backwards."""
        self.model.now = max(self.model.now, self.clock.now_us())

    def pick(self, number: int) -> Held:
        """Choose a reservation, in whatever state, mostly a new one."""
        held = list(self.model.held.values())
        return held[-1 - number % len(held)] if number % 3 else held[number % len(held)]

    some_held = precondition(lambda self: self.model.held)
    some_asked = precondition(lambda self: any(h.approval for h in self.model.held.values()))

    # -- time and rules ---------------------------------------------------------------------

    @rule(
        by=st.sampled_from(
            ["1s", "29s", "1m", "9m", "30m", "1h", "11h", "1d", "8d", "31d", "hour", "day", "back"]
        ),
        off=st.integers(-1, 1),
    )
    def move_clock(self, by: str, off: int) -> None:
        """Forwards, to the edge of a window, or back."""
        now = max(self.clock.now, from_us(self.model.now))
        whole = now.replace(minute=0, second=0, microsecond=0)
        match by:
            case "hour":
                self.clock.set(whole + timedelta(hours=1, microseconds=off))
            case "day":
                self.clock.set(whole.replace(hour=0) + timedelta(days=1, microseconds=off))
            case "back":
                self.clock.advance(timedelta(hours=-10 * abs(off) - 1))
            case _:
                self.clock.advance(by)

    @rule(one=rules())
    def put_policy(self, one: Rule) -> None:
        self.tick()
        if one.scope == "tool" and one.scope_id is not None and one.fallback == one.scope_id:
            return
        self.attempt(lambda: self.governor.policies.put(policy_of(one)))
        self.model.rules[one.id] = one

    @rule(change=st.sampled_from([*POLICIES, "UTC", "America/New_York", "Asia/Tokyo"]))
    def change_rules(self, change: str) -> None:
        """Delete a policy, or move the tenant to another time zone."""
        self.tick()
        if change not in POLICIES:
            self.attempt(lambda: self.governor.tenants.put(Tenant(id="acme", timezone=change)))
            self.model.zones["acme"] = change
        elif self.model.rules.pop(change, None) is not None:
            self.attempt(lambda: self._delete(change))

    def _delete(self, name: str) -> None:
        if self.governor.policies.list(id=name):
            self.governor.policies.delete(name)

    # -- reserve ----------------------------------------------------------------------------

    def compare(self, answer: Reservation, verdict: Verdict) -> None:
        """Hold an answer against the model's verdict."""
        assert answer.decision == verdict.decision, answer.message
        assert answer.final_tool == verdict.tool
        assert answer.max_output_tokens in (None, verdict.output)
        assert answer.amounts[:3] == tuple(verdict.amounts.values())
        assert [one.policy_id for one in answer.reasons if one.acted] == verdict.acted

    @rule(call=unit_calls, who=someone, ttl=ttls, times=st.integers(1, 5), keyed=st.booleans())
    def reserve_units(self, call: Call, who: Who, ttl: str, times: int, *, keyed: bool) -> None:
        for _ in range(times):
            self.reserve(call, who, ttl, keyed=keyed)

    @rule(call=token_calls, who=someone, ttl=ttls, times=st.integers(1, 4), keyed=st.booleans())
    def reserve_tokens(self, call: Call, who: Who, ttl: str, times: int, *, keyed: bool) -> None:
        for _ in range(times):
            self.reserve(call, who, ttl, keyed=keyed)

    def reserve(self, call: Call, who: Who, ttl: str, *, keyed: bool) -> None:
        """Reserve once, and hold the answer against the model's."""
        self.tick()
        key = f"key {next(self.names)}" if keyed or self.may_crash() else None
        request = {**asked(call, who), "ttl": ttl, "idempotency_key": key}
        verdict = self.model.decide(call, who)
        answer = self.attempt(lambda: self.governor.reserve(**request))
        self.name_events()
        self.compare(answer, verdict)
        if verdict.decision == "denied":
            assert answer.state == "refused"
            return
        self.model.hold(answer.id, call, who, verdict, seconds(ttl), key)
        if key is not None:
            self.keys.append((key, call, who))
        if answer.allowed:
            self.assert_within(call, who, answer)

    def assert_within(self, call: Call, who: Who, answer: Reservation) -> None:
        """No reserve took an enforced deny limit above its limit, by the store's own figures."""
        for budget in self.governor.budgets(who.tenant):
            one = self.model.rules[budget.policy_id]
            value = one.value(who, answer.final_tool)
            if one.decision == "deny" and not one.shadow and value == (budget.scope_id or value):
                asks = answer.amounts[0] if one.measure == "cost" else None
                if asks != 0:
                    assert budget.settled + budget.reserved <= budget.limit

    def may_crash(self) -> bool:
        """Whether the next commit may bring the process down."""
        return False

    @precondition(lambda self: self.keys)
    @rule(number=picks, other=calls, same=st.booleans())
    def repeat_key(self, number: int, other: Call, *, same: bool) -> None:
        self.tick()
        key, call, who = self.keys[number % len(self.keys)]
        held = self.model.known(who.tenant, key)
        if not same:
            call = other
        request = {**asked(call, who), "idempotency_key": key}
        if held is not None and call != held.call:
            try:
                answer = self.attempt(lambda: self.governor.reserve(**request))
            except IdempotencyConflict:
                return
            raise AssertionError(f"{answer} under a key that named another call")
        if held is not None:
            answer = self.attempt(lambda: self.governor.reserve(**request))
            assert (answer.id, answer.state) == (held.id, held.state)
            return
        verdict = self.model.decide(call, who)
        answer = self.attempt(lambda: self.governor.reserve(**request))
        self.name_events()
        self.compare(answer, verdict)
        if verdict.decision != "denied":
            self.model.hold(answer.id, call, who, verdict, 1_800 * SECOND, key)

    # -- resolve ----------------------------------------------------------------------------

    @some_held
    @rule(
        number=picks,
        cost=costs,
        estimated=st.booleans(),
        by=st.sampled_from(["id", "object", "json"]),
    )
    def settle(self, number: int, cost: int, *, estimated: bool, by: str) -> None:
        self.tick()
        held = self.pick(number)
        late = held.state != "reserved"
        first = held.state != "settled"
        expected = self.model.settle(held, cost, estimated=estimated, correction="")
        known: Reservation | str = held.id
        if by != "id":
            found = self.storage.find(held.who.tenant, uuid_int(held.id))
            assert found is not None
            known = found if by == "object" else Reservation.from_json(found.to_json())
        try:
            settled = self.attempt(
                lambda: self.governor.settle(known, cost=to_decimal(cost), estimated=estimated)
            )
        except SettlementConflict:
            assert expected == "conflict"
            return
        assert to_nano(settled.cost, signed=True) == expected
        if first:
            assert ("late" in settled.flags) is late
            assert settled.overrun is (cost > held.amounts["cost"])
        self.name_events()

    @some_held
    @rule(number=picks, ttl=st.none() | ttls)
    def release_or_extend(self, number: int, ttl: str | None) -> None:
        self.tick()
        held = self.pick(number)
        if ttl is None:
            self.release(held)
        else:
            self.extend(held, ttl)

    def release(self, held: Held) -> None:
        expected = self.model.release(held)
        try:
            released = self.attempt(lambda: self.governor.release(held.id, tenant=held.who.tenant))
        except SettlementConflict:
            assert expected == "conflict"
        else:
            assert released.state == expected

    def extend(self, held: Held, ttl: str) -> None:
        expected = self.model.extend(held, seconds(ttl))
        try:
            extended = self.attempt(lambda: self.governor.extend(held.id, ttl=ttl))
        except ReservationNotFound:
            assert expected != "reserved"
        else:
            assert extended.expires_us == held.expires

    @some_held
    @rule(number=picks, verb=st.sampled_from(["settle", "release", "extend", "approve"]))
    def name_the_wrong_tenant(self, number: int, verb: str) -> None:
        held = self.pick(number)
        other = "globex" if held.who.tenant == "acme" else "acme"
        doors: dict[str, Callable[[], Any]] = {
            "settle": lambda: self.governor.settle(held.id, cost=1, tenant=other),
            "release": lambda: self.governor.release(held.id, tenant=other),
            "extend": lambda: self.governor.extend(held.id, ttl="1h", tenant=other),
            "approve": lambda: self.governor.approvals.approve(held.id, by="eve", tenant=other),
        }
        try:
            answer = self.attempt(doors[verb])
        except LookupError:
            return
        raise AssertionError(f"{other} got {answer}")

    @rule()
    def expire(self) -> None:
        self.tick()
        expected = self.model.expire()
        done = self.attempt(lambda: self.governor.expire())
        # After a crash that came too late to undo it, the repeat found nothing left to do.
        assert done in (expected, (0, 0))
        self.name_events()

    # -- approvals --------------------------------------------------------------------------

    @some_asked
    @rule(
        number=picks,
        ways=st.lists(
            st.sampled_from(["approve", "approve", "reject", "run"]), min_size=1, max_size=3
        ),
        other=st.none() | calls,
    )
    def answer(self, number: int, ways: list[str], other: Call | None) -> None:
        """Approve, reject or run what waits, in any order."""
        self.tick()
        waiting = [held for held in self.model.held.values() if held.approval is not None]
        held = waiting[-1 - number % len(waiting)]
        for way in ways:
            if way == "run":
                self.run(held, held.call if other is None else other)
            else:
                verb = getattr(self.model, way)
                self.expect(
                    verb(held),
                    lambda way=way: getattr(self.governor.approvals, way)(held.id, by="eve"),
                )

    def expect(self, expected: str, verb: Callable[[], Any]) -> None:
        """Give an answer to an approval, and hold the outcome against the model's."""
        try:
            approval = self.attempt(verb)
        except ApprovalConflict:
            assert expected == "conflict"
        else:
            assert approval.state == expected

    def run(self, held: Held, call: Call) -> None:
        if self.may_crash():
            return  # a run whose answer is lost is lost: it can't be told from a second one
        request = {**asked(call, held.who), "approval_id": held.id, "ttl": "10m"}
        answer = self.governor.reserve(**request)
        if call != held.call:
            self.model._lapse(held)  # looked at, and refused
            assert not answer.allowed
            return
        expected = self.model.run(held, seconds("10m"))
        if expected == "conflict":
            assert answer.state == "refused"
        elif expected == "pending":
            assert (answer.id, answer.decision) == (held.id, "pending_approval")
        else:
            assert answer.allowed
            assert (answer.id, answer.final_tool) == (held.id, held.tool)

    # -- money from elsewhere ---------------------------------------------------------------

    @rule(
        who=someone,
        tool=st.sampled_from([UNIT, CHEAP, LARGE]),
        cost=costs,
        ago=st.sampled_from([0, 0, 30, 3_000, 80_000, 700_000]),
    )
    def record(self, who: Who, tool: str, cost: int, ago: int) -> None:
        self.tick()
        name = f"event {next(self.names)}"
        at = None if ago == 0 else from_us(self.model.now) - timedelta(seconds=ago)
        request = {key: value for key, value in asked(Call(UNIT), who).items() if key != "units"}
        request |= {"tool": tool, "cost": to_decimal(cost), "at": at, "id": name}
        for _ in range(2):
            recorded = self.attempt(lambda: self.governor.record(**request))
            assert to_nano(recorded.cost) == cost
        try:
            self.governor.record(**{**request, "cost": to_decimal(cost + 1)})
        except IdempotencyConflict:
            pass
        else:
            raise AssertionError("an id that named another event was taken")
        self.model.record(name, who, tool, cost, self.model.now - ago * SECOND)

    @precondition(lambda self: self.model.events)
    @rule(number=picks, amount=st.sampled_from([-DIME, -1, 0, 1, 5 * DIME]))
    def adjust(self, number: int, amount: int) -> None:
        self.tick()
        event = self.model.events[-1 - number % len(self.model.events)]
        name = f"fix {next(self.names)}"
        for _ in range(2):
            adjusted = self.attempt(
                lambda: self.governor.adjust(
                    event.id,
                    to_decimal(amount),
                    reason="because",
                    by="eve",
                    id=name,
                    tenant=event.who.tenant,
                )
            )
            assert to_nano(adjusted.cost, signed=True) == amount
        self.model.adjust(name, event, amount)

    def name_events(self) -> None:
        """Learn the ids that the store gave to corrections."""
        for event, stored in zip(self.model.events, self.stored_events(), strict=True):
            if not event.id:
                event.id = stored.id

    def stored_events(self) -> list[Any]:
        return self.governor.events(limit=10_000)

    # -- what always holds ------------------------------------------------------------------

    @invariant()
    def sums_are_proved(self) -> None:
        report = self.governor.verify()
        assert report.ok, report.differences

    @invariant()
    def balances_are_the_models(self) -> None:
        self.tick()
        for tenant in TENANTS:
            for budget in self.governor.budgets(tenant):
                one = self.model.rules[budget.policy_id]
                settled, reserved = self.model.sums(one, tenant, budget.scope_id or tenant)
                if budget.measure == "cost":
                    found = (to_nano(budget.settled, signed=True), to_nano(budget.reserved))
                else:
                    found = (int(budget.settled), int(budget.reserved))
                assert found == (settled, reserved), budget

    @invariant()
    def states_are_the_models(self) -> None:
        found = {one.id: one.state for one in self.governor.reservations(limit=10_000)}
        assert found == {held.id: held.state for held in self.model.held.values()}
        asked_for = {one.id: one.state for one in self.governor.approvals.list()}
        assert asked_for == {
            held.id: held.approval for held in self.model.held.values() if held.approval
        }

    @invariant()
    def events_are_the_models(self) -> None:
        found = [
            (to_nano(one.cost, signed=True), one.tokens, one.requests, one.tenant, one.tool)
            for one in self.stored_events()
        ]
        expected = [
            (one.cost, one.tokens, one.requests, one.who.tenant, one.tool)
            for one in self.model.events
        ]
        assert sorted(found) == sorted(expected)
        for tenant in TENANTS:
            start, end = from_us(self.model.now - 10**14), from_us(self.model.now + 10**13)
            summed = self.governor.usage(tenant, start=start, end=end)
            mine = [one for one in self.model.events if one.who.tenant == tenant]
            assert to_nano(summed.total_cost, signed=True) == sum(one.cost for one in mine)
            assert summed.total_tokens == sum(one.tokens for one in mine)
            assert summed.total_units == sum(one.requests for one in mine)

    @invariant()
    def no_alert_is_said_twice(self) -> None:
        while self.alerts:
            alert = self.alerts.pop()
            mark = (alert.key, alert.policy_id, alert.share)
            assert mark not in self.said
            self.said.add(mark)

    @invariant()
    def usage_adds_up_over_any_stretch(self) -> None:
        self.tick()
        for ago, span in ((0, 1), (3_600, 4_000), (80_000, 200_000)):
            end = self.model.now - ago * SECOND
            start = end - span * SECOND
            for tenant in TENANTS:
                summed = self.governor.usage(tenant, start=from_us(start), end=from_us(end))
                assert to_nano(summed.total_cost, signed=True) == sum(
                    one.cost
                    for one in self.model.events
                    if one.who.tenant == tenant and start <= one.counted < end
                )

    def teardown(self) -> None:
        if hasattr(self, "storage"):
            self.storage.close()


class MemoryMachine(LedgerMachine):
    """The memory store; what a process has in memory does not survive it."""

    def open_storage(self) -> Storage:
        return MemoryStorage()


class SqliteMachine(LedgerMachine):
    """The SQLite store, with crashes around its commits, and others who write the same file."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.armed = False
        self.others: list[Storage] = []

    def open_storage(self) -> Storage:
        self.armed = False
        return SqliteStorage(f"{self.folder}/ledger.db")

    def may_crash(self) -> bool:
        return self.armed

    @rule(way=st.sampled_from(["before", "after", "before", "after", "again", "hand over", "back"]))
    def change_process(self, way: str) -> None:
        """A process dies around its next commit, ends well, or another one takes over."""
        if self.armed:
            return
        match way:
            case "before" | "after":
                self.armed = True
                crash_at_next_commit(self.storage, before=way == "before")
            case "again":
                self.storage.close()
                self.open()
            case "hand over":
                self.others.append(self.storage)
                self.open()
            case _ if self.others:
                # The first one goes on, with whatever it remembers.
                self.others.append(self.storage)
                self.use(self.others.pop(0))

    def teardown(self) -> None:
        super().teardown()
        for other in self.others:
            other.close()
        shutil.rmtree(self.folder)


class ServerMachine(LedgerMachine):
    """A store on a database server, whose processes have connections of their own and no memory."""

    def __init__(self, ledger: Ledger, open_one: Callable[[], Storage]) -> None:
        super().__init__()
        ledger.empty()
        self.open_one = open_one
        self.others: list[Storage] = []

    def open_storage(self) -> Storage:
        return self.open_one()

    @rule(way=st.sampled_from(["again", "hand over", "back"]))
    def change_process(self, way: str) -> None:
        """A process ends, or another one takes over."""
        match way:
            case "again":
                self.storage.close()
                self.open()
            case "hand over":
                self.others.append(self.storage)
                self.open()
            case _ if self.others:
                # The first one goes on, with whatever it remembers.
                self.others.append(self.storage)
                self.use(self.others.pop(0))

    def teardown(self) -> None:
        super().teardown()
        for other in self.others:
            other.close()


def run_on_server(ledger: Ledger, open_one: Callable[[], Storage], *, least: int) -> None:
    """Run the machine on a server: the `least` examples, or a fortieth where the profile has many."""
    profile = settings()
    fewer = settings(
        profile,
        max_examples=max(least, profile.max_examples // 40),
        # Each step is some forty calls of the server.
        suppress_health_check=[*profile.suppress_health_check, HealthCheck.too_slow],
    )
    run_state_machine_as_test(lambda: ServerMachine(ledger, open_one), settings=fewer)  # type: ignore[no-untyped-call]


TestMemoryMachine = MemoryMachine.TestCase
TestSqliteMachine = SqliteMachine.TestCase
if settings.get_current_profile_name() == "ci":
    # Every commit waits for the disk. `python3 -m tests long` runs all examples.
    TestSqliteMachine.settings = settings(settings(), max_examples=40)


@pytest.mark.hypothesis
def test_postgres(ledger: Ledger) -> None:
    """The PostgreSQL store agrees with the model."""
    run_on_server(ledger, lambda: PostgresStorage(ledger.url, pool_size=2), least=10)


@pytest.mark.hypothesis
def test_supabase(project: Project) -> None:
    """So does the Supabase store, whose SQL is the same, through its REST server."""
    api = project.api
    run_on_server(project, lambda: SupabaseStorage(api.url, key=api.service_key), least=5)
