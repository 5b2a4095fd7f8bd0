"""`Providers`: whose clients are at hand for `smart_complete`, and which models are wished for."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, NamedTuple

from fluxai.core.errors import ConfigurationError
from fluxai.providers.wrapping import is_wrapped

_LEVELS = ("simple", "medium", "complex")


def _openai() -> Any:
    from openai import OpenAI

    return OpenAI()


def _anthropic() -> Any:
    from anthropic import Anthropic

    return Anthropic()


def _gemini() -> Any:
    from google.genai import Client

    return Client()


class _Home(NamedTuple):
    """How a provider is reached.

    Attributes:
        argument: What it is called in `Governor.providers`, and its extra.
        module: Its SDK.
        keys: Variables of which one has to be set.
        make: Makes a client out of the environment.
    """

    argument: str
    module: str
    keys: tuple[str, ...]
    make: Callable[[], Any]


#: By the price table's name.
_HOMES: Mapping[str, _Home] = {
    "openai": _Home("openai", "openai", ("OPENAI_API_KEY",), _openai),
    "anthropic": _Home("anthropic", "anthropic", ("ANTHROPIC_API_KEY",), _anthropic),
    "google": _Home("gemini", "google.genai", ("GEMINI_API_KEY", "GOOGLE_API_KEY"), _gemini),
}


class Providers:
    """The clients that are at hand.

    Each provider is a client; `True` or `None` for one that is made out of the environment, which
    `True` insists on; or `False` for none.

    Args:
        given: By the price table's name of a provider.
        models: A model for a level of complexity.

    Raises:
        ConfigurationError: What was given is no client, `True` can't be had, or there is no such
            level.
    """

    def __init__(
        self, given: Mapping[str, Any] | None = None, *, models: Mapping[str, str] | None = None
    ) -> None:
        self.models = dict(models or {})
        for level in self.models:
            if level not in _LEVELS:
                raise ConfigurationError(f"models: levels are {', '.join(_LEVELS)}, got {level!r}")
        self._given = dict(given or {})
        self._made: dict[str, Any] = {}
        self._lock = threading.Lock()
        for name, said in self._given.items():
            home = _HOMES[name]
            if said is True and not _is_at_hand(home):
                raise ConfigurationError(f"{home.argument}: {_wanted(home)}")
            if not isinstance(said, bool) and said is not None:
                _check(home, said)

    @property
    def names(self) -> tuple[str, ...]:
        """The providers at hand, as the price table calls them."""
        return tuple(name for name, home in _HOMES.items() if self._has(name, home))

    def client(self, name: str) -> Any:
        """Return a provider's client; one out of the environment is made once."""
        said = self._given.get(name)
        if said is not None and not isinstance(said, bool):
            return said
        with self._lock:
            if name not in self._made:
                self._made[name] = _HOMES[name].make()
            return self._made[name]

    def required(self) -> tuple[str, ...]:
        """Return the providers at hand.

        Raises:
            ConfigurationError: There is none. Says what to install and to set.
        """
        names = self.names
        if not names:
            ways = "; ".join(f"{home.argument}: {_wanted(home)}" for home in _HOMES.values())
            raise ConfigurationError(
                f"no provider is configured. {ways}; or hand clients over with "
                f"governor.providers(openai=…, anthropic=…, gemini=…)"
            )
        return names

    def close(self) -> None:
        """Close the clients that were made here; those that were given are their owner's."""
        with self._lock:
            made, self._made = self._made, {}
        for client in made.values():
            client.close()

    def _has(self, name: str, home: _Home) -> bool:
        said = self._given.get(name)
        if said is None or said is True:
            return _is_at_hand(home)
        return said is not False


def is_async(client: object) -> bool:
    """Say whether a client's answers are awaited."""
    return any(kind.__name__ in ("AsyncAPIClient", "AsyncClient") for kind in type(client).__mro__)


def _check(home: _Home, client: object) -> None:
    root = home.module.partition(".")[0]
    if all(kind.__module__.partition(".")[0] != root for kind in type(client).__mro__):
        raise ConfigurationError(
            f"{home.argument}: must be a client of {home.module}, True or False, got "
            f"{type(client).__module__}.{type(client).__qualname__}"
        )
    if is_wrapped(client):
        raise ConfigurationError(
            f"{home.argument}: this client is wrapped already; hand over the one it was made from"
        )


def _is_at_hand(home: _Home) -> bool:
    return any(os.environ.get(key) for key in home.keys) and _is_installed(home.module)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package above it is missing
        return False


def _wanted(home: _Home) -> str:
    return f"install fluxai[{home.argument}] and set {' or '.join(home.keys)}"
