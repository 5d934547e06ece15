"""What is noted of a call that a hook or the log observes: the times of its attempts, and the tracers' contexts."""

from __future__ import annotations

import contextlib
import logging
import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from aiomutex import events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, MutableMapping

    from aiomutex._api.requests import Request
    from aiomutex._api.responses import Response
    from aiomutex._http.call import CallOptions
    from aiomutex._http.context import AttemptContext
    from aiomutex._http.transport import Transport
    from aiomutex.errors import MutexError

T = TypeVar("T")

logger = logging.getLogger("aiomutex.http")
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\n[ -~]*")


class Observer:
    """Notes the attempts of one call, one after another, and reports each to the hooks and to the log."""

    def __init__(self, transport: Transport, request: Request[Any], options: CallOptions) -> None:
        self._transport, self._hooks = transport, transport.hooks or events.Hooks()
        base = transport.base_url
        self._call: dict[str, Any] = {
            "operation": request.operation,
            "method": request.method,
            "route": events.route_of(request.path),
            "path": request.path,
            "scheme": base.scheme,
            "host": base.host,
            "port": base.port,
            "priority": options.priority,
        }
        self._number = 0
        self._opened: events.OpenAttempt | None = None
        self._contexts = self._call_contexts = contextlib.ExitStack()
        if self._hooks.tracers:
            self._traced = events.Call(**self._call)
            self._call_contexts = _entered([tracer.call for tracer in self._hooks.tracers], self._traced)

    def begin(self, started: float) -> None:
        """Begin an attempt."""
        self._number += 1
        self._started = started
        self.ready_at: float | None = None  # until a connection is ready
        self.context: AttemptContext | None = None  # until the session is known to be open

    def permitted(self, headers: MutableMapping[str, str]) -> None:
        """Note that the attempt has its permit. What tracers add to the headers is sent."""
        if not self._hooks.tracers:
            return
        self._opened = events.OpenAttempt(call=self._traced, number=self._number)
        self._contexts = _entered([tracer.attempt for tracer in self._hooks.tracers], self._opened)
        for name, value in self._opened.headers.items():
            if _HEADER.fullmatch(f"{name}\n{value}"):
                headers[name] = f"{value}"  # users may set a number
            else:
                logger.error("a tracer set a header that cannot be sent")

    def end(self, response: Response | None, error: MutexError | None, delay: float | None) -> None:
        """Report the attempt."""
        context, hooks = self.context, self._hooks
        level = logging.DEBUG if delay is None else logging.INFO
        if context is None or (hooks == ((), ()) and not logger.isEnabledFor(level)):
            return
        now = context.loop.time()
        ready = now if self.ready_at is None else self.ready_at
        permit = now if context.permit is None else context.permit
        attempt = events.Attempt(
            **self._call,
            number=self._number,
            status=response.status if response else getattr(error, "status", None),
            error=error,
            retry_in=None if delay is None else max(delay, self._transport.limiter.state().paused_for),
            connection_wait=ready - self._started,
            permit_wait=max(0.0, permit - ready),
            duration=now - permit,
            request_id=response.request_id if response else getattr(error, "request_id", None),
        )
        if self._opened is None:
            self.permitted({})  # a tracer sees each attempt, also one that ended before its permit
        if self._opened is not None:
            self._opened.result = attempt
        _report(attempt, level, hooks.functions)
        self._opened = None
        _exit(self._contexts, error)

    def close(self, error: BaseException | None) -> None:
        """End the call, which raises ``error`` if it is given."""
        _exit(self._contexts, error)
        _exit(self._call_contexts, error)


def _report(attempt: events.Attempt, level: int, functions: Iterable[Callable[[events.Attempt], object]]) -> None:
    if logger.isEnabledFor(level):
        outcome = attempt.error or attempt.status
        then = "" if attempt.retry_in is None else f"; attempt {attempt.number + 1} follows in {attempt.retry_in:.2f} s"
        fields = {f"aiomutex_{name}": value for name, value in msgspec.structs.asdict(attempt).items()}
        facts = (attempt.method, attempt.path, attempt.number, outcome, attempt.duration, then)
        logger.log(level, "%s %s, attempt %d: %s in %.3f s%s", *facts, extra=fields)
    for function in functions:
        try:
            function(attempt)
        except Exception:
            logger.exception("on_attempt failed")


def _entered(
    openers: Iterable[Callable[[T], contextlib.AbstractContextManager[object]]], subject: T
) -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    for opener in openers:
        try:
            stack.enter_context(opener(subject))
        except Exception:
            logger.exception("on_attempt failed")
    return stack


def _exit(stack: contextlib.ExitStack, error: BaseException | None) -> None:
    """Leave the contexts; a second time this does nothing."""
    try:
        stack.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)
    except Exception as problem:
        if problem is not error:  # which is raised anyway
            logger.exception("on_attempt failed")
