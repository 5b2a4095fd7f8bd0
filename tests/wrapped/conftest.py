"""What the tests of wrapped clients share."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Iterator

import pytest

from fluxai import Governor
from fluxai.testing import FakeProvider
from tests.wrapped.surfaces import TEXT


@pytest.fixture(autouse=True, scope="session")
def _certificates_read_once() -> Iterator[None]:
    """Spare each client the reading of certificates that a loopback address has no use for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ssl, "create_default_context", functools.cache(ssl.create_default_context))
        yield


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    """A provider whose answers are `TEXT`."""
    with FakeProvider(default=TEXT) as provider:
        yield provider


@pytest.fixture
def governor() -> Iterator[Governor]:
    """A governor whose ledger adds up when the test is over, with nothing left open."""
    with Governor() as governor:
        yield governor
        assert governor.verify().ok
        assert governor.settle_errors == 0
        assert governor.unread_responses == 0
