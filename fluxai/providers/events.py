"""What the bytes of answers hold: server-sent events, and JSON."""

from __future__ import annotations

import json
import re
from typing import Any

#: Behind which an event has ended: an empty line, by any of the line ends that are allowed.
EVENT_END = re.compile(rb"\n\n|\r\n\r\n|\r\r")


def data_of(event: bytes) -> bytes:
    """Return the data of a server-sent event; nothing if it is a comment."""
    return b"\n".join(line[5:].lstrip() for line in event.splitlines() if line.startswith(b"data:"))


def object_in(data: bytes | str) -> dict[str, Any]:
    """Return the JSON object that some bytes are; an empty one if they are none."""
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
