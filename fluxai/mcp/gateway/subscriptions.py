"""Subscriptions to resources: each client's are kept, whatever becomes of the connections below.

A server knows of a subscription only as long as the connection lives on which it was made. So for
each kind of connection a task watches the one that carries its subscriptions. When that ends, it
subscribes again on another and says that everything may have changed: nobody knows what was missed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from dataclasses import dataclass, field
from weakref import WeakSet

import mcp_types as types
from mcp import MCPError
from mcp.server.connection import Connection

from fluxai.mcp.gateway.links import Link, LinkKey, Links, Unreachable, session_is_gone

log = logging.getLogger("fluxai.mcp")


@dataclass(eq=False)
class _Kept:
    """The subscriptions that one connection carries."""

    listeners: defaultdict[str, WeakSet[Connection]] = field(
        default_factory=lambda: defaultdict(WeakSet)
    )
    link: Link | None = None
    watcher: asyncio.Task[None] | None = None
    #: Two that look for a connection at once must not find two.
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def wanted(self) -> list[str]:
        """Return what somebody still listens to; a client that has left does not."""
        for uri in [uri for uri, listeners in self.listeners.items() if not listeners]:
            del self.listeners[uri]
        return list(self.listeners)


class Subscriptions:
    """Who has subscribed to what, and on which connection the server knows of it.

    Args:
        links: The connections to the servers.
        check_every: Seconds after which a connection is asked whether it is still there; also how
            long a server that can't be reached is left alone.
    """

    def __init__(self, links: Links, *, check_every: float) -> None:
        self._links = links
        self._check_every = check_every
        self._kept: defaultdict[LinkKey, _Kept] = defaultdict(_Kept)

    async def add(self, key: LinkKey, uri: str, listener: Connection) -> None:
        """Subscribe a client to a resource.

        Raises:
            Unreachable: The server can't be reached.
            MCPError: It refuses.
        """
        kept = self._kept[key]
        # First, so that nobody subscribes again meanwhile without this one.
        kept.listeners[uri].add(listener)
        try:
            link = await self._link(key, kept)
            try:
                await _subscribe(link, uri)
            except MCPError as error:
                if not _is_lost(error):
                    raise
                self._links.drop(link)
                link = await self._link(key, kept)
                await _subscribe(link, uri)
        except BaseException:
            kept.listeners[uri].discard(listener)
            raise
        if kept.watcher is None or kept.watcher.done():
            watching = self._watch(key, kept, link)
            kept.watcher = asyncio.create_task(watching, name=f"watch {key.server}")

    async def remove(self, key: LinkKey, uri: str, listener: Connection) -> None:
        """End a client's subscription; the server hears of it when nobody else has one.

        Raises:
            MCPError: The server refuses.
        """
        kept = self._kept[key]
        kept.listeners[uri].discard(listener)
        if uri in kept.wanted() or kept.link is None or kept.link.has_ended:
            return
        try:
            await kept.link.client.session.send_request(
                types.UnsubscribeRequest(params=types.UnsubscribeRequestParams(uri=uri)),
                types.EmptyResult,
            )
        except MCPError as error:
            # With the connection, the subscription is gone too.
            if not _is_lost(error):
                raise

    async def updated(self, key: LinkKey, uri: str) -> None:
        """Tell those who listen to a resource that it may have changed."""
        kept = self._kept.get(key)
        for listener in [] if kept is None else list(kept.listeners.get(uri, ())):
            await listener.send_resource_updated(uri)

    async def close(self) -> None:
        """Stop watching."""
        watchers = [kept.watcher for kept in self._kept.values() if kept.watcher is not None]
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)

    async def _link(self, key: LinkKey, kept: _Kept) -> Link:
        """Return the connection that carries the subscriptions; another where that has ended."""
        async with kept.looking:
            if kept.link is None or kept.link.has_ended:
                async with self._links.use(key) as link:
                    link.carries = True
                    kept.link = link
            return kept.link

    async def _watch(self, key: LinkKey, kept: _Kept, standing: Link | None) -> None:
        """See that the server knows of the subscriptions, as long as there are any.

        Args:
            key: Which server, and for whom.
            kept: The subscriptions.
            standing: The connection on which it knows of all of them.
        """
        while kept.wanted():
            if standing is not None:
                await self._until_over(standing)
            try:
                link = await self._link(key, kept)
                if link is not standing:
                    await self._renew(key, kept, link)
                    standing = link
            except Unreachable as error:
                log.info("subscriptions wait: %s", error)
                standing = None
                await asyncio.sleep(self._check_every)
        if kept.link is not None:
            kept.link.carries = False

    async def _until_over(self, link: Link) -> None:
        """Wait until a connection has ended, or it is time to look who still listens.

        The server is asked: of some endings nothing else tells.
        """
        try:
            async with asyncio.timeout(self._check_every):
                await link.closed.wait()
        except TimeoutError:
            log.debug("server %r is asked whether it is there", link.key.server)
        if link.has_ended:
            return
        try:
            async with asyncio.timeout(self._check_every):
                await link.client.session.send_request(types.PingRequest(), types.EmptyResult)
        except TimeoutError:
            # Perhaps busy with a call, which must not be cut off.
            log.debug("server %r is slow to say that it is there", link.key.server)
        except MCPError as error:
            if _is_lost(error):
                self._links.drop(link)

    async def _renew(self, key: LinkKey, kept: _Kept, link: Link) -> None:
        """Subscribe to everything again, and tell who listens."""
        for uri in kept.wanted():
            try:
                await _subscribe(link, uri)
            except MCPError as error:
                log.warning("server %r takes no subscription again: %s", key.server, error)
            await self.updated(key, uri)


def _is_lost(error: MCPError) -> bool:
    """Say whether a connection has ended, and with it what the server knew by it."""
    return error.code == types.CONNECTION_CLOSED or session_is_gone(error)


async def _subscribe(link: Link, uri: str) -> None:
    # Not by the SDK's method, which warns: clients of the older era still send it.
    await link.client.session.send_request(
        types.SubscribeRequest(params=types.SubscribeRequestParams(uri=uri)), types.EmptyResult
    )
