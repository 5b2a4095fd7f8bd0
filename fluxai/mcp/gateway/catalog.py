"""What the servers behind the gateway offer, as one client may see it.

Lists are kept for a while and fetched side by side: a slow server is shown as it was known last.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import mcp_types as types
from mcp import Client, MCPError
from mcp.shared.uri_template import UriTemplate

from fluxai.core.errors import ConfigurationError
from fluxai.mcp.gateway.config import GatewaySettings, Terms
from fluxai.mcp.gateway.links import Capability, LinkKey, Links, Unreachable
from fluxai.mcp.gateway.names import SEPARATOR, NameMap, Target
from fluxai.mcp.gateway.pins import PinBook, PinFile
from fluxai.mcp.identity import Identity

log = logging.getLogger("fluxai.mcp")

Kind = Literal["tools", "prompts", "resources", "templates"]
_PAGES_MAX: Final = 100


class Viewer(NamedTuple):
    """Who looks, and with what kind of client."""

    identity: Identity
    era: Literal["legacy", "auto"]
    able: frozenset[Capability]


@dataclass(slots=True)
class _Listing:
    items: tuple[Any, ...]
    fetched_at: float
    #: The tools that may be shown, and the pins by which that was judged.
    trusted: dict[str, types.Tool] | None = None
    book: PinBook | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """A tool that somebody may call."""

    target: Target
    name: str
    terms: Terms
    key: LinkKey


class Catalog:
    """Lists, names and pins of all servers.

    Args:
        settings: The servers.
        links: The connections to them.
        pins: What is trusted of their tools.
        on_tools: Awaited with the published names and terms of tools that are seen first.
        clock: Seconds that only run forward.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        links: Links,
        pins: PinFile,
        *,
        on_tools: Callable[[dict[str, Terms]], Awaitable[None]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._links = links
        self._pins = pins
        self._on_tools = on_tools
        self._clock = clock
        prefixes = {server: settings.prefix(server) for server in settings.servers}
        taken = {server: prefix + SEPARATOR for server, prefix in prefixes.items() if prefix}
        self._tools = NameMap(taken)
        self._prompts = NameMap(taken)
        self._listings: dict[tuple[LinkKey, Kind], _Listing] = {}
        self._fetching: dict[tuple[LinkKey, Kind], asyncio.Task[None]] = {}
        self._missed: set[Target] = set()

    def may(self, identity: Identity, terms: Terms) -> bool:
        """Say whether somebody may see and use what stands under these terms."""
        if terms.tenants is not None and identity.tenant not in terms.tenants:
            return False
        return terms.scopes is None or identity.scopes.issuperset(terms.scopes)

    def key(self, server: str, viewer: Viewer) -> LinkKey:
        """Return which connections serve somebody's requests to a server."""
        return self._links.key(server, viewer.identity.tenant, viewer.era, viewer.able)

    def forget(self, key: LinkKey, kind: Kind) -> None:
        """Fetch a list anew when it is wanted next: the server says that it has changed."""
        listing = self._listings.get((key, kind))
        if listing is not None:
            listing.fetched_at = float("-inf")

    # -- what is listed ---------------------------------------------------------------------

    async def tools(self, viewer: Viewer) -> list[types.Tool]:
        """Return the tools that somebody may call, under their published names."""
        shown = []
        for key, _ in await self._all(viewer, "tools"):
            for tool in (await self._trusted(key)).values():
                if self.may(viewer.identity, self._settings.servers[key.server].terms(tool.name)):
                    name = self._tools.name(Target(key.server, tool.name))
                    shown.append(tool.model_copy(update={"name": name}))
        return shown

    async def prompts(self, viewer: Viewer) -> list[types.Prompt]:
        """Return the prompts of the servers that somebody may use, under their published names."""
        return [
            prompt.model_copy(update={"name": self._publish_prompt(key.server, prompt.name)})
            for key, items in await self._all(viewer, "prompts")
            for prompt in items
        ]

    async def resources(self, viewer: Viewer) -> list[types.Resource]:
        """Return the resources of the servers that somebody may use."""
        return [item for _, items in await self._all(viewer, "resources") for item in items]

    async def templates(self, viewer: Viewer) -> list[types.ResourceTemplate]:
        """Return the resource templates of the servers that somebody may use."""
        return [item for _, items in await self._all(viewer, "templates") for item in items]

    # -- what a name stands for ---------------------------------------------------------------

    async def tool(self, name: str, viewer: Viewer) -> Found | None:
        """Return the tool that somebody may call under a name; None where there is none."""
        target = self._tools.target(name)
        if target is None:
            # Perhaps this process has not listed that server yet.
            await self._all(viewer, "tools", only=self._servers_of(name))
            target = self._tools.target(name)
        if target is None:
            return None
        terms = self._settings.servers[target.server].terms(target.name)
        server = self._settings.servers[target.server]
        if not (self.may(viewer.identity, terms) and self.may(viewer.identity, server)):
            return None
        key = self.key(target.server, viewer)
        await self._known(key, "tools")
        if target.name not in await self._trusted(key):
            return None
        return Found(target, name, terms, key)

    async def prompt(self, name: str, viewer: Viewer) -> tuple[LinkKey, str] | None:
        """Return where a published prompt is, and its own name."""
        target = self._prompts.target(name)
        if target is None:
            await self._all(viewer, "prompts", only=self._servers_of(name))
            target = self._prompts.target(name)
        if target is None or not self.may(viewer.identity, self._settings.servers[target.server]):
            return None
        return self.key(target.server, viewer), target.name

    async def resource(self, uri: str, viewer: Viewer) -> LinkKey | None:
        """Return where a resource is: the first server that lists it, or a template that fits."""
        for key, items in await self._all(viewer, "resources"):
            if any(str(item.uri) == uri for item in items):
                return key
        for key, items in await self._all(viewer, "templates"):
            if any(_fits(item.uri_template, uri) for item in items):
                return key
        return None

    async def template(self, uri_template: str, viewer: Viewer) -> LinkKey | None:
        """Return where a resource template, or a resource, is."""
        for kind in ("templates", "resources"):
            for key, items in await self._all(viewer, kind):
                for item in items:
                    named = item.uri_template if kind == "templates" else str(item.uri)
                    if named == uri_template:
                        return key
        return None

    def input_schema(self, name: str) -> dict[str, Any] | None:
        """Return what a published tool takes; None where it is not known to this process."""
        target = self._tools.target(name)
        if target is None:
            return None
        for (key, kind), listing in self._listings.items():
            if kind == "tools" and key.server == target.server and listing.trusted is not None:
                tool = listing.trusted.get(target.name)
                if tool is not None:
                    return tool.input_schema
        return None

    # -- fetching -----------------------------------------------------------------------------

    def _servers_of(self, name: str) -> list[str]:
        prefixes = {server: self._settings.prefix(server) for server in self._settings.servers}
        return [server for server, prefix in prefixes.items() if name.startswith(prefix)]

    def _publish_prompt(self, server: str, name: str) -> str:
        return self._prompts.publish(self._settings.prefix(server), Target(server, name))

    async def _all(
        self, viewer: Viewer, kind: Kind, *, only: Iterable[str] | None = None
    ) -> list[tuple[LinkKey, tuple[Any, ...]]]:
        """Return a list of every server that somebody may use, fetched side by side."""
        servers = self._settings.servers if only is None else only
        keys = [
            self.key(server, viewer)
            for server in servers
            if self.may(viewer.identity, self._settings.servers[server])
        ]
        listed = await asyncio.gather(*(self._listed(key, kind) for key in keys))
        if kind == "tools":
            for key in keys:
                await self._trusted(key)
        elif kind == "prompts":
            for key, items in zip(keys, listed, strict=True):
                for item in items:
                    self._publish_prompt(key.server, item.name)
        return list(zip(keys, listed, strict=True))

    async def _known(self, key: LinkKey, kind: Kind) -> None:
        """See that a list is known; one that is due is fetched behind the caller's back."""
        if (key, kind) in self._listings:
            self._refresh(key, kind)
        else:
            await self._listed(key, kind)

    async def _listed(self, key: LinkKey, kind: Kind) -> tuple[Any, ...]:
        fetching = self._refresh(key, kind)
        if fetching is not None:
            try:
                async with asyncio.timeout(self._settings.list_timeout):
                    await asyncio.shield(fetching)
            except TimeoutError:
                log.warning("server %r is slow to list its %s", key.server, kind)
        known = self._listings.get((key, kind))
        return () if known is None else known.items

    def _refresh(self, key: LinkKey, kind: Kind) -> asyncio.Task[None] | None:
        """Begin to fetch a list that is due; None where the one that is known will do."""
        known = self._listings.get((key, kind))
        if known is not None and self._clock() - known.fetched_at < self._settings.list_ttl:
            return None
        fetching = self._fetching.get((key, kind))
        if fetching is None:
            fetching = asyncio.create_task(self._fetch(key, kind), name=f"list {key.server}")
            self._fetching[key, kind] = fetching
            fetching.add_done_callback(lambda _: self._fetching.pop((key, kind), None))
        return fetching

    async def _fetch(self, key: LinkKey, kind: Kind) -> None:
        try:
            async with self._links.use(key) as link:
                async with asyncio.timeout(self._settings.call_timeout):
                    items = await _pages(link.client, kind)
        except Unreachable as error:
            log.info("%s", error)
        except (MCPError, TimeoutError, RuntimeError, ValueError) as error:
            log.warning("server %r can't list its %s: %s", key.server, kind, error)
            if isinstance(error, MCPError) and error.code == types.CONNECTION_CLOSED:
                self._links.drop(link)
        else:
            self._listings[key, kind] = _Listing(items, self._clock())
            if kind == "tools":
                self._miss(key.server, {tool.name for tool in items})

    def _miss(self, server: str, listed: Collection[str]) -> None:
        """Say once which tools have terms and are not there: a misspelt name governs nothing."""
        for name in self._settings.servers[server].tools:
            target = Target(server, name)
            if name not in listed and target not in self._missed:
                self._missed.add(target)
                log.warning("server %r has no tool %r, whose terms are in the file", server, name)

    async def _trusted(self, key: LinkKey) -> dict[str, types.Tool]:
        """Return the tools of a server that may be shown, by the names that it gave."""
        listing = self._listings.get((key, "tools"))
        if listing is None:
            return {}
        try:
            if listing.trusted is not None and listing.book is self._pins.read():
                return listing.trusted
            found = self._pins.sort(key.server, listing.items, view=key.view)
            listing.book = self._pins.read()
        except ConfigurationError as error:
            # Nothing can be told from what was swapped meanwhile, so nothing is shown.
            log.error("no tool of server %r is shown: %s", key.server, error)  # noqa: TRY400
            listing.trusted = None
            return {}
        server, prefix = self._settings.servers[key.server], self._settings.prefix(key.server)
        fresh: dict[str, Terms] = {}
        for tool in found.trusted:
            name = self._tools.publish(prefix, Target(key.server, tool.name))
            fresh[name] = server.terms(tool.name)
        await self._on_tools(fresh)
        listing.trusted = {tool.name: tool for tool in found.trusted}
        return listing.trusted


async def _pages(client: Client, kind: Kind) -> tuple[Any, ...]:
    """Return all pages of a list, or nothing where the server does not have such a list."""
    session, able = client.session, client.server_capabilities
    fetch: Callable[..., Awaitable[Any]]
    has: object
    match kind:
        case "tools":
            fetch, has, field = session.list_tools, able.tools, "tools"
        case "prompts":
            fetch, has, field = session.list_prompts, able.prompts, "prompts"
        case "resources":
            fetch, has, field = session.list_resources, able.resources, "resources"
        case "templates":
            fetch, has = session.list_resource_templates, able.resources
            field = "resource_templates"
    items: list[Any] = []
    cursor: str | None = None
    for _ in range(_PAGES_MAX if has is not None else 0):
        page = await fetch(params=types.PaginatedRequestParams(cursor=cursor))
        rows: Sequence[Any] = getattr(page, field)
        items += rows
        cursor = page.next_cursor
        if cursor is None:
            break
    return tuple(items)


def _fits(template: str, uri: str) -> bool:
    try:
        return UriTemplate.parse(template).match(uri) is not None
    except ValueError:
        return False
