"""Print what governing adds to a call, beside two peers: `python -m tests.measure.overhead`.

Every call goes over the loopback to `fluxai.testing.FakeProvider`, which answers at once. FluxAI
is always measured. The peers are when they are there, each in an environment of its own, since
their requirements may not fit FluxAI's:

    python -m venv shekel && shekel/bin/pip install "shekel[openai]" openai
    python -m venv litellm && litellm/bin/pip install "litellm[proxy]"
    python -m tests.measure.overhead --shekel shekel/bin/python --litellm litellm/bin/litellm
"""

# ruff: noqa: T201 -- printing figures is the purpose
from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fluxai.testing import FakeProvider

WORKER = Path(__file__).with_name("overhead_worker.py")
PROXY_STARTS_S = 180
_PAUSE_S = 0.5


def _measured(python: str, how: str, url: str, *more: str) -> dict[str, float]:
    """Run the worker in an environment, and return what it measured."""
    answer = subprocess.run(
        [python, str(WORKER), how, url, *more], check=True, capture_output=True, text=True
    )
    found: dict[str, float] = json.loads(answer.stdout.splitlines()[-1])
    return found


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@contextmanager
def _proxy(program: str, url: str, key: str) -> Iterator[str]:
    """Run LiteLLM's proxy before a provider; the address of its API."""
    port = _free_port()
    model = {"model": "openai/gpt-4o", "api_base": url, "api_key": "any"}
    config = {"model_list": [{"model_name": "gpt-4o", "litellm_params": model}]}
    with tempfile.TemporaryDirectory() as folder:
        # JSON is YAML too.
        file = Path(folder, "config.yaml")
        file.write_text(json.dumps(config), encoding="utf-8")
        with (
            Path(folder, "log").open("wb") as log,
            subprocess.Popen(
                [program, "--config", str(file), "--host", "127.0.0.1", "--port", str(port)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                    "LITELLM_MASTER_KEY": key,
                },
            ) as running,
        ):
            try:
                _wait_for(f"http://127.0.0.1:{port}/health/liveliness", running)
                yield f"http://127.0.0.1:{port}/v1"
            finally:
                running.terminate()


def _wait_for(url: str, running: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + PROXY_STARTS_S
    while time.monotonic() < until and running.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 -- the loopback
                return
        except OSError:
            time.sleep(_PAUSE_S)
    raise SystemExit("LiteLLM's proxy did not start; try its command by hand")


def _row(name: str, found: dict[str, float], *, in_process: bool) -> None:
    cpu = f"{found['more_cpu_us']:.0f} µs" if in_process else "in a process of its own"
    print(f"| {name} | {found['more_us']:.0f} µs | {cpu} | {found['plain_us']:.0f} µs |")


def main() -> None:
    """Measure what is there, and say how to install what is not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shekel", metavar="PYTHON", help="an interpreter that has shekel")
    parser.add_argument("--litellm", metavar="PROGRAM", help="LiteLLM's command")
    given = parser.parse_args()
    proxy_program = given.litellm or shutil.which("litellm")
    print("| governed by | added to a call | of that, CPU of the caller | the plain call |")
    print("|---|---|---|---|")
    with FakeProvider() as provider:
        url = provider.openai_url
        _row("FluxAI, wrapped client", _measured(sys.executable, "fluxai", url), in_process=True)
        if given.shekel:
            _row("shekel, patched SDK", _measured(given.shekel, "shekel", url), in_process=True)
        if proxy_program:
            key = f"sk-{secrets.token_urlsafe(32)}"
            with _proxy(proxy_program, url, key) as address:
                found = _measured(sys.executable, "proxy", url, "--proxy", address, "--key", key)
                _row("LiteLLM, proxy on the loopback", found, in_process=False)
    if not given.shekel or not proxy_program:
        print(f"\nNot everything was measured. How to install the peers:\n{__doc__}")


if __name__ == "__main__":
    main()
