"""The code of the page on frameworks runs, with what their clients find in the environment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fluxai.testing import FakeProvider
from tests.test_docs import DOCS, blocks_of

pytest.importorskip("agents", reason="these have an environment of their own: tests frameworks")

PAGE = DOCS / "how-to" / "use-with-frameworks.md"
BLOCKS = {block.text.partition("\n")[0][2:]: block.text for block in blocks_of(PAGE)}
#: Runs a block as if a governor had been made before it, and says how often that settled.
PROGRAM = """
import sys
from pathlib import Path
from fluxai import Governor
governor = Governor()
exec(compile(Path(sys.argv[1]).read_text(), sys.argv[1], "exec"))
print("settled:", len(governor.events()))
"""


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_runs(name: str, provider: FakeProvider, tmp_path: Path) -> None:
    """Each by itself, against the fake provider; what asks a model is settled."""
    (tmp_path / name).write_text(BLOCKS[name], encoding="utf-8")
    provider.answer("The Rhine.")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        cwd=tmp_path,
        env={
            **os.environ,
            "OPENAI_API_KEY": "k",
            "OPENAI_BASE_URL": provider.openai_url,
            "GEMINI_API_KEY": "k",
        },
    )
    assert done.returncode == 0, done.stderr
    if "print(" in BLOCKS[name]:
        assert "The Rhine." in done.stdout
        assert "settled: 1" in done.stdout
