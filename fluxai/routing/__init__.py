"""Learning from outcomes which prompts a cheaper model does as well, and proving it. Pure."""

from fluxai.routing.abilities import Abilities, Ability
from fluxai.routing.bounds import upper_bound
from fluxai.routing.certificates import Certificate, Certified, certify
from fluxai.routing.outcomes import Outcome, Pair

__all__ = [
    "Abilities",
    "Ability",
    "Certificate",
    "Certified",
    "Outcome",
    "Pair",
    "certify",
    "upper_bound",
]
