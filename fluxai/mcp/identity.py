"""Who is asking: tenant, user and scopes, from a verified credential or from the launch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.auth.provider import AccessToken

from fluxai.core.errors import ConfigurationError, NotPermitted

#: May change the tenant's policies, decide its approvals, and act for each of its users.
ADMIN: Final = "fluxai:admin"
#: The same for every tenant.
ADMIN_ALL: Final = "fluxai:admin:all"
#: What a policy for every tenant has as its tenant. Nobody's own.
EVERY_TENANT: Final = "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whose budgets a request concerns, and what it may do to them.

    Args:
        tenant: Never empty: a credential without a tenant is refused at the door.
        user: Which user of it; None acts for the tenant as a whole, and may name its users.
        scopes: What the credential grants.
        client: A name for the credential itself, for the record of who decided.

    Raises:
        ConfigurationError: The tenant is `*`, which stands for all of them.
    """

    tenant: str
    user: str | None = None
    scopes: frozenset[str] = frozenset()
    client: str = "local"

    def __post_init__(self) -> None:
        """Refuse a tenant that would be all of them."""
        if self.tenant == EVERY_TENANT:
            raise ConfigurationError("the tenant * stands for every tenant, and is nobody's own")

    @property
    def is_admin(self) -> bool:
        """Whether it may change policies and decide approvals."""
        return self.reaches_all or ADMIN in self.scopes

    @property
    def reaches_all(self) -> bool:
        """Whether it may name any tenant."""
        return ADMIN_ALL in self.scopes

    @property
    def name(self) -> str:
        """Who it is, for the record of a decision."""
        return self.client if self.user is None else f"{self.user} ({self.client})"

    def tenant_of(self, asked: str | None) -> str:
        """Return the tenant that a request concerns.

        Args:
            asked: What the request names; None stands for its own.

        Raises:
            NotPermitted: It names another tenant, and may not.
        """
        if asked is None or asked == self.tenant:
            return self.tenant
        if self.reaches_all:
            return asked
        raise NotPermitted(
            f"tenant_id: this credential is for another tenant than {asked!r:.80}; leave tenant_id "
            f"out. Do not retry with the same value"
        )

    def user_of(self, asked: str | None) -> str | None:
        """Return the user that a request concerns, None for the tenant as a whole.

        Args:
            asked: What the request names; None stands for its own, if it has one.

        Raises:
            NotPermitted: It names another user, and may not.
        """
        if asked is None or asked == self.user:
            return self.user
        if self.user is None or self.is_admin:
            return asked
        raise NotPermitted(
            f"user_id: this credential is for another user than {asked!r:.80}; leave user_id out. "
            f"Do not retry with the same value"
        )

    def user_seen(self, asked: str | None) -> str | None:
        """Return whose figures a request may see, None for all of the tenant's.

        Args:
            asked: Whom the request names; None stands for as much as it may see.

        Raises:
            NotPermitted: It names another user, and may not.
        """
        return None if asked is None and self.is_admin else self.user_of(asked)

    def sees(self, user: str | None) -> bool:
        """Say whether what a user of its tenant did may be shown to it."""
        return self.user is None or self.is_admin or user == self.user

    def require(self, scope: str) -> None:
        """Check that a scope is granted; `ADMIN_ALL` includes `ADMIN`.

        Raises:
            NotPermitted: It is not.
        """
        granted = self.is_admin if scope == ADMIN else scope in self.scopes
        if not granted:
            raise NotPermitted(
                f"this needs the scope {scope}, which this credential lacks; ask a person who has "
                f"it. Do not retry"
            )


def access_token(
    identity: Identity, token: str, *, issuer: str | None = None, expires_at: int | None = None
) -> AccessToken:
    """Write an identity as what the SDK keeps of a verified token.

    The SDK binds a session to `client_id`, issuer and subject, so that the tenant and the user are
    part of them: a token of another tenant finds no session, whatever its issuer calls itself.

    Args:
        identity: Who the token stands for.
        token: The token, as it was presented.
        issuer: Who issued it, if anybody but this server.
        expires_at: Seconds since the epoch.
    """
    claims: dict[str, Any] = {"tenant": identity.tenant, "user": identity.user}
    claims["client"] = identity.client
    if issuer is not None:
        claims["iss"] = issuer
    return AccessToken(
        token=token,
        client_id=json.dumps([identity.tenant, identity.client]),
        subject=identity.user,
        scopes=sorted(identity.scopes),
        expires_at=expires_at,
        claims=claims,
    )


def identity_of(token: AccessToken) -> Identity:
    """Read back what `access_token` wrote."""
    claims = token.claims or {}
    return Identity(
        tenant=claims["tenant"],
        user=claims["user"],
        scopes=frozenset(token.scopes),
        client=claims["client"],
    )


def current_identity(launch: Identity | None) -> Identity:
    """Return who sent the request that is being served.

    Args:
        launch: Who it is where requests carry no token: on stdio, or with `--no-auth`. None where
            each request must carry one.

    Raises:
        NotPermitted: No token was verified, and none may be missing.
    """
    token = get_access_token()
    if token is not None:
        return identity_of(token)
    if launch is None:
        raise NotPermitted("no verified credential came with this request")
    return launch


def read_scopes(value: object) -> frozenset[str]:
    """Read scopes as tokens write them: one text with spaces, or a list. Anything else grants none."""
    if isinstance(value, str):
        return frozenset(value.split())
    if isinstance(value, Iterable):
        return frozenset(scope for scope in value if isinstance(scope, str))
    return frozenset()
