"""What a certificate is called: the pair of models, and the promise that a policy asks for."""

from __future__ import annotations


def certificate_id(asked: str, cheap: str, risk: float, confidence: float) -> str:
    """Name the certificate of a pair of models and a promise."""
    return f"{asked} to {cheap}, {risk:g} at {confidence:g}"
