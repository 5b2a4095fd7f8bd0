"""What the SQLite store keeps, and gives back to any process that opens the file."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fluxai.core.decisions import Approval, Reservation, UsageEvent
from fluxai.core.errors import InvalidRequest, StorageError
from fluxai.core.ids import uuid_text
from fluxai.core.ledger import CounterFilter
from fluxai.core.usage import Usage
from fluxai.core.windows import DAY_US, HOUR_US, MINUTE_US
from fluxai.storage.base import (
    Adjust,
    Approve,
    Change,
    Claim,
    Conflict,
    Extend,
    NeedPlan,
    Reject,
    Release,
    Settle,
    Stale,
    Unknown,
)
from fluxai.storage.items import with_outcome_text
from fluxai.storage.sqlite import ROWS_PER_TIDYING, SqliteStorage
from tests.unit.storage.making import CENT, NOON_US, TTL_US, USD, Limit, Maker, plan_for

if TYPE_CHECKING:
    from fluxai.core.ledger import Plan

RUN = (("run", "1"),)
EVERY_LIMIT = [
    Limit(amount=USD),
    Limit(amount=USD, scope="user"),
    Limit(amount=USD, scope="tool", kind="total"),
    Limit(amount=USD, scope="label", value="run=1", kind="total"),
    Limit(amount=USD, kind="total"),
    Limit(amount=100, measure="tokens", scope="user", kind="total"),
    Limit(amount=100, measure="requests", scope="tool", kind="per_minute"),
    Limit(amount=10, scope="user", kind="concurrent"),
    Limit(amount=USD, kind=f"rolling:{DAY_US}"),
    Limit(amount=USD, scope="label", value="run=1", kind=f"rolling:{HOUR_US}"),
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStorage]:
    """Open a store."""
    store = SqliteStorage(tmp_path / "ledger.db")
    store.migrate()
    yield store
    assert store.verify().ok
    store.close()


@pytest.fixture
def other(store: SqliteStorage) -> Iterator[SqliteStorage]:
    """Open the same file once more, as another process would."""
    other = SqliteStorage(store.url)
    other.migrate()
    yield other
    other.close()


@pytest.fixture
def maker() -> Maker:
    """Return a maker of asks."""
    return Maker()


def hold(store: SqliteStorage, maker: Maker, plan: Plan, cost: int = CENT, **more: Any) -> Any:
    """Reserve, and expect a reservation."""
    answer = store.reserve_one(maker.ask(plan, cost, **more))
    assert isinstance(answer, Reservation)
    return answer


def _with_outcome_text(item: Settle) -> Settle:
    return item._replace(event=with_outcome_text(item.event))


def sums(store: SqliteStorage, plan: Plan, at_us: int = NOON_US) -> list[tuple[int, int]]:
    """Read (settled, reserved) of every counter of a plan."""
    return [
        (balance.settled, balance.reserved)
        for balance in store.balances(plan.candidates[0].keys, at_us)
    ]


# -- what another process sees --------------------------------------------------------------


def test_a_reservation_can_be_explained_from_another_process(
    store: SqliteStorage, other: SqliteStorage, maker: Maker
) -> None:
    """Reasons, balances, message and all that a holder needs come back from the file."""
    plan = plan_for(
        [*EVERY_LIMIT, Limit(amount=CENT, decision="allow", alert_at=((CENT, "1.0"),))], labels=RUN
    )
    hold(store, maker, plan, 3 * CENT)
    held = hold(store, maker, plan, 2 * CENT, key="k", digest="d")
    found = other.find("acme", held.uid)
    assert found is not None
    assert found.to_dict() == held.to_dict()
    assert found.reasons == held.reasons != ()
    assert found.looked_at == held.looked_at
    assert found.remaining == held.remaining
    assert other.find(None, held.uid) is not None
    assert other.find("another", held.uid) is None
    assert other.find("acme", 5) is None


def test_a_settlement_comes_back_with_all_that_was_said(
    store: SqliteStorage, other: SqliteStorage, maker: Maker
) -> None:
    """Usage, flags, note, outcome and corrections of an event are kept exactly."""
    held = hold(store, maker, plan_for(labels=RUN), CENT)
    item = maker.settle(held, 2 * CENT, flags=("estimated",), outcome=(Usage(input=9), None))
    item.event.usage = Usage(input=9, requests={"search": 2}, provider_cost="0.5")
    settled = store.resolve_one(item)
    assert settled.flags == ("estimated", "overrun")
    exact = maker.settle(held, 3 * CENT, plan=plan_for(labels=RUN), correction_uid=77)
    corrected = store.resolve_one(exact)
    assert corrected.cost_nanousd == 3 * CENT
    found = other.find("acme", held.uid)
    assert found is not None
    assert found.event is not None
    assert found.event.to_dict() == settled.to_dict()
    assert found.extra is not None
    assert found.extra.exact is not None
    assert found.extra.exact.cost_nanousd == CENT
    assert [event.to_dict() for event in other.events()] == [
        settled.to_dict(),
        found.extra.exact.to_dict(),
    ]
    by_event = other.find_event(None, held.uid)
    assert by_event is not None
    assert by_event.to_dict() == settled.to_dict()


def test_repeats_are_recognised_from_another_process(
    store: SqliteStorage, other: SqliteStorage, maker: Maker
) -> None:
    """Ids, keys and outcomes are compared with what the file says."""
    plan = plan_for([Limit(amount=USD)])
    first = hold(store, maker, plan, key="k", digest="d")
    again = other.reserve_one(maker.ask(plan, key="k", digest="d"))
    assert isinstance(again, Reservation)
    assert again.uid == first.uid
    assert again.message == first.message
    conflict = other.reserve_one(maker.ask(plan, key="k", digest="another"))
    assert isinstance(conflict, Conflict)
    usage = Usage(input=3)
    settled = store.resolve_one(maker.settle(first, outcome=(usage, None)))
    assert other.resolve_one(maker.settle(first, outcome=(Usage(input=3), None))).id == settled.id
    assert isinstance(other.resolve_one(maker.settle(first, outcome=(usage, 1))), Conflict)
    recorded = store.resolve_one(maker.record(plan, "r"))
    assert other.resolve_one(maker.record(plan, "r")).seq == recorded.seq
    assert isinstance(other.resolve_one(maker.record(plan, "r", 5)), Conflict)
    assert len(store.events()) == 2


@pytest.mark.parametrize("as_text", [False, True])
def test_a_settlement_brings_a_lost_reservation_along(
    store: SqliteStorage, tmp_path: Path, maker: Maker, *, as_text: bool
) -> None:
    """Money that was charged is recorded where its reservation is unknown, explained as before."""
    elsewhere = SqliteStorage(tmp_path / "elsewhere.db")
    elsewhere.migrate()
    plan = plan_for([Limit(amount=USD), Limit(amount=5, scope="user")], labels=RUN)
    plan.candidates[0].checks[1].limit = USD
    held = hold(elsewhere, maker, plan, 3 * CENT, key="k", digest="d")
    elsewhere.close()
    known = Reservation.from_json(held.to_json()) if as_text else held
    item = maker.settle(known, 2 * CENT)
    assert isinstance(store.resolve_one(item), NeedPlan)
    # After another call in the same batch, whose plan must not be taken for its own.
    other = plan_for([Limit(amount=7 * USD, scope="user", kind="total")], user="bob")
    store._carry_out([maker.ask(other), _with_outcome_text(item._replace(plan=plan))])
    found = store.find("acme", held.uid)
    assert found is not None
    assert found.event is not None
    assert (found.state, found.event.flags) == ("settled", ("late",))
    assert found.looked_at == held.looked_at
    assert sums(store, plan) == [(2 * CENT, CENT), (2 * CENT, 0)]
    assert isinstance(store.resolve_one(maker.settle(known, 3 * CENT)), Conflict)
    by_id = maker.settle(known, by_id=True)._replace(uid=5)
    assert store.resolve_one(by_id) == Unknown("reservation", 5)


def test_a_key_is_forgotten_a_day_after_it_was_resolved(
    store: SqliteStorage, other: SqliteStorage, maker: Maker
) -> None:
    """After that the key stands for a new call."""
    plan = plan_for()
    first = hold(store, maker, plan, key="k", digest="d")
    store.resolve_one(maker.settle(first, at_us=NOON_US))
    same = hold(other, maker, plan, key="k", digest="d", at_us=NOON_US + DAY_US)
    fresh = hold(other, maker, plan, key="k", digest="d", at_us=NOON_US + DAY_US + 1)
    assert (same.uid == first.uid, fresh.uid == first.uid) == (True, False)
    assert hold(store, maker, plan, key="k", digest="d", at_us=NOON_US + 2 * DAY_US).uid == (
        fresh.uid
    )


def test_an_approval_lives_in_the_file(
    store: SqliteStorage, other: SqliteStorage, maker: Maker
) -> None:
    """One process asks, another approves, a third runs the call, and a fourth can't."""
    plan = plan_for([Limit(amount=CENT, decision="require_approval")])
    asked = hold(store, maker, plan, 2 * CENT, digest="d")
    assert asked.state == "pending"
    (waiting,) = other.approvals(state="pending")
    assert waiting == asked.extra.approval
    approve = Approve(
        tenant="acme", uid=asked.uid, at_us=NOON_US, by="boss", expires_us=NOON_US + TTL_US
    )
    assert isinstance(other.resolve_one(approve), NeedPlan)
    approve.plan = plan
    approved = other.resolve_one(approve)
    assert isinstance(approved, Approval)
    assert (approved.state, approved.by) == ("approved", "boss")

    def claim(who: str) -> Any:
        return store.resolve_one(
            Claim(
                tenant="acme",
                uid=asked.uid,
                at_us=NOON_US,
                digest="d",
                claim=who,
                expires_us=NOON_US + TTL_US,
            )
        )

    assert claim("third").allowed
    assert isinstance(claim("fourth"), Conflict)
    assert claim("third").uid == asked.uid
    (used,) = other.approvals(tenant="acme")
    assert (used.state, used.claim) == ("used", "third")
    rejected = hold(store, maker, plan, 2 * CENT, digest="e")
    no = Reject(tenant="acme", uid=rejected.uid, at_us=NOON_US, by="boss", reason="too dear")
    assert other.resolve_one(no).reason == "too dear"
    assert store.find("acme", rejected.uid).state == "released"  # type: ignore[union-attr]
    assert sums(other, plan) == [(0, 2 * CENT)]


@pytest.mark.parametrize("ending", ["release", "settle"])
def test_an_approval_ends_with_its_reservation(
    store: SqliteStorage, maker: Maker, ending: str
) -> None:
    """Once the money is given back or charged there is nothing left to approve."""
    plan = plan_for([Limit(amount=CENT, decision="require_approval")])
    asked = hold(store, maker, plan, 2 * CENT)
    if ending == "release":
        store.resolve_one(Release(tenant="acme", uid=asked.uid, at_us=NOON_US))
    else:
        store.resolve_one(maker.settle(asked, CENT))
    answer = store.resolve_one(
        Approve(
            tenant="acme",
            uid=asked.uid,
            at_us=NOON_US,
            by="boss",
            expires_us=NOON_US + TTL_US,
            plan=plan,
        )
    )
    assert isinstance(answer, Conflict)
    assert store.find("acme", asked.uid).state == f"{ending}d"  # type: ignore[union-attr]


def test_alerts_are_raised_once_across_processes(
    store: SqliteStorage, other: SqliteStorage, maker: Maker
) -> None:
    """A share is announced by the process that crossed it, once, and kept in the outbox."""
    plan = plan_for([Limit(amount=USD, alert_at=((50 * CENT, "0.5"), (80 * CENT, "0.8")))])
    hold(store, maker, plan, 40 * CENT)
    held = hold(other, maker, plan, 20 * CENT)
    hold(store, maker, plan, CENT)
    assert [alert.share for alert in store.notices.alerts] == []
    assert [alert.share for alert in other.notices.alerts] == ["0.5"]
    # Settled by its id alone, in a process that never saw its plan.
    store.resolve_one(maker.settle(held, 50 * CENT, by_id=True))
    assert [alert.share for alert in store.notices.alerts] == ["0.8"]
    first, second = other.outbox()
    assert (first[1].share, second[1].share) == ("0.5", "0.8")
    assert first[1] == other.notices.alerts[0]
    assert second[1].committed_units == 91 * CENT
    assert other.outbox(after=first[0], limit=5) == [second]


# -- counters -------------------------------------------------------------------------------


def test_a_counter_needed_later_opens_with_what_was_spent_and_held(
    store: SqliteStorage, other: SqliteStorage, maker: Maker
) -> None:
    """New limits see the events and open holds from before, and those settle there as well."""
    before = plan_for([Limit(amount=USD)], labels=RUN)
    for days in (0, 0, 1, 40):
        counted_us = NOON_US - days * DAY_US
        name = f"{days}-{len(store.events())}"
        store.resolve_one(maker.record(before, name, CENT, counted_us=counted_us))
    # Of others: no counter of ours may see them, except those of the tenant and the tool.
    store.resolve_one(maker.record(plan_for(user="bob"), "bob", CENT))
    store.resolve_one(maker.record(plan_for(tenant="another"), "another", CENT))
    store.resolve_one(maker.record(plan_for(user="bob", tool="model-b"), "tool", CENT))
    held = hold(store, maker, before, 5 * CENT)
    later = plan_for(EVERY_LIMIT, labels=RUN)
    # Days at UTC noon: this hour and minute hold what was counted at noon.
    expected = [
        (4 * CENT, 5 * CENT),
        (2 * CENT, 5 * CENT),
        (5 * CENT, 5 * CENT),
        (4 * CENT, 5 * CENT),
        (6 * CENT, 5 * CENT),
        (40, 10),
        (3, 1),
        (0, 1),
        (5 * CENT, 5 * CENT),
        (2 * CENT, 5 * CENT),
    ]
    assert sums(other, later) == expected
    assert sums(store, later) == expected, "looking opens nothing"
    one_more = hold(other, maker, later, CENT)
    other.resolve_one(Release(tenant="acme", uid=one_more.uid, at_us=NOON_US))
    assert sums(store, later) == expected
    assert store.verify().ok
    store.resolve_one(maker.settle(held, 7 * CENT))
    assert sums(other, later) == [
        (11 * CENT, 0),
        (9 * CENT, 0),
        (12 * CENT, 0),
        (11 * CENT, 0),
        (13 * CENT, 0),
        (50, 0),
        (4, 0),
        (0, 0),
        (12 * CENT, 0),
        (9 * CENT, 0),
    ]


def test_refusals_leave_no_counters_behind(store: SqliteStorage, maker: Maker) -> None:
    """Only a hold makes rows: a thousand strangers who are refused leave nothing."""
    for number in range(20):
        plan = plan_for([Limit(amount=0, scope="user")], user=f"stranger {number}")
        assert hold(store, maker, plan).state == "refused"
    assert store.verify().counters == 0
    assert store.reservations() == []


def test_counters_of_ended_windows_are_let_go(store: SqliteStorage, maker: Maker) -> None:
    """Limits per minute don't fill the file for ever; what was spent stays told by the events."""
    at_us = NOON_US
    limit = Limit(amount=USD, scope="user", kind="per_minute")
    first = plan_for([limit], at_us=at_us)
    pairs = 4 * ROWS_PER_TIDYING // 10
    for _ in range(pairs):
        at_us += MINUTE_US
        plan = plan_for([limit], at_us=at_us)
        store.resolve_one(maker.record(plan, uuid_text(maker.new_id(at_us)), CENT, at_us=at_us))
    assert store.verify().ok
    assert store.verify().counters < pairs / 2
    store.resolve_one(maker.record(first, "late", CENT, at_us=at_us, counted_us=NOON_US))
    assert sums(store, first, at_us) == [(CENT, 0)]
    (last,) = store.accounts("acme", "user", "cost", "per_minute", at_us)
    assert (last.key, last.settled) == (plan.candidates[0].keys[0][0], CENT)


def test_a_dropped_counter_opens_again_with_everything(
    store: SqliteStorage, other: SqliteStorage, maker: Maker
) -> None:
    """A policy that goes and comes back finds what was spent and held meanwhile."""
    limits = [Limit(amount=USD), Limit(amount=USD, scope="user")]
    held = hold(store, maker, plan_for(limits), 5 * CENT)

    change = Change(kind="policy", scope="acme", id="p", body={"tenant_id": "acme"})
    other.apply([change], unfed=[CounterFilter(scope="user")])
    version = other.version("acme")
    assert other.verify().counters == 1
    stale = store.reserve_one(maker.ask(plan_for(limits[:1]), CENT))
    assert stale == Stale(version)
    hold(store, maker, plan_for(limits[:1], version=version), CENT)
    store.resolve_one(maker.settle(held, 7 * CENT))
    assert sums(other, plan_for(limits)) == [(7 * CENT, CENT), (7 * CENT, CENT)]
    hold(other, maker, plan_for(limits, version=version), CENT)
    assert sums(store, plan_for(limits)) == [(7 * CENT, 2 * CENT), (7 * CENT, 2 * CENT)]


# -- rules ----------------------------------------------------------------------------------


def test_records_keep_their_order_and_raise_versions(
    store: SqliteStorage, other: SqliteStorage
) -> None:
    """What is put is read back at one version, by every process."""

    def put(scope: str, name: str, body: dict[str, Any] | None, kind: str = "policy") -> None:
        store.apply([Change(kind=kind, scope=scope, id=name, body=body)])

    put("acme", "b", {"n": 1})
    put("acme", "a", {"n": 2})
    put("*", "every", {"n": 3})
    put("acme", "b", {"n": 4})
    put("another", "x", {"n": 5})
    put("acme", "acme", {"name": "Acme"}, kind="tenant")
    rules = other.rules("acme")
    assert rules.version == other.version("acme") == (1, 4)
    assert rules.policies == ({"n": 3}, {"n": 4}, {"n": 2})
    assert rules.tenant == {"name": "Acme"}
    assert rules.grants == ()
    assert other.rules("*").policies == ({"n": 3},)
    assert other.rules("nobody").version == (1, 0)
    assert other.records("policy", scope="acme", id="a") == [{"n": 2}]
    assert len(other.records("policy")) == 4
    assert len(other.records("policy", limit=2)) == 2
    put("acme", "b", None)
    assert other.records("policy", scope="acme") == [{"n": 2}]


def test_a_change_to_rules_that_moved_on_changes_nothing(store: SqliteStorage) -> None:
    """Whoever read older rules is told, and may read again."""
    change = Change(kind="policy", scope="acme", id="p", body={"n": 1})
    store.apply([change], expected_version=(0, 0))
    newer = Change(kind="policy", scope="acme", id="p", body={"n": 2})
    with pytest.raises(StorageError, match="changed meanwhile"):
        store.apply([newer], expected_version=(0, 0))
    assert store.records("policy") == [{"n": 1}]
    assert store.version("acme") == (0, 1)
    store.apply([newer], expected_version=(0, 1))
    assert store.version("acme") == (0, 2)


# -- looking --------------------------------------------------------------------------------


def test_usage_adds_days_and_edges_and_tells_empty_from_none(
    store: SqliteStorage, maker: Maker
) -> None:
    """Sums over any stretch equal the events in it; no user is not the user with an empty name."""
    minutes = (0, 1, 59, 60, 719, 720, 721, 1439, 1440, 2879, 2880, 5000)
    users = (None, "", "0", "alice")
    models = (None, "", "0")
    midnight_us = NOON_US - NOON_US % DAY_US
    for number, minute in enumerate(minutes * 3):
        plan = plan_for(user=users[number % 4])
        at_us = midnight_us + minute * MINUTE_US
        item = maker.record(
            plan, f"e{number}", number, at_us=at_us, tokens=number, model=models[number % 3]
        )
        assert isinstance(store.resolve_one(item), UsageEvent)
    for start, end in [(0, 5001), (1, 1440), (60, 720), (1440, 2880), (719, 4999), (5, 5), (9, 3)]:
        start_us, end_us = midnight_us + start * MINUTE_US, midnight_us + end * MINUTE_US
        expected: dict[tuple[str | None, str | None], list[int]] = {}
        for event in store.events(limit=1000):
            if start_us <= event.source.counted_us < end_us:
                into = expected.setdefault((event.user, event.model), [0, 0, 0, 0])
                amounts = (event.cost_nanousd, event.tokens, event.requests, 1)
                into[:] = [have + more for have, more in zip(into, amounts, strict=True)]
        found = {
            (row.user, row.model): [row.cost_nanousd, row.tokens, row.requests, row.events]
            for row in store.usage("acme", start_us, end_us)
        }
        assert found == expected
    assert store.usage("another", 0, NOON_US * 2) == []


def test_lists_are_bounded_ordered_and_filtered(
    store: SqliteStorage, other: SqliteStorage, maker: Maker
) -> None:
    """Reservations and recent events come newest first, events oldest first, each up to a limit."""
    held = [
        hold(store, maker, plan_for(tenant=tenant, user=user), at_us=NOON_US + number * 1000)
        for number, (tenant, user) in enumerate(
            [("acme", "alice"), ("acme", "bob"), ("another", "alice"), ("acme", "alice")]
        )
    ]
    for number in (0, 2, 3):
        store.resolve_one(maker.settle(held[number], at_us=NOON_US + 5000))
    ids = [one.uid for one in held]
    assert [one.uid for one in other.reservations()] == ids[::-1]
    assert [one.uid for one in other.reservations(limit=2)] == ids[:1:-1]
    assert [one.uid for one in other.reservations(tenant="acme")] == [ids[3], ids[1], ids[0]]
    assert [one.uid for one in other.reservations(state="reserved")] == [ids[1]]
    assert [one.uid for one in other.reservations(state="settled", tenant="another")] == [ids[2]]
    assert all(one.event is not None for one in other.reservations(state="settled"))
    events = other.events()
    assert [event.key for event in events] == [ids[0], ids[2], ids[3]]
    assert [event.key for event in other.events(after=events[0].seq, limit=1)] == [ids[2]]
    assert [event.key for event in other.events(tenant="acme")] == [ids[0], ids[3]]
    everything = (NOON_US, NOON_US + DAY_US)
    recent = other.recent_events("acme", *everything, user=None, limit=5)
    assert [event.key for event in recent] == [ids[3], ids[0]]
    assert other.recent_events("acme", *everything, user="bob", limit=5) == []
    (last,) = other.recent_events("acme", *everything, user="alice", limit=1)
    assert last.key == ids[3]
    assert other.recent_events("acme", NOON_US + 4000, NOON_US + DAY_US, user=None, limit=5) == []


def test_expiry_ends_the_oldest_first(store: SqliteStorage, maker: Maker) -> None:
    """Overdue reservations are released or settled at what they would have cost."""
    plan = plan_for([Limit(amount=USD)])
    held = [hold(store, maker, plan, ttl_us=number) for number in (3, 1, 2, 9)]
    assert store.expire(NOON_US + 5, limit=2) == (2, 0)
    states = [store.find("acme", one.uid).state for one in held]  # type: ignore[union-attr]
    assert states == ["reserved", "expired", "expired", "reserved"]
    assert store.expire(NOON_US + 5, limit=10, on_expiry="settle") == (0, 1)
    settled = store.find("acme", held[0].uid)
    assert settled is not None
    assert settled.event is not None
    assert settled.event.flags == ("estimated", "expired")
    assert sums(store, plan) == [(CENT, CENT)]
    store.resolve_one(
        Extend(tenant="acme", uid=held[3].uid, at_us=NOON_US, expires_us=NOON_US + DAY_US)
    )
    assert store.expire(NOON_US + TTL_US, limit=10) == (0, 0)


def test_an_events_id_in_text_and_as_a_number_is_one_id(store: SqliteStorage, maker: Maker) -> None:
    """A recorded id that is written like a reservation's can't take its place."""
    plan = plan_for()
    held = hold(store, maker, plan)
    assert isinstance(store.resolve_one(maker.record(plan, held.id)), Conflict)
    adjust = Adjust(
        tenant="acme",
        event_key="r",
        key=held.id,
        at_us=NOON_US,
        cost_nanousd=-1,
        note="n",
        outcome=1,
        plan=plan,
    )
    store.resolve_one(maker.record(plan, "r"))
    assert isinstance(store.resolve_one(adjust), Conflict)
    settled = store.resolve_one(maker.settle(held))
    assert store.find_event("acme", held.id).seq == settled.seq  # type: ignore[union-attr]
    adjust.key, adjust.event_key = "mine", held.id
    corrected = store.resolve_one(adjust)
    assert (corrected.corrects, corrected.reservation_id) == (held.id, held.id)
    adjust.event_key = "missing"
    adjust.key = "other"
    assert store.resolve_one(adjust) == Unknown("event", "missing")


def test_accounts_show_a_rolling_window_as_it_is_now(store: SqliteStorage, maker: Maker) -> None:
    """What has left the window is not shown, though nobody has spent since."""
    plan = plan_for([Limit(amount=USD, scope="user", kind=f"rolling:{HOUR_US}")])
    store.resolve_one(maker.record(plan, "r"))
    kind = f"rolling:{HOUR_US}"
    (now,) = store.accounts("acme", "user", "cost", kind, NOON_US)
    (later,) = store.accounts("acme", "user", "cost", kind, NOON_US + 2 * HOUR_US)
    assert (now.settled, later.settled) == (CENT, 0)
    assert store.accounts("acme", "user", "cost", kind, NOON_US, limit=0) == []


def test_an_event_id_that_several_tenants_use_must_come_with_its_tenant(
    store: SqliteStorage, maker: Maker
) -> None:
    """Recorded ids are per tenant; nobody's money is moved by guessing."""
    store.resolve_one(maker.record(plan_for(), "inv-1"))
    found = store.find_event(None, "inv-1")
    assert found is not None
    assert found.tenant == "acme"
    store.resolve_one(maker.record(plan_for(tenant="another"), "inv-1"))
    with pytest.raises(InvalidRequest, match="several tenants"):
        store.find_event(None, "inv-1")
    found = store.find_event("another", "inv-1")
    assert found is not None
    assert found.tenant == "another"


def test_a_call_takes_about_a_kilobyte(store: SqliteStorage, maker: Maker) -> None:
    """What many calls were judged by is kept once, however many limits there are."""
    plan = plan_for(EVERY_LIMIT, labels=RUN)

    def size() -> int:
        with store._file.reading() as connection:
            (pages,) = connection.execute("PRAGMA page_count").fetchone()
            (page,) = connection.execute("PRAGMA page_size").fetchone()
        return int(pages * page)

    before, pairs = size(), 300
    for _ in range(pairs):
        held = hold(store, maker, plan, 0, tokens=0)
        store.resolve_one(maker.settle(held, 0, tokens=0))
    assert (size() - before) / pairs < 1_600


# -- transactions ---------------------------------------------------------------------------


def test_a_batch_is_one_transaction(store: SqliteStorage, maker: Maker) -> None:
    """Lists of items share one commit, and see what those before them did."""
    plan = plan_for([Limit(amount=3 * CENT)])
    before = store.commits
    answers = store.reserve([maker.ask(plan) for _ in range(5)])
    assert [getattr(answer, "state", None) for answer in answers] == (
        ["reserved"] * 3 + ["refused"] * 2
    )
    assert store.commits == before + 1
    held = [answer for answer in answers if isinstance(answer, Reservation) and answer.allowed]
    store.resolve([maker.settle(one, 0) for one in held])
    assert store.commits == before + 2
    assert store.reserve([]) == []
    assert sums(store, plan) == [(0, 0)]


def test_items_of_a_batch_see_what_those_before_them_did(
    store: SqliteStorage, maker: Maker
) -> None:
    """A counter that opens in the middle of a batch holds the batch's own events and holds."""
    bare, limited = plan_for(), plan_for([Limit(amount=3 * CENT, scope="user")])
    store.resolve([maker.record(bare, "one"), maker.record(limited, "two")])
    assert sums(store, limited) == [(2 * CENT, 0)]
    bare = plan_for(user="carol")
    limited = plan_for([Limit(amount=3 * CENT, scope="user")], user="carol")
    store.reserve([maker.ask(bare), maker.ask(limited)])
    assert sums(store, limited) == [(0, 2 * CENT)]
    others = plan_for([Limit(amount=CENT, scope="user", kind="total")], user="bob")
    bare = plan_for(user="bob")
    short, second = store.reserve([maker.ask(bare, ttl_us=1), maker.ask(others)])
    assert (short.state, second.state) == ("reserved", "refused")  # type: ignore[union-attr]
    late = NOON_US + 1
    short, second = store.reserve(
        [maker.ask(others, ttl_us=1, at_us=late), maker.ask(others, at_us=late + 1)]
    )
    assert (short.state, second.state) == ("expired", "reserved")  # type: ignore[union-attr]
    assert sums(store, others, late) == [(0, CENT)]


def test_a_batch_that_fails_leaves_its_asks_as_they_were(
    store: SqliteStorage, maker: Maker
) -> None:
    """After a rollback the same objects can be asked again, and are decided afresh."""
    plan = plan_for([Limit(amount=CENT, decision="require_approval")])
    ask = maker.ask(plan, 2 * CENT, digest="d")
    expires_us = ask.reservation.expires_us
    with pytest.raises(StorageError):
        store.reserve([ask, maker.ask(plan_for(user="\ud800"))])
    assert ask.reservation.expires_us == expires_us
    assert ask.reservation.extra is not None
    assert ask.reservation.extra.approval is None
    assert store.approvals() == []
    # Exactly as much as it asks for: what the failed batch counted must be forgotten as well.
    roomy = ask._replace(plan=plan_for([Limit(amount=2 * CENT)]))
    answer = store.reserve_one(roomy)
    assert answer is ask.reservation
    assert (answer.state, answer.expires_us) == ("reserved", expires_us)
    assert sums(store, plan) == [(0, 2 * CENT)]


def test_many_may_create_the_file_at_once(tmp_path: Path) -> None:
    """Whoever comes first makes the schema; the others find it."""
    stores = [SqliteStorage(tmp_path / "new.db") for _ in range(8)]
    start = threading.Barrier(len(stores))
    errors: list[BaseException] = []

    def migrate(store: SqliteStorage) -> None:
        start.wait()
        try:
            store.migrate()
        except BaseException as error:  # noqa: BLE001 -- asserted below
            errors.append(error)

    threads = [threading.Thread(target=migrate, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    maker, plan = Maker(), plan_for([Limit(amount=USD)])
    assert all(hold(store, maker, plan).allowed for store in stores)
    assert stores[0].verify().reservations == len(stores)
    for store in stores:
        store.close()


def test_the_file_can_be_read_with_the_sqlite_shell(store: SqliteStorage, maker: Maker) -> None:
    """Ids, amounts and labels are plain values that a person can query."""
    held = hold(store, maker, plan_for([Limit(amount=USD)], labels=RUN), CENT)
    store.resolve_one(maker.settle(held, 7))
    with sqlite3.connect(f"file:{store.url[10:]}?mode=ro", uri=True) as shell:
        assert shell.execute("SELECT id, user, tool, cost, labels FROM events").fetchall() == [
            (held.id, "alice", "model-a", 7, '{"run":"1"}')
        ]
        assert shell.execute(
            "SELECT state, scope, settled FROM reservations, counters"
        ).fetchall() == [("settled", "tenant", 7)]
        assert shell.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    shell.close()


def test_verify_finds_what_is_wrong(store: SqliteStorage, maker: Maker) -> None:
    """A sum that was tampered with is named, with what it should be."""
    plan = plan_for([Limit(amount=USD)])
    hold(store, maker, plan, CENT)
    store.resolve_one(maker.record(plan, "r", 5 * CENT))
    with store._file.writing() as connection:
        connection.execute("UPDATE counters SET settled = settled + 1, reserved = reserved - 2")
        connection.execute("UPDATE days SET cost = cost - 3")
    report = store.verify()
    assert not report.ok
    assert (report.counters, report.events, report.reservations) == (1, 1, 1)
    name = "acme/tenant/acme/cost/daily"
    assert [(one.expected, one.found) for one in report.differences if name in one.what] == [
        (5 * CENT, 5 * CENT + 1),
        (CENT, CENT - 2),
    ]
    (day,) = (one for one in report.differences if "day" in one.what)
    assert (day.expected, day.found) == (5 * CENT, 5 * CENT - 3)
    with store._file.writing() as connection:
        connection.execute("UPDATE counters SET settled = settled - 1, reserved = reserved + 2")
        connection.execute("UPDATE days SET cost = cost + 3")
