"""The one error tree.

FluxAIError
├── ConfigurationError      what was set up can't work
│   └── NotGoverned         a wrapped client's request that costs money and can't be priced before
├── InvalidRequest          an argument is wrong; names the field and what would be right
├── StorageError            the store failed; the driver's error is `__cause__`
├── NotFound                no record under that id
├── NotPermitted            the credential of whoever asks does not reach that far
├── UnknownModel            no price is known, and nothing is ever priced at zero
├── Refused                 a policy said no; carries the decision
│   ├── PolicyDenied        a rule about this one call
│   ├── BudgetExceeded      a limit that counts over a window
│   │   └── StreamStopped   what was reserved for a stream is used up; it was cut off
│   └── ApprovalRequired    a human has to say yes first
├── ApprovalConflict        an approval that can't be given any more, or not for this
├── AllProvidersFailed      every provider that could answer a prompt failed; lists each attempt
├── SettlementConflict      already resolved with another outcome
├── ReservationNotFound     the store does not know (or no longer takes) that reservation
└── IdempotencyConflict     the same id or key, with other arguments
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fluxai.core.attempts import Attempt
    from fluxai.core.decisions import Decision


class FluxAIError(Exception):
    """Base of every error that this library raises on purpose."""


class ConfigurationError(FluxAIError):
    """What was configured can't work as it stands."""


class InvalidRequest(FluxAIError, ValueError):
    """An argument is wrong. Nothing was changed.

    Attributes:
        field: The argument's name, as the caller wrote it.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class StorageError(FluxAIError):
    """The store could not be reached or refused to work.

    Attributes:
        spooled: The settlement was written durably to the local spool and will be replayed by id.
    """

    def __init__(self, message: str, *, spooled: bool = False) -> None:
        super().__init__(message)
        self.spooled = spooled


class NotFound(FluxAIError, LookupError):
    """No record is stored under that id."""


class NotPermitted(FluxAIError):
    """The credential that asks is not allowed to do this. Nothing was changed."""


class UnknownModel(FluxAIError, LookupError):
    """No price is known for that model, and a call is never priced at zero."""


class Refused(FluxAIError):
    """A policy refused the call; nothing was spent.

    Attributes:
        decision: The whole decision: reasons, balances, counter-offer.
    """

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.message)
        self.decision = decision


class PolicyDenied(Refused):
    """A rule about this one call refused it."""


class BudgetExceeded(Refused):
    """The limit of a budget would be crossed."""


class StreamStopped(BudgetExceeded):
    """A stream was stopped, since what was reserved for it is used up; it was settled.

    Everything that had arrived was passed on before this was raised.

    Attributes:
        text: The text that had arrived.
    """

    def __init__(self, decision: Decision, text: str) -> None:
        super().__init__(decision)
        self.text = text
        why = f"what was reserved for it, ${decision.estimate.highest}, is used up"
        self.args = (f"the stream was stopped: {why}; {len(text):,} characters had arrived",)


class NotGoverned(ConfigurationError):
    """A wrapped client was asked for something that costs money and that FluxAI can't govern."""


class ApprovalRequired(Refused):
    """A human has to approve this call; its money is held meanwhile."""

    @property
    def approval_id(self) -> str:
        """The id to approve, and to run the call with afterwards."""
        return self.decision.approval_id or self.decision.id


class ApprovalConflict(FluxAIError):
    """The approval was answered already, has expired, or a `deny` limit forbids it now."""


class AllProvidersFailed(FluxAIError):
    """Every model that was tried failed. The last provider's error is `__cause__`.

    Attributes:
        attempts: What was tried, in that order, and why it failed.
    """

    def __init__(self, attempts: tuple[Attempt, ...]) -> None:
        tried = "; ".join(str(attempt) for attempt in attempts)
        super().__init__(f"no provider gave an answer; tried {tried}")
        self.attempts = attempts


class SettlementConflict(FluxAIError):
    """The reservation was already resolved with another outcome."""


class ReservationNotFound(FluxAIError, LookupError):
    """The store does not hold that reservation."""


class IdempotencyConflict(FluxAIError):
    """The same id or idempotency key was used before with other arguments."""
