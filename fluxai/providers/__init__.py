"""Wrapped clients: the providers' own SDKs, governed, with the same types and the same methods."""
