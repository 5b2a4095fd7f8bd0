"""Requests and replies as values: what the wire formats and the server hand each other."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final
from urllib.parse import parse_qs

from fluxai.core.errors import InvalidRequest

JSON: Final = "application/json"
EVENTS: Final = "text/event-stream; charset=utf-8"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a client sent.

    Attributes:
        method: `GET`, `POST`, ….
        path: Without the query, such as `/v1/chat/completions`.
        query: What follows the question mark, as sent.
        headers: By lower-case name.
        body: The bytes, whole.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    @cached_property
    def json(self) -> Any:
        """The body, read as JSON; None for an empty one.

        Raises:
            InvalidRequest: The body is something else, such as a form with a file.
        """
        if not self.body:
            return None
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise InvalidRequest("body", f"of {self.method} {self.path} is no JSON") from error

    @cached_property
    def options(self) -> Mapping[str, Any]:
        """The body as a JSON object; an empty one where it is anything else."""
        try:
            value = self.json
        except InvalidRequest:
            return {}
        return value if isinstance(value, dict) else {}

    @cached_property
    def parameters(self) -> Mapping[str, str]:
        """The query's parameters, the last of each name."""
        return {name: values[-1] for name, values in parse_qs(self.query).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the server sends.

    Attributes:
        chunks: The body. A stream sends each as one chunk; otherwise they are one body.
        stream: Send `Transfer-Encoding: chunked`, chunk by chunk.
    """

    status: int = 200
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)
    chunks: tuple[bytes, ...] = ()
    stream: bool = False


def json_reply(
    body: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Reply:
    """Answer with one JSON document."""
    return Reply(status=status, headers=headers or {}, chunks=(dumped(body),))


def event_stream(chunks: Iterable[bytes], *, headers: Mapping[str, str] | None = None) -> Reply:
    """Answer with server-sent events, each a chunk."""
    return Reply(content_type=EVENTS, headers=headers or {}, chunks=tuple(chunks), stream=True)


def dumped(value: object) -> bytes:
    """Write JSON as providers do: UTF-8, without spaces between."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def sse(data: object, *, event: str | None = None) -> bytes:
    """Write one server-sent event; a text is its data as it stands, all else is JSON."""
    name = f"event: {event}\n".encode() if event else b""
    text = data.encode() if isinstance(data, str) else dumped(data)
    return name + b"".join(b"data: " + line + b"\n" for line in text.split(b"\n")) + b"\n"
