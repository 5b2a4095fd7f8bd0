"""What everything is compared with: the least that a reserve and a settle could do."""

from __future__ import annotations

import itertools
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable

_lock = threading.Lock()
_budgets = [[10**15, 0, 0] for _ in range(5)]  # [limit, settled, reserved]
_held: dict[int, int] = {}


def reserve(call: int, amount: int) -> bool:
    """Check five budgets, then add to them."""
    with _lock:
        for budget in _budgets:
            if budget[1] + budget[2] + amount > budget[0]:
                return False
        for budget in _budgets:
            budget[2] += amount
        _held[call] = amount
    return True


def settle(call: int, cost: int) -> None:
    """Subtract the hold, then add the cost."""
    with _lock:
        amount = _held.pop(call)
        for budget in _budgets:
            budget[2] -= amount
            budget[1] += cost


def pair() -> None:
    """Do one reserve and one settle."""
    reserve(1, 100)
    settle(1, 90)


def wide_pairs(tenants: int) -> Callable[[], None]:
    """Make a pair like `pair`, over as many tenants with five budgets each, drawn at random.

    It shows what the machine's caches alone make of many tenants.
    """
    chance = random.Random(2)
    names = [f"t{number}" for number in range(tenants)]
    budgets = {name: [[10**15, 0, 0] for _ in range(5)] for name in names}
    drawn = itertools.cycle([chance.choice(names) for _ in range(50_000)])
    held: dict[int, int] = {}

    def wide_pair() -> None:
        five = budgets[next(drawn)]
        with _lock:
            for budget in five:
                if budget[1] + budget[2] + 100 > budget[0]:
                    return
            for budget in five:
                budget[2] += 100
            held[1] = 100
        with _lock:
            amount = held.pop(1)
            for budget in five:
                budget[2] -= amount
                budget[1] += 90

    return wide_pair


def in_turn(*functions: Callable[[], object], rounds: int = 200, each: int = 100) -> list[float]:
    """Time functions in turn, so that a drifting machine drifts for all; p50 in µs of each."""
    clock = time.perf_counter_ns
    times: list[list[int]] = [[] for _ in functions]
    for function in functions:
        for _ in range(10 * each):
            function()
    for _ in range(rounds):
        for spent, function in zip(times, functions, strict=True):
            for _ in range(each):
                start = clock()
                function()
                spent.append(clock() - start)
    return [statistics.median(spent) / 1000 for spent in times]


def fsync_p50_ms(folder: str | None = None, writes: int = 200) -> float:
    """Measure how long the disk takes to make 4 KiB durable, p50 in ms."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        times = []
        for _ in range(writes):
            file.write(b"x" * 4096)
            file.flush()
            start = time.perf_counter_ns()
            os.fsync(file.fileno())
            times.append(time.perf_counter_ns() - start)
    return statistics.median(times) / 1e6
