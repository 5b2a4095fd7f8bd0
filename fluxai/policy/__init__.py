"""Policies: the records that people write, and the plan they are compiled to."""
