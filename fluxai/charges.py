"""Whether a call that failed may have been charged all the same."""

from __future__ import annotations

# Names of errors, of whichever client, after which the call was charged, or nobody knows.
_UNCERTAIN = (
    "Timeout",
    "TimeoutError",
    "TimeoutException",
    "ConnectionError",
    "ConnectionResetError",
    "ConnectionAbortedError",
    "BrokenPipeError",
    "NetworkError",
    "TransportError",
    "RemoteProtocolError",
    "ServerDisconnectedError",
    "ReadError",
    "ReadTimeout",
    "DeadlineExceeded",
    "IncompleteRead",
    "PayloadError",
    # An answer had come, which the SDK could not turn into what was asked for.
    "LengthFinishReasonError",
    "ContentFilterFinishReasonError",
    "APIResponseValidationError",
)
# … and of those that say that nothing was sent.
_NOT_SENT = frozenset(
    {
        "ClientConnectorError",
        "ConnectError",
        "ConnectTimeout",
        "ConnectionRefusedError",
        "NewConnectionError",
        "PoolTimeout",
        "gaierror",
    }
)


def may_have_been_charged(error: BaseException, before: BaseException | None = None) -> bool:
    """Say whether a call that ended with this error may have been charged all the same.

    Time-outs, lost connections and cancellation leave that open; an error that the provider
    answered, or one of the caller's own, does not. Errors are told by their classes' names, those
    of their causes included, so that no client needs to be imported.

    Args:
        error: How the call ended.
        before: The error that was being handled when the call began. Python notes it as the context
            of every error that follows, but it says nothing of this call.
    """
    if not isinstance(error, Exception):
        return True
    seen: set[int] = set() if before is None else {id(before)}
    uncertain = False
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        names = {kind.__name__ for kind in type(cause).__mro__}
        if names & _NOT_SENT:
            return False
        uncertain = (
            uncertain
            or not isinstance(cause, Exception)
            or any(name.endswith(_UNCERTAIN) for name in names)
        )
        cause = cause.__cause__ or cause.__context__
    return uncertain
