"""OpenTelemetry: a span for each call with a child for each attempt, and metrics. Needs the extra ``otel``.

It follows the semantic conventions for HTTP clients. Nothing here sees the API key or a header of the service.
"""

from __future__ import annotations

import contextlib
import functools
import time
from typing import TYPE_CHECKING, Final

from opentelemetry import context, metrics, propagate, trace

from aiomutex import __version__
from aiomutex.errors import APIError, MutexError, RateLimitedError

if TYPE_CHECKING:
    from collections.abc import Generator

    from opentelemetry.util.types import AttributeValue

    from aiomutex.events import Call, OpenAttempt

__all__ = ["OpenTelemetryTracer"]

_CALL: Final = context.create_key("aiomutex-call")
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


class OpenTelemetryTracer:
    """A tracer for ``MutexSession(on_attempt=…)``. One may serve several sessions.

    Args:
        tracer_provider: Where spans go. Default: the global provider.
        meter_provider: Where metrics go. Default: the global provider.

    Example:
        >>> from aiomutex import MutexSession
        >>> session = MutexSession("key", on_attempt=OpenTelemetryTracer())
    """

    def __init__(
        self, tracer_provider: trace.TracerProvider | None = None, meter_provider: metrics.MeterProvider | None = None
    ) -> None:
        self._tracer = trace.get_tracer("aiomutex", __version__, tracer_provider)
        meter = metrics.get_meter("aiomutex", __version__, meter_provider)
        seconds = functools.partial(meter.create_histogram, unit="s", explicit_bucket_boundaries_advisory=_BUCKETS)
        self._duration = seconds("http.client.request.duration", description="Duration of HTTP client requests.")
        self._permit_wait = seconds("aiomutex.permit.wait", description="Wait of an attempt for its permit.")
        self._remaining = meter.create_gauge("aiomutex.budget.remaining", "{request}", "Requests left on this UTC day.")
        self._remaining_due = 0.0
        self._throttled = meter.create_counter("aiomutex.throttled", "{response}", "Responses with status 429.")
        self._retries = meter.create_counter("aiomutex.retries", "{request}", "Attempts that another one followed.")

    @contextlib.contextmanager
    def call(self, call: Call, /) -> Generator[None]:
        """Open the span of a call, and make it the current one."""
        facts = {"aiomutex.operation": call.operation, "aiomutex.priority": call.priority.name.lower()}
        span = self._tracer.start_span(f"aiomutex {call.operation}", attributes=facts)
        token = context.attach(context.set_value(_CALL, span, trace.set_span_in_context(span)))
        try:
            yield
        except BaseException as error:
            _fail(span, error)
            raise
        finally:
            context.detach(token)
            span.end()

    @contextlib.contextmanager
    def attempt(self, attempt: OpenAttempt, /) -> Generator[None]:
        """Open the span of an attempt, and send its context along. Record the metrics at the end."""
        call = attempt.call
        facts: dict[str, AttributeValue] = {"http.request.method": call.method, "url.template": call.route}
        facts |= {"server.address": call.host, "server.port": call.port}
        # The current span may be one of a generic instrumentation of aiohttp. Ours does not become the current one,
        # because the instrumentation, which began first, also ends first, and contexts must be left in order.
        parent = context.get_value(_CALL)
        where = trace.set_span_in_context(parent) if isinstance(parent, trace.Span) else context.get_current()
        sampled = {**facts, "url.full": call.url}
        span = self._tracer.start_span(f"{call.method} {call.route}", where, trace.SpanKind.CLIENT, sampled)
        propagate.inject(attempt.headers, trace.set_span_in_context(span, where))
        try:
            yield
        except BaseException as error:
            facts["error.type"] = _fail(span, error)
            raise
        finally:
            self._record(attempt, facts, span)
            resends = {"http.request.resend_count": attempt.number - 1} if attempt.number > 1 else {}
            span.set_attributes({**facts, **resends})
            span.end()

    def _record(self, attempt: OpenAttempt, facts: dict[str, AttributeValue], span: trace.Span) -> None:
        if (result := attempt.result) is None:
            return
        if result.status is not None:
            facts["http.response.status_code"] = result.status
        if result.request_id is not None:
            span.set_attribute("aiomutex.request_id", result.request_id)
        span.set_attribute("aiomutex.permit.wait", result.permit_wait)
        span.set_attribute("aiomutex.connection.wait", result.connection_wait)
        if result.duration:  # it had a permit
            self._duration.record(result.duration, facts)
        self._permit_wait.record(result.permit_wait, {"aiomutex.priority": result.priority.name.lower()})
        server = {"server.address": result.host}
        if (now := time.monotonic()) >= self._remaining_due:  # counting the permits may take longer than the rest
            self._remaining_due, state = now + 1, attempt.rate_limiter.state()
            self._remaining.set(max(0, state.per_day - state.used_today), server)
        if isinstance(result.error, RateLimitedError):
            self._throttled.add(1, server)
        if result.retry_in is not None:
            self._retries.add(1, {"error.type": facts["error.type"]})


def _fail(span: trace.Span, error: BaseException) -> str:
    """Note an error on a span, and return its type by the conventions: the status if that is the error."""
    kind = str(error.status) if isinstance(error, APIError) else type(error).__qualname__
    span.set_attribute("error.type", kind)
    # Only our errors are known not to show the API key.
    span.set_status(trace.StatusCode.ERROR, str(error) if isinstance(error, MutexError) else None)
    return kind
