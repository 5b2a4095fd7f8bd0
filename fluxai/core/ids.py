"""Ids: UUID version 7 (RFC 9562), so they sort by time and need no coordination."""

from __future__ import annotations

import os
import random
import re
import weakref
from collections.abc import Callable

#: Makes an id for an instant in microseconds since the epoch.
IdSource = Callable[[int], int]

_VERSION_AND_VARIANT = 0x7 << 76 | 0x2 << 62
#: The 12 random bits above the variant, which sit two places lower in what is drawn.
_HIGH = 0xFFF << 62
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Uuid7Source:
    """Make UUIDv7 integers from an instant and 74 random bits; text is made when somebody looks.

    The generator is its own, seeded by the operating system and seeded again in a forked child, so
    neither `random.seed()` in the user's program nor `fork()` can make two processes agree on ids.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._random = random.Random(seed)  # noqa: S311 -- unique, not secret
        if seed is None:
            _reseed_after_fork(self._random)
        self._bits = self._random.getrandbits

    def __call__(self, at_us: int) -> int:
        """Return a new id whose leading 48 bits are `at_us` in milliseconds."""
        bits = self._bits(74)
        return at_us // 1000 << 80 | _VERSION_AND_VARIANT | bits + (bits & _HIGH) * 3


def uuid_text(uid: int) -> str:
    """Write an id as UUIDs are written."""
    text = f"{uid:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def uuid_int(text: str) -> int:
    """Read an id.

    Raises:
        ValueError: The text is no UUID.
    """
    if _UUID.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a reservation id (a UUID of 36 characters)")
    return int(text.replace("-", ""), 16)


def uuid_time_us(uid: int) -> int:
    """Say when an id was made, in microseconds since the epoch."""
    return (uid >> 80) * 1000


def _reseed_after_fork(generator: random.Random) -> None:
    if not hasattr(os, "register_at_fork"):
        return
    reference = weakref.ref(generator)

    def reseed() -> None:
        alive = reference()
        if alive is not None:
            alive.seed()

    os.register_at_fork(after_in_child=reseed)
