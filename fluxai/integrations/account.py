"""On whose account an agent's calls go, and what it does when one of them is refused."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from fluxai.arguments import one_of
from fluxai.context import subject
from fluxai.core.errors import NotFound, Refused, StreamStopped
from fluxai.guard import Call, CallArguments, begin, begin_async

if TYPE_CHECKING:
    from fluxai.governor import Governor

M = TypeVar("M")

OnRefusal = Literal["raise", "end"]


class Account(Generic[M]):
    """What the adapters have in common; each says what its arguments mean.

    Args:
        governor: Holds the budgets.
        tenant: Whose budgets; otherwise that of the `subject()` block.
        user: Which user of it.
        labels: Labels of every call, beside those that name the run.
        models: By id, the framework's models that a downgrade may move a call to.
        on_refusal: `"raise"` the refusal, or `"end"` the run with a message that says why.

    Raises:
        ConfigurationError: `on_refusal` is something else.
    """

    def __init__(
        self,
        governor: Governor,
        *,
        tenant: str | None,
        user: str | None,
        labels: Mapping[str, str] | None,
        models: Mapping[str, M] | None,
        on_refusal: OnRefusal,
    ) -> None:
        one_of("on_refusal", on_refusal, ("raise", "end"))
        self.governor = governor
        self.models = dict(models or {})
        self.ends = on_refusal == "end"
        self._tenant = tenant
        self._user = user
        self._labels = dict(labels or {})

    @contextmanager
    def of_run(self, identity: Mapping[str, str | None]) -> Iterator[None]:
        """Put calls on this account, with the labels that name their run."""
        known = {name: value for name, value in identity.items() if value}
        with subject(tenant=self._tenant, user=self._user, **{**known, **self._labels}):
            yield

    def begin(self, request: CallArguments) -> Call:
        """Reserve for a model call, or raise its refusal."""
        return begin(self.governor, request, sys.exception(), self.models.__contains__)

    async def begin_async(self, request: CallArguments) -> Call:
        """Reserve for a model call in async code."""
        return await begin_async(self.governor, request, self.models.__contains__)

    def prices(self, tool: str) -> bool:
        """Say whether a tool is registered, and so has a price."""
        try:
            self.governor.tools.get(tool)
        except NotFound:
            return False
        return True


def why(refused: Refused) -> str:
    """Say to the user of an agent why it ends here; what had arrived of an answer comes first."""
    if isinstance(refused, StreamStopped) and refused.text:
        return f"{refused.text}\n\n[{refused}]"
    return str(refused)


def facts(refused: Refused) -> dict[str, Any]:
    """Return what a program wants to know of a refusal, as JSON-safe values."""
    decision = refused.decision
    return {
        "error": type(refused).__name__,
        "decision": decision.decision,
        "reservation_id": decision.id,
        "approval_id": decision.approval_id,
    }
