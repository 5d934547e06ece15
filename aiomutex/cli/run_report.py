"""The page of ``slots bulk --report``: what a run did, collected in bounded memory, in ``run_report.html``."""

from __future__ import annotations

import contextlib
import time
from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from aiomutex._util.files import fill_page, open_private

_MAX_POINTS: Final = 1_200
_MAX_FAILURES: Final = 300


class RunReport(contextlib.AbstractContextManager["RunReport"]):
    """What a run does. Its page is written to ``path``, if given, when the ``with`` block ends in any way.

    ``facts`` are what else the page shows. The run adds more.
    """

    def __init__(self, path: str | None = None, **facts: Any) -> None:
        self.facts = facts
        self._path = path
        if path is not None:
            # This keeps the page of an earlier run, and fails before a long run if the file cannot be written.
            open_private(path, "a").close()
        self._started = time.monotonic()
        self._seconds = 1  # of a point
        self._points: defaultdict[int, Counter[str]] = defaultdict(Counter)
        self._failures: list[tuple[str, str, str]] = []
        self._kinds: Counter[str] = Counter()

    def count(self, what: str) -> None:
        """Count a request, or an outcome by its status. In a long run, several seconds share a point."""
        while (point := int((time.monotonic() - self._started) / self._seconds)) >= _MAX_POINTS:
            self._seconds *= 2
            points, self._points = self._points, defaultdict(Counter)
            for number, counts in points.items():
                self._points[number // 2] += counts
        self._points[point][what] += 1

    def fail(self, where: str, status: str, reason: object) -> None:
        """Keep a failure, unless there are many already."""
        self._kinds[type(reason).__name__ if isinstance(reason, Exception) else status] += 1
        if len(self._failures) < _MAX_FAILURES:
            self._failures.append((where, status, str(reason)[:500]))

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        import msgspec

        if self._path is None:
            return
        if error is not None and not isinstance(error, SystemExit):
            self.facts["stopped_by"] = str(error) or type(error).__name__
        self.facts |= {"time": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "elapsed": time.monotonic() - self._started}
        self.facts |= {"seconds": self._seconds, "points": sorted(self._points.items())}
        self.facts |= {"failures": self._failures, "kinds": self._kinds.most_common()}
        with open_private(self._path) as file:
            file.write(fill_page(Path(__file__).with_name("run_report.html"), msgspec.json.encode(self.facts)))
