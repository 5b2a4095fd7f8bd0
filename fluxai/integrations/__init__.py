"""Adapters for agent frameworks. Each needs its framework, and is imported where it is used."""
