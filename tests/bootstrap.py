"""Makes environments hold what the checks need: pinned, hashed, and remembered by a stamp.

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
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_LINES_SHOWN_MAX = 40
# From the registry, from a folder of wheels, or not for this machine.
_PACKAGE_LINE = re.compile(r"(?:Collecting|Processing|Ignoring) (?:\S*/)?([\w.]+)")


class BootstrapError(Exception):
    """The environment could not be made; the message says what to do."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment in the checkout, and the pinned packages that it holds.

    Args:
        name: Its folder.
        packages: Its file in `.ci/requirements`, without `.txt`.
    """

    name: str
    packages: str

    @property
    def venv(self) -> Path:
        """Its folder."""
        return ROOT / self.name

    @property
    def bin(self) -> Path:
        """Where its programs are."""
        return self.venv / ("Scripts" if os.name == "nt" else "bin")

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.bin / ("python.exe" if os.name == "nt" else "python")

    @property
    def requirements(self) -> Path:
        """The pinned packages."""
        return ROOT / ".ci" / "requirements" / f"{self.packages}.txt"

    def prepare(self) -> None:
        """Create or update it; return at once when its stamp says that nothing changed.

        Raises:
            BootstrapError: This Python cannot make virtual environments, or an install failed.
        """
        with only_one_at_a_time():
            wanted = self._stamp_wanted()
            found = self._stamp_found()
            if found == wanted:
                return
            started = time.monotonic()
            if any(found.get(key) != wanted[key] for key in ("python", "root")):
                self._create()
                found = {}
            # Without its stamp a half-made environment is made again, never trusted.
            self._stamp.unlink(missing_ok=True)
            if found.get("requirements") != wanted["requirements"]:
                self._install_requirements()
            self._install_project()
            self._stamp.write_text(json.dumps(wanted, indent=1), encoding="utf-8")
            say(f"ready in {time.monotonic() - started:.0f} s: {self.name}")

    def variables(self) -> dict[str, str]:
        """Return the environment variables for programs that run inside it."""
        path = os.pathsep.join((str(self.bin), os.environ.get("PATH", os.defpath)))
        inside = {
            "PATH": path,
            "VIRTUAL_ENV": str(self.venv),
            # Its node is in the set; asking for newer releases is not a test's business.
            "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1",
        }
        return {k: v for k, v in os.environ.items() if k != "PYTHONHOME"} | inside

    @property
    def _stamp(self) -> Path:
        return self.venv / "fluxai-stamp.json"

    def _stamp_wanted(self) -> dict[str, str]:
        return {
            "python": sys.implementation.cache_tag or sys.version,
            # Scripts and the editable install hold the path: a copied environment is not ours.
            "root": str(ROOT),
            "requirements": digest(self.requirements),
            "project": digest(ROOT / "pyproject.toml"),
        }

    def _stamp_found(self) -> dict[str, str]:
        if not (self.python.exists() and self._stamp.exists()):
            return {}
        found: dict[str, str] = json.loads(self._stamp.read_text(encoding="utf-8"))
        return found

    def _create(self) -> None:
        if Path(sys.prefix).resolve() == self.venv.resolve():
            raise BootstrapError(
                f"{self.name} must be made again, and this Python runs from inside it. "
                "Leave it with `deactivate`, then try again."
            )
        if not all(importlib.util.find_spec(name) for name in ("venv", "ensurepip")):
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            raise BootstrapError(
                f"{sys.executable} has no venv or ensurepip module, so no environment can be made. "
                f"On Debian and Ubuntu: apt-get install python{version}-venv. "
                "Elsewhere: use a Python that brings pip."
            )
        say(f"making {self.name} with Python {sys.version.split()[0]}")
        if self.venv.is_symlink():
            self.venv.unlink()
        shutil.rmtree(self.venv, ignore_errors=True)
        self.run([sys.executable, "-m", "venv", str(self.venv)], on_failure="python -m venv failed")

    def _install_requirements(self) -> None:
        pins = self.requirements.read_text(encoding="utf-8")
        total = len(re.findall(r"^[^\s#]+==", pins, re.MULTILINE))
        say(f"installing {total} pinned packages")
        # The file is complete, so nothing is resolved: a newer release than it pins can't get in.
        exactly = ("--no-deps", "--require-hashes", "--only-binary=:all:")
        self.run(
            [*self._pip_install, *exactly, "-r", str(self.requirements)],
            on_failure="the pinned packages could not be installed",
            count_of=total,
        )

    def _install_project(self) -> None:
        say("installing the project, editable")
        self.run(
            [*self._pip_install, "--no-deps", "--no-build-isolation", "-e", str(ROOT)],
            on_failure="the project could not be installed",
        )
        self.run(
            [str(self.python), "-m", "pip", "--disable-pip-version-check", "check"],
            on_failure="the pinned packages do not fit the project: python3 -m tests lock",
        )

    @property
    def _pip_install(self) -> tuple[str, ...]:
        return (
            str(self.python),
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--no-input",
            "install",
            "--progress-bar=off",
        )

    def run(
        self,
        command: list[str],
        *,
        on_failure: str,
        count_of: int = 0,
        folder: Path = ROOT,
    ) -> None:
        """Run quietly inside it, showing only how far an install of `count_of` packages is.

        Raises:
            BootstrapError: The program failed, or there is none of that name.
        """
        lines: list[str] = []
        seen = 0
        with subprocess.Popen(
            command,
            cwd=folder,
            env=self.variables(),
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


#: What the checks and almost all tests need, with the newest SDKs.
MAIN = Environment(".venv", "test")
#: Agent frameworks, whose versions of the SDKs are their own.
FRAMEWORKS = Environment(".venv-frameworks", "frameworks")
#: The oldest SDKs that are supported.
OLDEST = Environment(".venv-oldest", "oldest")
#: MCP servers and clients of others.
MCP = Environment(".venv-mcp", "mcp")
#: LangChain's client of MCP, which needs the protocol's older SDK.
MCP_LANGCHAIN = Environment(".venv-mcp-langchain", "mcp-langchain")


def digest(*paths: Path) -> str:
    """Return what changes when one of these files does."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def _show_progress(done: int, total: int, what: str) -> None:
    if sys.stdout.isatty():
        end = "\n" if what == "unpacking" else ""
        print(f"\r\033[K  {done}/{total} {what}", end=end, flush=True)
    elif done % 20 == 0 or what == "unpacking":
        print(f"  {done}/{total} {what}", flush=True)


def say(text: str) -> None:
    """Tell people what is being set up."""
    print(f"[setup] {text}", flush=True)


@contextlib.contextmanager
def only_one_at_a_time() -> Iterator[None]:
    """Keep two runs in one checkout from installing into the same environment together."""
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
