"""`ModelRegistry`: every known model, and the user's own."""

from __future__ import annotations

import fnmatch
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fluxai.core.errors import UnknownModel
from fluxai.costs.book import OWN, PriceBook, in_force
from fluxai.costs.names import provider_name

if TYPE_CHECKING:
    from fluxai.costs.table import Line
    from fluxai.models.model import Model


class ModelRegistry:
    """Models by any spelling of their id, with the prices in force.

    The bundled ones come from the price table; `put` adds models of your own, or replaces bundled
    ones. Safe to use from several threads.

    Args:
        book: Knows the prices; by default the bundled table, or a newer one that
            `fluxai prices update` wrote and `FLUXAI_PRICES` names.
        deployments: Names of your own for models, such as Azure's deployments: name to model.
    """

    def __init__(
        self, book: PriceBook | None = None, *, deployments: Mapping[str, str] | None = None
    ) -> None:
        self._book = PriceBook() if book is None else book
        self._base: ModelRegistry | None = None
        self._tenants: dict[str, ModelRegistry] = {}
        self._own: dict[tuple[str, str], Model] = {}
        #: The patterns of `allow`.
        self.allowed: tuple[str, ...] | None = None
        self._allowed: re.Pattern[str] | None = None
        for name, model_id in (deployments or {}).items():
            self.deploy(name, model_id)
        #: Models of the table as described last, with the line and the rates they were made of.
        self._described: dict[tuple[str, str], tuple[Line, Mapping[str, Any], Model]] = {}
        #: The hot path: see `PriceBook.rates`.
        self.rates = self._book.rates

    @property
    def book(self) -> PriceBook:
        """What knows the prices, on its own."""
        return self._book

    @property
    def version(self) -> str:
        """Where the bundled prices come from, with version and date."""
        return self._book.table.version

    def for_tenant(self, tenant: str) -> ModelRegistry:
        """Return the registry of one tenant: this one, and what is put into it on top.

        Cheap: it shares the price table and all models of this registry, those put later too. What
        is put into it holds for that tenant alone: negotiated prices, deployments, own models.
        """
        found = self._tenants.get(tenant)
        if found is None:
            made = ModelRegistry(PriceBook(base=self._book))
            made._base = self
            made._described = self._described
            found = self._tenants.setdefault(tenant, made)
        return found

    def has_tenant(self, tenant: str) -> bool:
        """Say whether a tenant has a registry of its own; see `for_tenant`."""
        return tenant in self._tenants

    def allow(self, patterns: Sequence[str] | None) -> None:
        """Enable only models whose `id` or `provider/id` matches one of some patterns; None: any.

        A pattern is as a shell has it: `claude-haiku-*`, `openai/*`. Case does not matter.
        """
        matching = None
        if patterns is not None:
            matching = re.compile("|".join(map(fnmatch.translate, patterns)), re.IGNORECASE)
        # In one step: a thread that asks meanwhile goes by the old ones or by the new.
        self._allowed = matching
        self.allowed = None if patterns is None else tuple(patterns)

    def allows(self, model_id: str, provider: str | None = None) -> bool:
        """Say whether `allow` lets a model be used."""
        allowed = self._allowed
        return allowed is None or any(
            allowed.fullmatch(name) for name in (model_id, f"{provider}/{model_id}")
        )

    def _as_allowed(self, model: Model) -> Model:
        if not model.enabled or self.allows(model.id, model.provider):
            return model
        return model.model_copy(update={"enabled": False})

    def deploy(self, name: str, model_id: str, *, provider: str | None = None) -> None:
        """Say which model stands behind a name of your own: an Azure deployment, an ARN.

        Raises:
            UnknownModel: No price is known for the model.
        """
        self._book.deploy(name, model_id, provider=provider)

    def _record(self, key: tuple[str, str]) -> Model | None:
        found = self._own.get(key)
        if found is None and self._base is not None:
            return self._base._record(key)
        return found

    def _records(self) -> dict[tuple[str, str], Model]:
        below = {} if self._base is None else self._base._records()
        return {**below, **self._own}

    def get(self, model_id: str, *, provider: str | None = None) -> Model:
        """Return a model by any spelling that a provider uses.

        Raises:
            UnknownModel: No such model has a price. Names similar ids.
        """
        now_us = _now_us()
        rates = self.rates(model_id, now_us, provider=provider)
        own = self._record((rates.provider, rates.model.lower()))
        if own is not None:
            return self._as_allowed(own)
        found = self._book.find(model_id, provider)
        if found is None:  # the rates above would have raised
            raise UnknownModel(f"no price is known for model {model_id!r:.120}")
        return self._as_allowed(self._describe(found[0], found[1], now_us))

    def list(
        self,
        provider: str | None = None,
        tier: str | None = None,
        capability: str | None = None,
        enabled: bool | None = None,  # noqa: FBT001 -- a filter, named in the published API
    ) -> list[Model]:
        """Return the models that pass every given filter, cheapest first."""
        now_us = _now_us()
        name = provider_name(provider) if provider is not None else None
        own = [m for m in self._records().values() if name is None or m.provider == name]
        hidden = {(m.provider, m.id.lower()) for m in own}
        found = list(own)
        for home in self._book.table.providers.values():
            if name is not None and home.id != name:
                continue
            found.extend(
                self._describe(home.id, line, now_us)
                for line in home.lines
                if line["prices"] and (home.id, line["id"].lower()) not in hidden
            )
        found = [
            model
            for model in map(self._as_allowed, found)
            if (tier is None or model.tier == tier)
            and (capability is None or capability in model.capabilities)
            and (enabled is None or model.enabled == enabled)
        ]
        return sorted(found, key=_cheapness)

    def _describe(self, provider: str, line: Line, at_us: int) -> Model:
        """Return a model of the table at the rates in force, the same one as long as they are."""
        rates = in_force(line["prices"], at_us)
        known = self._described.get((provider, line["id"]))
        if known is not None and known[0] is line and known[1] is rates:
            return known[2]
        from fluxai.models.catalog import describe

        model = describe(provider, line, rates)
        self._described[provider, line["id"]] = (line, rates, model)
        return model

    def put(self, model: Model) -> Model:
        """Add a model of your own, or replace one. Its prices hold from now on, for any time."""
        provider = provider_name(model.provider)
        if provider != model.provider:
            model = model.model_copy(update={"provider": provider})
        line: dict[str, object] = {"id": model.id, "prices": [[None, model.prices()]]}
        if model.context_window:
            line["context"] = model.context_window
        if model.max_output:
            line["output"] = model.max_output
        if model.free:
            line["free"] = "free_model"
        line["source"] = OWN
        self._own[provider, model.id.lower()] = model
        self._book.put(provider, line)
        return model

    def delete(self, model_id: str, *, provider: str = "custom") -> bool:
        """Take a model of your own out; a bundled one of that id is back. Say whether it was in."""
        provider = provider_name(provider)
        found = self._own.pop((provider, model_id.lower()), None)
        if found is not None:
            self._book.discard(provider, model_id)
        return found is not None


def _now_us() -> int:
    return time.time_ns() // 1000


def _cheapness(model: Model) -> tuple[object, ...]:
    entering = model.input_price or 0
    leaving = model.output_price or 0
    return (3 * entering + leaving, model.provider, model.id)
