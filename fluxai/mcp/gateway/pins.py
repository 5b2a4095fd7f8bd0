"""Pins: tool definitions as somebody trusted them, by hash and by the set of names.

A server may change what its tools say of themselves after it was trusted, and what they say steers
a model. So what is new or changed is set aside until a person has approved it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from mcp_types import Tool
from pydantic import BaseModel, ConfigDict, ValidationError

from fluxai.core.errors import ConfigurationError

log = logging.getLogger("fluxai.mcp")

Trust = Literal["trust-first-use", "approve-all"]
_HASHED: Final = {"name", "title", "description", "input_schema", "output_schema", "annotations"}


def pin_of(tool: Tool) -> str:
    """Return the hash of all that a tool's definition tells a model or a client."""
    said = tool.model_dump(mode="json", by_alias=True, include=_HASHED)
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class ServerPins(BaseModel):
    """What is trusted of one server, and what waits."""

    model_config = ConfigDict(extra="forbid")

    #: The hash of each trusted tool, by name.
    tools: dict[str, str] = {}
    #: The kinds of client it was seen by. A server may show more tools to a more able client.
    views: list[str] = []
    #: The hash of each tool that waits for an approval, by name.
    quarantined: dict[str, str] = {}


class PinBook(BaseModel):
    """Everything that the file holds."""

    model_config = ConfigDict(extra="forbid")

    version: Literal[1] = 1
    servers: dict[str, ServerPins] = {}


@dataclass(frozen=True, slots=True)
class Sorted:
    """A server's tools, sorted into those that may be shown and those that may not."""

    trusted: tuple[Tool, ...]
    quarantined: tuple[Tool, ...]
    #: The pins as they are to be kept; the same object where nothing is new.
    pins: ServerPins


def sort(pins: ServerPins | None, tools: Sequence[Tool], *, view: str, trust: Trust) -> Sorted:
    """Sort a server's tools by what is pinned.

    Args:
        pins: What is pinned of the server; None where it was never seen.
        tools: What it lists now.
        view: The kind of client that it lists them for.
        trust: Whether the names that a server shows first, to a kind of client, are trusted.
    """
    before = pins if pins is not None else ServerPins()
    first = trust == "trust-first-use" and view not in before.views
    after = before.model_copy(deep=True)
    trusted: list[Tool] = []
    quarantined: list[Tool] = []
    for tool in tools:
        pin, known = pin_of(tool), before.tools.get(tool.name)
        if known == pin or (known is None and first and tool.name not in before.quarantined):
            trusted.append(tool)
            after.tools[tool.name] = pin
            after.quarantined.pop(tool.name, None)
        else:
            quarantined.append(tool)
            after.quarantined[tool.name] = pin
    if view not in after.views:
        after.views.append(view)
    return Sorted(tuple(trusted), tuple(quarantined), before if after == before else after)


def approved(pins: ServerPins, names: Sequence[str] | None = None) -> ServerPins:
    """Return pins with what waits trusted: all of it, or some names."""
    chosen = set(pins.quarantined) if names is None else set(names)
    moved = {name: pin for name, pin in pins.quarantined.items() if name in chosen}
    left = {name: pin for name, pin in pins.quarantined.items() if name not in chosen}
    return pins.model_copy(update={"tools": {**pins.tools, **moved}, "quarantined": left})


class PinFile:
    """The file that keeps pins, for every gateway that is started with it.

    Args:
        path: Where it is; made when there is something to keep.
        trust: What is trusted without a person.

    Raises:
        ConfigurationError: The file is there, and can't be read as pins.
    """

    def __init__(self, path: Path, trust: Trust) -> None:
        self._path = path
        self._trust = trust
        self._seen: tuple[int, int] | None = None
        self._book = PinBook()
        self._book = self.read()

    def read(self) -> PinBook:
        """Return what is pinned, read again if the file has changed.

        Raises:
            ConfigurationError: It can't be read as pins: then nothing is trusted.
        """
        try:
            status = self._path.stat()
            now = (status.st_mtime_ns, status.st_size)
            if now != self._seen:
                text = self._path.read_text(encoding="utf-8")
                self._book = PinBook.model_validate_json(text)
                self._seen = now
        except FileNotFoundError:
            if self._seen is not None:
                raise ConfigurationError(
                    f"the pins {self._path} were there and are gone; put them back, or start the "
                    f"gateway anew to pin what its servers offer now"
                ) from None
        except (OSError, ValidationError, ValueError) as error:
            raise ConfigurationError(
                f"{self._path} can't be read as pins, so no tool is trusted; restore it, or remove "
                f"it to pin anew: {error}"
            ) from error
        return self._book

    def sort(self, server: str, tools: Sequence[Tool], *, view: str) -> Sorted:
        """Sort a server's tools by what is pinned, and keep what is new; see `sort`.

        Raises:
            ConfigurationError: The file can't be read or written: then nothing is trusted.
        """
        found = sort(self.read().servers.get(server), tools, view=view, trust=self._trust)
        if found.pins is self._book.servers.get(server):
            return found
        with self._alone():
            # Once more, from what another gateway may have kept meanwhile.
            before = self.read().servers
            found = sort(before.get(server), tools, view=view, trust=self._trust)
            if found.pins is not before.get(server):
                self._write({**before, server: found.pins})
        for tool in found.quarantined:
            log.warning("tool %r of server %r is new or changed: it waits", tool.name, server)
        return found

    def approve(self, server: str, names: Sequence[str] | None = None) -> list[str]:
        """Trust what waits of a server: all of it, or some names.

        Returns:
            The names that are trusted from now on.

        Raises:
            ConfigurationError: The file can't be read or written.
        """
        with self._alone():
            servers = self.read().servers
            before = servers.get(server, ServerPins())
            after = approved(before, names)
            self._write({**servers, server: after})
        return sorted(set(before.quarantined) - set(after.quarantined))

    def _write(self, servers: Mapping[str, ServerPins]) -> None:
        book = PinBook(servers=dict(servers))
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f"{self._path.name}.", dir=self._path.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(book.model_dump_json(indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
            # A reader sees the old file or the new one, never half of one.
            Path(name).replace(self._path)
            status = self._path.stat()
        except OSError as error:
            raise ConfigurationError(f"the pins {self._path} can't be kept: {error}") from error
        self._book, self._seen = book, (status.st_mtime_ns, status.st_size)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from writing meanwhile, where the system can."""
        try:
            import fcntl
        except ImportError:  # Windows: one gateway per file there
            yield
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)
