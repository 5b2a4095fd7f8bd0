"""The storage protocol itself: batches, repeats by id, stale plans, and what reads may not do."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from fluxai.core.decisions import Reservation, UsageEvent
from fluxai.core.errors import StorageError
from fluxai.core.ids import Uuid7Source
from fluxai.core.ledger import Subject
from fluxai.core.windows import MAX_US
from fluxai.storage.base import (
    Adjust,
    Change,
    Conflict,
    Extend,
    NeedPlan,
    Release,
    Settle,
    Stale,
    Storage,
    Unknown,
)
from fluxai.testing.contract.case import Case
from fluxai.testing.contract.plans import (
    HOUR_US,
    NOON_US,
    UNCHANGED,
    cost_of,
    counter_key,
    make_ask,
    make_candidate,
    make_check,
    make_plan,
    one_limit,
    record_of,
    settle_at,
)

DOLLAR = 1_000_000_000
DIME = DOLLAR // 10


def ids() -> Iterator[int]:
    """Make ids in order."""
    source = Uuid7Source()
    while True:
        yield source(NOON_US)


def held_at(storage: Storage, tenant: str) -> tuple[int, int]:
    """Read the (settled, reserved) of a tenant's total counter."""
    (balance,) = storage.balances([(counter_key(tenant), MAX_US)], NOON_US)
    return balance.settled, balance.reserved


class Verbs(Case):
    """What every store answers to the protocol's verbs."""

    @pytest.fixture
    def tenant(self) -> str:
        """Return the name of a tenant that has no rules."""
        return f"tenant-{uuid.uuid4()}"

    def test_a_batch_is_decided_item_by_item(self, storage: Storage, tenant: str) -> None:
        """Items of one batch see each other's holds; a refused one leaves the sums untouched."""
        plan, uids = one_limit(tenant, DOLLAR // 2), ids()
        costs = [DIME, 9 * DIME, DIME, DIME, 3 * DIME, DIME, DIME, DIME]
        answers = storage.reserve([make_ask(plan, next(uids), cost_of(cost)) for cost in costs])
        decisions = [answer.decision for answer in answers if isinstance(answer, Reservation)]
        assert decisions == [
            "allowed",
            "denied",
            *["allowed"] * 2,
            "denied",
            *["allowed"] * 2,
            "denied",
        ]
        assert held_at(storage, tenant) == (0, 5 * DIME)

    def test_an_item_that_changes_nothing_shifts_none_behind_it(
        self, storage: Storage, tenant: str
    ) -> None:
        """Of a batch that begins with a refusal, or a repeat, each item gets what is its own."""
        plan, uids = one_limit(tenant, DOLLAR), ids()
        asks = [make_ask(plan, next(uids), cost_of(cost)) for cost in (11 * DIME, DIME, 2 * DIME)]
        refused, *held = storage.reserve(asks)
        assert isinstance(refused, Reservation)
        assert refused.decision == "denied"
        for reservation, cost in zip(held, (DIME, 2 * DIME), strict=True):
            assert isinstance(reservation, Reservation)
            found = storage.find(tenant, reservation.uid)
            assert found is not None
            assert (found.final_tool, found.amounts[0]) == ("tool", cost)
        first, second = (one for one in held if isinstance(one, Reservation))
        storage.resolve_one(settle_at(first, DIME))
        storage.resolve([settle_at(first, DIME), settle_at(second, 3 * DIME)])
        for reservation, cost in ((first, DIME), (second, 3 * DIME)):
            event = storage.find_event(tenant, reservation.uid)
            assert event is not None
            assert (event.cost_nanousd, event.source.final_tool) == (cost, "tool")
        assert held_at(storage, tenant) == (4 * DIME, 0)

    def test_an_id_is_held_once(self, storage: Storage, tenant: str) -> None:
        """The repeat of a reserve whose answer was lost gets that answer, and holds no more."""
        plan, uids = one_limit(tenant, DOLLAR), ids()
        # The first uses of a plan may take another way through the code than later ones.
        for number in range(1, 4):
            uid = next(uids)
            for _ in range(3):
                answer = storage.reserve_one(make_ask(plan, uid, cost_of(DIME)))
                assert isinstance(answer, Reservation)
                assert (answer.uid, answer.state) == (uid, "reserved")
            assert held_at(storage, tenant) == (0, number * DIME)

    def test_an_id_that_has_ended_is_not_held_again(self, storage: Storage, tenant: str) -> None:
        """A repeat that comes after the settlement is answered with the settled state."""
        plan, uids = one_limit(tenant, DOLLAR), ids()
        for _ in range(3):
            held = storage.reserve_one(make_ask(plan, next(uids), cost_of(DIME)))
            assert isinstance(held, Reservation)
            storage.resolve_one(settle_at(held, DIME))
            again = storage.reserve_one(make_ask(plan, held.uid, cost_of(DIME)))
            assert isinstance(again, Reservation)
            assert again.state == "settled"
        assert held_at(storage, tenant) == (3 * DIME, 0)

    def test_repeats_within_one_batch_share_one_answer(self, storage: Storage, tenant: str) -> None:
        """Duplicates of an id, or of a key, in one batch hold once."""
        plan, uids = one_limit(tenant, DOLLAR), ids()
        uid = next(uids)
        by_id = storage.reserve([make_ask(plan, uid, cost_of(DIME)) for _ in range(3)])
        by_key = storage.reserve(
            [make_ask(plan, next(uids), cost_of(DIME), key="k", digest="d") for _ in range(3)]
        )
        for answers in (by_id, by_key):
            assert len({answer.uid for answer in answers if isinstance(answer, Reservation)}) == 1
        assert held_at(storage, tenant) == (0, 2 * DIME)
        held = by_id[0]
        assert isinstance(held, Reservation)
        storage.resolve([settle_at(held, DIME // 2) for _ in range(3)])
        assert held_at(storage, tenant) == (DIME // 2, DIME)

    def test_an_id_with_other_arguments_is_a_conflict(self, storage: Storage, tenant: str) -> None:
        """What the caller said is compared on repeats, by id and by key."""
        plan, uids = one_limit(tenant, DOLLAR), ids()
        uid = next(uids)
        storage.reserve_one(make_ask(plan, uid, cost_of(DIME), digest="one"))
        storage.reserve_one(make_ask(plan, next(uids), cost_of(DIME), key="k", digest="one"))
        by_id = storage.reserve_one(make_ask(plan, uid, cost_of(DIME), digest="two"))
        by_key = storage.reserve_one(
            make_ask(plan, next(uids), cost_of(DIME), key="k", digest="two")
        )
        for answer in (by_id, by_key):
            assert isinstance(answer, Conflict)
            assert answer.error == "IdempotencyConflict"
        assert held_at(storage, tenant) == (0, 2 * DIME)

    def test_a_batch_of_resolutions_is_carried_out_one_by_one(
        self, storage: Storage, tenant: str
    ) -> None:
        """Each item is whole or nothing; refusals among them are answers and stop nobody."""
        plan, uids = one_limit(tenant, DOLLAR), ids()
        answers = storage.reserve([make_ask(plan, next(uids), cost_of(DIME)) for _ in range(4)])
        held = [answer for answer in answers if isinstance(answer, Reservation)]
        done = storage.resolve(
            [
                settle_at(held[0], DIME),
                settle_at(held[0], 2 * DIME),
                Release(tenant=tenant, uid=held[1].uid, at_us=NOON_US),
                Release(tenant="another", uid=held[2].uid, at_us=NOON_US),
                Extend(
                    tenant=tenant, uid=held[2].uid, at_us=NOON_US, expires_us=NOON_US + 9 * HOUR_US
                ),
                record_of(plan, "e", 3 * DIME),
                record_of(plan, "e", 3 * DIME),
                record_of(plan, "e", 4 * DIME),
            ]
        )
        kinds = [
            UsageEvent,
            Conflict,
            Reservation,
            Unknown,
            Reservation,
            UsageEvent,
            UsageEvent,
            Conflict,
        ]
        assert [type(answer) for answer in done] == kinds
        assert held_at(storage, tenant) == (4 * DIME, 2 * DIME)

    def test_a_plan_of_other_rules_is_stale(self, storage: Storage, tenant: str) -> None:
        """A store holds nothing by rules that it has no more: it names the version it has."""
        plan, uids = one_limit(tenant, DOLLAR), ids()
        held = storage.reserve_one(make_ask(plan, next(uids), cost_of(DIME)))
        assert isinstance(held, Reservation)
        for scope, version in ((tenant, (0, 1)), ("*", (1, 1))):
            storage.apply([Change(kind="policy", scope=scope, id="p", body={"id": "p"})])
            assert storage.version(tenant) == version
            answer = storage.reserve_one(make_ask(plan, next(uids), cost_of(DIME)))
            assert answer == Stale(version)
            assert storage.resolve_one(record_of(plan, "e", DIME)) == Stale(version)
        assert held_at(storage, tenant) == (0, DIME)
        fresh = one_limit(tenant, DOLLAR, version=(1, 1))
        assert isinstance(
            storage.reserve_one(make_ask(fresh, next(uids), cost_of(DIME))), Reservation
        )
        # A settle never waits for that.
        assert isinstance(storage.resolve_one(settle_at(held, DIME)), UsageEvent)
        assert held_at(storage, tenant) == (DIME, DIME)

    def test_a_late_settlement_asks_for_the_plan_of_its_windows(
        self, storage: Storage, tenant: str
    ) -> None:
        """What is held nowhere any more can be counted only where a plan says; nothing is lost."""
        plan, uids = one_limit(tenant, DOLLAR), ids()
        held = storage.reserve_one(make_ask(plan, next(uids), cost_of(DIME)))
        assert isinstance(held, Reservation)
        storage.resolve_one(Release(tenant=tenant, uid=held.uid, at_us=NOON_US))
        assert isinstance(storage.resolve_one(settle_at(held, DIME)), NeedPlan)
        assert held_at(storage, tenant) == (0, 0)
        old = one_limit(tenant, DOLLAR, version=(7, 7))
        assert storage.resolve_one(settle_at(held, DIME, plan=old)) == Stale(UNCHANGED)
        settled = storage.resolve_one(settle_at(held, DIME, plan=plan))
        assert isinstance(settled, UsageEvent)
        assert "late" in settled.flags
        assert held_at(storage, tenant) == (DIME, 0)

    def test_a_name_without_a_reservation_is_unknown(self, storage: Storage, tenant: str) -> None:
        """Only whoever holds the reservation itself can bring its cost in."""
        uid = next(ids())
        event = settle_at(_held_elsewhere(tenant, uid), DIME).event
        event.source = record_of(one_limit(tenant, DOLLAR), "e", DIME).event.source
        assert isinstance(storage.resolve_one(Settle(tenant, uid, event)), Unknown)
        correction = Adjust(
            tenant=tenant,
            event_key=uid,
            key="fix",
            at_us=NOON_US,
            cost_nanousd=DIME,
            note="because",
            outcome="fix",
        )
        assert storage.resolve_one(correction) == Unknown("event", uid)
        assert isinstance(
            storage.resolve_one(Release(tenant=tenant, uid=uid, at_us=NOON_US)), Unknown
        )
        assert storage.find(tenant, uid) is None

    def test_looking_makes_no_counters(self, storage: Storage, tenant: str) -> None:
        """Reading a balance that nothing was held in leaves no row behind."""
        assert held_at(storage, tenant) == (0, 0)
        assert storage.accounts(tenant, "tenant", "cost", "total", NOON_US) == []
        assert storage.verify().counters == 0

    def test_the_fallback_is_held_in_one_step(self, storage: Storage, tenant: str) -> None:
        """A downgrade is decided under the same locks, and holds in its own counters alone."""
        dear, cheap = (
            counter_key(tenant, "dear", scope="tool"),
            counter_key(tenant, "cheap", scope="tool"),
        )
        total = counter_key(tenant)
        move = make_check("move", limit=DIME, decision="downgrade", fallback=1, rank=(0, 0, 2, "m"))
        plan = make_plan(
            Subject(tenant),
            make_candidate([move, make_check(limit=DOLLAR, slot=1)], [dear, total], tool="dear"),
            make_candidate(
                [make_check(limit=DOLLAR, slot=1)], [cheap, total], index=1, tool="cheap"
            ),
        )
        needs, uids = (cost_of(DIME), cost_of(DIME // 2)), ids()
        answers = storage.reserve([make_ask(plan, next(uids), needs) for _ in range(3)])
        assert [answer.final_tool for answer in answers if isinstance(answer, Reservation)] == [
            "dear",
            "cheap",
            "cheap",
        ]
        read = storage.balances([(dear, MAX_US), (cheap, MAX_US), (total, MAX_US)], NOON_US)
        assert [balance.reserved for balance in read] == [DIME, DIME, 2 * DIME]

    def test_rules_change_together_or_not_at_all(self, storage: Storage, tenant: str) -> None:
        """Changes made from an older version are refused, and leave everything as it was."""
        first = Change(kind="policy", scope=tenant, id="p", body={"id": "p", "n": 1})
        storage.apply([first], expected_version=UNCHANGED)
        second = Change(kind="policy", scope=tenant, id="p", body={"id": "p", "n": 2})
        with pytest.raises(StorageError):
            storage.apply([second], expected_version=UNCHANGED)
        assert storage.version(tenant) == (0, 1)
        assert storage.rules(tenant).policies == ({"id": "p", "n": 1},)

    def test_an_id_that_is_to_be_the_only_one_is_not_put_beside_another(
        self, storage: Storage, tenant: str
    ) -> None:
        """It is looked for and put in one step; a scope's own record is replaced as ever."""
        own = Change(kind="policy", scope=tenant, id="p", body={"id": "p", "n": 1}, sole=True)
        storage.apply([own])
        storage.apply([own])
        besides = Change(kind="policy", scope="other", id="q", body={"id": "q"})
        for scope in ("other", "*"):
            taken = Change(kind="policy", scope=scope, id="p", body={"id": "p"}, sole=True)
            with pytest.raises(StorageError):
                storage.apply([besides, taken])
        assert storage.records("policy") == [{"id": "p", "n": 1}]
        assert storage.version("other") == (0, 0)
        storage.apply([Change(kind="user", scope="other", id="p", body={"id": "p"}, sole=True)])

    def test_records_are_kept_by_kind_scope_and_id(self, storage: Storage) -> None:
        """Records are put, replaced, read by any of their places, and deleted."""
        for kind, scope, name in (("user", "a", "x"), ("user", "b", "x"), ("tool", "*", "x")):
            body = {"id": name, "scope": scope}
            storage.apply([Change(kind=kind, scope=scope, id=name, body=body)])
        assert storage.records("user", scope="b") == [{"id": "x", "scope": "b"}]
        assert len(storage.records("user", id="x")) == 2
        assert len(storage.records("user", limit=1)) == 1
        storage.apply([Change(kind="user", scope="b", id="x", body=None)])
        assert storage.records("user", scope="b") == []
        assert storage.records("tool", scope="*", id="x") == [{"id": "x", "scope": "*"}]

    def test_amounts_up_to_the_ceiling_add_up_exactly(self, storage: Storage, tenant: str) -> None:
        """A thousand million dollars, and a billionth of one, are kept to the nano-USD."""
        most = 10**18
        plan, uids = one_limit(tenant, 3 * most), ids()
        for cost in (most, most, 1, most - 1):
            held = storage.reserve_one(make_ask(plan, next(uids), cost_of(cost)))
            assert isinstance(held, Reservation)
            storage.resolve_one(settle_at(held, cost))
        assert held_at(storage, tenant) == (3 * most, 0)
        refused = storage.reserve_one(make_ask(plan, next(uids), cost_of(1)))
        assert isinstance(refused, Reservation)
        assert refused.decision == "denied"


def _held_elsewhere(tenant: str, uid: int) -> Reservation:
    """Make a reservation that this store never saw."""
    reservation = make_ask(one_limit(tenant, DOLLAR), uid, cost_of(DIME)).reservation
    reservation.candidate = one_limit(tenant, DOLLAR).candidates[0]
    reservation.need = cost_of(DIME)
    reservation.amounts = (DIME, 0, 1, 1)
    reservation.output_tokens = 0
    reservation.holds = None
    return reservation
