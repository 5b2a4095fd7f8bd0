"""The demo's records as a script for Supabase's SQL editor.

    python -m tests.demo_sql > examples/supabase_demo.sql

`fluxai.demo_data` is the truth; this only writes down what it puts.
"""

from __future__ import annotations

import json
import sys

from fluxai import Governor
from fluxai.demo_data import load_demo
from fluxai.storage.memory import MemoryStorage

_KINDS = ("tenant", "user", "tool", "policy")
_HEAD = """\
-- The demo's three tenants, FreeCo, ProCorp and EnterpriseLLC, with their users, tools and policies: run
-- it in Supabase's SQL editor after schema.sql, to have something to look at. Run again it puts the same
-- records once more. It is no part of the schema.
--
-- Generated from fluxai/demo_data.py by `python -m tests.demo_sql`: change that.

SELECT fluxai.apply($demo$[
"""
_END = """
]$demo$, '{}', '[]');
"""


def demo_sql() -> str:
    """Write the script."""
    storage = MemoryStorage()
    with Governor(storage) as governor:
        load_demo(governor)
        changes = [
            {"kind": kind, "scope": _scope(kind, body), "id": body["id"], "body": body}
            for kind in _KINDS
            for body in storage.records(kind)
        ]
    return _HEAD + ",\n".join(map(json.dumps, changes)) + _END


def _scope(kind: str, body: dict[str, str]) -> str:
    return {"tenant": body["id"], "tool": "*"}.get(kind) or body["tenant_id"]


if __name__ == "__main__":
    sys.stdout.write(demo_sql())
