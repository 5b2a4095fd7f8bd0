"""A tokenizer is used where its file is, and never waited for or fetched."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fluxai import CostEstimator
from fluxai.costs.encoders import O200K_FILE, LazyEncoder, load

#: A process of its own, since where libraries keep their files is asked once: no network is there,
#: so anything that tried to fetch would fail.
PROGRAM = """
import json, socket, sys, threading
def forbidden(*_):
    raise AssertionError("a connection was tried")
socket.socket.connect = forbidden
from fluxai import CostEstimator
estimator = CostEstimator(encoder="tiktoken")
first = estimator.count("gpt-4o", prompt="hello hello")
for thread in threading.enumerate():
    if thread.name == "fluxai-tokenizer":
        thread.join()
second = estimator.count("gpt-4o", prompt="hello hello")
print(json.dumps([first.method, second.method, second.expected, estimator._lazy.state]))
"""


def vocabulary(folder: Path, *words: str) -> None:
    """Write a vocabulary of single bytes and some pairs, as small as one can be."""
    tokens = [bytes((byte,)) for byte in range(256)]
    for word in words:
        tokens += [word.encode()[: n + 1] for n in range(1, len(word))]
    folder.mkdir(exist_ok=True)
    (folder / O200K_FILE).write_bytes(
        b"".join(b"%s %d\n" % (base64.b64encode(t), n) for n, t in enumerate(tokens))
    )


def ran(temporary: Path, **environment: str) -> list[object]:
    """Run the program with only these places to look at."""
    clean = {k: v for k, v in os.environ.items() if not k.endswith("_CACHE_DIR")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**clean, "TMPDIR": str(temporary), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found: list[object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("variable", ["TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"])
def test_a_vocabulary_that_is_there_is_used(tmp_path: Path, variable: str) -> None:
    """The first call does not wait for it; later ones count with it, without any connection."""
    pytest.importorskip("tiktoken")
    vocabulary(tmp_path / "kept", "hello", " hello")
    first, second, expected, state = ran(tmp_path, **{variable: str(tmp_path / "kept")})
    assert (first, second, state) == ("heuristic", "encoder", "ready")
    assert expected == 9  # two tokens, and what is put around a message


def test_without_a_vocabulary_bytes_are_measured(tmp_path: Path) -> None:
    """Nothing is fetched, and estimates go on as without a tokenizer."""
    pytest.importorskip("tiktoken")
    first, second, _, state = ran(tmp_path)
    assert (first, second, state) == ("heuristic", "heuristic", "no file")


def test_a_broken_vocabulary_is_left_alone(tmp_path: Path) -> None:
    """Half a file is not used, and not deleted either."""
    pytest.importorskip("tiktoken")
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / O200K_FILE).write_text("aGVsbG8= 0\n")
    found = ran(tmp_path, TIKTOKEN_CACHE_DIR=str(folder))
    assert found[3] == "unreadable"
    assert (folder / O200K_FILE).exists()
    with pytest.raises(ValueError, match="not a whole vocabulary"):
        load(folder / O200K_FILE)


def test_nothing_is_looked_for_until_it_is_asked_for() -> None:
    """An estimator without a tokenizer never looks for one."""
    assert LazyEncoder().state == "unasked"
    assert CostEstimator()._lazy is None
