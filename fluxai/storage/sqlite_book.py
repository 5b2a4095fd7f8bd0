"""The ledger's verbs over one SQLite transaction.

Rows become objects when a verb asks for them, and objects become rows again in `flush`. In between
nothing is written, so a verb that refuses leaves nothing behind.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from fluxai.core.decisions import OPEN_STATES, SETTLED, Reservation, UsageEvent
from fluxai.core.errors import InvalidRequest
from fluxai.core.ids import uuid_int, uuid_text
from fluxai.core.ledger import CONCURRENT, Counter, CounterFilter, CounterKey, Plan
from fluxai.core.windows import DAY_US, MAX_US, MIN_US
from fluxai.storage.base import (
    Adjust,
    Ask,
    Balance,
    Change,
    Notices,
    Record,
    Refusal,
    Resolution,
    Settle,
    Version,
)
from fluxai.storage.book import Book, extra_of, opened, reaches_back_us, ring_of
from fluxai.storage.items import event_id
from fluxai.storage.judged import WrittenPlan, explain, judged_text, plan_text
from fluxai.storage.sqlite_rows import (
    ReservationRow,
    Row,
    alert_row,
    approval_of,
    approval_row,
    counter_of,
    counter_sums,
    event_of,
    event_row,
    reservation_changes,
    reservation_of,
    reservation_row,
)
from fluxai.storage.statements import load_statements

if TYPE_CHECKING:
    from fluxai.storage.sqlite_resident import Resident

#: Wider than all of time: everything is in one bucket.
ONE_BUCKET_US = MAX_US - MIN_US

_Place = tuple[str, int]


class SqliteBook(Book):
    """A view of the ledger that lives as long as one transaction.

    Args:
        connection: Inside a transaction.
        resident: What is known from earlier ones.
        settle_on_expiry: What a reserve does with overdue holds in its way.
        read_only: Nothing is ever written, whatever is computed on the way to an answer.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        resident: Resident,
        *,
        settle_on_expiry: bool = False,
        read_only: bool = False,
    ) -> None:
        self.notices = Notices()
        self._read_only = read_only
        self.settle_on_expiry = settle_on_expiry
        self._execute = connection.execute
        self._execute_many = connection.executemany
        self._sql = load_statements("sqlite_queries.sql")
        self._resident = resident
        #: What the ask at hand is judged by.
        self._plan: Plan | None = None
        #: Texts of plans that were read.
        self._plans: dict[int, str] = {}
        self._asked: set[int] = set()
        self._reservations: dict[_Place, Reservation] = {}
        #: The rows of those that were read.
        self._rows: dict[_Place, ReservationRow] = {}
        self._held: dict[_Place, Sequence[Counter]] = {}
        self._keys: dict[tuple[str, str], Reservation] = {}
        self._events: dict[tuple[str, str], UsageEvent] = {}
        #: Counters without a row, and those with one that verbs have got hold of.
        self._opened: dict[CounterKey, Counter] = {}
        self._touched: dict[int, Counter] = {}
        self._new: dict[_Place, tuple[Reservation, Plan | None]] = {}
        self._changed: dict[_Place, Reservation] = {}
        self._new_events: list[UsageEvent] = []
        self._alerts_written = 0

    # -- in and out -------------------------------------------------------------------------

    def prefetch(self, items: Iterable[Ask | Resolution]) -> None:
        """Load, in one statement, the reservations that a batch names."""
        uids: set[int] = set()
        for item in items:
            if isinstance(item, Ask):
                uids.add(item.reservation.uid)
            elif not isinstance(item, (Record, Adjust)):
                uids.add(item.uid)
        self._load(uids)

    def flush(self) -> None:
        """Write what the verbs changed so far."""
        if self._read_only:
            return
        self._write_counters()
        self._write_reservations()
        if self._new_events:
            self._write_events()
        alerts = list(self.notices.alerts)[self._alerts_written :]
        if alerts:
            self._execute_many(self._sql["add_alert"], map(alert_row, alerts))
            self._alerts_written += len(alerts)

    def _write_counters(self) -> None:
        for key, counter in list(self._opened.items()):
            if counter.dirty:
                row = (*key, counter.end_us, *counter_sums(counter))
                counter.row_id = self._execute(self._sql["add_counter"], row).lastrowid or 0
                counter.dirty = False
                del self._opened[key]
                self._resident.add(counter)
                self._touched[counter.row_id] = counter
        changed = [counter for counter in self._touched.values() if counter.dirty]
        if changed:
            self._execute_many(
                self._sql["change_counter"],
                [(*counter_sums(counter), counter.row_id) for counter in changed],
            )
            for counter in changed:
                counter.dirty = False

    def _write_reservations(self) -> None:
        if self._new:
            self._execute_many(
                self._sql["add_reservation"],
                [
                    reservation_row(
                        reservation,
                        self._counters_text(place),
                        self._plan_id(plan_text(reservation, plan)),
                        judged_text(reservation, plan),
                    )
                    for place, (reservation, plan) in self._new.items()
                ],
            )
        if self._changed:
            self._execute_many(
                self._sql["change_reservation"],
                [
                    reservation_changes(reservation, self._counters_text(place))
                    for place, reservation in self._changed.items()
                ],
            )
        approvals = [
            approval_row(reservation.extra.approval)
            for reservation in (*(made for made, _ in self._new.values()), *self._changed.values())
            if reservation.extra is not None and reservation.extra.approval is not None
        ]
        if approvals:
            self._execute_many(self._sql["put_approval"], approvals)
        self._new.clear()
        self._changed.clear()

    def _plan_id(self, plan: WrittenPlan | None) -> int | None:
        if plan is None:
            return None
        known = self._resident.plans.get(plan.digest)
        if known is None:
            row = self._execute(self._sql["plan_id"], (plan.digest,)).fetchone()
            if row is None:
                added = self._execute(self._sql["add_plan"], (plan.digest, plan.text))
                row = (added.lastrowid,)
            (known,) = row
            self._resident.plans[plan.digest] = known
        return known

    def _counters_text(self, place: _Place) -> str:
        held = self._held.get(place)
        if held is None:
            return self._rows[place].counters
        return f"[{','.join([str(counter.row_id) for counter in held])}]"

    def _write_events(self) -> None:
        days: dict[Row, list[int]] = {}
        labels: list[Row] = []
        for event in self._new_events:
            source = event.source
            subject = source.subject
            for label, value in subject.labels:
                labels.append((subject.tenant, f"{label}={value}", source.counted_us, event.seq))
            day = (
                subject.tenant,
                source.counted_us // DAY_US,
                0 if subject.user is None else subject.user,
                source.final_tool,
                0 if event.model is None else event.model,
            )
            sums = days.setdefault(day, [0, 0, 0, 0])
            sums[0] += event.cost_nanousd
            sums[1] += event.tokens
            sums[2] += event.requests
            sums[3] += 1
        self._execute_many(self._sql["add_event"], map(event_row, self._new_events))
        self._execute_many(self._sql["add_to_day"], [(*day, *sums) for day, sums in days.items()])
        if labels:
            self._execute_many(self._sql["add_label"], labels)
        self._new_events = []

    # -- verbs ------------------------------------------------------------------------------

    def reserve(self, ask: Ask) -> Reservation | Refusal:
        """Decide one ask."""
        self._plan = ask.plan
        answer = super().reserve(ask)
        self._plan = None
        if type(answer) is Reservation and answer is not ask.reservation:
            self.explain(answer)
        return answer

    def resolve(self, item: Resolution) -> Any:
        """Carry out one resolution."""
        if type(item) is Settle:
            if type(item.event.source) is not Reservation:
                # Its checks say which shares of limits to announce.
                self.explain(self.find(item.tenant, item.uid))
            return self.settle(item)
        answer = super().resolve(item)
        if type(answer) is Reservation:
            self.explain(answer)
        return answer

    def explain(self, reservation: Reservation | None) -> None:
        """Give a reservation that was read from its row back what it was judged on."""
        row = None if reservation is None else self._rows.get(_place(reservation))
        if reservation is not None and row is not None and reservation.verdict is None:
            plan = None
            if row.plan is not None:
                plan = self._plans.get(row.plan)
                if plan is None:
                    (plan,) = self._execute(self._sql["plan"], (row.plan,)).fetchone()
                    self._plans[row.plan] = plan
            explain(reservation, plan, json.loads(row.judged))

    # -- rules ------------------------------------------------------------------------------

    def version(self, tenant: str) -> Version:
        """Return the version of the rules that decide about a tenant."""
        found = self._resident.versions.get(tenant)
        if found is None:
            found = self._execute(self._sql["version"], (tenant,)).fetchone()
            self._resident.versions[tenant] = found
        return found

    def raise_versions(self, scopes: Iterable[str]) -> None:
        """Make what was compiled for these tenants stale; `"*"` stands for all of them."""
        self._execute_many(self._sql["raise_version"], [(scope,) for scope in scopes])
        self._resident.versions.clear()

    def put_records(self, changes: Iterable[Change]) -> None:
        """Put or delete records."""
        for change in changes:
            name = (change.kind, change.scope, change.id)
            if change.body is None:
                self._execute(self._sql["delete_record"], name)
            else:
                self._execute(self._sql["put_record"], (*name, json.dumps(change.body)))

    def has_elsewhere(self, change: Change) -> bool:
        """Say whether another scope has a record of a change's kind and id."""
        row = self._execute(self._sql["elsewhere"], (change.kind, change.id, change.scope))
        return row.fetchone() is not None

    def records(
        self, kind: str, scope: str | None, record_id: str | None, limit: int
    ) -> list[dict[str, Any]]:
        """Read records; a limit of -1 is none."""
        rows = self._execute(self._sql["records"], (kind, scope, record_id, limit))
        return [json.loads(body) for (body,) in rows]

    # -- reservations -----------------------------------------------------------------------

    def find(self, tenant: str, uid: int) -> Reservation | None:
        """Return a reservation of that tenant."""
        if uid not in self._asked:
            self._load({uid})
        return self._reservations.get((tenant, uid))

    def find_key(self, tenant: str, key: str) -> Reservation | None:
        """Return the reservation made with that idempotency key last."""
        known = self._keys.get((tenant, key))
        if known is not None:
            return known
        rows = self._execute(self._sql["reservation_by_key"], (tenant, key)).fetchall()
        return next(iter(self.known(rows)), None)

    def _load(self, uids: set[int]) -> None:
        wanted = uids - self._asked
        if wanted:
            texts = json.dumps([uuid_text(uid) for uid in wanted])
            self.known(self._execute(self._sql["reservations_by_id"], (texts,)).fetchall())
            self._asked |= wanted

    def known(self, rows: Sequence[Row]) -> list[Reservation]:
        """Turn rows into reservations, each into one object only, with events and approvals."""
        found, fresh = [], []
        for row in map(ReservationRow._make, rows):
            place = (row.tenant, uuid_int(row.id))
            reservation = self._reservations.get(place)
            if reservation is None:
                reservation = self._reservations[place] = reservation_of(row)
                self._rows[place] = row
                fresh.append(row)
            found.append(reservation)
        self._complete(fresh)
        return found

    def _complete(self, fresh: Sequence[ReservationRow]) -> None:
        """Add what stands in other tables: the events of settled ones, and approvals."""
        settled = [row for row in fresh if row.state == SETTLED]
        if settled:
            ids = [(row.tenant, row.id) for row in settled]
            ids += [(row.tenant, row.exact) for row in settled if row.exact is not None]
            found = self._execute(self._sql["events_by_id"], (json.dumps(ids),)).fetchall()
            events = {(row[1], row[2]): row for row in found}
            for row in settled:
                reservation = self._reservations[row.tenant, uuid_int(row.id)]
                reservation.event = event_of(events[row.tenant, row.id], reservation)
                if row.exact is not None:
                    exact = event_of(events[row.tenant, row.exact], reservation)
                    extra_of(reservation).exact = exact
        asked = [(row.tenant, row.id) for row in fresh if row.asked]
        if asked:
            for row in self._execute(self._sql["approvals_by_id"], (json.dumps(asked),)):
                extra_of(self._reservations[row[0], uuid_int(row[1])]).approval = approval_of(row)

    def add(self, reservation: Reservation) -> None:
        """Keep a new reservation."""
        place = _place(reservation)
        self._reservations[place] = reservation
        self._new[place] = (reservation, self._plan)
        extra = reservation.extra
        if extra is not None and extra.key is not None:
            self._keys[place[0], extra.key] = reservation

    def changed(self, reservation: Reservation, before: str) -> None:  # noqa: ARG002 -- rows know
        """Keep a reservation's new state."""
        place = _place(reservation)
        if place not in self._new:
            self._changed[place] = reservation

    def overdue(self, tenant: str | None, at_us: int, limit: int) -> list[Reservation]:
        """List open reservations whose time is over, oldest first."""
        self.flush()
        if tenant is None:
            rows = self._execute(self._sql["overdue"], (at_us, limit)).fetchall()
        else:
            rows = self._execute(self._sql["overdue_of_tenant"], (tenant, at_us, limit)).fetchall()
        return self.known(rows)

    def pending_count(self, tenant: str) -> int:
        """Count the pending reservations of a tenant."""
        self.flush()
        (count,) = self._execute(self._sql["pending_count"], (tenant,)).fetchone()
        return int(count)

    def horizon_us(self) -> int:
        """Nothing is forgotten."""
        return MIN_US

    def look_up(self, tenant: str | None, uid: int) -> Reservation | None:
        """Read a reservation, of any tenant if none is given, with what it was judged on."""
        self._load({uid})
        found = (
            reservation
            for (owner, found_uid), reservation in self._reservations.items()
            if found_uid == uid and tenant in (None, owner)
        )
        reservation = next(found, None)
        self.explain(reservation)
        return reservation

    def list_reservations(
        self, state: str | None, tenant: str | None, limit: int
    ) -> list[Reservation]:
        """Read reservations, newest first, with what they were judged on."""
        name = "list_reservations" if tenant is None else "list_tenant_reservations"
        if state in OPEN_STATES:
            name = "list_open_reservations"
        rows = self._execute(self._sql[name], (state, tenant, limit)).fetchall()
        found = self.known(rows)
        for reservation in found:
            self.explain(reservation)
        return found

    # -- counters ---------------------------------------------------------------------------

    def balance(self, key: CounterKey, end_us: int, at_us: int) -> Balance:
        """Read a counter; one that does not exist is what it would open with."""
        counter = self.counter(key)
        if counter is None:
            counter = opened(key, end_us, self.open_sums(key, end_us, at_us), at_us)
            for reservation in self.open_holds(key, end_us):
                counter.hold(reservation.amounts[counter.measure])
        return balance_of(counter, at_us)

    def counter(self, key: CounterKey) -> Counter | None:
        """Return a counter that exists."""
        counter = self._resident.counters.get(key)
        if counter is None:
            counter = self._opened.get(key)
            if counter is not None:
                return counter
            row = self._execute(self._sql["counter"], key).fetchone()
            if row is None:
                return None
            counter = counter_of(row)
            self._resident.add(counter)
        self._touched[counter.row_id] = counter
        return counter

    def drop_counters(self, unfed: Sequence[CounterFilter], tenant: str | None) -> None:
        """Delete counters that nothing feeds, of a tenant or of all, but not what is carried."""
        rows = self._execute(self._sql["counters_of"], (tenant,)).fetchall()
        gone = [
            (row[0],)
            for row in rows
            if not row[10] and any(one.fits(CounterKey(*row[1:7])) for one in unfed)
        ]
        self._execute_many(self._sql["delete_counter"], gone)
        self._resident.forget(row_id for (row_id,) in gone)

    def drop_ended_counters(self, at_us: int, limit: int) -> None:
        """Delete the counters of windows that ended and in which nothing is held."""
        rows = self._execute(self._sql["delete_ended_counters"], (at_us, limit)).fetchall()
        self._resident.forget(row_id for (row_id,) in rows)

    def _counters(self, row_ids: Sequence[int]) -> list[Counter | None]:
        """Return counters by the ids of their rows; None where one was dropped since."""
        resident = self._resident.counters_by_id
        missing = [row_id for row_id in row_ids if row_id not in resident]
        if missing:
            for row in self._execute(self._sql["counters_by_id"], (json.dumps(missing),)):
                self._resident.add(counter_of(row))
        found = [resident.get(row_id) for row_id in row_ids]
        for counter in found:
            if counter is not None:
                self._touched[counter.row_id] = counter
        return found

    def held(self, reservation: Reservation) -> Sequence[Counter]:
        """Return the counters in which a reservation is held."""
        place = _place(reservation)
        held = self._held.get(place)
        if held is None:
            found = self._counters(json.loads(self._rows[place].counters))
            held = self._held[place] = [counter for counter in found if counter is not None]
        return held

    def set_held(self, reservation: Reservation, counters: Sequence[Counter]) -> None:
        """Say in which counters a reservation is held from now on."""
        place = _place(reservation)
        self._held[place] = counters
        if place in self._reservations and place not in self._new:
            self._changed[place] = reservation

    def add_counter(self, counter: Counter) -> None:
        """Keep a new counter; it gets its row once something is in it."""
        self._opened[counter.key] = counter

    def open_sums(self, key: CounterKey, end_us: int, at_us: int) -> Iterable[tuple[int, int]]:
        """List what the matching events add up to, in one sum or in one per bucket of a ring."""
        measure = Counter(key, end_us).measure
        if measure == CONCURRENT:
            return []
        self.flush()
        start_us, ring = reaches_back_us(key, at_us), ring_of(key)
        if ring is not None:
            return [
                (row[0], row[1 + measure])
                for row in self._sums(key, start_us, end_us, ring.width_us)
            ]
        rows = []
        first, last = -(-start_us // DAY_US), end_us // DAY_US
        if key.scope != "label" and first < last:
            days = self._execute(
                self._sql[f"{key.scope}_days"],
                (key.tenant, first, last, *_value(key)),
            ).fetchone()
            rows.append((start_us, *days))
            rows += self._sums(key, start_us, first * DAY_US, ONE_BUCKET_US)
            rows += self._sums(key, last * DAY_US, end_us, ONE_BUCKET_US)
        else:
            rows += self._sums(key, start_us, end_us, ONE_BUCKET_US)
        return [(row[0], row[1 + measure] or 0) for row in rows]

    def _sums(self, key: CounterKey, start_us: int, end_us: int, width_us: int) -> list[Row]:
        if start_us >= end_us:
            return []
        return self._execute(
            self._sql[f"{key.scope}_sums"],
            (key.tenant, start_us, end_us, width_us, *_value(key)),
        ).fetchall()

    def open_holds(self, key: CounterKey, end_us: int) -> Iterable[Reservation]:
        """List the open reservations that a new counter has to hold as well."""
        self.flush()
        ring = ring_of(key) is not None
        return self.known(
            self._execute(
                self._sql[f"open_{key.scope}_reservations"],
                (
                    key.tenant,
                    MIN_US if ring else key.start_us,
                    MAX_US if ring else end_us,
                    *_value(key),
                ),
            ).fetchall()
        )

    def fired(self, counter: Counter, policy_id: str, share: str) -> bool:
        """Note that a share was announced; False when it had been before."""
        mark = (counter.key, policy_id, share)
        if mark in self._resident.fired:
            return False
        self._resident.fired.add(mark)
        return not self._execute(self._sql["fired"], (*counter.key, policy_id, share)).fetchall()

    # -- events -----------------------------------------------------------------------------

    def find_event(self, tenant: str, key: int | str) -> UsageEvent | None:
        """Return an event of that tenant."""
        text = event_id(key)
        event = self._events.get((tenant, text))
        if event is None:
            row = self._execute(self._sql["event"], (tenant, text)).fetchone()
            event = None if row is None else event_of(row)
        return event

    def look_up_event(self, tenant: str | None, key: int | str) -> UsageEvent | None:
        """Read an event, of any tenant if none is given."""
        if tenant is not None:
            return self.find_event(tenant, key)
        rows = self._execute(self._sql["event_of_any_tenant"], (event_id(key),)).fetchall()
        if len(rows) > 1:
            raise InvalidRequest(
                "event_id",
                f"several tenants have an event {event_id(key)!r}; say which with tenant=",
            )
        return event_of(rows[0]) if rows else None

    def add_event(self, event: UsageEvent) -> None:
        """Append an event; the daily sums follow in `flush`."""
        last = self._resident.last_event
        if last is None:
            (last,) = self._execute(self._sql["last_event"]).fetchone()
        event.seq = self._resident.last_event = last + 1
        self._events[event.source.subject.tenant, event.id] = event
        self._new_events.append(event)


def balance_of(counter: Counter, at_us: int) -> Balance:
    """Show a counter as it stands at an instant; what has left a rolling window is let go."""
    counter.turn(at_us)
    return Balance(counter.key, counter.settled, counter.reserved, counter.carried)


def _place(reservation: Reservation) -> _Place:
    return (reservation.subject.tenant, reservation.uid)


def _value(key: CounterKey) -> tuple[str, ...]:
    return () if key.scope == "tenant" else (key.value,)
