"""SQL with names: statements kept in `.sql` files beside the code that runs them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

_NAME = "-- name: "


@cache
def load_statements(file: str) -> Mapping[str, str]:
    """Read the statements of a file of this package, by name.

    A statement begins with a line `-- name: some_name`; comment lines after it say what it is for.
    """
    found: dict[str, str] = {}
    text = files("fluxai.storage").joinpath(file).read_text(encoding="utf-8")
    for part in text.split(_NAME)[1:]:
        name, _, body = part.partition("\n")
        lines = [line for line in body.splitlines() if not line.startswith("--")]
        found[name.strip()] = "\n".join(lines).strip().rstrip(";")
    return MappingProxyType(found)


@cache
def load_migrations(backend: str) -> Mapping[int, str]:
    """Read the numbered migrations of a backend: schema version to script."""
    folder = files("fluxai.storage").joinpath("migrations", backend)
    return MappingProxyType(
        {
            int(entry.name.partition("_")[0]): entry.read_text(encoding="utf-8")
            for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
            if entry.name.endswith(".sql")
        }
    )


def split_script(script: str) -> Iterator[str]:
    """Cut a script into its statements, so that they can run inside one transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
