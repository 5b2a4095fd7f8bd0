"""What the tests of the contract share: a store, a clock, a governor, and two simple prices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import pytest

from fluxai.analytics import Budget
from fluxai.core.decisions import Reservation
from fluxai.governor import Governor
from fluxai.models import Model, ModelRegistry
from fluxai.policy.records import Policy, Tool
from fluxai.storage.base import Storage
from fluxai.storage.opening import open_storage
from fluxai.testing.clock import FakeClock

TENANT = "acme"
#: A dollar a thousand tokens, in and out: a token is a tenth of a cent.
LARGE = "contract-large"
#: Half of that.
SMALL = "contract-small"
#: Ten cents a unit.
TOOL = "contract-tool"
#: Five cents a unit.
CHEAP_TOOL = "contract-cheap-tool"

DIME = Decimal("0.10")


class Case:
    """Fixtures of the contract; a backend overrides `storage_url` or `make_storage`."""

    @pytest.fixture
    def storage_url(self) -> str:
        """Return the URL of an empty store."""
        pytest.fail("a backend supplies the fixture storage_url, or make_storage")

    @pytest.fixture
    def make_storage(self, storage_url: str) -> Callable[[], Storage]:
        """Return a function that opens the store of this test."""
        return lambda: open_storage(storage_url)

    @pytest.fixture
    def clock(self) -> FakeClock:
        """Return the clock of every governor in the test."""
        return FakeClock()

    @pytest.fixture
    def storage(self, make_storage: Callable[[], Storage]) -> Iterator[Storage]:
        """Open the store; afterwards its sums must equal its events and open reservations."""
        storage = make_storage()
        storage.migrate()
        yield storage
        report = storage.verify()
        storage.close()
        assert report.ok, report.differences

    @pytest.fixture
    def alerts(self) -> list[Any]:
        """Return the list to which every governor of the test adds its alerts."""
        return []

    @pytest.fixture
    def open_governor(
        self, storage: Storage, clock: FakeClock, alerts: list[Any]
    ) -> Callable[..., Governor]:
        """Return a function that makes a governor on the store, with the prices above."""

        def open_one(**options: Any) -> Governor:
            options = {
                "clock": clock,
                "sinks": [alerts.append],
                "registry": ModelRegistry(),
                **options,
            }
            return Governor(options.pop("storage", storage), **options)

        return open_one

    @pytest.fixture
    def governor(self, open_governor: Callable[..., Governor]) -> Governor:
        """Return a governor on the store."""
        governor = open_governor()
        add_prices(governor)
        return governor


def add_prices(governor: Governor) -> None:
    """Register the models and tools of the contract."""
    for model, price in ((LARGE, "1000"), (SMALL, "500")):
        governor.models.put(
            Model(
                id=model,
                provider="contract",
                input_price=Decimal(price),
                output_price=Decimal(price),
                context_window=1_000_000,
                max_output=10_000,
            )
        )
    for tool, cost in ((TOOL, "0.10"), (CHEAP_TOOL, "0.05")):
        governor.tools.put(Tool(id=tool, cost_per_unit=Decimal(cost)))


def limit(governor: Governor, value: str | None, **fields: Any) -> Policy:
    """Put a policy: a total cost limit of the tenant that denies, where nothing else is said."""
    return governor.policies.put(
        Policy(
            **{
                "id": "limit",
                "tenant_id": TENANT,
                "limit_type": "total",
                "limit_value": value,
                **fields,
            }
        )
    )


def dimes(governor: Governor, units: int = 1, **request: Any) -> Reservation:
    """Reserve units of the tool of ten cents."""
    return governor.reserve(**{"tenant": TENANT, "tool": TOOL, "units": units, **request})


def tokens(governor: Governor, count: int = 100, **request: Any) -> Reservation:
    """Reserve so many tokens of the large model, half of them output; 100 cost ten cents."""
    return governor.reserve(
        **{
            "tenant": TENANT,
            "model": LARGE,
            "input_tokens": count - count // 2,
            "max_output_tokens": count // 2,
            **request,
        }
    )


def budget(governor: Governor, policy_id: str = "limit", **where: Any) -> Budget:
    """Return the one running account of a policy."""
    (found,) = budgets(governor, policy_id, **where)
    return found


def budgets(governor: Governor, policy_id: str = "limit", **where: Any) -> list[Budget]:
    """Return every running account of a policy."""
    found = governor.budgets(**{"tenant": TENANT, **where})
    return [one for one in found if one.policy_id == policy_id]


def sums(governor: Governor, policy_id: str = "limit", **where: Any) -> tuple[Any, Any]:
    """Return what a policy's one account has (settled, reserved)."""
    found = budget(governor, policy_id, **where)
    return found.settled, found.reserved


def acted(decision: Any) -> str:
    """Name the policy that decided."""
    (found,) = [reason.policy_id for reason in decision.reasons if reason.acted]
    return str(found)


def state(governor: Governor, reservation: Reservation) -> str:
    """Read a reservation's state from the store."""
    found = governor.storage.find(reservation.subject.tenant, reservation.uid)
    assert found is not None
    return found.state
