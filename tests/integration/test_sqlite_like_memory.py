"""The SQLite store against the memory store: the same steps, the same answers, the same sums."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from fluxai.core.decisions import Approval, Reservation, UsageEvent
from fluxai.core.ledger import CounterFilter
from fluxai.core.windows import DAY_US, HOUR_US, MINUTE_US
from fluxai.storage.base import (
    Adjust,
    Approve,
    Ask,
    Change,
    Claim,
    Extend,
    NeedPlan,
    Reject,
    Release,
    Settle,
)
from fluxai.storage.memory import MemoryStorage
from fluxai.storage.sqlite import SqliteStorage
from tests.unit.storage.making import CENT, NOON_US, TTL_US, USD, Limit, Maker, plan_for

if TYPE_CHECKING:
    from fluxai.core.ledger import CounterKey, Plan

LIMITS = [
    Limit(amount=USD),
    Limit(amount=60 * CENT, scope="user"),
    Limit(amount=90 * CENT, scope="tool", kind="total"),
    Limit(amount=70 * CENT, scope="label", value="run=1", kind="total"),
    Limit(amount=4, scope="user", kind="concurrent"),
    Limit(amount=50 * CENT, kind=f"rolling:{HOUR_US}"),
    Limit(amount=100, measure="tokens", scope="user", kind="per_minute"),
    Limit(amount=30 * CENT, scope="user", decision="require_approval"),
    Limit(amount=40 * CENT, decision="allow", alert_at=((40 * CENT, "1.0"),)),
    Limit(amount=12, measure="requests", scope="tool", kind=f"rolling:{DAY_US}"),
]
AHEAD_US = [0, 1, MINUTE_US, 10 * MINUTE_US, HOUR_US]
BACK_US = [0, 0, MINUTE_US, DAY_US, 5 * DAY_US]

subjects = st.tuples(
    st.sampled_from([None, "", "alice", "bob"]),
    st.sampled_from([(), (("run", "1"),), (("run", "1"), ("team", "x"))]),
    st.sampled_from(["model-a", "tool-b"]),
)
cents = st.integers(0, 15)
digests = st.sampled_from([None, "d", "e"])
_Subject = tuple[str | None, tuple[tuple[str, str], ...], str]
#: A reservation as each store returned it: memory's, SQLite's.
_Pair = tuple[Reservation, Reservation]


def shape(answer: Any) -> Any:
    """Show an answer in a form that doesn't depend on the store."""
    if isinstance(answer, Reservation):
        approval = shape(answer.extra.approval) if answer.extra is not None else None
        row = answer.to_dict()
        if answer.state != "refused":
            # Digests and keys of reservations without them are kept in different places.
            row["hold"].update(key=None, digest=None)
        return [row, answer.amounts, approval]
    if isinstance(answer, UsageEvent):
        return [answer.to_dict(), answer.seq, answer.at_us]
    if isinstance(answer, Approval):
        return repr(answer)
    return "needs a plan" if isinstance(answer, NeedPlan) else answer


class LikeMemory(RuleBasedStateMachine):
    """Drives a memory store and two stores on one SQLite file through the same steps."""

    held = Bundle("held")
    recorded = Bundle("recorded")
    folder: tempfile.TemporaryDirectory[str] | None = None

    def __init__(self) -> None:
        super().__init__()
        self.memory = MemoryStorage()
        self.files = self.open_stores()
        for file in self.files:
            file.migrate()
        self.maker = Maker(1)
        self.at_us = NOON_US
        self.limits = LIMITS[:4]
        self.version = (0, 0)
        self.keys: dict[CounterKey, int] = {}
        self.steps = 0
        self.ticks = 0

    def open_stores(self) -> tuple[Any, Any]:
        """Open two stores on one file, or on what a subclass compares."""
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "ledger.db"
        return SqliteStorage(path), SqliteStorage(path)

    def teardown(self) -> None:
        """Let go of the file."""
        for file in self.files:
            file.close()
        if self.folder is not None:
            self.folder.cleanup()

    # -- helpers ----------------------------------------------------------------------------

    def plan(self, subject: _Subject, at_us: int) -> Plan:
        """Compile a plan from the rules as they are."""
        user, labels, tool = subject
        plan = plan_for(
            self.limits, user=user, labels=labels, tool=tool, at_us=at_us, version=self.version
        )
        self.keys.update(plan.candidates[0].keys)
        return plan

    def tick(self) -> int:
        """Return a few microseconds more each time: which of two holds ends first is not left open."""
        self.ticks += 1
        return self.ticks

    def ask(self, plan: Plan, cost: int, tick: int, ttl_us: int = TTL_US, **options: Any) -> Ask:
        """Make an ask."""
        ask = self.maker.ask(plan, cost, at_us=self.at_us, ttl_us=ttl_us + tick, **options)
        return ask._replace(approval_expires_us=ask.approval_expires_us + tick)

    def file(self) -> Any:
        """Return one of the stores on the file, by turns."""
        self.steps += 1
        return self.files[self.steps % 2]

    def both(self, step: Callable[[Any, int], Any]) -> tuple[Any, Any]:
        """Take one step in each store (0: memory, 1: SQLite) and compare the answers."""
        one, two = step(self.memory, 0), step(self.file(), 1)
        assert shape(one) == shape(two)
        return one, two

    def resolve(self, make: Callable[[int], Any]) -> None:
        """Resolve an item in each store, with a plan where it is asked for."""
        correction_uid = self.maker.new_id(self.at_us)

        def step(store: Any, side: int) -> Any:
            item = make(side)
            answer = store.resolve_one(item)
            if not isinstance(answer, NeedPlan):
                return answer
            source = answer.source
            counted_us = item.at_us if isinstance(item, Approve) else source.counted_us
            subject = (source.subject.user, source.subject.labels, source.final_tool)
            plan = self.plan(subject, counted_us)
            if isinstance(item, Settle):
                item = item._replace(plan=plan, correction_uid=correction_uid)
            else:
                item.plan = plan
            return store.resolve_one(item)

        self.both(step)

    # -- steps ------------------------------------------------------------------------------

    @rule(ahead_us=st.sampled_from(AHEAD_US))
    def time_goes_on(self, ahead_us: int) -> None:
        """Move the clock."""
        self.at_us += ahead_us

    @rule(
        target=held,
        subject=subjects,
        cents=cents,
        key=st.sampled_from([None, None, "k", "l"]),
        digest=digests,
        ttl_us=st.sampled_from([MINUTE_US, HOUR_US]),
    )
    def reserve(
        self, subject: _Subject, cents: int, key: str | None, digest: str | None, ttl_us: int
    ) -> _Pair | None:
        """Ask for a hold."""
        uid, tick = self.maker.new_id(self.at_us), self.tick()

        def step(store: Any, _: int) -> Any:
            return store.reserve_one(
                self.ask(
                    self.plan(subject, self.at_us),
                    cents * CENT,
                    tick,
                    uid=uid,
                    key=key,
                    digest=digest,
                    ttl_us=ttl_us,
                )
            )

        pair = self.both(step)
        return pair if isinstance(pair[0], Reservation) else None

    @rule(subjects=st.lists(subjects, min_size=2, max_size=6), cents=cents)
    def reserve_many(self, subjects: list[_Subject], cents: int) -> None:
        """Ask for several holds in one batch."""
        uids = [(self.maker.new_id(self.at_us), self.tick()) for _ in subjects]

        def step(store: Any, _: int) -> Any:
            asks = [
                self.ask(self.plan(subject, self.at_us), cents * CENT, tick, uid=uid)
                for subject, (uid, tick) in zip(subjects, uids, strict=True)
            ]
            return [shape(answer) for answer in store.reserve(asks)]

        self.both(step)

    @rule(
        pair=held,
        cents=cents,
        flags=st.sampled_from([(), (), ("estimated",)]),
        by_id=st.booleans(),
        outcome=st.sampled_from([None, "x", (1, None)]),
    )
    def settle(
        self,
        pair: _Pair | None,
        cents: int,
        flags: tuple[str, ...],
        outcome: object,
        *,
        by_id: bool,
    ) -> None:
        """Settle, again, late, or exactly after an estimate."""
        if pair is not None and pair[0].state != "refused":
            self.resolve(
                lambda side: self.maker.settle(
                    pair[side],
                    cents * CENT,
                    at_us=self.at_us,
                    flags=flags,
                    by_id=by_id,
                    outcome=outcome,
                )
            )

    @rule(pair=held, by=st.sampled_from(["release", "extend", "approve", "reject"]))
    def answer(self, pair: _Pair | None, by: str) -> None:
        """Release, extend, approve or reject."""
        if pair is None:
            return
        named = {"tenant": "acme", "uid": pair[0].uid, "at_us": self.at_us}
        until_us = self.at_us + HOUR_US + self.tick()
        items: dict[str, Callable[[int], Any]] = {
            "release": lambda _: Release(**named),
            "extend": lambda _: Extend(**named, expires_us=until_us),
            "approve": lambda _: Approve(**named, by="boss", expires_us=until_us),
            "reject": lambda _: Reject(**named, by="boss", reason="no"),
        }
        self.resolve(items[by])

    @rule(
        pair=held,
        digest=digests,
        claim=st.sampled_from(["one", "two"]),
        after=st.sampled_from([None, "one", "two"]),
    )
    def claim(self, pair: _Pair | None, digest: str | None, claim: str, after: str | None) -> None:
        """Take an approved reservation for its run, or go on with that."""
        if pair is not None:
            until_us = self.at_us + HOUR_US + self.tick()
            self.resolve(
                lambda _: Claim(
                    tenant="acme",
                    uid=pair[0].uid,
                    at_us=self.at_us,
                    digest=digest or "",
                    claim=claim,
                    expires_us=until_us,
                    after=after,
                )
            )

    @rule(
        target=recorded,
        subject=subjects,
        name=st.integers(0, 9),
        cents=cents,
        back_us=st.sampled_from(BACK_US),
        model=st.sampled_from([None, "model-a", "model-b"]),
    )
    def record(
        self, subject: _Subject, name: int, cents: int, back_us: int, model: str | None
    ) -> str:
        """Enter money that was spent, now or days ago."""
        counted_us = self.at_us - back_us
        self.resolve(
            lambda _: self.maker.record(
                self.plan(subject, counted_us),
                f"record {name}",
                cents * CENT,
                at_us=self.at_us,
                counted_us=counted_us,
                model=model,
            )
        )
        return f"record {name}"

    @rule(event=recorded, name=st.integers(0, 9), cents=st.integers(-9, 9))
    def adjust(self, event: str, name: int, cents: int) -> None:
        """Correct an event."""
        self.resolve(
            lambda _: Adjust(
                tenant="acme",
                event_key=event,
                key=f"adjustment {name}",
                at_us=self.at_us,
                cost_nanousd=cents * CENT,
                note="why",
                outcome=(event, cents),
            )
        )

    @rule(limit=st.sampled_from([1, 100]), on_expiry=st.sampled_from(["release", "settle"]))
    def expire(self, limit: int, on_expiry: str) -> None:
        """End what is overdue."""
        self.both(lambda store, _: store.expire(self.at_us, limit=limit, on_expiry=on_expiry))

    @rule(limits=st.lists(st.sampled_from(LIMITS), min_size=1, max_size=5, unique=True))
    def change_the_rules(self, limits: list[Limit]) -> None:
        """Apply other limits; counters that none of them reads are dropped."""
        self.limits = limits
        unfed = [
            CounterFilter(scope=limit.scope, measure=limit.measure, kinds=(limit.kind,))
            for limit in set(LIMITS) - set(limits)
        ]
        change = Change(kind="policy", scope="acme", id="p", body={"step": self.steps})

        def step(store: Any, _: int) -> Any:
            store.apply([change], unfed=unfed)
            return store.version("acme"), store.rules("acme").policies

        self.version = self.both(step)[0][0]

    # -- what always holds ------------------------------------------------------------------

    @invariant()
    def balances_are_equal(self) -> None:
        """Every counter that was ever planned for stands the same in both."""
        keys = list(self.keys.items())
        self.both(lambda store, _: store.balances(keys, self.at_us))

    @precondition(lambda self: self.steps % 4 == 0)
    @invariant()
    def everything_is_equal(self) -> None:
        """Events, reservations and usage are the same, and the file proves itself."""
        self.both(lambda store, _: [shape(event) for event in store.events(limit=1000)])
        self.both(lambda store, _: [shape(one) for one in store.reservations(limit=1000)])
        for start_us, end_us in [(0, 2 * NOON_US), (NOON_US - DAY_US, NOON_US + 90 * MINUTE_US)]:
            self.both(
                lambda store, _, start_us=start_us, end_us=end_us: sorted(
                    repr(row) for row in store.usage("acme", start_us, end_us) if row.events
                )
            )
        for file in self.files:
            report = file.verify()
            assert report.ok, report.differences


TestLikeMemory = LikeMemory.TestCase
