"""Brings MCP servers and clients of others into the checkout: for Python, and for Node with Node.

Runs before anything is installed, so it uses the standard library alone.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from tests.bootstrap import MCP, MCP_LANGCHAIN, BootstrapError, digest, only_one_at_a_time, say

#: Where npm puts what `node/package-lock.json` pins.
NODE: Final = MCP.venv / "node"
#: The server of the SDK's own examples, which has what the conformance suite asks for.
EXAMPLE: Final = MCP.venv / "sdk" / "examples" / "servers" / "everything-server"
_PINS: Final = Path(__file__).with_name("node")
_SDK: Final = re.compile(r"^mcp==\S+(?: \\\n\s+--hash=\S+)+", re.MULTILINE)


def bring_peers() -> None:
    """Bring all of them; return at once when nothing has changed.

    Raises:
        BootstrapError: npm is missing, or something could not be installed.
    """
    MCP.prepare()
    MCP_LANGCHAIN.prepare()
    with only_one_at_a_time():
        _bring_node()
        _bring_example()


def _bring_node() -> None:
    pins = [_PINS / "package.json", _PINS / "package-lock.json"]
    wanted = digest(*pins)
    stamp = NODE / "fluxai-stamp"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    npm = shutil.which("npm")
    if npm is None:
        raise BootstrapError(
            "npm IS MISSING, so the conformance suite, the Inspector and the TypeScript clients can't "
            "be had, and nothing was tried. On Debian and Ubuntu: apt-get install npm."
        )
    say("installing Node's packages, Node itself among them")
    NODE.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    for path in pins:
        shutil.copy(path, NODE)
    # The lock holds each package's hash. No script of a package is run.
    MCP.run(
        [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
        on_failure="Node's packages could not be installed",
        folder=NODE,
    )
    if not (NODE / "node_modules" / ".bin" / "node").exists():
        raise BootstrapError(
            "NODE IS MISSING: npm has brought none for this machine, only for Linux on x64 and arm64."
        )
    stamp.write_text(wanted, encoding="utf-8")


def _bring_example() -> None:
    """Unpack the SDK's examples from its source archive, which is pinned as the SDK itself is."""
    pinned = _SDK.search(MCP.requirements.read_text(encoding="utf-8"))
    if pinned is None:
        raise BootstrapError(f"{MCP.requirements.name} pins no mcp")
    wanted = hashlib.sha256(pinned[0].encode()).hexdigest()
    home = MCP.venv / "sdk"
    stamp = home / "fluxai-stamp"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    say("unpacking the SDK's examples")
    shutil.rmtree(home, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        line = Path(folder, "mcp.txt")
        line.write_text(pinned[0], encoding="utf-8")
        MCP.run(
            [
                *(str(MCP.python), "-m", "pip", "--disable-pip-version-check", "--no-input"),
                *("download", "--progress-bar=off", "--no-deps", "--no-binary=:all:"),
                *("--no-build-isolation", "--require-hashes", f"--dest={folder}", f"-r{line}"),
            ],
            on_failure="the source of the MCP SDK could not be downloaded",
        )
        (archive,) = Path(folder).glob("mcp-*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
        shutil.move(archive.with_name(archive.name.removesuffix(".tar.gz")), home)
    stamp.write_text(wanted, encoding="utf-8")
