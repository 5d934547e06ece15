"""Instructions per call with nothing in ``on_attempt``, with a function and with OpenTelemetry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.harness import Goal, Result, Row, Size, Table
from benchmarks.subjects import Ours

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from aiomutex.events import Attempt, Hook
    from benchmarks.subjects import Subject

__all__ = ["SUBJECTS", "run"]

GOALS = {"function": 1.03, "OpenTelemetry API": 1.4, "OpenTelemetry SDK": 1.4}


class OursAlone(Ours):
    """This library with nothing attached."""

    per_second = 1_000  # OpenTelemetry reads the state of the limiter. Under callgrind, calls are slower than this.


class OursWithHook(OursAlone):
    """This library with a function that counts attempts by route."""

    def hook(self) -> Hook:
        counts: dict[str, int] = {}

        def count(attempt: Attempt) -> None:
            counts[attempt.route] = counts.get(attempt.route, 0) + 1

        return count


class OursWithOpenTelemetryAPI(OursAlone):
    """This library with the API of OpenTelemetry alone, as in a program that has not set up an SDK."""

    def hook(self) -> Hook:
        from aiomutex.otel import OpenTelemetryTracer  # noqa: PLC0415  # in an extra

        return OpenTelemetryTracer()


class OursWithOpenTelemetry(OursAlone):
    """This library with all spans and metrics. Spans are batched, and thrown away instead of sent."""

    def hook(self) -> Hook:
        from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415  # in an extra
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import (  # noqa: PLC0415
            BatchSpanProcessor,
            SpanExporter,
            SpanExportResult,
        )

        from aiomutex.otel import OpenTelemetryTracer  # noqa: PLC0415

        class ToNowhere(SpanExporter):
            def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002  # the SDK's interface
                return SpanExportResult.SUCCESS

        provider = TracerProvider()
        provider.add_span_processor(BatchSpanProcessor(ToNowhere()))
        return OpenTelemetryTracer(provider, MeterProvider([InMemoryMetricReader()]))


SUBJECTS: dict[str, type[Subject]] = {
    "nothing": OursAlone,
    "function": OursWithHook,
    "OpenTelemetry API": OursWithOpenTelemetryAPI,
    "OpenTelemetry SDK": OursWithOpenTelemetry,
}


def run(size: Size) -> Result:
    """Count both calls with each hook."""
    from benchmarks.instructions import WIDTH, missing_tool, per_call  # noqa: PLC0415  # which imports the subjects

    if missing := missing_tool():
        return Result([], skipped=missing)
    result = Result([])
    for call, each in per_call(list(SUBJECTS), size.of(1280, 640, 128)).items():
        rows = [Row(name, [value]) for name, value in each.items()]
        title = f"Instructions per {call}, {WIDTH} in flight, by what on_attempt is"
        result.tables.append(Table(title, "", rows, baseline="nothing"))
        for name, goal in GOALS.items():
            ratio = each[name] / each["nothing"]
            what = f"instructions per {call} with {name}, beside nothing attached"
            result.goals.append(Goal(what, f"≤ {goal:.2f}", f"{ratio:.3f}", ratio <= goal))
    return result
