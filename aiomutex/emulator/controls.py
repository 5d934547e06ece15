"""The part of the emulator that tests observe and control: requests and commits, faults, latency and dialect."""

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
    """Properties and methods of ``MutexEmulator`` to observe it and to change how it behaves."""

    def __init__(self, app: Application, service: Service, clock: Clock) -> None:
        self.clock = clock
        self._app = app
        self._service = service

    @property
    def groups(self) -> GroupStore:
        """All groups by ID, in the order of the listing. You may change them directly."""
        return self._service.store

    @property
    def pages(self) -> dict[str, PageHandler]:
        """Handlers of GET requests by path, which need no key and count against no limit. Add your own."""
        return self._app.pages

    # Observe

    @property
    def requests(self) -> deque[RecordedRequest]:
        """The latest requests, oldest first."""
        return self._app.requests

    @property
    def commits(self) -> deque[Commit]:
        """The latest changes made through the API, oldest first; at most 100,000."""
        return self._service.commits

    @property
    def writes(self) -> Counter[tuple[str, int | None]]:
        """How often each slot was written, as ``writes["7", 1]``; ``writes["7", None]`` counts edits of the group."""
        return self._service.writes

    @property
    def limits(self) -> Limits:
        """The rate limits and their counts, such as ``limits.accepted`` and ``limits.rejected``."""
        return self._app.limits

    @property
    def used_today(self) -> int:
        """Requests that count against the budget of this UTC day. Set it to test what happens near its end."""
        return self.limits.used_today(self.clock.now())

    @used_today.setter
    def used_today(self, used: int) -> None:
        self.limits.set_used_today(self.clock.now(), used)

    def busiest_second(self) -> int:
        """Return the most requests that arrived within any one second, including rejected ones."""
        return self.limits.busiest_second()

    def clear_history(self) -> None:
        """Delete the recorded requests and commits and reset the limits' counts; groups and faults stay."""
        self.requests.clear()
        self.commits.clear()
        self.writes.clear()
        self.limits.reset()

    # Control

    @property
    def dialect(self) -> Dialect:
        """The dialect in use. You may set it while the emulator runs."""
        return self._service.dialect

    @dialect.setter
    def dialect(self, dialect: Dialect) -> None:
        self._service.dialect = dialect
        self.limits.window = dialect.window
        self.limits.count_rejected = dialect.rejections == "counted"

    @property
    def faults(self) -> Faults:
        """The pending faults: ``faults.pending`` counts them, ``faults.clear()`` removes them."""
        return self._app.faults

    @property
    def latency(self) -> Latency:
        """How long responses take. Set it to seconds, a string such as ``"80ms±40ms"`` or a ``Latency``."""
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
        delay: float = 1.0,
    ) -> None:
        """Make the next ``n`` matching requests fail, not counting those that the key or the limits reject.

        By default the response is an error ``status`` (500) and no change is made. With ``after_commit=True`` the
        change is made and the connection is reset, or, if ``status`` is given too, the response has that status.

        Args:
            n: How many requests.
            kind: ``"status"``, ``"reset-before"``, ``"reset-after"``, ``"truncate"``, ``"garbage"``, ``"stall"``,
                ``"storm"``, ``"late"`` or ``"maintenance"``; see ``FaultKind``.
            status: The status of the response.
            after_commit: Make the change before the request fails.
            method: Only requests with this method.
            path: Only requests to this path; ``*`` matches anything, as in ``/api/1/mutexes/7*``.
            retry_after: The ``Retry-After`` header: seconds or a string.
            body: The body of the response: bytes, a string, or anything else as JSON. None leaves it to the dialect.
            headers: Additional headers of the response, such as ``{"Location": "..."}``.
            delay: How many seconds after its request a ``late`` change is made, or how long a ``storm`` lasts.

        Raises:
            ValueError: An argument is invalid.

        Example:
            >>> from aiomutex.testing import MutexEmulator
            >>> emulator = MutexEmulator(groups=1)
            >>> emulator.fail_next(status=503, method="PATCH")
            >>> emulator.fail_next(2, kind="reset-after")
            >>> emulator.faults.pending
            3
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
            seconds=delay,
        )
        self.faults.schedule(n, fault, method=method, path=path)

    @property
    def pending_changes(self) -> int:
        """How many changes of ``late`` faults were not made yet. They are made while the emulator runs."""
        return len(self._app.late)

    def storm(self, seconds: float) -> None:
        """Reject every request with 429 for the next ``seconds``."""
        self.faults.storm_until = self.clock.now() + seconds
