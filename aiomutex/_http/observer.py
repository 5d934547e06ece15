"""What is noted of a call that a hook or the log observes: the times of its attempts, and the tracers' contexts."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec

from aiomutex import events
from aiomutex._api.requests import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, MutableMapping, Sequence
    from contextlib import AbstractContextManager

    from aiomutex._api.requests import Request
    from aiomutex._api.responses import Response
    from aiomutex._http.call import CallOptions
    from aiomutex._http.context import AttemptContext
    from aiomutex._http.transport import Transport
    from aiomutex.errors import MutexError

    Context = AbstractContextManager[object]

T = TypeVar("T")

logger = logging.getLogger("aiomutex.http")
_GROUP: Final = f"{ROOT}/{{id}}"
_ROUTES: Final = {"list_page": ROOT, "create_group": ROOT, "edit_slot": f"{_GROUP}/slots/{{slotIndex}}"}
_ROUTES.update(dict.fromkeys(("get_group", "edit_group", "archive_group", "unarchive_group"), _GROUP))
_HEADER: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\n[ -~]*")


class Observer:
    """Notes the attempts of one call, one after another, and reports each to the hooks and to the log."""

    _number = 0
    _opened: events.OpenAttempt | None = None
    _contexts: Sequence[Context] = ()
    _call_contexts: Sequence[Context] = ()

    def __init__(self, transport: Transport, request: Request[Any], options: CallOptions) -> None:
        operation, path = request.operation, request.path
        route = _ROUTES.get(operation) or events.route_of(path)
        # The fields of a ``Call``. By position, which is much quicker than by name.
        facts = operation, request.method, route, path, transport.root + path, *transport.address, options.priority
        self._limiter, self._facts = transport.limiter, facts
        self._functions, self._tracers = transport.hooks or ((), ())
        if self._tracers:
            self._call = events.Call(*facts)
            self._call_contexts = _entered([tracer.call for tracer in self._tracers], self._call)

    def begin(self, started: float) -> None:
        self._number += 1
        self._started = started
        self.ready_at: float | None = None  # until a connection is ready
        self.context: AttemptContext | None = None  # until the session is known to be open

    def permitted(self, headers: MutableMapping[str, str]) -> None:
        """Note that the attempt has its permit. What tracers add to the headers is sent."""
        if not self._tracers:
            return
        self._opened = events.OpenAttempt(self._call, self._number, self._limiter)
        self._contexts = _entered([tracer.attempt for tracer in self._tracers], self._opened)
        for name, value in self._opened.headers.items():
            if _HEADER.fullmatch(f"{name}\n{value}"):
                headers[name] = f"{value}"  # users may set a number
            else:
                logger.error("a tracer set a header that cannot be sent")

    def end(self, response: Response | None, error: MutexError | None, delay: float | None) -> None:
        context = self.context
        level = logging.DEBUG if delay is None else logging.INFO
        is_logged = logger.isEnabledFor(level)
        if context is None or not (self._functions or self._tracers or is_logged):
            return
        now = context.loop.time()
        ready = now if self.ready_at is None else self.ready_at
        permit = now if context.permit is None else context.permit
        attempt = events.Attempt(
            *self._facts,
            self._number,
            response.status if response else getattr(error, "status", None),
            error,
            None if delay is None else max(delay, self._limiter.state().paused_for),
            ready - self._started,
            permit - ready if permit > ready else 0.0,
            now - permit,
            response.request_id if response else getattr(error, "request_id", None),
        )
        if is_logged:
            _log(level, attempt)
        if self._opened is None:
            self.permitted({})  # a tracer sees each attempt, also one that ended before its permit
        if self._opened is not None:
            self._opened.result = attempt
        for function in self._functions:
            try:
                function(attempt)
            except Exception:
                logger.exception("on_attempt failed")
        if self._contexts:
            self._exit(error)

    def close(self, error: BaseException | None) -> None:
        """End the call, which raises ``error`` if it is given."""
        self.context = None  # which has the observer, so that only a collection of garbage would free them
        if self._tracers:
            self._exit(error)
            _exit(self._call_contexts, error)

    def _exit(self, error: BaseException | None) -> None:
        contexts, self._contexts, self._opened = self._contexts, (), None
        _exit(contexts, error)


def _log(level: int, attempt: events.Attempt) -> None:
    then = "" if attempt.retry_in is None else f"; attempt {attempt.number + 1} follows in {attempt.retry_in:.2f} s"
    fields = {f"aiomutex_{name}": value for name, value in msgspec.structs.asdict(attempt).items()}
    facts = (attempt.method, attempt.path, attempt.number, attempt.error or attempt.status, attempt.duration, then)
    logger.log(level, "%s %s, attempt %d: %s in %.3f s%s", *facts, extra=fields)


def _entered(openers: Iterable[Callable[[T], Context]], subject: T) -> list[Context]:
    contexts: list[Context] = []
    for opener in openers:
        try:
            context = opener(subject)
            context.__enter__()
            contexts.append(context)
        except Exception:
            logger.exception("on_attempt failed")
    return contexts


def _exit(contexts: Sequence[Context], error: BaseException | None) -> None:
    for context in reversed(contexts):
        try:
            context.__exit__(type(error) if error else None, error, error.__traceback__ if error else None)
        except Exception as problem:
            if problem is not error:  # which is raised anyway
                logger.exception("on_attempt failed")
