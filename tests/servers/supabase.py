"""What hosted Supabase adds to PostgreSQL: its roles, its `auth` schema, and its tokens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy.engine import make_url

from tests.servers.postgres import Databases

_HERE = Path(__file__).parent
# Roles belong to the server, and two test processes may share one that is not ours.
_PASSWORD = "fluxai-tests"
_LOCK = 7_205_759


@dataclass(frozen=True, slots=True, kw_only=True)
class SupabaseDatabase:
    """A database as hosted Supabase hands it to a project: empty, with roles and `auth`."""

    #: The name, for `Databases.url`.
    name: str
    #: As the superuser, which hosted Supabase keeps to itself.
    admin_url: str
    #: As the owner, who is no superuser: what runs the project's migrations.
    owner_url: str
    #: As the role that PostgREST logs in as.
    authenticator_url: str


def create_supabase_database(server: Databases) -> SupabaseDatabase:
    """Create a database with what hosted Supabase has before a project adds anything."""
    _create_roles(server)
    admin_url = server.create_database(owner="supabase_owner")
    name = make_url(admin_url).database or ""
    server.execute(_text("supabase_database.sql"), database=name)
    return SupabaseDatabase(
        name=name,
        admin_url=admin_url,
        owner_url=server.url(name, user="supabase_owner", password=_PASSWORD),
        authenticator_url=server.url(name, user="authenticator", password=_PASSWORD),
    )


def make_secret() -> str:
    """Return a secret to sign tokens with."""
    return secrets.token_hex(32)


def sign(claims: Mapping[str, Any], *, secret: str) -> str:
    """Return a JSON web token, signed with HMAC and SHA-256.

    Source:
        RFC 7519, and RFC 7515 for the signature.
    """
    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    signed = b".".join(_base64(json.dumps(part).encode()) for part in parts)
    signature = hmac.digest(secret.encode(), signed, hashlib.sha256)
    return (signed + b"." + _base64(signature)).decode("ascii")


def _create_roles(server: Databases) -> None:
    with psycopg.connect(server.url()) as connection:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        found = connection.execute("SELECT FROM pg_roles WHERE rolname = 'supabase_owner'")
        if found.fetchone() is None:
            connection.execute(_text("supabase_roles.sql").replace(":password", f"'{_PASSWORD}'"))


def _text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _base64(value: bytes) -> bytes:
    return base64.urlsafe_b64encode(value).rstrip(b"=")
