"""Forms with files, as clients upload them."""

from __future__ import annotations

from email import message_from_bytes
from email.message import EmailMessage
from email.policy import HTTP
from typing import NamedTuple

from fluxai.core.errors import InvalidRequest
from fluxai.testing.provider.exchange import Request


class Upload(NamedTuple):
    """One field of a form; a name of its own marks a file."""

    field: str
    filename: str | None
    content: bytes


def uploads_of(request: Request) -> list[Upload]:
    """Read the fields of a form.

    Raises:
        InvalidRequest: The request carries no form.
    """
    kind = request.headers.get("content-type", "")
    if not kind.startswith("multipart/form-data"):
        raise InvalidRequest("body", f"of {request.method} {request.path} must be a form")
    head = f"Content-Type: {kind}\r\n\r\n".encode("latin-1")
    form = message_from_bytes(head + request.body, policy=HTTP)
    assert isinstance(form, EmailMessage)
    found = []
    for part in form.iter_parts():
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        named = part.get_param("name", header="content-disposition")
        found.append(Upload(str(named), part.get_filename(), content))
    return found


def fields_of(request: Request) -> dict[str, str]:
    """Return the fields of a form that are no files, as texts."""
    return {
        upload.field: upload.content.decode()
        for upload in uploads_of(request)
        if upload.filename is None
    }
