"""What ``slots bulk``, its undo and ``apply`` share: progress, signals, counts, failures and the summary."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any, Final, Self

import aiomutex
from aiomutex._util.wording import counted
from aiomutex.cli.common import call, echo, is_given, print_json, printable
from aiomutex.cli.run_report import RunReport

_INTERVAL: Final = 5.0  # seconds between two lines of progress through a pipe
_GRACE: Final = 10.0  # seconds after SIGTERM for requests in flight, and again to read back what they wrote
_STATUSES: Final = ("applied", "failed", "unknown", "done earlier", "never tried")
_UNSENT: Final = (aiomutex.LimiterUnavailableError, aiomutex.DeadlineExceededError)
_UNSUCCESSFUL: Final = ("failed", "unknown", "changed since")
_call: ContextVar[SimpleNamespace] = ContextVar("call")


class Run:
    """One run of ``total`` items, if that is known: counts outcomes, shows progress, stops on signals.

    It is the limiter and a tracer of its session: once it is stopped, no call gets its first permit, except to read
    groups that the run wrote. After SIGTERM no call gets another one either.
    """

    def __init__(self, noun: str, total: int | None, failures: Any = None, page: RunReport | None = None) -> None:
        self.counts: Counter[str] = Counter()
        self._page = page or RunReport()
        self._page.facts |= {"counts": self.counts, "total": total}
        self.signals: list[signal.Signals] = []
        self.stream: aiomutex.OutcomeStream | None = None
        self._noun, self._total, self._failures = noun, total, failures
        self._requests = self._writes = 0
        self._stopped_by: object = None
        self._written: set[str] = set()
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        # Names and errors may contain text that rich would read as markup or emoji.
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._started = self._last = time.monotonic()
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"), TimeRemainingColumn())
        self.bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self.bar.add_task(noun, total=total, facts="")

    def execute(self, work: Callable[[aiomutex.MutexSession], Awaitable[object]], **options: Any) -> None:
        """Run ``work`` with a session, until it ends or signals end it."""

        async def watched(session: aiomutex.MutexSession) -> None:
            task: Any = asyncio.current_task()
            self._page.facts["limit"] = self._limiter.state().per_window  # a window is a second and a bit
            for number in (signal.SIGINT, signal.SIGTERM):
                with contextlib.suppress(NotImplementedError):  # event loops on Windows have no signal handlers
                    asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number, task, session)
            ticker = asyncio.create_task(self._tick())
            try:
                with self.bar:
                    self._stopped_by = getattr(await work(session), "stopped_by", None)
            except asyncio.CancelledError:
                if not self.signals or task.uncancel():
                    raise
            finally:
                ticker.cancel()

        call(watched, guard=self, **options)

    def _on_signal(self, number: signal.Signals, task: asyncio.Task[object], session: aiomutex.MutexSession) -> None:
        self.signals.append(number)
        if len(self.signals) > 1:
            task.cancel()
            return
        how = "Press Ctrl-C again to stop at once."
        if number == signal.SIGTERM:
            how = f"This takes at most {2 * _GRACE:.0f} s."
            session.end_attempts(_GRACE)
            asyncio.get_running_loop().call_later(2 * _GRACE, self._on_signal, number, task, session)
        self.print_line(f"Stopping: waiting for requests in flight. {how}")
        if self.stream is not None:
            self.stream.stop()

    def watch(self, limiter: aiomutex.RateLimiter) -> Self:
        """Take the permits of a session from ``limiter``."""
        self._limiter = limiter
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._limiter, name)

    def call(self, call: aiomutex.events.Call) -> contextlib.AbstractContextManager[None]:
        """Note which call takes permits."""
        group = "/".join(call.path.partition("?")[0].split("/")[:5])
        # Nothing resets this: the next call of the task replaces it before it takes a permit.
        _call.set(SimpleNamespace(group=group, is_write=call.method != "GET", permits=0))
        return contextlib.nullcontext()

    def attempt(self, _: object) -> contextlib.AbstractContextManager[None]:
        """Do nothing."""
        return contextlib.nullcontext()

    async def acquire(self, priority: aiomutex.Priority) -> float:
        """Wait until a request may be sent, unless the run is stopped."""
        current = _call.get()
        self._check(current)
        permit = await self._limiter.acquire(priority)
        self._check(current)
        self._requests += 1
        self._page.count("requests")
        self._writes += current.is_write and not current.permits
        self._written.update((current.group, "/api/1/mutexes") if current.is_write else ())
        current.permits += 1
        return permit

    def _check(self, call: SimpleNamespace) -> None:
        is_last = self.signals and self.signals[0] == signal.SIGTERM
        if self.signals and (is_last if call.permits else call.is_write or call.group not in self._written):
            raise aiomutex.LimiterUnavailableError("not sent: the run was stopped")

    def record(self, where: str, outcome: aiomutex.SlotOutcome | aiomutex.plan.Step, fields: Any = None) -> str:
        """Count an outcome, and return its status. Report a failure, and keep its ``fields``, if there are any."""
        status: str = outcome.status
        if status == "skipped":
            known = {"according to the journal": "done earlier", "overwrites the slot": "changed since"}
            status = next((word for end, word in known.items() if outcome.note.endswith(end)), "never tried")
        elif self.signals and status == "failed" and isinstance(outcome.error, _UNSENT):
            status = "unknown" if outcome.error.maybe_applied else "never tried"
        if status in _UNSUCCESSFUL:
            self.fail(where, status, outcome.error or outcome.note, fields)
        else:
            self.count(status)
        return status

    def fail(self, where: str, status: str, reason: object, fields: Any) -> None:
        """Count a failure, report it and keep its ``fields``, if there are any."""
        self._page.fail(where, status, reason)
        if self._failures is not None and fields:
            self._failures(fields | {"reason": str(reason)})
        if self._failures is None or not self.signals[1:]:  # the second ends it at once
            self.print_line(f"{where}: {status}: {reason}")
        self.count(status)

    def count(self, status: str) -> None:
        """Count an outcome and show the progress."""
        self.counts[status] += 1
        self._page.count(status)
        self._show()

    def finish(self, resume: str, **details: Any) -> None:
        """Print the summary, and ``resume`` if something is left to do. Exit with the code for what happened."""
        counts = self.counts
        if self._total is not None:
            left = max(0, self._total - counts.total())
            tried = counts.total() - counts["done earlier"] - counts["never tried"]
            in_doubt = min(left, max(0, self._writes - tried)) if self.signals else 0
            counts["unknown"] += in_doubt
            counts["never tried"] += left - in_doubt
        stopped_by = str(self._stopped_by) if self._stopped_by and not self.signals else None
        if is_given("as_json"):
            shown = {status.replace(" ", "_"): count for status, count in counts.items() if count}
            facts = {"requests": self._requests, "stopped_by": stopped_by, "interrupted": bool(self.signals)}
            print_json({"counts": shown} | facts | details)
        else:
            parts = [f"{counts[status]:,} {status}" for status in dict.fromkeys((*_STATUSES, *counts))]
            echo(f"{', '.join(parts)}; {counted(self._requests, 'request')}")
        if stopped_by:
            echo(f"aiomutex: {stopped_by}", err=True)
        if self.signals or stopped_by or counts["never tried"]:
            self._page.facts["resume"] = resume
            echo(resume, err=True)
        self._page.facts["stopped_by"] = self.signals[-1].name if self.signals else stopped_by
        if self.signals:
            sys.exit(128 + self.signals[-1])
        if stopped_by or counts["never tried"] or any(counts[status] for status in _UNSUCCESSFUL):
            sys.exit(1)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1)
            self.refresh()

    def refresh(self) -> None:
        """Show what changes without an outcome, such as a wait for the next day."""
        if not self.bar.disable or (self.stream is not None and self.stream.waiting_until is not None):
            self._show()

    def _show(self) -> None:
        done = sum(self.counts[status] for status in ("applied", "unchanged", "done earlier"))
        if not self.bar.disable:
            self.bar.update(self.bar.task_ids[0], completed=done, facts=self._facts())
        elif time.monotonic() - self._last >= _INTERVAL:
            self._last = time.monotonic()
            of = f" of {self._total:,}" if self._total is not None else ""
            self.print_line(f"{done:,}{of} {self._noun} · {self._facts()}")

    def print_line(self, text: str) -> None:
        """Print a line above the bar."""
        self._console.print(printable(text), soft_wrap=True)

    def _facts(self) -> str:
        state = self._limiter.state()
        tried = self.counts.total() - self.counts["done earlier"] - self.counts["never tried"]
        rate = tried / max(time.monotonic() - self._started, 0.001)
        facts = [f"{rate:.0f}/s", f"{state.per_day - state.used_today:,} left today"]
        facts += [f"{count:,} {status}" for status, count in self.counts.items() if count and status != "applied"]
        if state.paused_for:
            facts.append(f"paused for {state.paused_for:.0f} s")
        elif self.stream is not None and (until := self.stream.waiting_until) is not None:
            facts.append(f"waiting for the daily budget until {until:%F %H:%M} UTC")
        return " · ".join(facts)
