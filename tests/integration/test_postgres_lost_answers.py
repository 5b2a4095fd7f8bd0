"""The server commits, and its answer is lost: the verb is tried again, and nothing is doubled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fluxai.core.decisions import Approval, Reservation
from fluxai.core.windows import HOUR_US
from fluxai.storage.base import Adjust, Approve, Change, Claim, Extend, NeedPlan, Reject, Release
from fluxai.storage.postgres import PostgresStorage
from tests.integration.test_sqlite_like_memory import shape
from tests.servers.tcp_proxy import TcpProxy
from tests.unit.storage.making import CENT, NOON_US, USD, Limit, Maker, plan_for

LIMITS = [
    Limit(amount=USD),
    Limit(amount=USD, kind=f"rolling:{HOUR_US}"),
    Limit(amount=9, kind="concurrent"),
]
ASKING = [*LIMITS, Limit(amount=0, scope="user", decision="require_approval")]
#: More than any verb needs.
ROUND_TRIPS_MAX = 8
LATER_US = NOON_US + HOUR_US


class Scene:
    """One verb's stage: a reservation of each kind, made before the fault."""

    def __init__(self, store: PostgresStorage) -> None:
        self.store = store
        self.maker = Maker(1)
        self.plan, self.asking = plan_for(LIMITS), plan_for(ASKING)

    def held(self) -> Reservation:
        """Hold a cent."""
        (held,) = self.store.reserve([self.maker.ask(self.plan)])
        assert held.state == "reserved"
        return held

    def pending(self) -> Reservation:
        """Hold a cent that waits for an approval."""
        (held,) = self.store.reserve([self.maker.ask(self.asking, digest="d")])
        assert held.state == "pending"
        return held

    def approved(self) -> Reservation:
        """Hold a cent that was approved."""
        held = self.pending()
        (answer,) = self.store.resolve([self.approve(held)])
        assert isinstance(answer, Approval)
        return held

    def approve(self, held: Reservation) -> Approve:
        """Say yes."""
        return Approve(**named(held), by="boss", expires_us=LATER_US, plan=self.asking)


def named(held: Reservation) -> dict[str, Any]:
    """Name a reservation."""
    return {"tenant": "acme", "uid": held.uid, "at_us": NOON_US}


Verb = Callable[[], Any]


def reserve(scene: Scene) -> Verb:
    """Hold."""
    ask = scene.maker.ask(scene.plan, key="k", digest="d")
    return lambda: scene.store.reserve_one(ask)


def reserve_pending(scene: Scene) -> Verb:
    """Hold, and wait for an approval."""
    ask = scene.maker.ask(scene.asking)
    return lambda: scene.store.reserve_one(ask)


def resolving(make: Callable[[Scene], Any]) -> Callable[[Scene], Verb]:
    """Resolve one item."""

    def prepare(scene: Scene) -> Verb:
        item = make(scene)
        return lambda: scene.store.resolve_one(item)

    return prepare


def settle_late(scene: Scene) -> Any:
    """Settle what was released."""
    held = scene.held()
    scene.store.resolve([Release(**named(held))])
    item = scene.maker.settle(held)
    assert isinstance(scene.store.resolve_one(item), NeedPlan)
    return item._replace(plan=scene.plan, correction_uid=scene.maker.new_id(NOON_US))


def settle_exactly(scene: Scene) -> Any:
    """Settle exactly what was settled by an estimate."""
    held = scene.held()
    scene.store.resolve([scene.maker.settle(held, 3 * CENT, flags=("estimated",))])
    uid = scene.maker.new_id(NOON_US)
    return scene.maker.settle(held, 2 * CENT, plan=scene.plan, correction_uid=uid)


def settle_lost(scene: Scene) -> Any:
    """Settle a reservation that the store never had."""
    held = scene.held()
    empty(scene.store)
    return scene.maker.settle(held, plan=scene.plan)


def adjust(scene: Scene) -> Any:
    """Correct an event."""
    scene.store.resolve([scene.maker.record(scene.plan, "first")])
    return Adjust(
        tenant="acme",
        event_key="first",
        key="second",
        at_us=NOON_US,
        cost_nanousd=-CENT,
        note="why",
        outcome=-CENT,
        plan=scene.plan,
    )


def claim(scene: Scene) -> Any:
    """Take what was approved."""
    held = scene.approved()
    return Claim(**named(held), digest="d", claim="one", expires_us=LATER_US)


def claim_after(scene: Scene) -> Any:
    """Go on with a run that was taken."""
    held = scene.approved()
    scene.store.resolve([Claim(**named(held), digest="d", claim="one", expires_us=LATER_US)])
    return Claim(**named(held), digest="d", claim="two", expires_us=LATER_US, after="one")


def change(scene: Scene) -> Verb:
    """Change a record."""
    put = Change(kind="policy", scope="acme", id="p", body={"id": "p"})

    def verb() -> Any:
        scene.store.apply([put])
        return scene.store.rules("acme").policies

    return verb


VERBS: dict[str, Callable[[Scene], Verb]] = {
    "reserve": reserve,
    "reserve, to be approved": reserve_pending,
    "settle": resolving(lambda scene: scene.maker.settle(scene.held())),
    "settle an overrun": resolving(lambda scene: scene.maker.settle(scene.held(), 4 * CENT)),
    "settle what is pending": resolving(lambda scene: scene.maker.settle(scene.pending())),
    "settle late": resolving(settle_late),
    "settle exactly": resolving(settle_exactly),
    "release": resolving(lambda scene: Release(**named(scene.held()))),
    "extend": resolving(lambda scene: Extend(**named(scene.held()), expires_us=LATER_US)),
    "record": resolving(lambda scene: scene.maker.record(scene.plan, "event")),
    "adjust": resolving(adjust),
    "approve": resolving(lambda scene: scene.approve(scene.pending())),
    "reject": resolving(lambda scene: Reject(**named(scene.pending()), by="b", reason="no")),
    "claim": resolving(claim),
    "claim after another": resolving(claim_after),
    "apply": change,
}


@pytest.fixture
def proxied(ledger_url: str, postgres_proxy: TcpProxy, open_store: Any) -> PostgresStorage:
    """Return a store that reaches its database through the proxy."""
    return open_store(postgres_proxy.through(ledger_url), pool_size=1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", VERBS)
def test_an_answer_that_is_lost_is_given_again(
    name: str, open_store: Any, proxied: PostgresStorage, postgres_proxy: TcpProxy
) -> None:
    """Whichever of its answers a verb loses, it answers as if it had lost none, and acts once."""
    undisturbed = Scene(open_store())
    expected = shape(VERBS[name](undisturbed)())
    sums = kept(undisturbed.store)
    for lost in range(ROUND_TRIPS_MAX):
        scene = Scene(proxied)
        empty(scene.store)
        verb = VERBS[name](scene)
        before = postgres_proxy.losses
        postgres_proxy.lose_answer(after=lost)
        answer = verb()
        postgres_proxy.heal()
        assert without_numbers(shape(answer)) == without_numbers(expected)
        assert kept(scene.store) == sums
        report = scene.store.verify()
        assert report.ok, report.differences
        if postgres_proxy.losses == before:
            assert lost > 0, "no answer was lost"
            return
    pytest.fail("a verb has more round trips than were thought")


def test_an_expiry_whose_answer_is_lost_expires_once(
    proxied: PostgresStorage, postgres_proxy: TcpProxy
) -> None:
    """What expired is expired, and charged once; only the counts of the lost answer are gone."""
    scene = Scene(proxied)
    scene.held()
    postgres_proxy.lose_answer()
    assert tuple(proxied.expire(LATER_US, limit=9, on_expiry="settle")) == (0, 0)
    assert [event.cost_nanousd for event in proxied.events()] == [CENT]
    assert proxied.retries == 1
    assert proxied.verify().ok


def test_a_change_whose_answer_is_lost_is_not_taken_for_somebody_elses(
    proxied: PostgresStorage, postgres_proxy: TcpProxy
) -> None:
    """A change from an expected version succeeds when its first try did."""
    put = Change(kind="policy", scope="acme", id="p", body={"id": "p"})
    postgres_proxy.lose_answer()
    proxied.apply([put], expected_version=(0, 0))
    assert proxied.version("acme") == (0, 1)
    assert proxied.rules("acme").policies == ({"id": "p"},)


def kept(store: PostgresStorage) -> Any:
    """Show what is in the ledger."""
    keys = [*plan_for(ASKING).first.keys]
    rows = [tuple(row[1:]) for row in store.balances(keys, NOON_US)]
    events = [(event.cost_nanousd, event.flags) for event in store.events()]
    return rows, events, sorted(one.state for one in store.reservations())


def without_numbers(answer: Any) -> Any:
    """Leave the numbers of events out: a try that was rolled back takes some."""
    if isinstance(answer, list):
        return [without_numbers(part) for part in answer]
    return {**answer, "seq": 0} if isinstance(answer, dict) and "seq" in answer else answer


def empty(store: PostgresStorage) -> None:
    """Take everything out of the database, and forget what the store knows of it."""
    from tests.integration.test_postgres_like_memory import EMPTY

    with store.engine.connect() as connection:
        connection.exec_driver_sql(EMPTY)
    store._known_plans.clear()
    store._fired.clear()
