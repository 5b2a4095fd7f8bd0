"""JWTs of somebody else's issuer: signature, issuer, audience and expiry, then who it is for."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import anyio.to_thread
import jwt
from mcp.server.auth.provider import AccessToken, TokenVerifier

from fluxai.core.errors import ConfigurationError
from fluxai.mcp.identity import EVERY_TENANT, Identity, access_token, read_scopes

log = logging.getLogger("fluxai.mcp")

#: What a public key may have signed with. `none` is in neither list, and no token chooses a list.
ASYMMETRIC: Final = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "EdDSA",
)
#: What a shared secret may have signed with.
SYMMETRIC: Final = ("HS256", "HS384", "HS512")
_SECRET_BYTES_MIN: Final = 32
_LEEWAY_S: Final = 30
_TOKEN_LETTERS_MAX: Final = 16_384
_FETCH_S: Final = 10
_PAUSE_S: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtSettings:
    """Which JWTs are believed, and where they say for whom they are.

    Args:
        issuer: What `iss` must be.
        audience: What `aud` must be, or hold: this server.
        jwks: A URL (`https`, or `http` on this machine) or a file with the issuer's public keys.
        secret: Instead of `jwks`: a secret shared with the issuer, at least 32 bytes.
        algorithms: Those accepted; by default all that suit the keys. They must suit them.
        tenant_claim: Where the tenant is. A token without it is refused.
        user_claim: Where the user is; a token without it acts for the tenant as a whole.
        scope_claim: Where the scopes are: a text with spaces, or a list.
    """

    issuer: str
    audience: str
    jwks: str | None = None
    secret: str | None = None
    algorithms: Sequence[str] = ()
    tenant_claim: str = "tenant"
    user_claim: str = "sub"
    scope_claim: str = "scope"

    def __post_init__(self) -> None:
        """Refuse what would verify nothing.

        Raises:
            ConfigurationError: Keys are missing or named twice, or an algorithm does not suit them.
        """
        if (self.jwks is None) == (self.secret is None):
            raise ConfigurationError("JWTs need either the issuer's JWKS or a shared secret")
        if not self.issuer or not self.audience:
            raise ConfigurationError("JWTs need an issuer and an audience to be checked against")
        if self.secret is not None and len(self.secret.encode()) < _SECRET_BYTES_MIN:
            raise ConfigurationError(f"the JWT secret must have at least {_SECRET_BYTES_MIN} bytes")
        suited = ASYMMETRIC if self.secret is None else SYMMETRIC
        for algorithm in self.algorithms:
            if algorithm not in suited:
                raise ConfigurationError(
                    f"the JWT algorithm {algorithm!r} is not one of {', '.join(suited)}"
                )

    @property
    def accepted(self) -> list[str]:
        """The algorithms that are accepted."""
        return list(self.algorithms or (ASYMMETRIC if self.secret is None else SYMMETRIC))


class _Keys(Protocol):
    def of(self, token: str) -> Any:
        """Return the key that verifies a token. May wait for a disk or the network."""
        ...


class JwtVerifier:
    """Verifies JWTs, as the SDK's `TokenVerifier`."""

    def __init__(self, settings: JwtSettings) -> None:
        self._settings = settings
        self._keys = _keys_of(settings)

    async def verify_token(self, token: str) -> AccessToken | None:
        """Return who a token stands for, None if it must not be believed. The log says why."""
        if len(token) > _TOKEN_LETTERS_MAX or token.count(".") != 2:
            return None
        try:
            claims = await anyio.to_thread.run_sync(partial(self._claims, token))
        except (jwt.PyJWTError, TypeError, ValueError) as error:
            # The latter two: an algorithm that is accepted, but not for the key that is named.
            log.info("a token was refused: %s: %.200r", type(error).__name__, str(error))
            return None
        except ConfigurationError as error:
            log.error("no token can be verified: %s", error)  # noqa: TRY400 -- the line says it all
            return None
        identity = self._identity(claims)
        if identity is None:
            return None
        issuer = self._settings.issuer
        return access_token(identity, token, issuer=issuer, expires_at=int(claims["exp"]))

    def _claims(self, token: str) -> dict[str, Any]:
        settings = self._settings
        claims: dict[str, Any] = jwt.decode(
            token,
            self._keys.of(token),
            algorithms=settings.accepted,
            issuer=settings.issuer,
            audience=settings.audience,
            leeway=_LEEWAY_S,
            options={"require": ["exp", "iss", "aud"]},
        )
        return claims

    def _identity(self, claims: Mapping[str, Any]) -> Identity | None:
        settings = self._settings
        tenant = claims.get(settings.tenant_claim)
        user = claims.get(settings.user_claim)
        if not isinstance(tenant, str) or tenant in ("", EVERY_TENANT):
            log.info("a token was refused: it has no tenant in %r", settings.tenant_claim)
            return None
        if user is not None and (not isinstance(user, str) or not user):
            log.info("a token was refused: its user in %r is no text", settings.user_claim)
            return None
        client = next(
            (
                claims[name]
                for name in ("client_id", "azp", "sub")
                if isinstance(claims.get(name), str)
            ),
            "unnamed",
        )
        return Identity(
            tenant=tenant,
            user=user,
            scopes=read_scopes(claims.get(settings.scope_claim, claims.get("scp"))),
            client=f"token of {client}",
        )


class AnyVerifier:
    """Believes what one of several verifiers believes: static keys beside an issuer's tokens."""

    def __init__(self, verifiers: Sequence[TokenVerifier]) -> None:
        self._verifiers = verifiers

    async def verify_token(self, token: str) -> AccessToken | None:
        """Return who a token stands for, None if nobody knows it."""
        for verifier in self._verifiers:
            found = await verifier.verify_token(token)
            if found is not None:
                return found
        return None


def _keys_of(settings: JwtSettings) -> _Keys:
    if settings.secret is not None:
        return _Secret(settings.secret)
    assert settings.jwks is not None  # noqa: S101 -- checked by the settings
    parts = urlsplit(settings.jwks)
    if parts.scheme in ("http", "https"):
        if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise ConfigurationError(f"keys must come over https: {settings.jwks}")
        return _FetchedKeys(settings.jwks)
    return _FileKeys(Path(settings.jwks))


class _Secret:
    def __init__(self, secret: str) -> None:
        self._secret = secret

    def of(self, token: str) -> Any:  # noqa: ARG002 -- one for all
        return self._secret


class _FetchedKeys:
    """Keys from the issuer: kept for five minutes, asked for anew at most twice a minute."""

    def __init__(self, url: str) -> None:
        self._client = _PatientClient(url, timeout=_FETCH_S, cooldown_duration=_PAUSE_S)

    def of(self, token: str) -> Any:
        return self._client.get_signing_key_from_jwt(token).key


class _PatientClient(jwt.PyJWKClient):
    """Leaves an issuer alone for a while after it failed too.

    Else each token with an unknown key would wait for it, and those of known keys behind them.
    """

    _failed_at = float("-inf")

    def fetch_data(self) -> Any:
        if time.monotonic() - self._failed_at < _PAUSE_S:
            raise jwt.PyJWKClientConnectionError("the issuer failed a moment ago")
        try:
            return super().fetch_data()
        except (jwt.PyJWTError, OSError, ValueError) as error:
            self._failed_at = time.monotonic()
            log.error("the issuer's keys can't be fetched: %s", error)  # noqa: TRY400
            raise jwt.PyJWKClientConnectionError(str(error)) from error


class _FileKeys:
    """Keys from a file, read anew when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._set: jwt.PyJWKSet | None = None

    def of(self, token: str) -> Any:
        key_id = jwt.get_unverified_header(token).get("kid")
        keys = self._current().keys
        if key_id is None and len(keys) == 1:
            return keys[0].key
        for key in keys:
            if key_id is not None and key.key_id == key_id:
                return key.key
        raise jwt.InvalidKeyError(f"no key {key_id!r:.80} in {self._path}")

    def _current(self) -> jwt.PyJWKSet:
        try:
            stat = self._path.stat()
            state = (stat.st_mtime_ns, stat.st_size)
            if self._set is None or state != self._seen:
                self._set = jwt.PyJWKSet.from_dict(json.loads(self._path.read_bytes()))
                self._seen = state
        except (OSError, ValueError, jwt.PyJWTError) as error:
            self._set = None
            raise ConfigurationError(f"{self._path} is no JWKS: {error}") from error
        return self._set
