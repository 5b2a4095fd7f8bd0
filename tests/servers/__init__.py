"""The real servers that tests run against: PostgreSQL, PostgREST, and a proxy that breaks the wire."""
