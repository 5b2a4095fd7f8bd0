"""The examples for frameworks run against the fake provider, and show what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("agents", reason="these have an environment of their own: tests frameworks")

FOLDER = Path(__file__).parents[2] / "examples" / "frameworks"
#: What each example is there to show, as its output has it.
SHOWS = {
    "with_google_adk.py": ["gemini-2.5-pro: $0.02", "gemini-2.5-flash: $0.0"],
    "with_langchain.py": ["policy each-thread", "search: $0.005, thread 7"],
    "with_litellm.py": [
        "The Rhine.",
        "in truth BudgetExceeded: Denied gpt-4o",
        "2 calls, $0.008 spent",
    ],
    "with_openai_agents.py": ["stopped: Denied gpt-4o", "1 model calls, $0.009 of"],
    "with_pydantic_ai.py": ["policy each-conversation", "search: $0.005, conversation 7"],
}
#: Lets a program connect to its own machine only.
OFFLINE = """
import runpy, socket, sys
connect = socket.socket.connect
def only_here(this, address):
    if this.family != socket.AF_UNIX and address[0] != "127.0.0.1":
        raise OSError(f"an example used the network: {address}")
    return connect(this, address)
socket.socket.connect = only_here
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_every_example_is_known_here() -> None:
    """No example goes untested."""
    assert sorted(SHOWS) == sorted(path.name for path in FOLDER.glob("*.py"))


@pytest.mark.parametrize("name", SHOWS)
def test_an_example_runs_and_shows_its_point(name: str, tmp_path: Path) -> None:
    """Each runs by itself, in any folder, without network and keys."""
    keys = ("OPENAI_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY")
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(FOLDER / name)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name not in keys},
    )
    assert done.returncode == 0, done.stderr
    for shown in SHOWS[name]:
        assert shown in done.stdout
