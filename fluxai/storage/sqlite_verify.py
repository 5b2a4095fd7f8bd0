"""Prove a SQLite ledger on one snapshot: every kept sum against the events it stands for."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from fluxai.core.ledger import CONCURRENT, Counter
from fluxai.core.windows import DAY_US
from fluxai.storage.base import Difference, LedgerReport
from fluxai.storage.sqlite_rows import counter_of
from fluxai.storage.statements import load_statements

DIFFERENCES_MAX = 1_000

_Value = tuple[str, str, str]


class _Expected:
    """What one counter should hold."""

    __slots__ = ("counter", "first_us", "reserved", "settled")

    def __init__(self, counter: Counter) -> None:
        self.counter = counter
        self.settled = counter.carried
        self.reserved = 0
        ring = counter.ring
        self.first_us = (
            counter.key.start_us
            if ring is None
            else (ring.head - ring.ring.buckets) * ring.ring.width_us
        )


def verify(connection: sqlite3.Connection) -> LedgerReport:
    """Compare counters and daily sums with events and open reservations.

    Args:
        connection: Inside a transaction, whose snapshot is what is judged.
    """
    sql = load_statements("sqlite_queries.sql")
    counters: dict[_Value, list[_Expected]] = {}
    count = 0
    for row in connection.execute(sql["counters_of"], (None,)):
        counter = counter_of(row)
        key = counter.key
        counters.setdefault((key.tenant, key.scope, key.value), []).append(_Expected(counter))
        count += 1
    events = reservations = 0
    for row in connection.execute(sql["verify_events"]):
        events += 1
        counted_us, amounts = row[1], row[5:]
        for expected in _matching(counters, row[:5]):
            counter = expected.counter
            if expected.first_us <= counted_us < counter.end_us and counter.measure != CONCURRENT:
                expected.settled += amounts[counter.measure]
    for row in connection.execute(sql["verify_reservations"]):
        reservations += 1
        counted_us, amounts = row[1], row[5:]
        for expected in _matching(counters, row[:5]):
            counter = expected.counter
            if counter.ring is not None or counter.key.start_us <= counted_us < counter.end_us:
                expected.reserved += amounts[counter.measure]
    differences = []
    days = connection.execute(sql["verify_days"], (DAY_US, DIFFERENCES_MAX))
    for difference in chain(_differences(chain.from_iterable(counters.values())), _of_days(days)):
        differences.append(difference)
        if len(differences) == DIFFERENCES_MAX:
            break
    return LedgerReport(not differences, count, events, reservations, tuple(differences))


def _matching(
    counters: dict[_Value, list[_Expected]], row: tuple[str, int, str | None, str, str]
) -> Iterator[_Expected]:
    tenant, _, user, tool, labels = row
    yield from counters.get((tenant, "tenant", tenant), ())
    yield from counters.get((tenant, "tool", tool), ())
    if user is not None:
        yield from counters.get((tenant, "user", user), ())
    if labels != "{}":
        for name, value in json.loads(labels).items():
            yield from counters.get((tenant, "label", f"{name}={value}"), ())


def _differences(all_expected: Iterable[_Expected]) -> Iterator[Difference]:
    for expected in all_expected:
        counter = expected.counter
        name = "/".join(map(str, counter.key))
        if expected.settled != counter.settled:
            yield Difference(f"settled of {name}", expected.settled, counter.settled)
        if expected.reserved != counter.reserved:
            yield Difference(f"reserved of {name}", expected.reserved, counter.reserved)


def _of_days(rows: Iterable[tuple[Any, ...]]) -> Iterator[Difference]:
    for row in rows:
        name = "/".join(map(str, row[:5]))
        for place, measure in enumerate(("cost", "tokens", "requests", "events")):
            expected, found = row[5 + 2 * place : 7 + 2 * place]
            if expected != found:
                yield Difference(f"{measure} of day {name}", expected, found)
