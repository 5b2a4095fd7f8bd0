"""Static keys: made by `fluxai-mcp keys add`, shown once, and kept as their hashes."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Final

from mcp.server.auth.provider import AccessToken
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fluxai.core.errors import ConfigurationError, NotFound
from fluxai.mcp.identity import EVERY_TENANT, Identity, access_token
from fluxai.policy.records import Id

log = logging.getLogger("fluxai.mcp")

PREFIX: Final = "fxk"
_ID_BYTES: Final = 6
_SECRET_BYTES: Final = 32
_FILE_BYTES_MAX: Final = 16 * 1024 * 1024


def _one_tenant(tenant: str) -> str:
    if tenant == EVERY_TENANT:
        raise ValueError("must be one tenant, not every one")
    return tenant


class Key(BaseModel):
    """What is kept of a key: enough to know it again, too little to make it.

    `sha256` is the hash of the whole key. A key is 256 random bits, so that a plain hash of it
    can't be searched.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    tenant: Annotated[Id, AfterValidator(_one_tenant)]
    user: Id | None = None
    scopes: tuple[str, ...] = ()
    expires_at: int | None = None

    def identity(self) -> Identity:
        """Return who it stands for."""
        return Identity(
            tenant=self.tenant,
            user=self.user,
            scopes=frozenset(self.scopes),
            client=f"key {self.id}",
        )


class _KeyList(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[Key, ...] = ()


class KeyFile:
    """A file of hashed keys, read anew whenever it has changed.

    One that can't be read lets nobody in: a revoked key must not come back through a damaged file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._keys: dict[str, Key] = {}

    def list(self) -> tuple[Key, ...]:
        """Return all keys, as they stand in the file; none where there is no file.

        Raises:
            ConfigurationError: It can't be read, or holds something else.
        """
        try:
            with self.path.open("rb") as file:
                text = file.read(_FILE_BYTES_MAX)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise ConfigurationError(f"{self.path}: {error.strerror}") from error
        try:
            return _KeyList.model_validate_json(text).keys
        except ValidationError as error:
            raise ConfigurationError(f"{self.path} is no file of keys: {error}") from error

    def add(
        self,
        *,
        tenant: str,
        user: str | None = None,
        scopes: Iterable[str] = (),
        expires_at: int | None = None,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> tuple[Key, str]:
        """Make a key, and keep its hash.

        Args:
            tenant: Whose budgets it reaches.
            user: Which user it acts as; without one it may name the tenant's users.
            scopes: What else it grants, such as `fluxai:admin`.
            expires_at: Seconds since the epoch.
            random: Where its random bytes come from.

        Returns:
            What is kept, and the key itself, which can't be shown again.

        Raises:
            ConfigurationError: A value is none that a key can have, or the file can't be read.
        """
        key_id = random(_ID_BYTES).hex()
        shown = f"{PREFIX}_{key_id}_{random(_SECRET_BYTES).hex()}"
        try:
            key = Key(
                id=key_id,
                sha256=_hash(shown),
                tenant=tenant,
                user=user,
                scopes=tuple(sorted(set(scopes))),
                expires_at=expires_at,
            )
        except ValidationError as error:
            faults = error.errors(include_url=False, include_context=False)
            said = "; ".join(f"{fault['loc'][0]}: {fault['msg']}" for fault in faults)
            raise ConfigurationError(f"no such key can be made: {said}") from error
        self._write((*self.list(), key))
        return key, shown

    def revoke(self, key_id: str) -> Key:
        """Remove a key; a running server refuses it from then on.

        Raises:
            NotFound: There is none under that id.
        """
        keys = self.list()
        found = next((key for key in keys if key.id == key_id), None)
        if found is None:
            raise NotFound(f"key: no key {key_id!r} in {self.path}")
        self._write(key for key in keys if key is not found)
        return found

    def find(self, shown: str) -> Key | None:
        """Return what is kept of a key that somebody presents, None if it is none of ours."""
        prefix, _, rest = shown.partition("_")
        key_id, _, _ = rest.partition("_")
        key = self._current().get(key_id) if prefix == PREFIX else None
        if key is None or not hmac.compare_digest(key.sha256, _hash(shown)):
            return None
        return key

    def _current(self) -> dict[str, Key]:
        try:
            stat = self.path.stat()
            state = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if state != self._seen:
                self._keys = {key.id: key for key in self.list()}
                self._seen = state
        except (OSError, ConfigurationError) as error:
            log.error("no key is accepted: %s", error)  # noqa: TRY400 -- the line says it all
            self._keys, self._seen = {}, None
        return self._keys

    def _write(self, keys: Iterable[Key]) -> None:
        """Replace the file in one step; only its owner may read it."""
        rows = [key.model_dump(mode="json", exclude_defaults=True) for key in keys]
        folder = self.path.parent
        folder.mkdir(parents=True, exist_ok=True)
        # mkstemp makes files that only their owner may read.
        handle, name = tempfile.mkstemp(dir=folder, prefix=f".{self.path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"keys": rows}, file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


class KeyVerifier:
    """Verifies static keys, as the SDK's `TokenVerifier`."""

    def __init__(self, file: KeyFile) -> None:
        self._file = file

    async def verify_token(self, token: str) -> AccessToken | None:
        """Return who a key stands for, None if it is not in the file."""
        key = self._file.find(token)
        if key is None:
            return None
        return access_token(key.identity(), token, expires_at=key.expires_at)


def _hash(shown: str) -> str:
    return hashlib.sha256(shown.encode("utf-8", "surrogatepass")).hexdigest()
