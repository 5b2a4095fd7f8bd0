"""`governor.wrap(client)`: which SDK a client is of, without importing any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeVar

from fluxai.arguments import check_tenant, check_text, one_of
from fluxai.core.errors import ConfigurationError

if TYPE_CHECKING:
    from fluxai.governor import Governor

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
    from fluxai.providers.exchange import Terms
    from fluxai.providers.genai import wrap_genai
    from fluxai.providers.stainless import wrap_stainless

    one_of("ungoverned", ungoverned, ("refuse", "allow"))
    if tenant is not None:
        check_tenant(tenant)
    if user is not None:
        check_text("user", user)
    terms = Terms(governor, tenant, user, labels, ungoverned == "allow")
    homes = {kind.__module__.split(".")[0] for kind in type(client).__mro__}
    if getattr(client, "_fluxai", None) is not None:
        raise ConfigurationError(
            "this client is wrapped already; wrap the client it was made from, or use "
            "fluxai.subject() to say who spends"
        )
    if homes & {"openai", "anthropic"} and hasattr(client, "with_options"):
        return wrap_stainless(client, terms)
    if "google" in homes and hasattr(client, "_api_client"):
        return wrap_genai(client, terms)
    raise ConfigurationError(
        f"client: FluxAI wraps clients of openai, anthropic and google-genai, got "
        f"{type(client).__module__}.{type(client).__qualname__}; govern the function that calls it "
        f"with @governor.govern()"
    )
