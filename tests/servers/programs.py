"""Starting programs as an unprivileged user, so that none outlives the tests."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from signal import Signals

# PostgreSQL refuses to run as root, and nothing that tests start needs to.
USER = "nobody" if hasattr(os, "geteuid") and os.geteuid() == 0 else ""

_KEEPER = Path(__file__).with_name("keeper.py")
_SECONDS_TO_END = 30


class ServerError(Exception):
    """A server did not start, or did not do what was asked; the message ends with its log."""


class Program:
    """A running program, which ends with this process at the latest."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        folder: Path,
        log: Path,
        end: Signals = Signals.SIGTERM,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        keeper = (sys.executable, "-I", "-S", _KEEPER, folder, USER, str(int(end)))
        with log.open("ab") as errors:
            self._keeper = subprocess.Popen(
                [*keeper, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={"PATH": os.defpath, "LC_ALL": "C", **(environment or {})},
                # Ctrl-C in a terminal goes to the tests alone.
                start_new_session=True,
            )
        assert self._keeper.stdout is not None
        said = self._keeper.stdout.readline()
        if not said:
            self._wait()
            raise ServerError(f"{command[0]} did not start: {log.read_text(errors='replace')}")
        self.pid = int(said)

    @property
    def running(self) -> bool:
        """Whether the program has not ended."""
        return self._keeper.poll() is None

    def signal(self, number: Signals) -> None:
        """Send a signal to the program; one that has ended gets none."""
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def end(self, number: Signals) -> int:
        """Send a signal, wait until the program has ended, and return its exit code."""
        self.signal(number)
        return self._wait()

    def _wait(self) -> int:
        try:
            code = self._keeper.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            os.kill(self.pid, Signals.SIGKILL)
            code = self._keeper.wait(_SECONDS_TO_END)
        for pipe in (self._keeper.stdin, self._keeper.stdout):
            if pipe is not None:
                pipe.close()
        return code


def run(command: Sequence[str | Path], *, folder: Path) -> str:
    """Run a program to its end, as the unprivileged user; return what it printed.

    Raises:
        ServerError: It failed; the message says what it printed.
    """
    ran = subprocess.run(
        list(command),
        cwd=folder,
        env={"PATH": os.defpath, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        user=USER or None,
        group=_group(),
        extra_groups=[] if USER else None,
    )
    if ran.returncode != 0:
        raise ServerError(f"{command[0]} failed:\n{ran.stdout}{ran.stderr}")
    return ran.stdout


def make_folder(name: str) -> Path:
    """Make a fresh folder that belongs to the unprivileged user."""
    folder = Path(tempfile.mkdtemp(prefix=f"fluxai-{name}-"))
    if USER:
        shutil.chown(folder, USER, _group())
    return folder


def may_run(program: Path, *, folder: Path) -> bool:
    """Whether the unprivileged user can reach and start `program`, asked by its version."""
    try:
        run([program, "--version"], folder=folder)
    except (PermissionError, ServerError):
        return False
    return True


def free_port() -> int:
    """Return a loopback port that nothing listens on.

    It lies below those that the system gives to connections, so that none of them takes the port
    of a server while it restarts.
    """
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _group() -> int | None:
    if not USER:
        return None
    import pwd

    return pwd.getpwnam(USER).pw_gid
