"""The examples run, offline, and show what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
#: What each example is there to show, as its output has it.
SHOWS = {
    "01_first_budget.py": ["3 answers, then: Denied gpt-4o", "of $0.01"],
    "02_guard_a_call.py": ["settled: $0.001235", "refused. What fits"],
    "03_downgrade.py": [
        "answered by gpt-4o\n",
        "answered by gpt-4o-mini\n",
        "downgraded: gpt-4o-mini",
    ],
    "04_approval.py": [
        "asked: pending_approval",
        "run: allowed, settled $4.00",
        "run again: denied",
    ],
    "05_many_callers.py": ["10 of 64 admitted, $1.00 of $1.00 spent"],
    "06_price_a_response.py": ["openai gpt-4o: $0.0215", "anthropic claude-sonnet-4-5: $0.015"],
    "07_budget_for_a_run.py": ["fact check: 10 searches", "all of it: $0.30"],
    "08_async_streams.py": ["Spend less, know more.", "8 streams by 8 users"],
    "09_past_spend.py": ["recorded $0.095 for ana", "in 3 events: $0.335"],
    "10_across_processes.py": ["settled $0.0164275, held $0.00", "the books balance: True"],
    "13_smart_completion.py": [
        "gpt-4o-mini by openai",
        "after gpt-4o-mini failed",
        "refused, and nothing was sent",
    ],
    "12_unchanged_program.py": ["Think again.", "stopped after 3 requests: $0.0015825 of $0.0016"],
}
#: Makes any use of the network an error, apart from a provider on this machine.
OFFLINE = """
import runpy, socket, sys
connect, find = socket.socket.connect, socket.getaddrinfo
def refused(host):
    if host != "127.0.0.1":
        raise OSError("an example used the network")
def connect_here(self, address):
    refused(address[0])
    return connect(self, address)
def find_here(host, *rest, **more):
    refused(host)
    return find(host, *rest, **more)
socket.socket.connect, socket.getaddrinfo = connect_here, find_here
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def test_every_example_is_known_here() -> None:
    """No example goes untested."""
    assert sorted(SHOWS) == sorted(path.name for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("name", SHOWS)
def test_an_example_runs_and_shows_its_point(name: str, tmp_path: Path) -> None:
    """Each runs by itself, in any folder, without network, warnings or traces of it."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", OFFLINE, str(FOLDER / name)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tmp_path,
        env={**os.environ, "PYTHONDEVMODE": "1"},
    )
    # In development mode asyncio tells how slow a busy machine is, which says nothing of the example.
    said = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]
    assert (done.returncode, said) == (0, [])
    for words in SHOWS[name]:
        assert words in done.stdout
    assert list(tmp_path.iterdir()) == []
