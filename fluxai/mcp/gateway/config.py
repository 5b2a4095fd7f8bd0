"""`servers.toml`: which servers stand behind the gateway, what their tools cost, and who may call."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from fluxai.core.errors import ConfigurationError
from fluxai.mcp.gateway.pins import Trust

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_SERVER_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]|_(?=[A-Za-z0-9-])){0,31}")
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")

#: Who may answer for a person: nobody but one who decides apart from the client, or the client too.
Answers = Literal["stored", "client"]


def _exact(value: object) -> object:
    if isinstance(value, float):
        raise ValueError(f"write it in quotes, such as {str(value)!r}: money is never a float")  # noqa: TRY004 -- pydantic's
    return value


Usd = Annotated[Decimal, BeforeValidator(_exact), Field(ge=0, le=1_000_000)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Terms(_Settings):
    """On which terms a tool is called. A tool's own come before its server's.

    Attributes:
        cost: USD for one unit, and the most that a call is charged for one where the server
            reports what it cost. Without it the tool's record decides, and without one it is free.
        units: How many units a call is, or the name of the argument that says so.
        cost_meta: The key of a result's `_meta` under which the server reports what a call cost.
        fallback: A published name that does the same for less, to which a policy may downgrade.
        approval: Who may say yes where a policy asks: see `Answers`.
        timeout: Seconds until a call is given up; it then counts as charged.
        tenants: The only tenants that may see and call it.
        scopes: What a credential must grant to see and call it.
    """

    cost: Usd | None = None
    units: Annotated[int, Field(ge=1, le=10**9)] | str | None = None
    cost_meta: str | None = None
    fallback: str | None = None
    approval: Answers | None = None
    timeout: Seconds | None = None
    tenants: tuple[str, ...] | None = None
    scopes: tuple[str, ...] | None = None

    def over(self, other: Terms) -> Terms:
        """Return these terms, with another's where they say nothing."""
        said = {name: value for name, value in self if value is not None}
        kept = {name: getattr(other, name) for name in Terms.model_fields}
        return Terms(**{**kept, **{name: said[name] for name in kept if name in said}})


class Credentials(_Settings):
    """What a tenant's own connection to a server is opened with. `${NAME}` is an environment variable."""

    headers: dict[str, str] = {}
    env: dict[str, str] = {}


class ServerSettings(Terms):
    """One server behind the gateway: a command that speaks over stdio, or a URL.

    Attributes:
        command: The program and its arguments.
        url: Where it answers Streamable HTTP.
        cwd: The folder the command is started in.
        headers: Sent with each request to the URL; the client's own are never passed on.
        env: Variables of the command.
        credentials: The same for single tenants, instead of these.
        shared: Tenants may share one connection: only for a server that keeps no state by session.
        prefix: What its published names begin with, like a server's name; empty, which is for one
            server at most, publishes them as they are unless they begin like another server's.
        connections: How many connections one tenant may hold to it at once.
        tools: Terms of single tools, by the name that the server gave.
    """

    command: tuple[str, ...] | None = None
    url: str | None = None
    cwd: str | None = None
    headers: dict[str, str] = {}
    env: dict[str, str] = {}
    credentials: dict[str, Credentials] = {}
    shared: bool = False
    prefix: str | None = None
    connections: Annotated[int, Field(ge=1, le=1_000)] = 16
    tools: dict[str, Terms] = {}

    @model_validator(mode="after")
    def _one_way_in(self) -> Self:
        if (self.command is None) == (self.url is None):
            raise ValueError("give either command or url")
        if self.command is not None and (not self.command or self.headers):
            raise ValueError("a command needs at least a program, and takes env instead of headers")
        if self.url is not None and self.env:
            raise ValueError("a url takes headers instead of env")
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ValueError("url must begin with http:// or https://")
        if self.shared and self.credentials:
            raise ValueError("tenants with credentials of their own can't share a connection")
        return self

    def terms(self, tool: str) -> Terms:
        """Return the terms of a tool."""
        own = self.tools.get(tool)
        return self if own is None else own.over(self)

    def credential(self, tenant: str) -> Credentials:
        """Return what a tenant's connection is opened with."""
        own = self.credentials.get(tenant)
        return Credentials(headers=self.headers, env=self.env) if own is None else own


class GatewaySettings(_Settings):
    """The whole file.

    Attributes:
        servers: The servers, by the name that their tools' names begin with.
        database: The store; `--db` and `FLUXAI_DATABASE_URL` come first.
        pins: Whether the tools that a server shows first are trusted, or wait like later ones.
        pins_file: Where pins are kept; beside the configuration by default.
        approval: Who may say yes where a policy asks, unless a server or tool says otherwise.
        subjects: `registered` refuses tenants and users that the store does not know.
        state_key_env: The variable with the secret, of 32 characters or more, that gateways share
            so that a question asked by one may be answered to another.
        connect_timeout: Seconds to wait for a server's connection.
        list_timeout: Seconds to wait for a server's lists; then the last known is shown.
        call_timeout: Seconds to wait for a call.
        list_ttl: Seconds for which a list is shown without asking again.
        retry_pause: Seconds after which a server that could not be reached is tried again. So often,
            a connection with subscriptions is checked too.
        answer_timeout: Seconds to wait for a person before whom the client put a question.
    """

    servers: Annotated[dict[str, ServerSettings], Field(min_length=1)]
    database: str | None = None
    pins: Trust = "trust-first-use"
    pins_file: Path | None = None
    approval: Answers = "stored"
    subjects: Literal["open", "registered"] = "open"
    state_key_env: str = "FLUXAI_MCP_STATE_KEY"
    connect_timeout: Seconds = 15
    list_timeout: Seconds = 5
    call_timeout: Seconds = 60
    list_ttl: Seconds = 60
    retry_pause: Seconds = 5
    answer_timeout: Seconds = 300

    @field_validator("servers")
    @classmethod
    def _plain_names(cls, servers: dict[str, ServerSettings]) -> dict[str, ServerSettings]:
        for name in servers:
            if _SERVER_NAME.fullmatch(name) is None:
                raise ValueError(
                    f"{name!r}: a server's name is at most 32 letters, digits, - and single _"
                )
        return servers

    @model_validator(mode="after")
    def _prefixes_apart(self) -> Self:
        """Refuse prefixes by which one server could take another's names."""
        seen: dict[str, str] = {}
        for name in self.servers:
            prefix = self.prefix(name)
            if prefix and _SERVER_NAME.fullmatch(prefix) is None:
                raise ValueError(f"the prefix {prefix!r} must be like a server's name")
            if prefix in seen:
                raise ValueError(f"{seen[prefix]!r} and {name!r} have the same prefix, {prefix!r}")
            if prefix != name and prefix in self.servers:
                raise ValueError(f"the prefix of {name!r} is the name of another server")
            seen[prefix] = name
        return self

    def prefix(self, server: str) -> str:
        """Return what a server's published names begin with."""
        own = self.servers[server].prefix
        return server if own is None else own

    def timeout(self, terms: Terms) -> float:
        """Return how long a call may take, in seconds."""
        return self.call_timeout if terms.timeout is None else terms.timeout


def read_settings(path: Path, environment: Mapping[str, str] | None = None) -> GatewaySettings:
    """Read the configuration of a gateway.

    Args:
        path: The TOML file.
        environment: Where `${NAME}` is looked up; the process's own by default.

    Raises:
        ConfigurationError: It can't be read, or a field is wrong; names the field.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        settings = GatewaySettings.model_validate(raw)
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from error
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {_fault(e)}" for e in error.errors()]
        raise ConfigurationError(f"{path}: " + "; ".join(lines)) from error
    variables = os.environ if environment is None else environment
    filled = {
        name: _filled(f"servers.{name}", server, variables)
        for name, server in settings.servers.items()
    }
    pins_file = settings.pins_file or Path(f"{path.stem}.pins.json")
    return settings.model_copy(
        update={"servers": filled, "pins_file": path.parent.joinpath(pins_file)}
    )


def _fault(error: ErrorDetails) -> str:
    if error["type"] == "tuple_type":
        return f"must be a list, such as {str(error['input']).split()!r}"
    return error["msg"].removeprefix("Value error, ")


def _filled(where: str, server: ServerSettings, variables: Mapping[str, str]) -> ServerSettings:
    """Put the values of variables in place of their names, where secrets may stand."""

    def fill(field: str, texts: Mapping[str, str]) -> dict[str, str]:
        return {
            key: _value(f"{where}.{field}.{key}", text, variables) for key, text in texts.items()
        }

    own = {
        tenant: Credentials(
            headers=fill(f"credentials.{tenant}.headers", kept.headers),
            env=fill(f"credentials.{tenant}.env", kept.env),
        )
        for tenant, kept in server.credentials.items()
    }
    changed: dict[str, Any] = {
        "headers": fill("headers", server.headers),
        "env": fill("env", server.env),
        "credentials": own,
    }
    return server.model_copy(update=changed)


def _value(field: str, text: str, variables: Mapping[str, str]) -> str:
    def look_up(found: re.Match[str]) -> str:
        value = variables.get(found[1])
        if value is None:
            raise ConfigurationError(f"{field}: the environment variable {found[1]} is not set")
        return value

    return _VARIABLE.sub(look_up, text)
