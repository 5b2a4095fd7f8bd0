"""What the tests of frameworks share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fluxai import Governor, Policy
from fluxai.testing import FakeProvider

# LiteLLM fetches its prices when it is imported, and the Agents SDK sends traces, unless told not to.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"

#: What each answer is billed in these tests, and what that costs with gpt-4o and gpt-4o-mini.
USAGE = {"input": 1_000, "output": 200}
COST = {"gpt-4o": "0.0045", "gpt-4o-mini": "0.00027"}


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A provider that answers as it is told."""
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def governor() -> Iterator[Governor]:
    """A governor whose ledger adds up when the test is over, with nothing left open."""
    with Governor() as governor:
        yield governor
        assert governor.reservations(state="reserved") == []
        assert governor.verify().ok
        assert governor.settle_errors == 0
        assert governor.unread_responses == 0


@pytest.fixture
def limit(governor: Governor) -> Callable[..., Policy]:
    """Return a function that limits what the tenant acme spends in a day."""

    def put(value: str, **more: Any) -> Policy:
        day = Policy(id="day", tenant_id="acme", limit_type="daily", limit_value=value, **more)
        return governor.policies.put(day)

    return put
