"""Classes that stand in for those of an SDK, and what they refuse."""

from __future__ import annotations

from typing import Any, NoReturn

from fluxai.core.errors import NotGoverned


def kind_of(thing: object) -> Any:
    """Return a thing's class, which only then exists: no checker knows it."""
    return type(thing)


def dress(governed: type, kind: type) -> None:
    """Let a class go by the name of the one it stands for."""
    governed.__name__, governed.__qualname__ = kind.__name__, kind.__qualname__
    governed.__module__ = kind.__module__
    governed.__doc__ = kind.__doc__


def refuse_socket(*_: object, **__: object) -> NoReturn:
    """Refuse to open a web socket."""
    raise NotGoverned(
        "what is said over a web socket can't be governed; use the client that was wrapped, inside "
        "governor.guard(), and settle what it cost"
    )


def refuse_ungoverned(request: str) -> NoReturn:
    """Refuse a request whose cost nobody can tell."""
    raise NotGoverned(
        f"{request} may cost money, and FluxAI can't tell how much. Let it pass unseen with "
        f"ungoverned='allow' (fluxai run: --ungoverned allow), and enter its cost with "
        f"governor.record()"
    )
