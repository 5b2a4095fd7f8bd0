"""What a database holds of FluxAI, as rows that can be compared: two that are equal behave equally."""

from __future__ import annotations

from typing import Any

import psycopg

#: One query per kind of thing; the first column names it.
_QUERIES: dict[str, str] = {
    "schemas": """
        SELECT nspname, nspowner::regrole::text, nspacl::text[]
        FROM pg_namespace WHERE nspname IN ('fluxai', 'fluxai_api')""",
    "relations": """
        SELECT c.oid::regclass::text, c.relkind::text, c.relowner::regrole::text, c.relacl::text[],
            c.relrowsecurity, c.relforcerowsecurity, c.reloptions, c.relispartition,
            pg_get_expr(c.relpartbound, c.oid), pg_get_partkeydef(c.oid)
        FROM pg_class AS c WHERE c.relnamespace::regnamespace::text IN ('fluxai', 'fluxai_api')""",
    "columns": """
        SELECT c.oid::regclass || '.' || a.attname, a.attnum, format_type(a.atttypid, a.atttypmod),
            a.attnotnull, a.attidentity::text, a.attgenerated::text, a.attacl::text[],
            pg_get_expr(d.adbin, d.adrelid)
        FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
        LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE c.relnamespace::regnamespace::text IN ('fluxai', 'fluxai_api') AND a.attnum > 0
            AND NOT a.attisdropped""",
    "indexes": """
        SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid), indisvalid
        FROM pg_index JOIN pg_class AS c ON c.oid = indexrelid
        WHERE c.relnamespace::regnamespace::text IN ('fluxai', 'fluxai_api')""",
    "constraints": """
        SELECT conrelid::regclass || '.' || conname, pg_get_constraintdef(oid), convalidated
        FROM pg_constraint WHERE connamespace::regnamespace::text IN ('fluxai', 'fluxai_api')""",
    "sequences": """
        SELECT schemaname || '.' || sequencename, data_type::text, start_value, min_value,
            max_value, increment_by, cycle, last_value
        FROM pg_sequences WHERE schemaname IN ('fluxai', 'fluxai_api')""",
    "functions": """
        SELECT p.oid::regprocedure::text, pg_get_functiondef(p.oid), p.proowner::regrole::text,
            p.proacl::text[], p.prosecdef, p.proconfig
        FROM pg_proc AS p WHERE p.pronamespace::regnamespace::text IN ('fluxai', 'fluxai_api')
            AND p.prokind <> 'a'""",
    "views": """
        SELECT schemaname || '.' || viewname, definition FROM pg_views
        WHERE schemaname IN ('fluxai', 'fluxai_api')""",
    "policies": """
        SELECT schemaname || '.' || tablename || '.' || policyname, permissive, roles::text[], cmd,
            qual, with_check
        FROM pg_policies WHERE schemaname IN ('fluxai', 'fluxai_api')""",
    "triggers": """
        SELECT t.tgrelid::regclass || '.' || t.tgname, pg_get_triggerdef(t.oid)
        FROM pg_trigger AS t JOIN pg_class AS c ON c.oid = t.tgrelid
        WHERE c.relnamespace::regnamespace::text IN ('fluxai', 'fluxai_api')""",
    "comments": """
        SELECT c.oid::regclass::text, obj_description(c.oid, 'pg_class')
        FROM pg_class AS c WHERE c.relnamespace::regnamespace::text IN ('fluxai', 'fluxai_api')
            AND obj_description(c.oid, 'pg_class') IS NOT NULL""",
    "versions": "SELECT version FROM fluxai.migrations",
    "horizon": "SELECT one, counted_us FROM fluxai.horizon",
}


def catalogue(url: str) -> dict[str, list[Any]]:
    """Read everything: tables, columns, functions with their bodies, policies, and who may do what."""
    with psycopg.connect(url, autocommit=True) as connection:
        # So that every name is written with its schema.
        connection.execute("SET search_path = ''")
        return {
            kind: sorted(connection.execute(query).fetchall(), key=repr)
            for kind, query in _QUERIES.items()
        }
