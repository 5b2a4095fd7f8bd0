"""What the governor's tests share: a provider that counts what it charges, and stores to trip over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from decimal import Decimal
from pathlib import Path
from typing import Any

from fluxai import CostEstimator, Governor, Policy, StorageError
from fluxai.storage.base import Capabilities
from fluxai.storage.memory import MemoryStorage
from fluxai.testing import FakeClock

MODEL = "gpt-4o"
ASK = {"tenant": "acme", "model": MODEL, "prompt": "Say hi.", "max_output_tokens": 100}


def daily(limit: str, **fields: Any) -> Policy:
    """Return acme's daily limit."""
    return Policy.model_validate(
        {"id": "daily", "tenant_id": "acme", "limit_type": "daily", "limit_value": limit, **fields}
    )


def open_governor(kind: str, folder: Path, **options: Any) -> Governor:
    """Open a governor in memory, or on a SQLite file in a folder, at a clock that stands still."""
    url = "memory://" if kind == "memory" else f"sqlite:///{folder / 'ledger.db'}"
    return Governor(url, **{"clock": FakeClock(), **options})


def completion(model: str = MODEL, *, tokens_in: int = 20, tokens_out: int = 30) -> dict[str, Any]:
    """Return a chat completion as OpenAI writes it."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_768_478_400,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "hi"},
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": tokens_in,
            "completion_tokens": tokens_out,
            "total_tokens": tokens_in + tokens_out,
        },
    }


class Provider:
    """A provider that bills each call it answers, whether or not the answer arrives."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.charged = Decimal(0)

    def answer(self, **request: Any) -> dict[str, Any]:
        """Answer, and charge."""
        self.calls.append(request)
        response = completion(request.get("model") or MODEL)
        self.charged += CostEstimator().cost(response).total
        return response


def spent(governor: Governor, tenant: str = "acme") -> Decimal:
    """Return what was settled, all corrections included."""
    return sum((event.cost for event in governor.events(limit=10_000, tenant=tenant)), Decimal(0))


def snapshot(governor: Governor, tenant: str = "acme") -> Any:
    """Return everything that a refused argument must leave as it was."""
    return (
        [budget.to_dict() for budget in governor.budgets(tenant)],
        [event.to_dict() for event in governor.events(limit=10_000)],
        [reservation.id for reservation in governor.reservations(limit=10_000)],
        [approval.id for approval in governor.approvals.list()],
        [policy.id for policy in governor.policies.list()],
    )


class Pause:
    """Something to await that whoever drives the coroutine sees."""

    def __await__(self) -> Generator[Pause, None, None]:
        """Hand control to the driver."""
        yield self


class BrokenStorage(MemoryStorage):
    """A durable store that can be out of reach."""

    capabilities = Capabilities(durable=True, shared=False, blocking=False)

    def __init__(self, *, spool_path: Path | None = None) -> None:
        super().__init__()
        self.down = False
        self.answers_left = 1_000_000
        self.spool_path = spool_path

    def _reach(self) -> None:
        self.answers_left -= 1
        if self.down or self.answers_left < 0:
            raise StorageError("the store is out of reach") from OSError("no route")

    def reserve_one(self, ask: Any) -> Any:
        """Decide one ask, if the store can be reached."""
        self._reach()
        return super().reserve_one(ask)

    def resolve_one(self, item: Any) -> Any:
        """Resolve one item, if the store can be reached."""
        self._reach()
        return super().resolve_one(item)

    def rules(self, tenant: str) -> Any:
        """Read rules, if the store can be reached."""
        self._reach()
        return super().rules(tenant)

    def version(self, tenant: str) -> Any:
        """Read the version, if the store can be reached."""
        self._reach()
        return super().version(tenant)


class GatedStorage(MemoryStorage):
    """A store whose verbs wait, as for a disk, until a test lets them through."""

    capabilities = Capabilities(durable=False, shared=False, blocking=True)

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        #: One permit per verb that has come to the gate.
        self.arrived = threading.Semaphore(0)

    def _pass(self) -> None:
        self.arrived.release()
        if not self.gate.wait(timeout=30):
            raise StorageError("a test has left the gate closed")

    def reserve_one(self, ask: Any) -> Any:
        """Decide one ask behind the gate."""
        self._pass()
        return super().reserve_one(ask)

    def resolve_one(self, item: Any) -> Any:
        """Resolve one item behind the gate."""
        self._pass()
        return super().resolve_one(item)


def rows(budgets: list[Any]) -> dict[str, Any]:
    """Return budgets by policy id; the test expects one account per policy."""
    found = {budget.policy_id: budget for budget in budgets}
    assert len(found) == len(budgets)
    return found


Opener = Callable[..., Governor]
