"""What tests hold of a running emulator besides its groups: what happened, and how it shall behave.

It reads and sets the parts that do the work; it starts nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiomutex.emulator.faults import Fault, FaultKind, Faults, Latency

if TYPE_CHECKING:
    from collections import Counter, deque
    from collections.abc import Mapping

    from aiomutex.emulator.app import Application, PageHandler
    from aiomutex.emulator.clock import Clock
    from aiomutex.emulator.dialect import Dialect
    from aiomutex.emulator.limits import Limits
    from aiomutex.emulator.recorded import RecordedRequest
    from aiomutex.emulator.service import Commit, Service
    from aiomutex.emulator.state import GroupStore

__all__ = ["Controls"]


class Controls:
    """The part of an emulator that looks back and ahead. ``MutexEmulator`` describes the arguments."""

    def __init__(self, app: Application, service: Service, clock: Clock) -> None:
        self.clock = clock
        self._app = app
        self._service = service

    @property
    def groups(self) -> GroupStore:
        """All groups by id, in the order of the list; change them freely."""
        return self._service.store

    @property
    def pages(self) -> dict[str, PageHandler]:
        """What is answered to GET without key and limits: path to aiohttp handler. Add your own."""
        return self._app.pages

    # What happened

    @property
    def requests(self) -> deque[RecordedRequest]:
        """The latest requests, oldest first. Clear it as you like."""
        return self._app.requests

    @property
    def commits(self) -> deque[Commit]:
        """The latest changes made through the API, oldest first; at most 100,000."""
        return self._service.commits

    @property
    def writes(self) -> Counter[tuple[str, int | None]]:
        """How often each slot was written: ``writes["7", 1]``; ``writes["7", None]`` counts the group's own changes."""
        return self._service.writes

    @property
    def limits(self) -> Limits:
        """The limits and their counts: ``limits.accepted``, ``limits.rejected``, ``limits.rate(now)``."""
        return self._app.limits

    @property
    def used_today(self) -> int:
        """How many requests count against the budget of this UTC day. Set it to bring the day's end nearer."""
        return self.limits.used_today(self.clock.now())

    @used_today.setter
    def used_today(self, used: int) -> None:
        self.limits.use_today(self.clock.now(), used)

    def busiest_second(self) -> int:
        """The most requests, refused ones included, that ever arrived within one second, wherever it starts."""
        return self.limits.busiest_second()

    def forget(self) -> None:
        """Forget what happened (requests, commits, counts of limits); groups and faults stay."""
        self.requests.clear()
        self.commits.clear()
        self.writes.clear()
        self.limits.forget()

    # How it behaves

    @property
    def dialect(self) -> Dialect:
        """How it reads what the documentation leaves open. It may be changed while running."""
        return self._service.dialect

    @dialect.setter
    def dialect(self, dialect: Dialect) -> None:
        self._service.speak(dialect)
        self.limits.window = dialect.window
        self.limits.count_rejected = dialect.rejections == "counted"

    @property
    def faults(self) -> Faults:
        """The faults to come: ``faults.clear()``, ``faults.scripted``."""
        return self._app.faults

    @property
    def latency(self) -> Latency:
        """How long answers take. Set it to seconds, text or a ``Latency``."""
        return self._app.latency

    @latency.setter
    def latency(self, latency: float | str | Latency) -> None:
        self._app.latency = Latency.parse(latency)

    def fail_next(
        self,
        n: int = 1,
        *,
        kind: FaultKind | None = None,
        status: int | None = None,
        after_commit: bool = False,
        method: str | None = None,
        path: str | None = None,
        retry_after: float | str | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Let the next ``n`` requests that match go wrong, after key and limits have let them through.

        Without a kind it is an error ``status`` (500), and the change is not made. With ``after_commit=True`` the
        change is made and the connection reset; with a status as well, the change is made and the status answered.

        Args:
            n: How many requests.
            kind: ``"status"``, ``"reset-before"``, ``"reset-after"``, ``"truncate"``, ``"garbage"`` or ``"stall"``.
            status: The status to answer.
            after_commit: Make the change all the same.
            method: Only requests with this method.
            path: Only requests to this path; ``*`` stands for anything, as in ``/api/1/mutexes/7*``.
            retry_after: The ``Retry-After`` header: seconds, or the header's text.
            body: The body of the answer: bytes, text, or what is sent as JSON. None leaves it to the dialect.
            headers: More headers of the answer, such as ``{"Location": "..."}``.

        Raises:
            ValueError: An argument is not what it must be.
        """
        if kind is None:
            kind = "reset-after" if after_commit and status is None else "status"
        fault = Fault(
            kind=kind,
            status=500 if status is None else status,
            after_commit=after_commit,
            retry_after=retry_after,
            body=body,
            headers=headers or {},
        )
        self.faults.script(n, fault, method=method, path=path)

    def storm(self, seconds: float) -> None:
        """Answer everything with 429 for ``seconds`` from now, whatever the limits say."""
        self.faults.storm_until = self.clock.now() + seconds
