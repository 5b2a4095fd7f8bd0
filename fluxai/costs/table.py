"""The price table that ships with the package, read provider by provider as they are asked for."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

from fluxai.core.errors import ConfigurationError

Line = Mapping[str, Any]
Matcher = Callable[[str], bool]


class ProviderPrices:
    """The models of one provider, in the order in which their match clauses are tried."""

    __slots__ = (
        "_lines",
        "_matchers",
        "_text",
        "alias",
        "by_id",
        "fallback",
        "id",
        "match",
        "name",
    )

    def __init__(self, head: Mapping[str, Any], text: str) -> None:
        self.id: str = head["provider"]
        self.name: str = head["name"]
        self.match = matcher(head["match"]) if "match" in head else _never
        self.alias = matcher(head["alias"]) if "alias" in head else _never
        self.fallback: tuple[str, ...] = tuple(head.get("fallback", ()))
        self._text = text
        self.by_id: dict[str, Line] = {}
        self._lines: list[Line] | None = None
        self._matchers: list[tuple[Matcher, Line]] = []

    @property
    def lines(self) -> list[Line]:
        """All models, read on first use."""
        # Taken before the check: another thread that is done clears the text last.
        text = self._text
        if self._lines is None:
            lines: list[Line] = [json.loads(line) for line in text.splitlines()]
            self._matchers = [(matcher(line["match"]), line) for line in lines if "match" in line]
            self.by_id = {line["id"].lower(): line for line in lines}
            # Last, so that another thread that sees it sees the indexes too.
            self._lines = lines
            self._text = ""
        return self._lines

    def find(self, model: str) -> Line | None:
        """Return the model of that id in lower case, or the first whose clause matches."""
        _ = self.lines
        found = self.by_id.get(model)
        if found is not None:
            return found
        return next((line for matches, line in self._matchers if matches(model)), None)


class PriceTable:
    """Prices by provider and model, as integers in nano-USD per million units.

    Attributes:
        version: The source with its version, and the date it was compiled on.
        source: The source with its version.
        compiled_on: The date, ISO 8601.
        providers: Every provider, in the order in which they are tried.
    """

    def __init__(self, text: str) -> None:
        head, _, rest = text.partition("\n")
        about = json.loads(head)
        if about["format"] != 1:
            raise ValueError(f"a price table of format {about['format']}, but 1 is understood")
        self.version = f"{about['source']}+{about['compiled']}"
        self.source: str = about["source"]
        self.compiled_on: str = about["compiled"]
        self.providers: dict[str, ProviderPrices] = {}
        for block in rest.split('{"provider":')[1:]:
            first, _, lines = block.partition("\n")
            provider = ProviderPrices(json.loads('{"provider":' + first), lines)
            self.providers[provider.id] = provider

    def age_days(self, today: date) -> int:
        """Return how many days ago the prices were compiled; over `STALE_DAYS` they are stale."""
        return (today - date.fromisoformat(self.compiled_on)).days

    def provider(self, name: str) -> ProviderPrices | None:
        """Return the provider of that name, or the first that goes by it."""
        found = self.providers.get(name)
        if found is not None:
            return found
        return next((p for p in self.providers.values() if p.alias(name)), None)

    def of_model(self, model: str) -> ProviderPrices | None:
        """Return the provider whose own models are named like that."""
        return next((p for p in self.providers.values() if p.match(model)), None)

    def find(self, provider: ProviderPrices, model: str) -> tuple[str, Line] | None:
        """Return (provider, line) of a model that it sells, of its own or of others' making."""
        line = provider.find(model)
        if line is not None:
            return provider.id, line
        for other in provider.fallback:
            line = self.providers[other].find(model)
            if line is not None:
                # The maker's standard prices hold at a reseller, its tiers need not.
                return provider.id, {key: line[key] for key in line if key != "variants"}
        return None

    def family(self, name: str) -> bool:
        """Say whether providers are listed as this one's, such as Hugging Face's routes."""
        return any(provider.startswith(f"{name}_") for provider in self.providers)

    def everywhere(self, model: str, family: str = "") -> Iterator[tuple[str, Line]]:
        """Yield (provider, line) of every provider of a family that has a model of that id."""
        for provider in self.providers.values():
            if provider.id.startswith(family):
                _ = provider.lines
                line = provider.by_id.get(model)
                if line is not None:
                    yield provider.id, line


#: Names a price table to use instead of the bundled one.
PRICES_VARIABLE: Final = "FLUXAI_PRICES"
#: Prices older than this are shown as stale.
STALE_DAYS: Final = 60


def user_file() -> Path:
    """Return where `fluxai prices update` keeps a newer table: `FLUXAI_PRICES`, or the user's own.

    The latter is `fluxai/prices.jsonl` in the folder of the user's configuration.
    """
    named = os.environ.get(PRICES_VARIABLE)
    if named:
        return Path(named).expanduser()
    home = os.environ.get("XDG_CONFIG_HOME") or os.environ.get("APPDATA")
    return (Path(home) if home else Path.home() / ".config") / "fluxai" / "prices.jsonl"


def read_table(path: Path) -> PriceTable:
    """Read a price table.

    Raises:
        ConfigurationError: There is none, or it is no price table. Names the file.
    """
    try:
        return PriceTable(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"no price table at {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{path} is not a price table ({error}); write it anew with `fluxai prices update`"
        ) from error


@cache
def in_use() -> PriceTable:
    """Return the table that prices calls: once, on first use.

    That of `FLUXAI_PRICES`; else the user's own, if it is newer than the bundled one; else that.

    Raises:
        ConfigurationError: The file that is named can't be read.
    """
    table = _chosen(user_file())
    days = table.age_days(datetime.now(UTC).date())
    if days > STALE_DAYS:
        logging.getLogger("fluxai").warning(
            "the prices in use (%s) are %d days old; upgrade fluxai, or genai-prices and then run "
            "`fluxai prices update`",
            table.version,
            days,
        )
    return table


def _chosen(path: Path) -> PriceTable:
    if os.environ.get(PRICES_VARIABLE):
        return read_table(path)
    shipped = bundled()
    if not path.is_file():
        return shipped
    own = read_table(path)
    return own if own.compiled_on >= shipped.compiled_on else shipped


@cache
def bundled() -> PriceTable:
    """Read the table that ships with the package: once, on first use."""
    return PriceTable((Path(__file__).parent / "data" / "prices.jsonl").read_text("utf-8"))


def matcher(clause: Any) -> Matcher:
    """Turn a compiled clause into a function of an id in lower case."""
    if isinstance(clause, str):
        return clause.__eq__
    head, *rest = clause
    if head == "^":
        start = rest[0]
        return lambda model: model.startswith(start)
    if head == "$":
        end = rest[0]
        return lambda model: model.endswith(end)
    if head == "~":
        inner = rest[0]
        return lambda model: inner in model
    if head == "r":
        search = re.compile(rest[0]).search
        return lambda model: search(model) is not None
    parts = [matcher(part) for part in rest]
    if head == "|":
        return lambda model: any(part(model) for part in parts)
    return lambda model: all(part(model) for part in parts)


def _never(_: str) -> bool:
    return False
