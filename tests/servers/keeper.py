"""Runs one program and ends it when the process that asked for it is gone, however that ended.

Started as a script of its own: `python keeper.py FOLDER USER SIGNAL PROGRAM ARGUMENT...`. It prints
the program's process id, and leaves with its exit code. Its standard input is a pipe that nobody
writes to: the system closes it when the asking process dies, and then the program gets SIGNAL and
FOLDER is removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading

_PR_SET_PDEATHSIG = 1


def main(folder: str, user: str, end: int, command: list[str]) -> int:
    """Run `command` as `user` (empty: whoever we are) and return its exit code."""
    # Ctrl-C reaches the whole terminal; what it means for the program is the tests' to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    as_user = {"user": user, "group": _group(user), "extra_groups": []} if user else {}
    program = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        # Into the log, with what it says on stderr.
        stdout=sys.stderr,
        preexec_fn=lambda: _follow_parent(end),  # noqa: PLW1509 - there is one thread yet
        **as_user,  # type: ignore[call-overload]
    )
    print(program.pid, flush=True)  # noqa: T201 - it is read
    threading.Thread(target=_end_with_parent, args=(program, end, folder), daemon=True).start()
    code = program.wait()
    if _parent_is_gone.is_set():
        shutil.rmtree(folder, ignore_errors=True)
    return int(code)


_parent_is_gone = threading.Event()


def _end_with_parent(program: subprocess.Popen[bytes], end: int, folder: str) -> None:
    os.read(0, 1)
    _parent_is_gone.set()
    with contextlib.suppress(ProcessLookupError):
        program.send_signal(end)


def _follow_parent(end: int) -> None:
    """Ask Linux to end the program also when this keeper is killed."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, end)


def _group(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]))
