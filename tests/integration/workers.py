"""Starting, and ending, the processes of `ledger_worker`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

_SCRIPT = Path(__file__).with_name("ledger_worker.py")
PATIENCE_S = 120


def start(url: str, work: str, *numbers: int) -> subprocess.Popen[str]:
    """Start a process; it has opened the store, and waits for the word to begin."""
    process = subprocess.Popen(
        [sys.executable, str(_SCRIPT), url, work, *map(str, numbers)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline()) == {"ready": True}
    return process


def begin(process: subprocess.Popen[str]) -> None:
    """Give the word."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


@contextmanager
def started(url: str, work: str, *works: Sequence[int]) -> Iterator[list[subprocess.Popen[str]]]:
    """Start a process for each list of numbers, all at one word; none outlives the block."""
    processes = [start(url, work, *numbers) for numbers in works]
    try:
        for process in processes:
            begin(process)
        yield processes
    finally:
        for process in processes:
            # With what it has forked, which would outlive it.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def finished(processes: Sequence[subprocess.Popen[str]]) -> list[dict[str, Any]]:
    """Wait for each process, and return what it said last."""
    said = []
    for process in processes:
        out, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
        said.append(json.loads(out.splitlines()[-1]))
    return said


def until_alone(url: str) -> None:
    """Return once a server has ended the sessions of clients that were killed; a file has none.

    What one of them had asked for last may still be committed until then.
    """
    if not url.startswith("postgresql"):
        return
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() "
            "AND application_name = 'fluxai'"
        ).fetchall():
            pass
