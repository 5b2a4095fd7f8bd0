"""Subscriptions to resources, which clients of the older era have: each hears of its own until it ends it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import mcp_types as types
import pytest

from tests.mcp.gateway_setup import client, gateway, served, stdio, until

NOTES = types.SubscribeRequest(params=types.SubscribeRequestParams(uri="notes://all"))
NO_NOTES = types.UnsubscribeRequest(params=types.UnsubscribeRequestParams(uri="notes://all"))

#: What has ended is noticed, and tried again, at once.
SOON: Final[dict[str, Any]] = {"retry_pause": 0.05}


class _Listener:
    """A client's ear: which resources it was told of."""

    def __init__(self) -> None:
        self._heard = asyncio.Queue[str]()

    async def __call__(self, message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification):
            self._heard.put_nowait(str(message.params.uri))

    async def hears(self) -> str:
        async with asyncio.timeout(30):
            return await self._heard.get()

    @property
    def silent(self) -> bool:
        return self._heard.empty()


async def _ask(user: Any, request: Any) -> None:
    await user.session.send_request(request, types.EmptyResult)


def test_an_update_reaches_each_client_until_that_client_unsubscribes(tmp_path: Path) -> None:
    """They share a connection to the server, which hears of it when the last one has."""
    log = tmp_path / "log.txt"

    async def run() -> None:
        first, second = _Listener(), _Listener()
        async with (
            gateway(tmp_path, {"s": stdio(log)}) as (opened, _),
            client(opened, "legacy", message_handler=first) as one,
            client(opened, "legacy", message_handler=second) as two,
        ):
            await _ask(one, NOTES)
            await _ask(two, NOTES)
            await one.call_tool("s__writes", {})
            assert await first.hears() == await second.hears() == "notes://all"
            await _ask(one, NO_NOTES)
            await two.call_tool("s__writes", {})
            assert await second.hears() == "notes://all"
            assert first.silent
            assert "unsubscribed" not in log.read_text(encoding="utf-8")
            await _ask(two, NO_NOTES)
            assert "unsubscribed" in log.read_text(encoding="utf-8")

    anyio.run(run)


def test_a_client_that_has_left_keeps_no_update_from_the_others(tmp_path: Path) -> None:
    """It has not unsubscribed, and can't be told any more."""

    async def run() -> None:
        first, second = _Listener(), _Listener()
        async with (
            gateway(tmp_path, {"s": stdio(tmp_path / "log.txt")}) as (opened, _),
            client(opened, "legacy", message_handler=second) as two,
        ):
            async with client(opened, "legacy", message_handler=first) as one:
                await _ask(one, NOTES)
                await _ask(two, NOTES)
            for _ in range(2):
                await two.call_tool("s__writes", {})
                assert await second.hears() == "notes://all"

    anyio.run(run)


def test_a_subscription_outlives_its_connection(tmp_path: Path) -> None:
    """The gateway subscribes again by itself, and says that the resource may have changed."""

    async def run() -> None:
        heard = _Listener()
        async with (
            gateway(tmp_path, {"s": stdio(tmp_path / "log.txt")}, **SOON) as (opened, _),
            client(opened, "legacy", message_handler=heard) as user,
        ):
            await _ask(user, NOTES)
            for _ in range(2):
                assert (await user.call_tool("s__dies", {})).is_error
                assert await heard.hears() == "notes://all"
                await user.call_tool("s__writes", {})
                assert await heard.hears() == "notes://all"
            assert heard.silent

    anyio.run(run)


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "not-seen"])
def test_a_subscription_outlives_its_server(tmp_path: Path, *, seen: bool) -> None:
    """Also where the server was gone for a while, and where only its session is."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()

    async def run() -> None:
        heard = _Listener()
        async with AsyncExitStack() as stack:
            with served(first) as server:
                opening = gateway(tmp_path, {"s": {"url": server.url}}, **SOON)
                opened, _ = await stack.enter_async_context(opening)
                listening = client(opened, "legacy", message_handler=heard)
                user = await stack.enter_async_context(listening)
                await _ask(user, NOTES)
            if seen:
                await until(lambda: opened.status()["unreachable_count"])
            # Holds the gateway up too, so that what it has not seen by now it does not see.
            port = str(urlsplit(server.url).port)
            stack.enter_context(served(second, "--port", port))
            assert await heard.hears() == "notes://all"
            await user.call_tool("s__writes", {})
            assert await heard.hears() == "notes://all"

    anyio.run(run)


def test_a_connection_that_has_to_make_room_takes_no_subscription_along(tmp_path: Path) -> None:
    """Another kind of client needs one, and a tenant may have no more of them."""

    async def answer(_: Any, params: Any) -> types.ElicitResult:
        raise AssertionError("nobody asks")

    async def run() -> None:
        heard = _Listener()
        server = stdio(tmp_path / "log.txt", connections=1)
        async with (
            gateway(tmp_path, {"s": server}, **SOON) as (opened, _),
            client(opened, "legacy", message_handler=heard) as user,
            client(opened, "legacy", elicitation_callback=answer) as other,
        ):
            await _ask(user, NOTES)
            await other.call_tool("s__search", {"q": "makes room"})
            assert await heard.hears() == "notes://all"
            await user.call_tool("s__writes", {})
            assert await heard.hears() == "notes://all"

    anyio.run(run)


def test_what_was_unsubscribed_is_not_subscribed_again(tmp_path: Path) -> None:
    """A new connection carries what somebody still listens to."""
    log = tmp_path / "log.txt"

    async def run() -> None:
        first, second = _Listener(), _Listener()
        async with (
            gateway(tmp_path, {"s": stdio(log)}, **SOON) as (opened, _),
            client(opened, "legacy", message_handler=first) as one,
            client(opened, "legacy", message_handler=second) as two,
        ):
            await _ask(one, NOTES)
            await _ask(two, NOTES)
            await _ask(one, NO_NOTES)
            await two.call_tool("s__dies", {})
            assert await second.hears() == "notes://all"
            await _ask(two, NO_NOTES)
            await two.call_tool("s__dies", {})
            await two.call_tool("s__writes", {})
            assert first.silent
            assert second.silent
        lines = log.read_text(encoding="utf-8").splitlines()
        assert (lines.count("subscribed"), lines.count("unsubscribed")) == (3, 1)

    anyio.run(run)
