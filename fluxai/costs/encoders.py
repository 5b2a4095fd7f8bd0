"""A tokenizer, where its vocabulary is on this machine already: never a download, never a wait.

`tiktoken` fetches a vocabulary that it lacks and stops the caller until it is there. So it is not
asked: the file that it (or another library) stored earlier is read here, in a thread of its own.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator, Sized
from importlib.util import find_spec
from pathlib import Path
from typing import Final

_LOG: Final = logging.getLogger("fluxai.costs")

#: How the file of o200k_base is named in every cache: the SHA-1 of the address it was fetched from.
O200K_FILE: Final = "fb374d419588a4632f3f557e76b4b70aebbca790"
#: How o200k_base cuts text before it pairs bytes. Source: tiktoken (MIT), `openai_public.py`.
_O200K_PATTERN: Final = "|".join(  # noqa: FLY002 -- one alternative a line
    (
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?""",
        r"""\p{N}{1,3}""",
        r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""",
        r"""\s*[\r\n]+""",
        r"""\s+(?!\S)""",
        r"""\s+""",
    )
)
_BYTES: Final = 256

Encode = Callable[[str], Sized]


def vocabulary_file() -> Path | None:
    """Return where the vocabulary is on this machine, in the places where libraries keep it."""
    return next((path for path in _places() if path.is_file()), None)


def _places() -> Iterator[Path]:
    import tempfile

    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        folder = os.environ.get(variable)
        if folder:
            yield Path(folder) / O200K_FILE
    yield Path(tempfile.gettempdir()) / "data-gym-cache" / O200K_FILE
    for entry in sys.path:  # without importing it: that takes seconds
        home = Path(entry) / "litellm" / "litellm_core_utils" / "tokenizers"
        yield home / O200K_FILE


def load(path: Path) -> Encode:
    """Read a vocabulary and return what counts with it. Takes up to a second.

    Raises:
        ValueError: The file is no vocabulary, or not a whole one.
        OSError: It can't be read.
    """
    import tiktoken

    ranks = {}
    for line in path.read_bytes().splitlines():
        if line:
            token, _, rank = line.partition(b" ")
            ranks[b64decode(token, validate=True)] = int(rank)
    if len(ranks) < _BYTES or any(bytes((byte,)) not in ranks for byte in range(_BYTES)):
        raise ValueError(f"{path} is not a whole vocabulary")
    encoding = tiktoken.Encoding(
        "o200k_base", pat_str=_O200K_PATTERN, mergeable_ranks=ranks, special_tokens={}
    )
    return encoding.encode_ordinary


class LazyEncoder:
    """Loads a tokenizer beside the calls that would use it, once one of them asks.

    Attributes:
        state: `unasked`, `loading`, `ready`, or why there is none: `no package`, `no file`,
            `unreadable`.
    """

    def __init__(self) -> None:
        self.state = "unasked"
        self._encode: Encode | None = None
        self._lock = threading.Lock()

    def take(self) -> Encode | None:
        """Return the tokenizer once it is there; `None` until then, at once."""
        if self.state == "unasked":
            with self._lock:
                if self.state == "unasked":
                    self._start()
        return self._encode

    def _start(self) -> None:
        if find_spec("tiktoken") is None:
            self.state = "no package"
            return
        path = vocabulary_file()
        if path is None:
            self.state = "no file"
            return
        self.state = "loading"
        name = "fluxai-tokenizer"
        threading.Thread(target=self._load, args=(path,), name=name, daemon=True).start()

    def _load(self, path: Path) -> None:
        try:
            self._encode = load(path)
        except (OSError, ValueError, ImportError) as error:
            # Without it text is measured by classes of bytes, as it was until now.
            self.state = "unreadable"
            _LOG.warning("no tokenizer: %s", error)
        else:
            self.state = "ready"
