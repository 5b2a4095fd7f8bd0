"""PostgreSQL: a role that may govern and change no schema, as the guide sets it up."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from fluxai import Governor, Policy, StorageError, Tool
from tests.servers.postgres import Databases

GUIDE = Path(__file__).parent.parent.parent / "docs" / "how-to" / "run-on-postgres.md"


def test_the_role_of_the_guide_governs_and_changes_no_table(
    postgres_server: Databases, postgres_url: str
) -> None:
    """The grants of the guide are enough for every verb, and not for a new table."""
    Governor(postgres_url).close()
    grants = re.findall(r"```sql\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)[1]
    database = postgres_url.rpartition("/")[2]
    role = f"app_{database[-12:]}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
        connection.execute(grants.replace("fluxai_app", role))
    url = postgres_server.url(database, user=role, password="secret")
    try:
        with Governor(url) as governor:
            governor.tools.put(Tool(id="t", cost_per_unit="0.10"))
            for limit_type, fields in (("daily", {}), ("rolling", {"window": "2h"})):
                governor.policies.put(
                    Policy(
                        tenant_id="*",
                        limit_type=limit_type,  # type: ignore[arg-type]
                        limit_value="1",
                        id=limit_type,
                        **fields,  # type: ignore[arg-type]
                    )
                )
            held = governor.reserve(tenant="acme", tool="t", labels={"run": "1"})
            assert governor.settle(held, cost="0.30").cost == Decimal("0.30")
            governor.release(governor.reserve(tenant="acme", tool="t"))
            governor.record(id="past", tenant="acme", tool="t", units=2)
            governor.adjust("past", "-0.05", reason="refund", by="bob")
            governor.expire()
            governor.policies.delete("rolling")
            assert governor.usage("acme").total_cost == Decimal("0.45")
            assert governor.verify().ok
        with (
            psycopg.connect(url, autocommit=True) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute("CREATE TABLE fluxai.mine (a integer)")
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f"DROP OWNED BY {role}")
            connection.execute(f"DROP ROLE {role}")


def test_a_role_without_rights_is_told_what_it_lacks(
    postgres_server: Databases, postgres_url: str
) -> None:
    """A login that was granted nothing is refused with the place that says what to grant."""
    Governor(postgres_url).close()
    database = postgres_url.rpartition("/")[2]
    role = f"none_{database[-12:]}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
    try:
        with pytest.raises(StorageError, match="rights to the schema fluxai"):
            Governor(postgres_server.url(database, user=role, password="secret"))
    finally:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f"DROP ROLE {role}")
