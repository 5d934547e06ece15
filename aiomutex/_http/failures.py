"""The errors of an attempt without a complete response. Their messages hold no headers, and so no API key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aiohttp

from aiomutex._http.context import ImplicitRetryError
from aiomutex.errors import AttemptTimeoutError, ConnectionFailedError, DeadlineExceededError, SessionClosedError

if TYPE_CHECKING:
    from aiomutex._api.requests import Request
    from aiomutex._http.context import AttemptContext
    from aiomutex.errors import MutexError


def timed_out(request: Request[Any], context: AttemptContext) -> MutexError:
    """Return the error of an attempt that its deadline interrupted."""
    if context.permit is not None and context.loop.time() < context.ends_at:
        seconds = min(context.options.attempt_timeout, round(context.deadline.at - context.permit, 3))
        detail = f"no complete response within {seconds:g} s of sending"
        return AttemptTimeoutError(detail, method=request.method, path=request.path, sent=True)
    stage = "before the request was sent" if context.permit is None else "while waiting for the response"
    deadline = context.options.deadline
    detail = f"the deadline of {deadline:g} s passed {stage}"
    error = DeadlineExceededError(detail, method=request.method, path=request.path, deadline=deadline)
    error.maybe_applied = context.permit is not None
    return error


def closed_during(context: AttemptContext) -> SessionClosedError:
    """Return the error of an attempt that the closing of the session interrupted."""
    error = SessionClosedError("the session was closed during the call")
    error.maybe_applied = context.permit is not None
    return error


def connection_failed(request: Request[Any], context: AttemptContext, error: BaseException) -> ConnectionFailedError:
    """Return the error of an attempt whose connection could not be made, or broke."""
    # A permit may be taken before the connection is made, but nothing is sent without a connection.
    is_connected = not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
    sent = context.permit is not None and is_connected
    return ConnectionFailedError(_describe(error), method=request.method, path=request.path, sent=sent)


def _describe(error: BaseException) -> str:
    if isinstance(error, aiohttp.ServerDisconnectedError | ImplicitRetryError):
        return "the server closed the connection before it answered"
    if isinstance(error, aiohttp.ClientPayloadError):
        return "the connection ended before the response was complete"
    if isinstance(error, aiohttp.ClientResponseError):
        return "the response is not valid HTTP"
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect to {error.host}:{error.port} ({error.os_error.strerror or error.os_error})"
    if isinstance(error, TimeoutError):
        return "connecting timed out"
    return f"the connection broke ({type(error).__name__}: {error})"
