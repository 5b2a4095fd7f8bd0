"""PostgreSQL: what a server asks to try again is tried again, and done once."""

from __future__ import annotations

import pytest

from fluxai import Governor, StorageError
from fluxai.storage.postgres import PostgresStorage
from tests.servers.months import at, ledger, limit, spend


def _fail(url: str, times: int, state: str) -> None:
    """Let the next calls of `carry_out` end in an error, after they did their work."""
    statement = f"""
        CREATE OR REPLACE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF nextval('public.failures') <= {times} THEN
                RAISE EXCEPTION 'injected' USING ERRCODE = '{state}';
            END IF;
            RETURN NULL;
        END $$;
        CREATE CONSTRAINT TRIGGER fail AFTER UPDATE ON fluxai.counters
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION public.fail()
    """
    storage = PostgresStorage(url)
    with storage.engine.connect() as connection:
        connection.exec_driver_sql("CREATE SEQUENCE IF NOT EXISTS public.failures")
        connection.exec_driver_sql(statement)
    storage.close()


@pytest.mark.parametrize("state", ["40001", "40P01", "55P03", "57014"])
def test_a_serialisation_failure_is_tried_again(postgres_url: str, state: str) -> None:
    """The error comes at the commit, when everything has been done; nothing is done twice."""
    with ledger(postgres_url, at(2028, 1, 15)) as (governor, _):
        limit(governor, limit_type="total")
        spend(governor)
        _fail(postgres_url, 3, state)
        spend(governor)
        assert isinstance(governor.storage, PostgresStorage)
        assert governor.storage.retries >= 3
        assert len(governor.events()) == 2
        assert governor.verify().ok


def test_a_failure_that_lasts_is_an_error(postgres_url: str) -> None:
    """After `patience_s` the caller is told, and nothing is held."""
    with ledger(postgres_url, at(2028, 1, 15)) as (governor, clock):
        limit(governor, limit_type="total")
        spend(governor)
        _fail(postgres_url, 1_000_000, "40001")
        with (
            Governor(PostgresStorage(postgres_url, patience_s=0.1), clock=clock) as hasty,
            pytest.raises(StorageError, match="injected"),
        ):
            hasty.reserve(tenant="acme", tool="search")
        assert governor.verify().ok
        assert governor.storage.reservations(state="reserved") == []
