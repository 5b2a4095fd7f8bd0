"""From a model's id and an instant to the rates in force: what every priced call goes through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Final, Protocol
from weakref import WeakSet

from fluxai.core.errors import UnknownModel
from fluxai.costs.names import is_local, provider_name, spellings
from fluxai.costs.prices import Rates
from fluxai.costs.table import Line, PriceTable, ProviderPrices, in_use

#: Outside these no price changes; also the bounds of "always".
BEGINNING_US: Final = -(2**62)
END_US: Final = 2**62

#: The price version of a model that the user put in.
OWN: Final = "own"

_DAY_S: Final = 86_400
_MICROS: Final = 1_000_000
_KNOWN_MAX: Final = 4_096
_UNKNOWN_MAX: Final = 1_024
_ID_CHARACTERS_MAX: Final = 512

#: The provider that is paid, and the line of the price table.
Found = tuple[str, Line]
Names = Sequence[tuple[str | None, str]]
Key = str | tuple[str | None, str, str | None]


class RateSource(Protocol):
    """What knows prices: `PriceBook`, and `ModelRegistry` on top of it."""

    def rates(
        self, model_id: str, at_us: int, *, provider: str | None = None, tier: str | None = None
    ) -> Rates:
        """Return the rates in force; raise `UnknownModel` where there are none."""
        ...


class PriceBook:
    """The rates in force for an id, from the user's own models first, then the bundled table.

    Both caches are bounded: ids come from requests, so from anyone.

    Args:
        table: Instead of the bundled one.
        base: A book whose own models and deployments hold here too, where this one has none.
    """

    def __init__(self, table: PriceTable | None = None, *, base: PriceBook | None = None) -> None:
        self._table = table
        self._base = base
        self._layers: WeakSet[PriceBook] = WeakSet()
        if base is not None:
            base._layers.add(self)
        self._own: dict[str, tuple[str, Line]] = {}
        self._deployments: dict[str, tuple[str, str | None]] = {}
        self._known: dict[Key, Rates] = {}
        self._unknown: dict[Key, str] = {}

    @property
    def table(self) -> PriceTable:
        """The table in use, unless another was given; read on first use."""
        if self._table is None:
            self._table = in_use() if self._base is None else self._base.table
        return self._table

    def deploy(self, name: str, model_id: str, *, provider: str | None = None) -> None:
        """Say which model stands behind a name of the user's own.

        Args:
            name: A deployment of Azure, an application inference profile, a router's preset.
            model_id: Any spelling of the model.
            provider: Where it runs, where `model_id` does not say it; such as `azure`.

        Raises:
            UnknownModel: No price is known for the model.
        """
        where = None if provider is None else provider_name(provider)
        if self.find(model_id, where) is None:
            raise UnknownModel(self._message(model_id, where))
        self._deployments[name.strip().lower()] = (model_id, where)
        self.forget()

    def _deployed(self, name: str) -> tuple[str, str | None] | None:
        book: PriceBook | None = self
        while book is not None:
            found = book._deployments.get(name)
            if found is not None:
                return found
            book = book._base
        return None

    def _mine(self, key: str) -> tuple[str, Line] | None:
        """Return a model of the user's own, of this layer before those below."""
        book: PriceBook | None = self
        while book is not None:
            found = book._own.get(key)
            if found is not None:
                return found
            book = book._base
        return None

    def put(self, provider: str, line: Line) -> None:
        """Add a model of the user's own, or replace one, for every spelling of its id."""
        self._own[line["id"].lower()] = (provider, line)
        self._own[f"{provider}/{line['id']}".lower()] = (provider, line)
        self.forget()

    def discard(self, provider: str, model_id: str) -> None:
        """Take a model of the user's own out again; the bundled one of that id is back."""
        self._own.pop(model_id.lower(), None)
        self._own.pop(f"{provider}/{model_id}".lower(), None)
        self.forget()

    def forget(self) -> None:
        """Empty the caches, of the layers above too."""
        self._known = {}
        self._unknown = {}
        for layer in tuple(self._layers):
            layer.forget()

    def rates(
        self, model_id: str, at_us: int, *, provider: str | None = None, tier: str | None = None
    ) -> Rates:
        """Return the rates in force for a model at an instant.

        Args:
            model_id: Any spelling that a provider uses, also with the provider before it.
            at_us: Microseconds since the epoch, UTC.
            provider: Where it runs; `None` when the id says it or only one provider has it.
            tier: `batch`, `flex`, `priority`, `fast`; a tier without prices of its own, or
                `None`, is priced as standard.

        Raises:
            UnknownModel: No price is known. Names similar ids.
        """
        key = model_id if provider is None and tier is None else (provider, model_id, tier)
        found = self._known.get(key)
        if found is not None and found.valid_from_us <= at_us < found.valid_until_us:
            return found
        return self._look_up(key, model_id, at_us, provider, tier)

    def _look_up(
        self, key: Key, model_id: str, at_us: int, provider: str | None, tier: str | None
    ) -> Rates:
        # The caches are taken before the search: if `put` empties them meanwhile, what is found
        # here goes into the ones that were thrown away.
        known, unknown = self._known, self._unknown
        message = unknown.get(key)
        if message is None:
            found = self.find(model_id, provider)
            if found is not None and found[1]["prices"]:
                rates = self._rates(found, at_us, tier)
                _remember(known, key, rates, _KNOWN_MAX)
                return rates
            message = self._message(model_id, provider)
            _remember(unknown, key, message, _UNKNOWN_MAX)
        raise UnknownModel(message)

    def find(self, model_id: str, provider: str | None = None) -> tuple[str, Line, bool] | None:
        """Return (provider, price line, guessed) of an id, or `None`."""
        if not isinstance(model_id, str) or not 0 < len(model_id) <= _ID_CHARACTERS_MAX:
            return None
        name = None if provider is None else provider_name(provider)
        deployed = self._deployed(model_id.strip().lower())
        if deployed is not None:
            # Once only: a deployment may be called as another model is, and so as itself.
            model_id, where = deployed
            name = where or name
        own = self._mine(model_id.lower())
        if own is not None and name in {None, own[0]}:
            return *own, False
        names = list(spellings(model_id))
        found, guessed = self._at(name, names) if name is not None else None, False
        if found is None:
            found, guessed = self._by_id(names), name is not None
        if found is None:
            # A router's name, such as Hugging Face's, stands for the providers behind it.
            family = name if name is not None and self.table.family(name) else ""
            everywhere = chain.from_iterable(self.table.everywhere(m, family) for _, m in names)
            found, guessed = _dearest(everywhere), True
        if found is None:
            return None
        # A record of the user's own stands in for the bundled one, however that was spelled.
        return *(self._mine(f"{found[0]}/{found[1]['id'].lower()}") or found), guessed

    def _at(self, name: str, names: Names) -> Found | None:
        """Look where the caller says the model runs."""
        if is_local(name, names[0][1]):
            return name, _local(names[0][1])
        home = self.table.provider(name)
        if home is None:
            return None
        return next(filter(None, (self.table.find(home, model) for _, model in names)), None)

    def _by_id(self, names: Names) -> Found | None:
        """Look where the id says, or where models are named like that."""
        for said, model in names:
            own = self._mine(model)
            if own is not None:
                return own
            if said is not None and is_local(said, model):
                return said, _local(model)
            home = self.table.of_model(model) if said is None else self.table.provider(said)
            found = self.table.find(home, model) if home is not None else None
            if found is not None:
                return found
        return None

    def _rates(self, found: tuple[str, Line, bool], at_us: int, tier: str | None) -> Rates:
        provider, line, guessed = found
        prices = in_force(line["prices"], at_us)
        conditions = [when for when, _ in line["prices"]]
        used = None
        variants = [variant for variant in line.get("variants", ()) if variant[0] == tier]
        for _, when, overrides in reversed(variants):
            conditions.append(when)
            if _holds(when, at_us):
                prices = {**prices, **overrides}
                used = tier
        if used is None and variants and all(when and when[0] == "d" for _, when, _ in variants):
            # The date is when the source took the price up. A response that was served at this tier
            # earlier was billed for it too, and not as standard.
            prices = {**prices, **min(variants, key=lambda variant: variant[1][1])[2]}
            used = tier
        valid_from_us, valid_until_us = _interval(conditions, at_us)
        return Rates(
            model=line["id"],
            provider=provider,
            version=line.get("source") or self.table.version,
            valid_from_us=valid_from_us,
            valid_until_us=valid_until_us,
            prices=prices,
            tier=used,
            context_window=line.get("context"),
            max_output=line.get("output"),
            seconds_min=line.get("seconds_min", 0),
            reason=line.get("free", ""),
            guessed=guessed,
        )

    def _message(self, model_id: str, provider: str | None) -> str:
        at = f" at {provider}" if provider else ""
        near = self.near(model_id, provider) if isinstance(model_id, str) else []
        hint = f"; did you mean {', '.join(near)}?" if near else "."
        return (
            f"no price is known for model {model_id!r:.120}{at}{hint} "
            "Give it one with governor.models.put(Model(…)), or say what it costs with on_unpriced on a policy"
        )

    def dearest(self, provider: str, at_us: int) -> dict[str, int] | None:
        """Return the highest price of input and of output that a provider's current models have."""
        home = self.table.provider(provider_name(provider))
        if home is None:
            return None
        found: dict[str, int] = {}
        for line in home.lines:
            if line["prices"] and not line.get("deprecated"):
                rates = in_force(line["prices"], at_us)
                for kind in ("input", "output"):
                    rate = rates.get(kind, 0)
                    most = (
                        rate if type(rate) is int else max(rate[0], *(step[1] for step in rate[1:]))
                    )
                    found[kind] = max(found.get(kind, 0), most)
        return found if all(found.values()) and found else None

    def home(self, model_id: str) -> str | None:
        """Return the provider that an id names, or whose own models are named like that."""
        for said, model in spellings(model_id[:_ID_CHARACTERS_MAX]):
            found = self.table.of_model(model) if said is None else self.table.provider(said)
            if found is not None:
                return found.id
        return None

    def near(self, model_id: str, provider: str | None = None, limit: int = 3) -> list[str]:
        """Return known ids that look like this one, the most similar first."""
        from difflib import get_close_matches

        text = model_id.lower()[:80].rpartition("/")[2]
        home = self.table.provider(provider_name(provider)) if provider else None
        home = home or self.table.of_model(text)
        homes: Iterable[ProviderPrices] = [home] if home else self.table.providers.values()
        layers = [self]
        while layers[-1]._base is not None:
            layers.append(layers[-1]._base)
        own = (name for book in layers for name in book._own if "/" not in name)
        ids = {*own, *(line["id"] for p in homes for line in p.lines)}
        # Only ids that begin alike: comparing with thousands would take longer than the call.
        alike = [name for name in ids if name[:2].lower() == text[:2]][:400]
        return get_close_matches(text, alike, n=limit, cutoff=0.6)


def _local(model: str) -> Line:
    return {"id": model, "prices": [[None, {}]], "free": "local_model"}


def _remember(cache: dict[Key, Any], key: Key, value: Any, limit: int) -> None:
    while len(cache) >= limit:
        try:
            cache.pop(next(iter(cache)), None)
        except (StopIteration, RuntimeError):  # another thread is doing the same
            break
    cache[key] = value


def _dearest(found: Iterable[Found]) -> Found | None:
    """Return the dearest: with the provider unknown, a budget has to assume the worst."""
    return max(found, key=lambda pair: _weight(pair[1]), default=None)


def _weight(line: Line) -> int:
    if not line["prices"]:
        return -1
    rates: Mapping[str, Any] = line["prices"][-1][1]
    return sum(
        rate if type(rate) is int else rate[0]
        for kind, rate in rates.items()
        if kind in {"input", "output"}
    )


def _holds(when: Any, at_us: int) -> bool:
    if when is None:
        return True
    if when[0] == "d":
        return bool(at_us >= when[1])
    _, start_s, end_s = when
    second = at_us // _MICROS % _DAY_S
    if end_s < start_s:
        return bool(second >= start_s or second < end_s)
    return bool(start_s <= second < end_s)


def in_force(prices: list[Any], at_us: int) -> Mapping[str, Any]:
    """Return the last rates whose condition holds; the first are for when none does."""
    for when, rates in reversed(prices):
        if _holds(when, at_us):
            found: Mapping[str, Any] = rates
            return found
    first: Mapping[str, Any] = prices[0][1]
    return first


def _interval(conditions: list[Any], at_us: int) -> tuple[int, int]:
    """Return the longest interval around an instant in which no condition changes."""
    midnight_us = at_us - at_us % (_DAY_S * _MICROS)
    edges = [BEGINNING_US, END_US]
    for when in conditions:
        if when is None:
            continue
        if when[0] == "d":
            edges.append(when[1])
        else:
            for day in (-_DAY_S, 0, _DAY_S):
                edges.extend(midnight_us + (day + second) * _MICROS for second in when[1:])
    return (
        max(edge for edge in edges if edge <= at_us),
        min(edge for edge in edges if edge > at_us),
    )
