"""Pictures as bytes: what kind they are, by their first bytes, and how they are written down."""

from __future__ import annotations

import base64
import binascii
import re
from typing import NamedTuple

from fluxai.core.errors import InvalidRequest

_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,([A-Za-z0-9+/=\s]+)")
#: The first bytes of the kinds that all three providers read.
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)


class Picture(NamedTuple):
    """A picture's bytes, and their media type."""

    data: bytes
    media_type: str

    @property
    def base64(self) -> str:
        """The bytes as base64."""
        return base64.b64encode(self.data).decode()


def media_type(data: bytes) -> str | None:
    """Tell a picture's media type by its first bytes; `None` where it is of no known kind."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC if data.startswith(magic)), None)


def picture_of(value: object) -> Picture:
    """Read a picture that a caller hands over.

    Args:
        value: Bytes, a `data:` URL with base64, or an object with `data`, such as an `Image`.

    Raises:
        InvalidRequest: It is none, or no PNG, JPEG, GIF or WebP.
    """
    data = getattr(value, "data", value)
    if isinstance(data, str):
        found = _DATA_URL.fullmatch(data)
        if found is None:
            raise InvalidRequest(
                "images", "a text must be a data: URL with base64; read files and addresses first"
            )
        try:
            data = base64.b64decode(found[1])
        except binascii.Error as error:
            raise InvalidRequest("images", f"holds base64 that can't be read: {error}") from error
    if not isinstance(data, (bytes, bytearray)):
        raise InvalidRequest("images", f"must be bytes or data: URLs, got {type(value).__name__}")
    kind = media_type(bytes(data))
    if kind is None:
        raise InvalidRequest("images", "must be PNG, JPEG, GIF or WebP")
    return Picture(bytes(data), kind)
