"""Makes `.venv` hold what the checks need: pinned, hashed, and remembered by a stamp.

Runs before anything is installed, so it uses the standard library alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
REQUIREMENTS = ROOT / ".ci" / "requirements" / "test.txt"

_STAMP = VENV / "fluxai-stamp.json"
_LINES_SHOWN_MAX = 40
# From the registry, from a folder of wheels, or not for this machine.
_PACKAGE_LINE = re.compile(r"(?:Collecting|Processing|Ignoring) (?:\S*/)?([\w.]+)")


class BootstrapError(Exception):
    """The environment could not be made; the message says what to do."""


def prepare() -> None:
    """Create or update `.venv`; return at once when its stamp says that nothing changed.

    Raises:
        BootstrapError: This Python cannot make virtual environments, or an install failed.
    """
    with _only_one_at_a_time():
        wanted = _stamp_wanted()
        found = _stamp_found()
        if found == wanted:
            return
        started = time.monotonic()
        if any(found.get(key) != wanted[key] for key in ("python", "root")):
            _create()
            found = {}
        # Without its stamp a half-made environment is made again, never trusted.
        _STAMP.unlink(missing_ok=True)
        if found.get("requirements") != wanted["requirements"]:
            _install_requirements()
        _install_project()
        _STAMP.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
        _say(f"ready in {time.monotonic() - started:.0f} s: {VENV.name}")


def environment() -> dict[str, str]:
    """Return the environment for programs that run inside `.venv`."""
    path = os.pathsep.join((str(BIN), os.environ.get("PATH", os.defpath)))
    inside = {
        "PATH": path,
        "VIRTUAL_ENV": str(VENV),
        # Its node is in the set; asking for newer releases is not a test's business.
        "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1",
    }
    return {k: v for k, v in os.environ.items() if k != "PYTHONHOME"} | inside


def _stamp_wanted() -> dict[str, str]:
    return {
        "python": sys.implementation.cache_tag or sys.version,
        # Scripts and the editable install hold the path: a copied environment is not ours.
        "root": str(ROOT),
        "requirements": _digest(REQUIREMENTS),
        "project": _digest(ROOT / "pyproject.toml"),
    }


def _stamp_found() -> dict[str, str]:
    if not (PYTHON.exists() and _STAMP.exists()):
        return {}
    found: dict[str, str] = json.loads(_STAMP.read_text(encoding="utf-8"))
    return found


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _create() -> None:
    if Path(sys.prefix).resolve() == VENV.resolve():
        raise BootstrapError(
            f"{VENV.name} must be made again, and this Python runs from inside it. "
            "Leave it with `deactivate`, then try again."
        )
    if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise BootstrapError(
            f"{sys.executable} has no venv or ensurepip module, so no environment can be made. "
            f"On Debian and Ubuntu: apt-get install python{version}-venv. "
            "Elsewhere: use a Python that brings pip."
        )
    _say(f"making {VENV.name} with Python {sys.version.split()[0]}")
    if VENV.is_symlink():
        VENV.unlink()
    shutil.rmtree(VENV, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(VENV)], on_failure="python -m venv failed")


def _install_requirements() -> None:
    total = len(re.findall(r"^[^\s#]+==", REQUIREMENTS.read_text(encoding="utf-8"), re.MULTILINE))
    _say(f"installing {total} pinned packages")
    # The file is complete, so nothing is resolved: a release newer than what it pins can't get in.
    exactly = ("--no-deps", "--require-hashes", "--only-binary=:all:")
    _run(
        [*_PIP_INSTALL, *exactly, "-r", str(REQUIREMENTS)],
        on_failure="the pinned packages could not be installed",
        count_of=total,
    )


def _install_project() -> None:
    _say("installing the project, editable")
    _run(
        [*_PIP_INSTALL, "--no-deps", "--no-build-isolation", "-e", str(ROOT)],
        on_failure="the project could not be installed",
    )
    _run(
        [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "check"],
        on_failure="the pinned packages do not fit the project: python3 -m tests lock",
    )


_PIP_INSTALL = (
    str(PYTHON),
    "-m",
    "pip",
    "--disable-pip-version-check",
    "--no-input",
    "install",
    "--progress-bar=off",
)


def _run(command: list[str], *, on_failure: str, count_of: int = 0) -> None:
    """Run quietly, showing only how far an install of `count_of` packages is."""
    lines: list[str] = []
    seen = 0
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        for line in process.stdout or ():
            lines.append(line.rstrip())
            if count_of and (package := _PACKAGE_LINE.match(line)):
                seen += 1
                _show_progress(seen, count_of, package[1])
            elif count_of and line.startswith("Installing collected packages"):
                _show_progress(count_of, count_of, "unpacking")
    if process.returncode != 0:
        shown = "\n".join(lines[-_LINES_SHOWN_MAX:])
        raise BootstrapError(f"{on_failure} (exit {process.returncode}):\n{shown}")


def _show_progress(done: int, total: int, what: str) -> None:
    if sys.stdout.isatty():
        end = "\n" if what == "unpacking" else ""
        print(f"\r\033[K  {done}/{total} {what}", end=end, flush=True)
    elif done % 20 == 0 or what == "unpacking":
        print(f"  {done}/{total} {what}", flush=True)


def _say(text: str) -> None:
    print(f"[setup] {text}", flush=True)


@contextlib.contextmanager
def _only_one_at_a_time() -> Iterator[None]:
    """Keep two runs in one checkout from installing into the same `.venv` together."""
    if sys.platform == "win32":  # no fcntl there; its users start one run at a time
        yield
        return
    import fcntl

    # The folder itself is the lock, so nothing is left lying about and a crash frees it.
    folder = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
