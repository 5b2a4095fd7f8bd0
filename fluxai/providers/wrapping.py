"""`governor.wrap(client)`: which SDK a client is of, without importing any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeVar

from fluxai.arguments import check_tenant, check_text, one_of
from fluxai.core.errors import ConfigurationError

if TYPE_CHECKING:
    from fluxai.governor import Governor
    from fluxai.providers.exchange import Terms

C = TypeVar("C")


def wrap(
    governor: Governor,
    client: C,
    *,
    tenant: str | None,
    user: str | None,
    labels: Mapping[str, str] | None,
    ungoverned: Literal["refuse", "allow"],
) -> C:
    """Return a governed client; see `Governor.wrap`."""
    from fluxai.providers.genai import wrap_genai
    from fluxai.providers.stainless import wrap_stainless

    terms = agreed(governor, tenant, user, labels, ungoverned)
    homes = {kind.__module__.split(".")[0] for kind in type(client).__mro__}
    if is_wrapped(client):
        raise ConfigurationError(
            "this client is wrapped already; wrap the client it was made from, or use "
            "fluxai.subject() to say who spends"
        )
    if homes & {"openai", "anthropic"} and hasattr(client, "with_options"):
        return wrap_stainless(client, terms)
    if "google" in homes and hasattr(client, "_api_client"):
        return wrap_genai(client, terms)
    if isinstance(client, type):
        raise ConfigurationError(
            f"client: {client.__name__} is a class; pass one of its clients, {client.__name__}(…)"
        )
    raise ConfigurationError(
        f"client: FluxAI wraps clients of openai, anthropic and google-genai, got "
        f"{type(client).__module__}.{type(client).__qualname__}; govern the function that calls it "
        f"with @governor.govern()"
    )


def agreed(
    governor: Governor,
    tenant: str | None,
    user: str | None,
    labels: Mapping[str, str] | None,
    ungoverned: str,
) -> Terms:
    """Return the terms that were asked for, checked."""
    from fluxai.providers.exchange import Terms

    one_of("ungoverned", ungoverned, ("refuse", "allow"))
    if tenant is not None:
        check_tenant(tenant)
    if user is not None:
        check_text("user", user)
    return Terms(governor, tenant, user, labels, ungoverned == "allow")


def is_wrapped(client: object) -> bool:
    """Say whether a client was wrapped itself; that its class is instrumented does not count."""
    return "_fluxai" in getattr(client, "__dict__", ())
