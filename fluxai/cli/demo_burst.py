"""64 callers at once on one budget: FluxAI beside check-then-act."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from fluxai.cli.demo_scenes import Scene
from fluxai.cli.figures import usd
from fluxai.cli.screen import Column, Table, Text, Tone
from fluxai.policy.records import Policy, Tool

if TYPE_CHECKING:
    from fluxai.governor import Governor

CALLERS: Final = 64
LIMIT: Final = Decimal("1.00")
PRICE: Final = Decimal("0.10")
TENANT: Final = "burst-demo"
TOOL: Final = "deep-research"
#: How long a paid call takes: the time in which check-then-act knows nothing of it.
_CALL_S: Final = 0.02


@dataclass(slots=True)
class _Naive:
    """A budget as many write it: look, call, then add. Nothing is held in between."""

    spent: Decimal = Decimal(0)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def call(self) -> bool:
        """Make a paid call if the budget seems to allow it. Say whether it was made."""
        if self.spent + PRICE > LIMIT:
            return False
        time.sleep(_CALL_S)
        with self._lock:
            self.spent += PRICE
        return True


def _governed(governor: Governor) -> bool:
    """Make a paid call if its money can be held. Say whether it was made."""
    reservation = governor.reserve(tenant=TENANT, tool=TOOL)
    if not reservation.allowed:
        return False
    time.sleep(_CALL_S)
    governor.settle(reservation)
    return True


def _all_at_once(call: Callable[[], bool]) -> int:
    """Run a call from every thread at the same moment; return how many were made."""
    start = threading.Barrier(CALLERS)
    made: list[bool] = []

    def run() -> None:
        start.wait()
        made.append(call())

    threads = [threading.Thread(target=run) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(made)


def burst(governor: Governor) -> Scene:
    """Let 64 callers of $0.10 loose on $1.00, with check-then-act and with FluxAI."""
    governor.tools.put(Tool(id=TOOL, name="Deep research", cost_per_unit=PRICE))
    governor.policies.put(
        Policy(id="burst-total", tenant_id=TENANT, limit_type="total", limit_value=LIMIT)
    )
    naive = _Naive()
    naive_admitted = _all_at_once(naive.call)
    admitted = _all_at_once(lambda: _governed(governor))
    (budget,) = governor.budgets(TENANT)
    settled = Decimal(budget.settled)
    expected = int(LIMIT / PRICE)
    ok = admitted == expected and settled == LIMIT and naive_admitted > expected
    rows: list[tuple[Any, ...]] = [
        _row("check, then act", naive_admitted, naive.spent),
        _row("FluxAI", admitted, settled),
    ]
    return Scene(
        "burst",
        f"{CALLERS} calls at the same moment, {usd(PRICE)} each, on a {usd(LIMIT)} budget",
        ok,
        {
            "callers": CALLERS,
            "price": str(PRICE),
            "limit": str(LIMIT),
            "admitted": admitted,
            "spent": str(settled),
            "naive_admitted": naive_admitted,
            "naive_spent": str(naive.spent),
        },
        [
            Table(
                (
                    Column(""),
                    Column("Admitted", right=True),
                    Column("Refused", right=True),
                    Column("Spent", right=True),
                    Column("Of the limit", right=True),
                ),
                rows,
            ),
            Text(
                "Both were run just now, on real threads. The first looks at the balance and pays "
                "later; FluxAI holds the money before the call.",
                "dim",
            ),
        ],
    )


def _row(name: str, admitted: int, spent: Decimal) -> tuple[Any, ...]:
    tone: Tone = "bad" if spent > LIMIT else "good"
    return (
        name,
        Text(f"{admitted}", tone),
        f"{CALLERS - admitted}",
        Text(usd(spent), tone),
        Text(f"{spent / LIMIT:.0%}", tone),
    )
