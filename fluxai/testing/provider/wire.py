"""What a wire format is: a reader of requests and a writer of replies, without any socket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from fluxai.core.errors import InvalidRequest
from fluxai.core.usage import Usage
from fluxai.testing.provider.exchange import Reply, Request
from fluxai.testing.provider.scripts import CHARACTERS_PER_TOKEN, Answer, Failure


class Desk(Protocol):
    """What a wire format may ask while it answers a request."""

    def take(self) -> Answer:
        """Return the next answer that was queued, or the default one."""
        ...

    def new_id(self, prefix: str) -> str:
        """Return an id that was not given before."""
        ...

    def now(self) -> int:
        """Return seconds since the epoch, UTC."""
        ...


class Wire(Protocol):
    """One provider's way to say things."""

    def serves(self, request: Request) -> bool:
        """Say whether the request is for this provider."""
        ...

    def reply(self, request: Request, desk: Desk) -> Reply | None:
        """Answer a request; None where the provider has no such address."""
        ...

    def error(self, request: Request, failure: Failure, desk: Desk) -> Reply:
        """Say that a request failed."""
        ...


class CannotSay(InvalidRequest):
    """An answer has something that this wire format has no word for."""


def usage_for(answer: Answer, *asked: object) -> Usage:
    """Return the usage that was told, or one made from what was asked and answered."""
    if answer.usage is not None:
        return answer.usage
    return Usage(
        input=tokens_of(sum(len(text) for value in asked for text in texts_of(value))),
        output=tokens_of(answer.characters),
        reasoning=tokens_of(len(answer.thinking or "")),
    )


def tokens_of(characters: int) -> int:
    """Return tokens for so many characters, rounded up."""
    return -(-characters // CHARACTERS_PER_TOKEN)


#: Parts of a message that name its kind or carry a picture, and are no text of the prompt.
_NO_TEXT = {"role", "type", "media_type", "mimeType", "mime_type", "data", "image_url", "id"}


def texts_of(value: object) -> Iterator[str]:
    """Return every text in a prompt, whatever its shape."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in _NO_TEXT:
                yield from texts_of(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts_of(inner)


def only(usage: Usage, wire: str, *kinds: str) -> None:
    """Refuse a usage that a wire format can't state.

    Args:
        usage: What was told.
        wire: The format's name, for the message.
        kinds: The fields of `Usage` that it can state.

    Raises:
        CannotSay: Another field is not zero. Names it.
    """
    for kind in usage.to_dict():
        if kind not in kinds:
            able = ", ".join(kinds) or "no usage"
            raise CannotSay("usage", f"{wire} can't state {kind}; it states {able}")


def only_requests(usage: Usage, wire: str, *kinds: str) -> None:
    """Refuse fees of a kind that a wire format can't state.

    Raises:
        CannotSay: There is another. Names it.
    """
    for kind in usage.requests:
        if kind not in kinds:
            able = ", ".join(kinds)
            raise CannotSay("usage", f"{wire} can't state requests of {kind}; it states {able}")


def whole(value: object) -> int | None:
    """Return a whole number of a request, such as a limit; None for all else."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def items(value: object) -> list[Any]:
    """Return a list as it is, nothing as an empty one, and all else as a list of one."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
