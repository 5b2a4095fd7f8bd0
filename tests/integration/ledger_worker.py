"""A process of its own that spends from a store, for the tests that need several, or dead ones.

It waits for a line on stdin before it begins, and writes what it did to stdout as JSON lines.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fluxai import Governor, StorageError

TENANT = "acme"
TOOL = "dime"


def say(**what: Any) -> None:
    """Write one line, and make sure that it is out."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def burst(governor: Governor, callers: int) -> None:
    """Reserve once from each of many threads; say how many were admitted."""
    start = threading.Barrier(callers)

    def call(_: int) -> bool:
        start.wait()
        return governor.reserve(tenant=TENANT, tool=TOOL).allowed

    with ThreadPoolExecutor(callers) as pool:
        say(admitted=sum(pool.map(call, range(callers))))


def spend(governor: Governor, seed: int, calls: int) -> int:
    """Reserve, settle, release and leave open at random; return what was settled, in cents."""
    dice = random.Random(seed)
    settled = 0
    for _ in range(calls):
        units = dice.randint(1, 4)
        held = governor.reserve(
            tenant=TENANT,
            tool=TOOL,
            units=units,
            user=dice.choice(["alice", "bob"]),
            labels={"run": dice.choice("xyz")},
        )
        end = dice.random()
        if held.allowed and end < 0.8:
            cents = dice.randint(0, units * 10)
            for _ in range(dice.choice([1, 1, 2])):
                governor.settle(held, cost=f"0.{cents:02}")
            settled += cents
        elif held.allowed and end < 0.95:
            governor.release(held)
    return settled


def load(governor: Governor, seed: int, threads: int, calls: int) -> None:
    """Spend from several threads; say how much was settled."""
    with ThreadPoolExecutor(threads) as pool:
        seeds = range(seed, seed + threads)
        say(cents=sum(pool.map(lambda one: spend(governor, one, calls), seeds)))


def until_killed(governor: Governor, threads: int) -> None:
    """Hold twice and settle once, for ever; say each settlement after it has returned."""

    def work(_: int) -> None:
        while True:
            held = governor.reserve(tenant=TENANT, tool=TOOL)
            governor.reserve(tenant=TENANT, tool=TOOL, ttl="1h")
            settlement = governor.settle(held, cost="0.07")
            os.write(1, f"{settlement.event_id}\n".encode())

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))


def through_crashes(governor: Governor, threads: int) -> None:
    """As `until_killed`, but a verb that the store was not there for is called again."""

    def again(verb: Callable[[], Any]) -> Any:
        while True:
            try:
                return verb()
            except StorageError:
                continue

    def work(_: int) -> None:
        while True:
            held = again(lambda: governor.reserve(tenant=TENANT, tool=TOOL))
            settlement = again(lambda: governor.settle(held, cost="0.07"))  # noqa: B023 -- at once
            os.write(1, f"{settlement.event_id}\n".encode())

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))


def in_child(work: Callable[[], object]) -> Any:
    """Fork; return what the work came to in the child, as JSON."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.write(writer, json.dumps(work()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    return json.loads(answer) if status == 0 else {"status": status}


def pay(governor: Governor, times: int) -> int:
    """Reserve and settle a dime; return how often that was admitted."""
    admitted = 0
    for _ in range(times):
        held = governor.reserve(tenant=TENANT, tool=TOOL)
        if held.allowed:
            governor.settle(held, cost="0.10")
            admitted += 1
    return admitted


def fork_and_pay(governor: Governor) -> None:
    """Pay before a fork, in the child, in its own child, and in the parent afterwards."""
    held = governor.reserve(tenant=TENANT, tool=TOOL)
    before = pay(governor, 3)

    def child() -> dict[str, Any]:
        governor.settle(held, cost="0.05")
        return {"paid": pay(governor, 3), "grandchild": in_child(lambda: pay(governor, 3))}

    said = in_child(child)
    after = pay(governor, 3)
    say(before=before, child=said, after=after, ok=governor.verify().ok)


def fork_under_load(governor: Governor, threads: int, forks: int) -> None:
    """Fork again and again while other threads pay; say what all of them paid."""
    done = threading.Event()

    def work(_: int) -> int:
        paid = 0
        while not done.is_set():
            paid += pay(governor, 1)
        return paid

    with ThreadPoolExecutor(threads) as pool:
        others = [pool.submit(work, number) for number in range(threads)]
        children = [in_child(lambda: pay(governor, 2)) for _ in range(forks)]
        done.set()
        parents = sum(other.result() for other in others)
    say(children=children, parents=parents, ok=governor.verify().ok)


def fork_at_first_use(_: Governor, times: int) -> None:
    """Fork while another thread makes a record; say which children could make one themselves.

    Each time in a child of its own, where no thread has made one yet.
    """
    from fluxai import Tool

    def make() -> object:
        return Tool(id=TOOL, cost_per_unit="0.10").id

    def experiment() -> object:
        begun = threading.Barrier(2)

        def other() -> None:
            begun.wait()
            make()

        thread = threading.Thread(target=other)
        thread.start()
        begun.wait()
        for _ in range(random.randrange(10_000)):
            pass
        made = in_child(make)
        thread.join()
        return made

    say(made=[in_child(experiment) for _ in range(times)])


def fork_in_memory(governor: Governor) -> None:
    """Use a store in memory on both sides of a fork; say which verbs the child was refused."""
    held = governor.reserve(tenant=TENANT, tool=TOOL)

    def refused(verbs: Iterable[Callable[[], object]]) -> list[bool]:
        answers = []
        for verb in verbs:
            try:
                verb()
            except StorageError:
                answers.append(True)
            else:
                answers.append(False)
        return answers

    def child() -> list[bool]:
        return refused(
            [
                lambda: governor.reserve(tenant=TENANT, tool=TOOL),
                lambda: governor.settle(held, cost="0.05"),
                lambda: governor.release(held),
                lambda: governor.record(id="e", tenant=TENANT, tool=TOOL, cost=1),
                lambda: governor.budgets(TENANT),
                governor.expire,
                governor.verify,
            ]
        )

    said = in_child(child)
    governor.settle(held, cost="0.10")
    say(refused=said, paid=pay(governor, 20), ok=governor.verify().ok)


WORK: dict[str, Callable[..., None]] = {
    work.__name__: work
    for work in (
        burst,
        load,
        until_killed,
        through_crashes,
        fork_and_pay,
        fork_under_load,
        fork_at_first_use,
        fork_in_memory,
    )
}


def main(url: str, work: str, *numbers: str) -> None:
    """Open the store, wait for the word, and work."""
    with Governor(url) as governor:
        if url == "memory://":
            prepare(governor, "1.00")
        say(ready=True)
        sys.stdin.readline()
        WORK[work](governor, *map(int, numbers))


def prepare(governor: Governor, limit: str) -> None:
    """Give the tenant its tool, and a limit that denies."""
    from fluxai import Policy, Tool

    governor.tools.put(Tool(id=TOOL, cost_per_unit="0.10"))
    governor.policies.put(
        Policy(id="limit", tenant_id=TENANT, limit_type="total", limit_value=limit)
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
