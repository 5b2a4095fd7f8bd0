"""Options that the commands share: who is asking, and whom an HTTP server answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from fluxai.core.errors import ConfigurationError, NotFound

if TYPE_CHECKING:
    from mcp.server.auth.provider import TokenVerifier

    from fluxai.governor import Governor
    from fluxai.mcp.http import HttpSettings
    from fluxai.mcp.identity import Identity

F = TypeVar("F", bound=Callable[..., Any])

DB_VARIABLE: Final = "FLUXAI_DATABASE_URL"
DEFAULT_DB: Final = "sqlite:///fluxai.db"
DEFAULT_KEYS: Final = Path("fluxai-mcp-keys.json")
#: Not an option: what stands on a command line can be read by every process.
JWT_SECRET_VARIABLE: Final = "FLUXAI_MCP_JWT_SECRET"  # noqa: S105 -- a variable's name
DEFAULT_TENANT: Final = "default"

db_option = click.option(
    "--db",
    metavar="URL",
    envvar=DB_VARIABLE,
    help=f"Where the ledger is: sqlite:////data/fluxai.db, postgresql://… Default: {DB_VARIABLE}, "
    f"else {DEFAULT_DB}.",
)
keys_option = click.option(
    "--keys",
    metavar="FILE",
    envvar="FLUXAI_MCP_KEYS",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"The file of hashed keys. Default: {DEFAULT_KEYS}.",
)


def identity_options(function: F) -> F:
    """Add the options that say who is asking, where requests carry no token."""
    options = (
        click.option(
            "--tenant",
            metavar="ID",
            envvar="FLUXAI_MCP_TENANT",
            help=f"On stdio: whose budgets. Default: {DEFAULT_TENANT}.",
        ),
        click.option(
            "--user", metavar="ID", envvar="FLUXAI_MCP_USER", help="On stdio: which user of it."
        ),
        click.option(
            "--scope",
            "scopes",
            metavar="SCOPE",
            multiple=True,
            envvar="FLUXAI_MCP_SCOPES",
            help="On stdio: what is granted, such as fluxai:admin. May be repeated.",
        ),
    )
    return _added(function, options)


def http_options(function: F) -> F:
    """Add the options of an HTTP server: where it listens, and whom it believes."""
    options = (
        click.option("--host", default="127.0.0.1", show_default=True, help="What to bind."),
        click.option(
            "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any."
        ),
        click.option(
            "--public-url",
            metavar="URL",
            envvar="FLUXAI_MCP_PUBLIC_URL",
            help="How clients reach it: https://budgets.example.com/mcp.",
        ),
        click.option(
            "--allowed-host",
            "allowed_hosts",
            metavar="HOST",
            multiple=True,
            help="A further Host header to answer; name:* takes any port. May be repeated.",
        ),
        click.option(
            "--allowed-origin",
            "allowed_origins",
            metavar="ORIGIN",
            multiple=True,
            help="A web page that may call it: https://app.example.com. May be repeated.",
        ),
        click.option(
            "--no-auth",
            is_flag=True,
            help="Let everybody on this machine in, as --tenant, --user and --scope say.",
        ),
        keys_option,
        click.option(
            "--jwt-issuer",
            metavar="ISS",
            envvar="FLUXAI_MCP_JWT_ISSUER",
            help="Believe the JWTs of this issuer.",
        ),
        click.option(
            "--jwt-audience",
            metavar="AUD",
            envvar="FLUXAI_MCP_JWT_AUDIENCE",
            help="What their aud must be. Default: --public-url.",
        ),
        click.option(
            "--jwt-jwks",
            metavar="URL|FILE",
            envvar="FLUXAI_MCP_JWT_JWKS",
            help=f"The issuer's public keys. Without them: the secret in {JWT_SECRET_VARIABLE}.",
        ),
        click.option(
            "--jwt-algorithm",
            "jwt_algorithms",
            metavar="ALG",
            multiple=True,
            help="Accept only this one, such as RS256. May be repeated.",
        ),
        click.option("--jwt-tenant-claim", default="tenant", show_default=True, metavar="NAME"),
        click.option("--jwt-user-claim", default="sub", show_default=True, metavar="NAME"),
        click.option("--jwt-scope-claim", default="scope", show_default=True, metavar="NAME"),
    )
    return _added(function, options)


def _added(function: F, options: tuple[Callable[[F], F], ...]) -> F:
    for option in reversed(options):
        function = option(function)
    return function


def http_settings(
    *,
    host: str,
    port: int,
    public_url: str | None,
    allowed_hosts: tuple[str, ...],
    allowed_origins: tuple[str, ...],
    no_auth: bool,
    keys: Path | None,
    jwt_issuer: str | None,
    jwt_audience: str | None,
    jwt_jwks: str | None,
    jwt_algorithms: tuple[str, ...],
    jwt_tenant_claim: str,
    jwt_user_claim: str,
    jwt_scope_claim: str,
    streamable: bool = True,
    sse: bool = True,
) -> HttpSettings:
    """Read the options of `http_options`.

    Raises:
        ConfigurationError: They name no credential to check, or what they name can't be used.
    """
    from fluxai.mcp.http import HttpSettings
    from fluxai.mcp.identity import ADMIN, ADMIN_ALL

    verifiers: list[TokenVerifier] = []
    if jwt_issuer is not None:
        from fluxai.mcp.tokens import JwtSettings, JwtVerifier

        settings = JwtSettings(
            issuer=jwt_issuer,
            audience=jwt_audience or public_url or "",
            jwks=jwt_jwks,
            secret=None if jwt_jwks is not None else os.environ.get(JWT_SECRET_VARIABLE),
            algorithms=jwt_algorithms,
            tenant_claim=jwt_tenant_claim,
            user_claim=jwt_user_claim,
            scope_claim=jwt_scope_claim,
        )
        verifiers.append(JwtVerifier(settings))
    elif jwt_jwks is not None or jwt_audience is not None:
        raise ConfigurationError("JWTs are believed with --jwt-issuer only")
    path = keys or DEFAULT_KEYS
    if keys is not None or (not no_auth and path.exists()):
        from fluxai.mcp.keys import KeyFile, KeyVerifier

        file = KeyFile(path)
        file.list()  # says now what is wrong with it
        verifiers.append(KeyVerifier(file))
    if no_auth and verifiers:
        raise ConfigurationError("--no-auth checks nothing: leave it out, or the keys and the JWTs")
    if not no_auth and not verifiers:
        raise ConfigurationError(
            "nobody could come in: make a key with `fluxai-mcp keys add --tenant ID`, or name an "
            "issuer with --jwt-issuer; on this machine alone, --no-auth lets everybody in"
        )
    return HttpSettings(
        host=host,
        port=port,
        verifier=_any_of(verifiers),
        public_url=public_url,
        allowed_hosts=allowed_hosts,
        allowed_origins=allowed_origins,
        issuers=() if jwt_issuer is None else (jwt_issuer,),
        scopes=(ADMIN, ADMIN_ALL),
        streamable=streamable,
        sse=sse,
    )


def _any_of(verifiers: list[TokenVerifier]) -> TokenVerifier | None:
    if len(verifiers) < 2:
        return verifiers[0] if verifiers else None
    from fluxai.mcp.tokens import AnyVerifier

    return AnyVerifier(verifiers)


def launch_identity(
    governor: Governor, *, tenant: str | None, user: str | None, scopes: tuple[str, ...]
) -> Identity:
    """Say who is asking where requests carry no token, and see that it is registered.

    The tenant `default`, which stands for a missing `--tenant`, is registered when it is first
    used; any other name that nobody registered is more likely a slip, which would have no limits.

    Raises:
        ConfigurationError: The tenant or the user is not registered.
    """
    from fluxai.mcp.identity import Identity
    from fluxai.policy.records import Tenant

    name = tenant or DEFAULT_TENANT
    if governor.planner.registered:
        try:
            governor.tenants.get(name)
        except NotFound as error:
            if name != DEFAULT_TENANT:
                raise ConfigurationError(
                    f"{error}; add it with `fluxai policies apply FILE`, or say --subjects open"
                ) from error
            governor.tenants.put(Tenant(id=DEFAULT_TENANT))
        if user is not None:
            try:
                governor.users.get(user, tenant=name)
            except NotFound as error:
                raise ConfigurationError(
                    f"{error} of tenant {name!r}; add it with `fluxai policies apply FILE`"
                ) from error
    return Identity(tenant=name, user=user, scopes=frozenset(scopes), client="launch")
