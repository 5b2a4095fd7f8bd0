"""Lines of a file as past calls: which response, whose, when, under which id."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, Final, NamedTuple, TypeGuard, cast
from urllib.parse import unquote

from fluxai.arguments import check_text
from fluxai.core.errors import InvalidRequest

LINE_BYTES_MAX: Final = 64 * 1024 * 1024
_TIMES: Final = ("timestamp", "at", "time", "created_at", "createdAt", "created", "date")
#: Where Bedrock, Gemini and Azure write the model in an address.
_MODEL_IN: Final = re.compile(
    r"/model/(.+?)/(?:converse|invoke)|/models/([^:/]+):|/deployments/([^/]+)/"
)
_YEARS: Final = (2015, 2100)
_MILLISECONDS_FROM: Final = 100_000_000_000


class Unreadable(Exception):
    """A line is no call. `reason` is one of a few fixed words, the text says more."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class PastCall(NamedTuple):
    """One call that a line tells of.

    Attributes:
        id: The line's own id, else a hash of its content: the same on every run.
        digest: SHA-256 of the content.
        bodies: Where its usage may stand, the best place first; each as `CostEstimator` takes it.
        provider, model: As the line says; `model` is what was asked for.
        at: When it was made; None where only the response itself may say it.
        status: The HTTP status, where the line says it.
    """

    id: str
    digest: str
    bodies: tuple[Any, ...]
    provider: str | None
    model: str | None
    at: datetime | None
    status: int | None


class Lines:
    """The lines of a file with their numbers, gzip unpacked; None for a line over 64 MB.

    Args:
        stream: Open for reading bytes; need not seek.

    Attributes:
        damage: Why it ended early, where compressed data is broken or cut off.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = _Counting(stream)
        self.damage: str | None = None

    @property
    def bytes_read(self) -> int:
        """How much of the file was read so far, as it is packed."""
        return self._stream.taken

    def __iter__(self) -> Iterator[tuple[int, bytes | None]]:
        """Read on to the end, or to the damage."""
        opened: Any = self._stream
        if opened.peek(2) == b"\x1f\x8b":
            opened = gzip.GzipFile(fileobj=cast("BinaryIO", opened))
        number = 0
        try:
            while line := opened.readline(LINE_BYTES_MAX + 1):
                number += 1
                whole = len(line) <= LINE_BYTES_MAX
                rest = line
                while len(rest) > LINE_BYTES_MAX and not rest.endswith(b"\n"):
                    rest = opened.readline(LINE_BYTES_MAX + 1)
                yield number, line if whole else None
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            self.damage = f"the compressed data breaks off after line {number:,}: {error}"


class _Counting:
    """A stream that can be peeked at its beginning and counts what was taken from it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._head = b""
        self.taken = 0

    def peek(self, size: int) -> bytes:
        while len(self._head) < size and (more := self._stream.read(size - len(self._head))):
            self._head += more
        return self._head

    def read(self, size: int = -1) -> bytes:
        data = self._head if size < 0 else self._head[:size]
        self._head = self._head[len(data) :]
        if size < 0 or len(data) < size:
            data += self._stream.read(size if size < 0 else size - len(data))
        self.taken += len(data)
        return data

    def readline(self, size: int) -> bytes:
        if not self._head:
            line = self._stream.readline(size)
            self.taken += len(line)
            return line
        head, self._head = self._head, b""
        end = head.find(b"\n") + 1
        if end:
            head, self._head = head[:end], head[end:]
            line = head
        else:
            line = head + self._stream.readline(size - len(head))
        self.taken += len(line)
        return line


def past_call(line: bytes) -> PastCall:
    """Read one line.

    Args:
        line: JSON: a provider's response, a list of a stream's chunks, a line of a batch's results,
            or an object that holds one of them under `response`, `stream` or `usage`, beside
            `provider`, `model`, `timestamp`, `id`, `status` as far as they are known.

    Raises:
        Unreadable: It is not JSON, or no object.
    """
    try:
        # Costs that providers state must stay exact.
        said = json.loads(line, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise Unreadable("not_json", str(error)[:120]) from error
    if isinstance(said, list):
        return _call(line, {}, (said,))
    if not isinstance(said, dict):
        raise Unreadable("not_a_response", f"a {type(said).__name__}, not an object")
    if "custom_id" in said:  # a line of a batch's results
        return _call(line, {"id": said["custom_id"]}, ([said],))
    return _call(line, said, (*_held(said), said))


def _held(said: Mapping[str, Any]) -> Iterator[Any]:
    """Yield what an object may hold a response in."""
    if isinstance(said.get("response"), (dict, list, str)):
        yield said["response"]
    stream = said.get("stream")
    chunks = stream.get("chunks") if isinstance(stream, dict) else said.get("chunks", stream)
    if isinstance(chunks, list):
        yield [_unpacked(chunk) for chunk in chunks]
    for name in ("usage_merged", "usage"):
        usage = said.get(name)
        if isinstance(usage, dict):
            yield {"usage": usage}
            yield {"usageMetadata": usage}
            yield usage


def _unpacked(chunk: Any) -> Any:
    return chunk["data"] if isinstance(chunk, dict) and "data" in chunk else chunk


def _call(line: bytes, said: Mapping[str, Any], bodies: tuple[Any, ...]) -> PastCall:
    digest = hashlib.sha256(line.strip()).hexdigest()
    request = said.get("request")
    model = _text(said, "model_requested", "model", "model_response")
    if model is None and isinstance(request, dict):
        model = _text(request, "model")
    if model is None:
        model = _model_in(_text(said, "endpoint", "url", "path"))
    status = said.get("status", said.get("status_code"))
    return PastCall(
        id=_identity(said.get("id"), digest),
        digest=digest,
        bodies=bodies,
        provider=_text(said, "provider"),
        model=model,
        at=_when(said),
        status=status if type(status) is int else None,
    )


def _model_in(address: str | None) -> str | None:
    found = None if address is None else _MODEL_IN.search(unquote(address))
    return None if found is None else found[found.lastindex or 0]


def _identity(own: Any, digest: str) -> str:
    if type(own) is int:
        own = str(own)
    return own if storable(own) else f"sha256:{digest[:32]}"


def storable(text: Any) -> TypeGuard[str]:
    """Say whether a name from outside can be kept: text of bounded length that UTF-8 can hold."""
    try:
        check_text("text", text)
        text.encode()
    except (InvalidRequest, UnicodeEncodeError):
        return False
    return True


def _text(said: Mapping[str, Any], *names: str) -> str | None:
    found = (said.get(name) for name in names)
    return next((value for value in found if storable(value)), None)


def _when(said: Mapping[str, Any]) -> datetime | None:
    for name in _TIMES:
        moment = _moment(said.get(name))
        if moment is not None:
            return moment
    headers = said.get("headers")
    date = headers.get("date", headers.get("Date")) if isinstance(headers, dict) else None
    if isinstance(date, str):
        try:
            return _aware(parsedate_to_datetime(date))
        except ValueError:
            return None
    return None


def _moment(value: Any) -> datetime | None:
    """Read ISO 8601, or seconds or milliseconds since 1970; without a zone it is UTC."""
    if isinstance(value, str):
        try:
            return _aware(datetime.fromisoformat(value))
        except ValueError:
            return None
    if isinstance(value, (int, Decimal)) and not isinstance(value, bool):
        if 0 < value < _MILLISECONDS_FROM:
            return _aware(datetime.fromtimestamp(float(value), UTC))
        if _MILLISECONDS_FROM <= value < 1_000 * _MILLISECONDS_FROM:
            return _aware(datetime.fromtimestamp(float(value) / 1_000, UTC))
    return None


def _aware(moment: datetime) -> datetime | None:
    """Take a time without a zone as UTC, and one that can't be true as none."""
    if not _YEARS[0] <= moment.year < _YEARS[1]:
        return None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
