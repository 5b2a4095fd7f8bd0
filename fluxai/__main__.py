"""`python -m fluxai` is the command line."""

from __future__ import annotations

from fluxai.cli import main

if __name__ == "__main__":
    main()
