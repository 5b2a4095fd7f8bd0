"""Published names: which name a client sees for a server's tool or prompt, and the way back."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

#: What clients and model providers accept of a tool's name.
NAME_MAX: Final = 64
SEPARATOR: Final = "__"
_HASH_LENGTH: Final = 8
_FORBIDDEN: Final = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class Target:
    """What a published name stands for."""

    server: str
    name: str


def published(prefix: str, target: Target) -> str:
    """Return the name under which a tool or prompt is published.

    A name that is empty or too long, or holds a character that some client refuses, is cut and ends in a
    hash of what it stands for, so that it stays the same in every process and over time.

    Args:
        prefix: What names of this server begin with; empty publishes them as they are.
        target: The server, and the name that it gave.
    """
    full = f"{prefix}{SEPARATOR}{target.name}" if prefix else target.name
    plain = _FORBIDDEN.sub("_", full)
    if plain == full and 0 < len(full) <= NAME_MAX:
        return full
    return hashed(plain, target)


def hashed(name: str, target: Target) -> str:
    """Return a name cut to its length, with a hash of what it stands for."""
    said = f"{target.server}\0{target.name}".encode("utf-8", "surrogatepass")
    ending = f"_{hashlib.sha256(said).hexdigest()[:_HASH_LENGTH]}"
    return name[: NAME_MAX - len(ending)] + ending


@dataclass(slots=True)
class NameMap:
    """Remembers what each published name stands for: calls are routed by it, never by splitting."""

    #: What the names of servers with a prefix begin with, by server.
    taken: Mapping[str, str] = field(default_factory=dict)
    _targets: dict[str, Target] = field(default_factory=dict)
    _names: dict[Target, str] = field(default_factory=dict)

    def publish(self, prefix: str, target: Target) -> str:
        """Return the published name of a target, and remember the way back.

        Two targets never share a name: the second one's ends in its hash. And none takes a name
        that begins like another server's, whichever is seen first: its own server's goes before it.
        """
        known = self._names.get(target)
        if known is not None:
            return known
        name = published(prefix, target)
        others = (start for server, start in self.taken.items() if server != target.server)
        if name.startswith(tuple(others)):
            name = published(target.server, target)
        if self._targets.get(name, target) != target:
            name = hashed(name, target)
        self._targets[name] = target
        self._names[target] = name
        return name

    def target(self, name: str) -> Target | None:
        """Return what a name stands for; None where nothing was published under it."""
        return self._targets.get(name)

    def name(self, target: Target) -> str | None:
        """Return the name under which a target was published."""
        return self._names.get(target)
