"""Policy files: TOML or JSON tables of policies, tenants, users and tools.

Read into records, compared with what the store holds, rehearsed in memory, and only then put.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fluxai.core.errors import ConfigurationError, FluxAIError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from fluxai.governor import Governor

#: In the order in which they are put: policies may name the others.
KINDS = ("tenant", "user", "tool", "policy")
_SIZE_MAX = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One table of a file, as a record.

    Attributes:
        kind: `tenant`, `user`, `tool` or `policy`.
        place: Where it stands, for errors: `limits.toml: policy 2 'daily'`.
    """

    kind: str
    place: str
    record: Any

    @property
    def name(self) -> str:
        """The record's id; a user's with its tenant."""
        tenant = f"{self.record.tenant_id}/" if self.kind == "user" else ""
        return f"{tenant}{self.record.id}"


class Difference(NamedTuple):
    """What applying an entry does: `added`, `changed` (fields, old to new) or `unchanged`."""

    entry: Entry
    what: str
    fields: tuple[tuple[str, Any, Any], ...] = ()


def read_entries(path: Path) -> list[Entry]:
    """Read and check a whole file.

    Args:
        path: A TOML file, or a JSON file where its name ends in `.json`. Numbers are read exactly,
            so amounts may be written with or without quotes.

    Raises:
        ConfigurationError: The file is not TOML or JSON, or entries are wrong: a line for each,
            naming entry and field.
    """
    tables = _tables(path)
    faults: list[str] = []
    entries: list[Entry] = []
    for kind in KINDS:
        for number, table in enumerate(_listed(tables, kind, path), start=1):
            place = _place(path, kind, number, table)
            record, problems = _record(kind, table)
            faults += [f"{place}: {problem}" for problem in problems]
            if record is not None:
                entries.append(Entry(kind, place, record))
    faults += _repeated(entries)
    if faults:
        raise ConfigurationError("\n".join(faults))
    return entries


def _tables(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _SIZE_MAX:
        raise ConfigurationError(f"{path}: larger than 16 MB; is it a policy file?")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            tables = json.loads(text, parse_float=Decimal)
        else:
            tables = tomllib.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
        raise ConfigurationError(f"{path}: not {kind}: {error}") from error
    if not isinstance(tables, dict):
        raise ConfigurationError(f'{path}: must be an object such as {{"policy": [...]}}')
    unknown = sorted(set(tables) - set(KINDS))
    if unknown:
        raise ConfigurationError(
            f"{path}: {unknown[0]!r} is not known; tables are "
            f"{', '.join(f'[[{kind}]]' for kind in KINDS)}"
        )
    return tables


def _listed(tables: dict[str, Any], kind: str, path: Path) -> list[Any]:
    listed = tables.get(kind, [])
    if not isinstance(listed, list):
        raise ConfigurationError(f"{path}: write [[{kind}]] with two brackets: it is a list")
    return listed


def _place(path: Path, kind: str, number: int, table: Any) -> str:
    name = table.get("id") if isinstance(table, dict) else None
    return f"{path}: {kind} {number}" + (f" {name!r}" if isinstance(name, str) else "")


def _record(kind: str, table: Any) -> tuple[BaseModel | None, list[str]]:
    from pydantic import ValidationError

    from fluxai.policy.records import Policy, Tenant, Tool, User

    if not isinstance(table, dict):
        return None, ["must be a table of fields"]
    if kind == "policy" and table.get("id") is None:
        return None, ["id: give it one, so that applying the file again changes this policy"]
    classes: dict[str, type[BaseModel]] = {
        "tenant": Tenant,
        "user": User,
        "tool": Tool,
        "policy": Policy,
    }
    try:
        return classes[kind].model_validate(table), []
    except ValidationError as error:
        return None, [_problem(found) for found in error.errors()]
    except FluxAIError as error:  # what our own checks say beyond pydantic's
        return None, [str(error)]


def _problem(found: Any) -> str:
    """Say one of pydantic's findings: the field, and what is wrong with it."""
    field = ".".join(str(part) for part in found["loc"])
    message = found["msg"].removeprefix("Value error, ")
    if found["type"] == "extra_forbidden":
        message = "is not a field"
    elif found["type"] == "missing":
        message = "is missing"
    elif found["type"] == "literal_error":
        message = f"{message.replace('Input should', 'should')}, not {found['input']!r}"
    return f"{field}: {message}" if field else message


def _repeated(entries: Iterable[Entry]) -> Iterator[str]:
    seen: set[tuple[str, str]] = set()
    for entry in entries:
        if (entry.kind, entry.name) in seen:
            yield f"{entry.place}: id: there are two of it in this file"
        seen.add((entry.kind, entry.name))


def compare(governor: Governor, entries: Iterable[Entry]) -> list[Difference]:
    """Compare entries with what the store holds."""
    known = {
        (kind, _name(kind, record)): record
        for kind, records in _stored(governor).items()
        for record in records
    }
    return [_difference(entry, known.get((entry.kind, entry.name))) for entry in entries]


def _name(kind: str, record: Any) -> str:
    return Entry(kind, "", record).name


def _stored(governor: Governor) -> dict[str, list[Any]]:
    return {
        "tenant": governor.tenants.list(),
        "user": governor.users.list(),
        "tool": governor.tools.list(),
        "policy": governor.policies.list(),
    }


def _difference(entry: Entry, before: BaseModel | None) -> Difference:
    if before is None:
        return Difference(entry, "added")
    old, new = before.model_dump(), entry.record.model_dump()
    fields = tuple((name, old[name], new[name]) for name in new if old[name] != new[name])
    return Difference(entry, "changed" if fields else "unchanged", fields)


def rehearse(governor: Governor, entries: Sequence[Entry]) -> None:
    """Put the entries into a copy of the store's records, so that a fault is found beforehand.

    Raises:
        ConfigurationError: One of them can't be put: names entry and field.
    """
    from fluxai.governor import Governor

    with Governor("memory://", clock=governor.clock) as copy:
        whose = {getattr(entry.record, "tenant_id", "*") for entry in entries}
        for scope in sorted({"*", *whose}):
            for row in governor.storage.records("model", scope=scope):
                owner = None if scope == "*" else scope
                copy.models.put(row, tenant=owner)  # type: ignore[arg-type]  # validated by put
        for kind, records in _stored(governor).items():
            for record in records:
                _put(copy, kind, record)
        put_all(copy, entries)


def put_all(governor: Governor, entries: Iterable[Entry]) -> None:
    """Put the entries into a store.

    Raises:
        ConfigurationError: One of them can't be put: names entry and field.
    """
    for entry in entries:
        try:
            _put(governor, entry.kind, entry.record)
        except (FluxAIError, ValueError) as error:
            raise ConfigurationError(f"{entry.place}: {' '.join(str(error).split())}") from error


def _put(governor: Governor, kind: str, record: Any) -> None:
    registries: dict[str, Any] = {
        "tenant": governor.tenants,
        "user": governor.users,
        "tool": governor.tools,
        "policy": governor.policies,
    }
    registries[kind].put(record)
