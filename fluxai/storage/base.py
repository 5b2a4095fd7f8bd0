"""The storage protocol: few verbs, batch first, refusals as values.

A store applies the rule of `fluxai.core.ledger` under its own locks. Ids and times are passed in.
What a verb answers is a value: the new state, or one of the small classes below. Only the driver's
failures raise, as `StorageError`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple, Protocol

from fluxai.core.decisions import Approval, Reservation, UsageEvent, measured
from fluxai.core.ledger import (
    Amounts,
    Candidate,
    CounterFilter,
    CounterKey,
    Need,
    Plan,
    Subject,
)
from fluxai.core.windows import from_us

#: A version of the rules: (that of every tenant, that of this one).
Version = tuple[int, int]

OVERDUE_PER_RESERVE_MAX = 64
PENDING_PER_TENANT_MAX = 100
KEY_REMEMBERED_US = 24 * 3600 * 1_000_000


# What a store may answer besides the state that was asked for.


class Stale(NamedTuple):
    """The plan was compiled from other rules than the store now has; compile again and retry."""

    version: Version


class Unknown(NamedTuple):
    """The store does not hold that reservation, event or approval for that tenant."""

    what: str
    uid: int | str


class NeedPlan(NamedTuple):
    """The money belongs to windows that only a plan for `source.counted_us` can name; retry."""

    source: Any


class Conflict(NamedTuple):
    """The id was used before with other arguments or another outcome."""

    error: str
    message: str


Refusal = Stale | Unknown | NeedPlan | Conflict


class Ask(NamedTuple):
    """One reserve: a reservation still to be decided, its plan, and what each candidate needs."""

    reservation: Reservation
    plan: Plan
    needs: Sequence[Need | None]
    #: Until when an approval is awaited, should one be required.
    approval_expires_us: int = 0


class Settle(NamedTuple):
    """Settle a reservation at what the call really cost.

    `event.outcome` is compared on repeats. `event.source` is the reservation as its holder knows
    it, which a store that has lost it takes in; with a bare id there is none. `plan` and
    `correction_uid` are needed only where the store asked for them (`NeedPlan`).
    """

    tenant: str
    uid: int
    event: UsageEvent
    plan: Plan | None = None
    correction_uid: int = 0


@dataclass(slots=True, kw_only=True)
class Release:
    """Give a reservation's money back."""

    tenant: str
    uid: int
    at_us: int


@dataclass(slots=True, kw_only=True)
class Extend:
    """Let a reservation live on until `expires_us`; never shortens it."""

    tenant: str
    uid: int
    at_us: int
    expires_us: int


@dataclass(slots=True, kw_only=True)
class Record:
    """Enter money that was already spent; never refused, idempotent by id."""

    event: UsageEvent
    plan: Plan


@dataclass(slots=True, kw_only=True)
class Adjust:
    """Enter a signed correction of an event, in the same windows."""

    tenant: str
    event_key: int | str
    key: int | str
    at_us: int
    cost_nanousd: int
    note: str
    outcome: object
    plan: Plan | None = None


@dataclass(slots=True, kw_only=True)
class Approve:
    """Say yes to a pending reservation: judge the `deny` limits again, now, and move the hold."""

    tenant: str
    uid: int
    at_us: int
    by: str
    expires_us: int
    plan: Plan | None = None


@dataclass(slots=True, kw_only=True)
class Reject:
    """Say no to a pending reservation; its money is given back."""

    tenant: str
    uid: int
    at_us: int
    by: str
    reason: str | None


@dataclass(slots=True, kw_only=True)
class Claim:
    """Take an approved reservation for its one run. `claim` names the taker, so a retry is safe.

    A run that goes on elsewhere is taken from whoever has it: `after` names that claim, which is
    good for nothing from then on.
    """

    tenant: str
    uid: int
    at_us: int
    digest: str
    claim: str
    expires_us: int
    after: str | None = None


@dataclass(slots=True, kw_only=True)
class Report:
    """Tell what was spent out of a lease, and how much of it is to stay held.

    A lease is a reservation whose money its holder gives out to calls by itself. Each event brings
    the reservation of such a call as its `source`; the store enters both, once, in the counters in
    which the lease is held. `keep` is what calls that are still open need, and what may still be
    given out; with nothing to keep the lease ends. `version` is that of the rules by which it was
    given out.
    """

    tenant: str
    uid: int
    at_us: int
    version: Version
    events: Sequence[UsageEvent]
    keep: Amounts


Resolution = Settle | Release | Extend | Record | Adjust | Approve | Reject | Claim | Report


class Balance(NamedTuple):
    """A counter as it stands."""

    key: CounterKey
    settled: int
    reserved: int
    carried: int = 0


class Overdue(NamedTuple):
    """What expiry did."""

    released: int
    settled: int


@dataclass(frozen=True, slots=True)
class Alert:
    """A budget crossed a share of its limit: said once per window and share.

    Attributes:
        share: The share as the policy gives it, `"0.8"`.
        key: Which counter; `scope`, `scope_id` and `measure` are read from it.
        limit_units, committed_units: As the ledger counts: nano-USD for `cost`, else a count.
    """

    tenant: str
    policy_id: str
    key: CounterKey
    share: str
    limit_units: int
    committed_units: int
    at_us: int

    @property
    def scope(self) -> str:
        """`tenant`, `user`, `tool` or `label`."""
        return self.key.scope

    @property
    def scope_id(self) -> str | None:
        """Whose account it is; None for the tenant's own."""
        return None if self.key.scope == "tenant" else self.key.value

    @property
    def measure(self) -> str:
        """`cost`, `tokens`, `requests` or `concurrent`."""
        return "concurrent" if self.key.kind == "concurrent" else self.key.measure

    @property
    def limit(self) -> Decimal | int:
        """USD for the measure `cost`, a count otherwise."""
        return measured(self.limit_units, self.measure)

    @property
    def committed(self) -> Decimal | int:
        """Settled and reserved together: USD for the measure `cost`, a count otherwise."""
        return measured(self.committed_units, self.measure)

    @property
    def at(self) -> datetime:
        """When it was crossed, aware UTC."""
        return from_us(self.at_us)

    def to_dict(self) -> dict[str, Any]:
        """The alert, JSON-ready."""
        counted = self.measure == "cost"
        return {
            "tenant": self.tenant,
            "policy_id": self.policy_id,
            "scope": self.scope,
            "scope_id": self.scope_id,
            "measure": self.measure,
            "window": self.key.kind.partition(":")[0],
            "share": self.share,
            "limit": str(self.limit) if counted else self.limit,
            "committed": str(self.committed) if counted else self.committed,
            "at": self.at.isoformat(),
        }

    def __str__(self) -> str:
        """Say it in one sentence."""
        whose = self.scope if self.scope_id is None else f"{self.scope} {self.scope_id!r}"
        return (
            f"the {whose} of tenant {self.tenant!r} has reached {self.share} of its limit: "
            f"{self.committed} of {self.limit} ({self.measure}, policy {self.policy_id})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Everything that decides about one tenant, as stored, at one version."""

    version: Version
    tenant: dict[str, Any] | None
    policies: tuple[dict[str, Any], ...]
    grants: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Put or delete one record.

    `kind` is `tenant`, `user`, `tool`, `model`, `policy` or `grant`; `scope` the tenant it belongs
    to, `"*"` for those that concern every tenant; `body` None deletes. With `sole` nothing is changed
    where another scope has a record of that kind and id.
    """

    kind: str
    scope: str
    id: str
    body: dict[str, Any] | None
    sole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """Sums of events over one group."""

    user: str | None
    tool: str
    model: str | None
    cost_nanousd: int
    tokens: int
    requests: int
    events: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a kept sum differs from the events and open reservations it should equal."""

    what: str
    expected: int
    found: int


@dataclass(frozen=True, slots=True)
class LedgerReport:
    """What `verify` found.

    Attributes:
        ok: Nothing differs.
        counters, events, reservations: How many were compared.
    """

    ok: bool
    counters: int
    events: int
    reservations: int
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do.

    Attributes:
        durable: What it acknowledged survives a crash.
        shared: Several processes may use it.
        blocking: A verb may wait for a disk or a network (async callers take a thread hop).
        lease: Budgets may be leased: a process is given a slice, and decides out of it by itself.
    """

    durable: bool
    shared: bool
    blocking: bool
    lease: bool = False


@dataclass(slots=True)
class Notices:
    """What a store has to say beside its answers; the governor hands it to the sinks."""

    #: Alerts, and errands of the governor that wait for the next free moment.
    alerts: deque[Any] = field(default_factory=deque)


class Storage(Protocol):
    """A store of the ledger.

    Every list that comes back is bounded by a limit that was passed in.
    """

    capabilities: Capabilities
    notices: Notices
    #: Overdue reservations that stand in a reserve's way are settled rather than released.
    settle_on_expiry: bool

    def migrate(self) -> None:
        """Create or upgrade the schema.

        Raises:
            StorageError: The schema is newer than this library, damaged, or out of reach.
        """
        ...

    def reserve(self, asks: Sequence[Ask]) -> list[Reservation | Refusal]:
        """Decide each ask under the locks, and hold what stands. Idempotent by id and key."""
        ...

    def reserve_one(self, ask: Ask) -> Reservation | Refusal:
        """Decide one ask, in company with whatever else is waiting."""
        ...

    def resolve_one(self, item: Resolution) -> Any:
        """Resolve one item, in company with whatever else is waiting."""
        ...

    def resolve(self, items: Sequence[Resolution]) -> list[Any]:
        """Settle, release, extend, record, adjust, approve, reject, claim, report; each atomic."""
        ...

    def expire(self, at_us: int, *, limit: int, on_expiry: str = "release") -> Overdue:
        """End reservations that are overdue at `at_us`, oldest first."""
        ...

    def apply(
        self,
        changes: Sequence[Change],
        expected_version: Version | None = None,
        *,
        unfed: Sequence[CounterFilter] = (),
    ) -> None:
        """Change records in one transaction and raise the versions they concern.

        `unfed` names counters of the tenants concerned that nothing will feed any more; they are
        deleted in the same transaction, unless something is carried in them. A counter is a sum
        kept at hand, and is opened again from its events and open reservations when needed.

        Raises:
            StorageError: The rules are not at `expected_version` any more, or another scope has an
                id that is to be a record's `sole` one.
        """
        ...

    def version(self, tenant: str) -> Version:
        """Read the version of the rules that decide about a tenant."""
        ...

    def rules(self, tenant: str) -> Rules:
        """Read what decides about a tenant."""
        ...

    def records(
        self,
        kind: str,
        *,
        scope: str | None = None,
        id: str | None = None,  # noqa: A002 -- the record's own word
        limit: int = 10_000,
    ) -> list[dict[str, Any]]:
        """Read records, by id where one is given."""
        ...

    def find(self, tenant: str | None, uid: int) -> Reservation | None:
        """Read one reservation."""
        ...

    def find_event(self, tenant: str | None, key: int | str) -> UsageEvent | None:
        """Read one event."""
        ...

    def reservations(
        self, *, state: str | None = None, tenant: str | None = None, limit: int = 1_000
    ) -> list[Reservation]:
        """Read reservations, newest first."""
        ...

    def events(
        self, *, after: int = 0, limit: int = 100, tenant: str | None = None
    ) -> list[UsageEvent]:
        """Read events in the order they were settled, from sequence number `after` on."""
        ...

    def approvals(
        self, *, tenant: str | None = None, state: str | None = None, limit: int = 1_000
    ) -> list[Approval]:
        """Read approvals, newest first."""
        ...

    def balances(self, keys: Sequence[tuple[CounterKey, int]], at_us: int) -> list[Balance]:
        """Read counters; one that does not exist yet is what it would open with."""
        ...

    def accounts(
        self, tenant: str, scope: str, measure: str, kind: str, at_us: int, *, limit: int = 1_000
    ) -> list[Balance]:
        """Read the existing counters of one scope, measure and kind whose window holds `at_us`."""
        ...

    def usage(self, tenant: str, start_us: int, end_us: int) -> list[UsageRow]:
        """Sum the events counted in a half-open stretch of time, by user, tool and model."""
        ...

    def recent_events(
        self, tenant: str, start_us: int, end_us: int, *, user: str | None, limit: int
    ) -> list[UsageEvent]:
        """Read the latest events counted in a half-open stretch of time, newest first."""
        ...

    def verify(self) -> LedgerReport:
        """Compare every kept sum with the events and reservations, on one snapshot."""
        ...

    def outbox(self, *, after: int = 0, limit: int = 100) -> list[tuple[int, Alert]]:
        """Read the alerts that were raised, in order."""
        ...

    def now_offset_us(self, at_us: int) -> int:
        """Say how far the store's clock is ahead of `at_us`."""
        ...

    def close(self) -> None:
        """Finish what is queued and let go of everything."""
        ...


def plan_candidate(plan: Plan, tool: str) -> Candidate | None:
    """Find a tool's candidate in a plan."""
    return next((candidate for candidate in plan.candidates if candidate.tool == tool), None)


def subject_values(subject: Subject) -> list[tuple[str, str]]:
    """List the (scope, value) pairs under which a subject's calls are counted, without the tool."""
    values = [("tenant", subject.tenant)]
    if subject.user is not None:
        values.append(("user", subject.user))
    for key, value in subject.labels:
        values.append(("label", f"{key}={value}"))
    return values
