"""What a certificate is called: the pair of models, and the promise that a policy asks for."""

from __future__ import annotations


def certificate_id(asked: str, cheap: str, risk: float, confidence: float) -> str:
    """Name the certificate of a pair of models and a promise, and of no other."""
    return f"{_word(asked)} to {_word(cheap)}, {risk!r} at {confidence!r}"


def _word(name: str) -> str:
    return name.replace("%", "%25").replace(" ", "%20")
