"""Subscriptions to resources, which clients of the older era have: each hears of its own until it ends it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types

from tests.mcp.gateway_setup import client, gateway, stdio

NOTES = types.SubscribeRequest(params=types.SubscribeRequestParams(uri="notes://all"))
NO_NOTES = types.UnsubscribeRequest(params=types.UnsubscribeRequestParams(uri="notes://all"))


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
