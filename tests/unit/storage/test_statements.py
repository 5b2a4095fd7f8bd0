"""SQL by name, and scripts cut into statements."""

from __future__ import annotations

import sqlite3

from fluxai.storage.statements import load_migrations, load_statements, split_script


def test_every_statement_compiles_against_the_schema() -> None:
    """Each named statement is one that the migrated schema understands."""
    connection = sqlite3.connect(":memory:")
    for script in load_migrations("sqlite").values():
        for statement in split_script(script):
            connection.execute(statement)
    statements = load_statements("sqlite_queries.sql")
    assert len(statements) > 50
    for name, statement in statements.items():
        most = max((int(part) for part in _numbers(statement)), default=statement.count("?"))
        connection.execute(f"EXPLAIN {statement}", (None,) * most).fetchall()
        assert name.replace("_", "").isalnum()
    connection.close()


def test_migrations_are_numbered_without_gaps() -> None:
    """The schema's version is the number of its newest migration."""
    numbers = list(load_migrations("sqlite"))
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_script_is_cut_where_statements_end() -> None:
    """Semicolons within texts and triggers end nothing."""
    script = """
    CREATE TABLE a (x TEXT DEFAULT ';');
    -- a comment; with a semicolon
    CREATE TRIGGER t AFTER INSERT ON a BEGIN
        DELETE FROM a;
        DELETE FROM a;
    END;
    """
    statements = list(split_script(script))
    assert len(statements) == 2
    connection = sqlite3.connect(":memory:")
    for statement in statements:
        connection.execute(statement)
    connection.close()


def _numbers(statement: str) -> list[str]:
    return [part[0] for part in statement.split("?")[1:] if part[:1].isdigit()]
