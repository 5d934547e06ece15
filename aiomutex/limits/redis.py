"""The limiter of a fleet: workers lease scheduled send times from a ledger in Redis.

A few send times are leased at once and a little ahead, so that most permits cost no round trip, and because they are
scheduled by one clock, no two workers send in the same slot. Waiters never touch Redis: one task asks for all.
"""

from __future__ import annotations

import asyncio
import math
from asyncio import get_running_loop
from collections import deque
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Literal

from aiomutex._util.checks import check_integer
from aiomutex._util.tasks import run_to_completion
from aiomutex.errors import ConfigurationError, LimiterUnavailableError, MutexError
from aiomutex.limits.daily_budget import DailyBudget
from aiomutex.limits.fallback import RETRY, FallbackPacer
from aiomutex.limits.interface import Priority
from aiomutex.limits.margin import Margin
from aiomutex.limits.pause import PATIENCE
from aiomutex.limits.queueing import QueueingLimiter
from aiomutex.limits.shared_budget import Lease, LeaseRequest, SharedBudget

if TYPE_CHECKING:
    from redis.asyncio import Redis

__all__ = ["RedisRateLimiter"]

_MICROSECONDS = 1e6
_BLOCK = 20
"""Send times leased at once, at most."""
_HORIZON = 0.1
"""Seconds ahead that send times are leased: what a pause told by another worker may come too late for."""
_BATCH = 4.5
"""Send times that a question should bring on average: the lease pays for its round trip."""
_LONGEST_TURN = 2.0
"""Seconds that a worker of a large fleet waits for its turn to ask, at most."""
_LONGEST_TIMEOUT = 60.0


class RedisRateLimiter(QueueingLimiter):
    """At most ``per_second`` requests in any second and ``per_day`` on a UTC day, for all workers that share ``name``.

    The arguments are the service's limits; the margin below them is that of ``LocalRateLimiter``. The second and the
    day follow the Redis server's clock. Up to half a window's permits are given at once after a rest; the others are
    spread. Priorities count inside each worker.

    When Redis fails, waiters get ``LimiterUnavailableError``. With ``on_backend_failure="local"`` each worker goes on
    with ``1 / workers`` of the limits instead, after one window of silence. That is safe when Redis is gone for all;
    a worker that is cut off alone adds its share to what the others take.

    Args:
        url_or_client: A Redis URL (Redis 6 or later, Valkey), or a ``redis.asyncio`` client, which stays yours to
            close. A client of yours should not retry by itself: that would hide failures from the limiter.
        name: The name of the budget, for example the project's id. Limiters of one name share one budget.
        per_second: Requests the service allows in a second.
        per_day: Requests the service allows on a UTC day.
        safe: Keep the wider margin.
        on_backend_failure: ``"raise"`` or ``"local"``.
        workers: How many processes share the budget at most; needed for ``"local"``.
        timeout: Seconds that Redis may take to answer.

    Raises:
        ConfigurationError: An argument cannot be right.
    """

    def __init__(
        self,
        url_or_client: str | Redis,
        *,
        name: str,
        per_second: int = 100,
        per_day: int = 100_000,
        safe: bool = False,
        on_backend_failure: Literal["raise", "local"] = "raise",
        workers: int | None = None,
        timeout: float = 0.5,
    ) -> None:
        margin = Margin.below(per_second, safe=safe)
        check_integer("per_day", per_day, least=1, error=ConfigurationError)
        _check(name, on_backend_failure, workers, timeout)
        self._budget = SharedBudget(url_or_client, name, timeout)
        super().__init__(margin, DailyBudget(per_day))
        self._name = name
        self._most = margin.permits
        self._workers = workers if on_backend_failure == "local" else None
        self._timeout = timeout
        # Later than this a send time is lost: the margin's extra window covers no more.
        self._slack = (margin.window - 1.0) * 0.6
        self._forget()
        self._closed = False

    def _forget(self) -> None:
        self._instants: deque[float] = deque()
        self._share: FallbackPacer | None = None
        self._spent = 0
        self._call: asyncio.Task[None] | None = None
        self._news: LeaseRequest | None = None
        self._doubt = False
        self._taken = (-math.inf, 0)  # when the ledger last told, and permits then taken in the window
        self._not_before = self._ask_at = -math.inf

    async def acquire(self, priority: Priority = Priority.INTERACTIVE) -> float:
        """Wait for the right to send one request now.

        Args:
            priority: ``Priority.BULK`` stands behind interactive calls, but gets every eighth permit at the least.

        Returns:
            The permit: the moment it was given, in seconds of the event loop's clock.

        Raises:
            DailyBudgetExhaustedError: The day's requests are used up, or seem to be.
            LimiterUnavailableError: Redis cannot be reached, or does not answer in time.
            ConfigurationError: Redis refuses the password, or the limiter is closed or in use by another event loop.
        """
        if self._closed:
            raise ConfigurationError("this RedisRateLimiter is closed")
        loop = get_running_loop()
        if loop is not self._loop:
            self._adopt(loop)
        return await self._wait(loop, priority)

    async def aclose(self) -> None:
        """Send waiters away, end the conversation with Redis, and close what was opened here."""
        self._closed = True
        self._stop_timer()
        self._waiters.fail(lambda: LimiterUnavailableError("the limiter was closed while requests waited"))
        await run_to_completion(self._end())

    async def _end(self) -> None:
        if self._call is not None:
            self._call.cancel()
            await asyncio.wait([self._call])
        await self._budget.aclose()

    def __repr__(self) -> str:
        alone = " · without Redis" if self._share else ""
        return f"<RedisRateLimiter {self._name!r} at {self._budget.place} · {self._facts()}{alone}>"

    # Handing out

    def _serve(self) -> None:
        self._stop_timer()
        loop = self._loop
        if loop is None or loop.is_closed() or self._closed:
            return
        now = loop.time()
        instants = self._instants
        while (turn := self._waiters.first()) is not None:
            while instants and instants[0] < now - self._slack:
                instants.popleft()
            if not instants and self._share:
                self._go_alone(self._share, now)
            if not instants or instants[0] > now:
                break
            self._give(turn, instants.popleft(), now)
        wake = instants[0] if instants else math.inf
        if self._call is None:
            if self._news or (len(self._waiters) > len(instants) and now >= self._ask_at):
                self._call = loop.create_task(self._converse(loop), name="aiomutex-limiter")
            elif len(self._waiters) > len(instants):
                wake = min(wake, self._ask_at)
        if self._waiters and wake < math.inf:
            self._set_timer(loop, wake - now)

    def _give(self, turn: Priority, instant: float, now: float) -> None:
        if self._share:
            try:
                self._share.take(instant)
            except MutexError as error:
                self._waiters.fail(partial(copy, error))
                return
            self._spent += 1
        if self._pause.active:
            self._pause.probing(now)
        self._note_wait(now - self._waiters.serve(turn, now), now)

    def _go_alone(self, share: FallbackPacer, now: float) -> None:
        """Redis is gone: make a send time of our own, unless it is back or nobody has looked for long."""
        if now >= share.ends:
            self._share = None
        elif now <= share.fresh_until:
            self._instants.append(share.next(max(now, self._pause.next_at)))

    def _joined(self, priority: Priority, now: float) -> None:  # noqa: ARG002 -- others need the time
        if len(self._waiters) == 1:
            # Nobody waited, so the pace of questions under backlog says nothing about this one.
            self._ask_at = self._not_before
        if self._timer is None or (not priority and self._waiters.interactive == 1):
            self._serve()

    def _give_back(self, permit: float) -> None:
        # Still good for the next in line, if it comes soon enough.
        self._instants.appendleft(permit)
        if self._pause.active:
            self._pause.unsent()
        self._serve()

    # Asking

    async def _converse(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hold one conversation with the ledger, and serve by its answer."""
        asked_at = loop.time()
        news, self._news = self._news, None
        spent, self._spent = self._spent, 0
        want = min(_BLOCK, max(0, len(self._waiters) - len(self._instants)))
        question = self._question(want, spent, news)
        try:
            lease, steady = await self._budget.lease(question, loop.time)
        except asyncio.CancelledError:
            self._call = None
            raise
        except MutexError as error:
            self._call = None
            self._news = self._news or news
            self._spent += spent
            self._doubt = True
            self._failed(error, loop.time())
        except BaseException as error:
            # Nothing of ours, and still nobody may be left waiting.
            self._call = None
            self._doubt = True
            self._waiters.fail(partial(LimiterUnavailableError, f"the limiter failed: {type(error).__name__}"))
            raise
        else:
            self._call = None
            self._doubt = not steady
            self._learn(lease, asked_at, loop.time(), steady=steady)
        self._serve()

    def _question(self, want: int, spent: int, news: LeaseRequest | None) -> LeaseRequest:
        question = news or self._plain()
        question.want = want
        question.spent = spent
        question.doubt = self._doubt
        question.day, question.used = self._day.number, self._day.used
        return question

    def _plain(self) -> LeaseRequest:
        return LeaseRequest(
            permits=self._most,
            window=round(self._window * _MICROSECONDS),
            horizon=round(_HORIZON * _MICROSECONDS),
            grace=round((RETRY + self._timeout) * _MICROSECONDS) if self._workers else 0,
            patience=round(PATIENCE * _MICROSECONDS),
            per_day=self._day.limit,
            want=0,
            doubt=False,
            day=0,
            used=0,
            apart=round(_BATCH * self._margin.interval * _MICROSECONDS),
            longest=round(_LONGEST_TURN * _MICROSECONDS),
            spent=0,
            lowered=self._margin.permits,
        )

    def _learn(self, lease: Lease, asked_at: float, now: float, *, steady: bool) -> None:
        """Take over what the ledger tells."""
        behind = self._budget.behind
        self._day.clock = lambda: (self._loop.time() if self._loop else 0.0) + behind
        self._day.note(lease.day, lease.used)
        self._taken = (now, lease.taken)
        if self._share:
            # The first send time that Redis may give is one window after the end of what it takes for granted.
            self._share.ends = self._share.fresh_until = now + lease.free / _MICROSECONDS - self._window
        self._ask_at = now + lease.wait / _MICROSECONDS
        self._not_before = self._ask_at if lease.paused or self._share else -math.inf
        if self._news:
            # A 429 came while the question was under way: the answer knows nothing of it.
            return
        self._margin = self._margin._replace(permits=min(self._margin.permits, lease.permits))
        self._follow(lease, asked_at, now)
        if not steady:
            return
        if self._share is None or not lease.instants:
            self._instants.extend(lease.instants)
        if self._day.spent and not self._instants:
            self._waiters.fail(self._day.exhausted)

    def _follow(self, lease: Lease, asked_at: float, now: float) -> None:
        """Be in the pause that the others are in, or in none."""
        if not lease.paused:
            if self._pause.active:
                self._pause.end()
            return
        self._pause.follow(
            now,
            asked_at=asked_at,
            until=now + lease.remaining / _MICROSECONDS,
            first=now - lease.since / _MICROSECONDS,
            failed=lease.failed,
            suspected_on=lease.day if lease.suspected else None,
            asked=lease.asked / _MICROSECONDS or None,
        )
        if lease.suspected and not lease.probe:
            self._waiters.fail(self._suspicion)

    def _failed(self, error: MutexError, now: float) -> None:
        """Redis did not help: send everybody away, or go on alone with a share."""
        if self._workers is None or isinstance(error, ConfigurationError):
            self._not_before = self._ask_at = -math.inf
            self._waiters.fail(partial(copy, error))
            return
        if self._share is None or now >= self._share.ends:
            # Whatever the others were given just before: one window later it counts no more.
            start = now + self._window + _HORIZON + self._budget.lead
            self._share = FallbackPacer(self._most, self._window, self._workers, start, self._day)
        self._share.fresh_until = now + RETRY + self._timeout
        self._not_before = self._ask_at = now + RETRY

    # The pause

    def _held(self, permit: float, *, fresh: bool) -> None:  # noqa: ARG002 -- every refusal is told alike
        self._instants.clear()
        pause = self._pause
        news = self._plain()
        news.news = "throttled"
        news.permit = self._server_time(permit)
        news.delay = round((pause.until - self._now()) * _MICROSECONDS)
        news.failed = pause.failed
        news.suspected = pause.suspected_on is not None
        news.asked = round((pause.asked or 0.0) * _MICROSECONDS)
        self._news = news

    def _resumed(self, permit: float, now: float) -> None:  # noqa: ARG002 -- the ledger has a clock of its own
        self._news = self._plain()
        self._news.news = "answered"
        self._news.permit = self._server_time(permit)

    def _server_time(self, moment: float) -> int:
        return round(self._budget.earliest(moment) * _MICROSECONDS)

    # State and event loops

    def _used(self, now: float) -> int:
        told, taken = self._taken
        return taken if now - told < self._window else 0

    def _moved(self, now: float, *, same_clock: bool) -> None:  # noqa: ARG002 -- nothing outlives the loop here
        # What was leased on the last loop stands in the log; what was taken without Redis does not.
        doubt = self._doubt or self._share is not None
        self._forget()
        self._doubt = doubt
        self._budget.reset()


def _check(name: object, on_backend_failure: object, workers: object, timeout: object) -> None:
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"name must be text that names the shared budget, not {name!r}")
    if on_backend_failure not in ("raise", "local"):
        raise ConfigurationError(f'on_backend_failure must be "raise" or "local", not {on_backend_failure!r}')
    if on_backend_failure == "local":
        if workers is None:
            raise ConfigurationError('on_backend_failure="local" needs workers: how many processes share the budget')
        check_integer("workers", workers, least=1, error=ConfigurationError)
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout <= _LONGEST_TIMEOUT:
        raise ConfigurationError(f"timeout must be a number of seconds above 0 and at most 60, not {timeout!r}")
