"""OpenTelemetry: what the SDK's in-memory exporters receive, and the generic instrumentation of aiohttp beside it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from support import GROUP, KEY, ONCE, ROOT, http, say_nothing, session_for, until

from aiomutex import ConnectionFailedError, LocalRateLimiter, MutexError, NotFoundError
from aiomutex.otel import OpenTelemetryTracer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support import RawServer

    from aiomutex.testing import MutexEmulator


class Collected(NamedTuple):
    """A tracer, and what it exported."""

    tracer: OpenTelemetryTracer
    provider: TracerProvider
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader

    @property
    def spans(self) -> dict[str, list[ReadableSpan]]:
        """By name, in the order in which they began."""
        named: dict[str, list[ReadableSpan]] = {}
        for span in sorted(self.exporter.get_finished_spans(), key=lambda span: span.start_time or 0):
            named.setdefault(span.name, []).append(span)
        return named

    def points(self, name: str) -> list[Any]:
        data: Any = self.reader.get_metrics_data()
        metrics = [metric for each in data.resource_metrics for scope in each.scope_metrics for metric in scope.metrics]
        return [point for metric in metrics if metric.name == name for point in metric.data.data_points]


@pytest.fixture
def collected() -> Iterator[Collected]:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider, meters = TracerProvider(), MeterProvider([reader])
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield Collected(OpenTelemetryTracer(provider, meters), provider, exporter, reader)
    provider.shutdown()
    meters.shutdown()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def traceparent(span: ReadableSpan) -> str:
    context = span.get_span_context()
    assert context is not None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


GET = f"GET {ROOT}/{{id}}"


async def test_a_call_has_a_span_and_each_attempt_a_child(emulator: MutexEmulator, collected: Collected) -> None:
    emulator.fail_next(1, status=503)
    async with session_for(emulator.url, on_attempt=collected.tracer) as session:
        await session.get_group("1")
    [call], attempts = collected.spans["aiomutex get_group"], collected.spans[GET]
    assert call.kind is SpanKind.INTERNAL
    assert attributes(call) == {"aiomutex.operation": "get_group", "aiomutex.priority": "interactive"}
    assert [(each.kind, each.parent) for each in attempts] == [(SpanKind.CLIENT, call.context)] * 2
    first, second = map(attributes, attempts)
    host, _, port = emulator.url.removeprefix("http://").partition(":")
    common = {
        "http.request.method": "GET",
        "url.template": f"{ROOT}/{{id}}",
        "url.full": f"{emulator.url}{ROOT}/1",
        "server.address": host,
        "server.port": int(port),
    }
    assert first.items() >= (common | {"http.response.status_code": 503, "error.type": "503"}).items()
    assert second.items() >= (common | {"http.response.status_code": 200, "http.request.resend_count": 1}).items()
    assert "error.type" not in second
    assert "http.request.resend_count" not in first
    assert [each.status.status_code for each in attempts] == [StatusCode.ERROR, StatusCode.UNSET]
    assert call.status.status_code is StatusCode.UNSET


async def test_the_span_of_each_attempt_is_sent_as_traceparent(emulator: MutexEmulator, collected: Collected) -> None:
    emulator.fail_next(1, status=503)
    outer = collected.provider.get_tracer("app").start_span("handler")
    with trace.use_span(outer, end_on_exit=True):
        async with session_for(emulator.url, on_attempt=collected.tracer) as session:
            await session.get_group("1")
        assert trace.get_current_span() is outer
    assert [each.headers["traceparent"] for each in emulator.requests] == list(map(traceparent, collected.spans[GET]))
    assert collected.spans["aiomutex get_group"][0].parent == outer.get_span_context()


async def test_the_wait_for_a_permit_is_an_attribute_and_in_no_duration(
    emulator: MutexEmulator, collected: Collected
) -> None:
    limiter = LocalRateLimiter(1)
    async with session_for(emulator.url, rate_limiter=limiter, on_attempt=collected.tracer) as session:
        await session.get_group("1")
        await session.get_group("1")
    span = collected.spans[GET][1]
    assert attributes(span)["aiomutex.permit.wait"] > 0.9
    assert (span.end_time or 0) - (span.start_time or 0) < 0.5e9
    [duration], [wait] = collected.points("http.client.request.duration"), collected.points("aiomutex.permit.wait")
    assert (duration.count, duration.max < 0.5) == (2, True)
    assert (wait.count, wait.max > 0.9, dict(wait.attributes)) == (2, True, {"aiomutex.priority": "interactive"})


async def test_metrics_count_rejections_retries_and_what_is_left_of_the_day(
    emulator: MutexEmulator, collected: Collected
) -> None:
    emulator.fail_next(1, status=429, retry_after=0)
    emulator.fail_next(1, status=500)
    limiter = LocalRateLimiter(5000, 1000)
    async with session_for(emulator.url, rate_limiter=limiter, on_attempt=collected.tracer) as session:
        await session.edit_slot("1", 1, experiments=[5])
    host = {"server.address": "127.0.0.1"}
    [remaining] = collected.points("aiomutex.budget.remaining")  # first, because older SDKs export a gauge only once
    assert (remaining.value, dict(remaining.attributes)) == (999, host)  # at most a second old
    assert [(each.value, dict(each.attributes)) for each in collected.points("aiomutex.throttled")] == [(1, host)]
    retries = {each.attributes["error.type"]: each.value for each in collected.points("aiomutex.retries")}
    assert retries == {"429": 1, "500": 1}
    durations = collected.points("http.client.request.duration")
    assert {each.attributes["http.response.status_code"] for each in durations} == {429, 500, 200}
    assert {each.attributes["url.template"] for each in durations} == {f"{ROOT}/{{id}}/slots/{{slotIndex}}"}


async def test_failures_have_their_type_and_a_message(raw: RawServer, collected: Collected) -> None:
    raw.answer(http(404, b'{"message":"no"}', {"X-Request-Id": "7f3a"}), say_nothing)
    async with session_for(raw.url, on_attempt=collected.tracer) as session:
        with pytest.raises(NotFoundError):
            await session.get_group("1")
        call = asyncio.create_task(session.get_group("1"))
        await until(lambda: len(raw.requests) == 2)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    async with session_for("http://127.0.0.1:1", on_attempt=collected.tracer, retry=ONCE) as session:
        with pytest.raises(ConnectionFailedError):
            await session.get_group("1")
    expected = ["404", "CancelledError", "ConnectionFailedError"]
    for name in (GET, "aiomutex get_group"):
        assert [attributes(span)["error.type"] for span in collected.spans[name]] == expected
    missing, _, refused = collected.spans[GET]
    assert attributes(missing)["aiomutex.request_id"] == "7f3a"
    assert missing.status.description == f'GET {ROOT}/1 answered 404: "no" (request id 7f3a)'
    assert "cannot connect" in (refused.status.description or "")
    [duration] = collected.points(
        "http.client.request.duration"
    )  # neither cancelled attempts nor those without a permit
    assert duration.attributes["error.type"] == "404"


async def test_the_api_key_is_in_nothing_that_is_exported(raw: RawServer, collected: Collected) -> None:
    leaky = {"X-Request-Id": KEY, "Retry-After": "0", f"X-{KEY}": KEY}
    body = b'{"message":"%s"}' % KEY.encode()
    raw.answer(*(http(status, body, leaky) for status in (503, 429, 403, 200)), http(200, GROUP, leaky))
    async with session_for(raw.url, on_attempt=collected.tracer) as session:
        for call in (session.get_group, session.get_group, session.get_group, session.archive_group):
            with contextlib.suppress(MutexError):
                await call("7")
    data: Any = collected.reader.get_metrics_data()
    exported = "".join(span.to_json() for span in collected.exporter.get_finished_spans()) + data.to_json()
    assert "url.template" in exported
    assert KEY not in exported


async def test_without_an_sdk_nothing_is_recorded_and_calls_work(emulator: MutexEmulator) -> None:
    async with session_for(emulator.url, on_attempt=OpenTelemetryTracer()) as session:
        assert (await session.get_group("1")).id == "1"
    assert "traceparent" not in emulator.requests[0].headers


async def test_the_generic_instrumentation_of_aiohttp_works_beside_it(
    emulator: MutexEmulator, collected: Collected
) -> None:
    instrumentor = AioHttpClientInstrumentor()
    instrumentor.instrument(tracer_provider=collected.provider)
    try:
        limiter = LocalRateLimiter(1)
        async with session_for(emulator.url, rate_limiter=limiter, on_attempt=collected.tracer) as session:
            await session.get_group("1")
            await session.edit_slot("1", 1, experiments=[5])
            assert trace.get_current_span() is trace.INVALID_SPAN
    finally:
        instrumentor.uninstrument()
    generic = [collected.spans["GET"][0], collected.spans["PATCH"][0]]
    calls = [collected.spans["aiomutex get_group"][0], collected.spans["aiomutex edit_slot"][0]]
    attempts = [collected.spans[GET][0], collected.spans[f"PATCH {ROOT}/{{id}}/slots/{{slotIndex}}"][0]]
    assert [each.parent for each in generic] == [each.parent for each in attempts] == [each.context for each in calls]
    assert [each.headers["traceparent"] for each in emulator.requests] == list(map(traceparent, attempts))
    # It begins before the permit, so it shows the wait as latency.
    waited = generic[1]
    assert (waited.end_time or 0) - (waited.start_time or 0) > 0.9e9
