"""The progress of a bulk run: a live bar on a terminal, a line every few seconds through a pipe."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Self

from aiomutex.cli.common import console, printable

if TYPE_CHECKING:
    from aiomutex import OutcomeStream, RateLimiter

_INTERVAL: Final = 5.0
"""Seconds between two lines through a pipe."""


class RunProgress:
    """Show progress, rate, the rest of the daily budget and the time left, on standard error.

    Args:
        limiter: The limiter of the run.
        total: The number of edits, or ``None`` if it is unknown.
    """

    def __init__(self, limiter: RateLimiter, total: int | None) -> None:
        self._limiter = limiter
        self._total = total
        self._console = console(err=True)
        self._started = self._last = time.monotonic()
        self._done = self._failed = 0
        self._bar: Any = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console)
            self._bar.start()
            self._bar.add_task("edits", total=self._total, facts="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, stream: OutcomeStream, *, failed: bool) -> None:
        """Count one more outcome."""
        self._done += 1
        self._failed += failed
        self._show(stream, advance=1)

    def refresh(self, stream: OutcomeStream) -> None:
        """Show what changes without an outcome, such as a wait for the next day."""
        if self._bar is not None or stream.waiting_until is not None:
            self._show(stream, advance=0)

    def _show(self, stream: OutcomeStream, *, advance: int) -> None:
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], advance=advance, facts=self._facts(stream))
        elif time.monotonic() - self._last >= _INTERVAL:
            self._last = time.monotonic()
            of = f" of {self._total:,}" if self._total is not None else ""
            self.print_line(f"{self._done:,}{of} edits · {self._facts(stream)}")

    def print_line(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(printable(text), soft_wrap=True)

    def _facts(self, stream: OutcomeStream) -> str:
        state = self._limiter.state()
        rate = self._done / max(time.monotonic() - self._started, 0.001)
        facts = [f"{rate:.0f}/s", f"{state.per_day - state.used_today:,} left today"]
        if self._failed:
            facts.append(f"{self._failed:,} failed")
        if state.paused_for:
            facts.append(f"paused for {state.paused_for:.0f} s")
        elif stream.waiting_until is not None:
            facts.append(f"waiting for the daily budget until {stream.waiting_until:%F %H:%M} UTC")
        return " · ".join(facts)
