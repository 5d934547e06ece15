"""The caller's side of the queue: puts a run's requests into jobs for the workers, and leases groups for it.

Knows neither edits nor outcomes: it takes requests, and returns or raises what a session would.
"""

from __future__ import annotations

import asyncio
import uuid
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import anyio
import msgspec
from redis.exceptions import ResponseError

from aiomutex.errors import LimiterUnavailableError, MutexError, OutcomeUnknownError
from aiomutex.fleet.broker import REDIS_ERRORS
from aiomutex.fleet.wire import JobRequest, Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiomutex._api.requests import Request
    from aiomutex._http.call import CallResult
    from aiomutex.fleet.broker import FleetBroker
    from aiomutex.limits import LimiterState

_MIN_POLL: Final = 0.02
_MAX_POLL: Final = 0.5  # seconds between two looks for results: a tenth of the time since the last one, within these


class _Sending(NamedTuple):
    request: Request[Any]
    result: asyncio.Future[CallResult[Any] | MutexError]


class _Job:
    def __init__(self, sendings: list[_Sending]) -> None:
        self.id = uuid.uuid4().hex
        self.sendings = sendings
        self.groups = [group for each in sendings if (group := each.request.group) is not None]
        self.may_be_queued = False
        to_send = [JobRequest(each.request.path, msgspec.Raw(each.request.body or b"null")) for each in sendings]
        self.text = msgspec.json.encode(to_send).decode()


class Dispatcher:
    """Sends the requests of one run: up to ``batch_size`` in a job, with up to ``max_jobs`` queued or running."""

    def __init__(self, broker: FleetBroker, batch_size: int, max_jobs: int) -> None:
        self.broker = broker
        self._batch_size = batch_size
        self._max_jobs = max_jobs
        self.on_failure: Callable[[MutexError], None]  # called with the error after which nothing is sent any more
        self.limiter_state: LimiterState | None = None  # what the workers' limiter knew when the last result came
        self.received_at = 0.0  # when that was, on the event loop's clock
        self._run = uuid.uuid4().hex
        self._pending: list[_Sending] = []
        self._jobs: dict[str, _Job] = {}
        self._wanted: dict[str, asyncio.Future[bool]] = {}
        self._freed: list[str] = []
        self._received: list[str] = []
        self._failure: MutexError | None = None
        self._wake = asyncio.Event()

    @property
    def unanswered(self) -> int:
        """How many requests are queued or being sent, as far as is known."""
        return len(self._pending) + sum(len(job.sendings) for job in self._jobs.values())

    async def send(self, request: Request[Any]) -> CallResult[Any]:
        """Let a worker send a request. Raise what its session raises, or the error after which nothing is sent."""
        if self._failure is not None:
            raise self._failure
        sending = _Sending(request, asyncio.get_running_loop().create_future())
        self._pending.append(sending)
        self._wake.set()
        result = await sending.result
        if isinstance(result, MutexError):
            raise result
        return result

    async def lease(self, group: str) -> bool:
        """Take a group for this run, unless another run has it now."""
        if self._failure is not None:
            return False
        self._wanted[group] = taken = asyncio.get_running_loop().create_future()
        self._wake.set()
        return bool(await taken)

    def free(self, group: str) -> None:
        """Let other runs have a group."""
        self._freed.append(group)
        self._wake.set()

    async def run(self) -> None:
        """Send and receive until cancelled, or until nothing can be sent any more. Then give up the run's jobs."""
        try:
            while self._failure is None:
                self._wake.clear()
                await self._exchange(self._next_job())
                with anyio.move_on_after(self._time_to_wait()):
                    await self._wake.wait()
        except Exception as error:  # noqa: BLE001  # whatever taskiq and Redis raise, each request gets an answer
            for job in self._jobs.values():
                job.may_be_queued = True
            self._give_up(OutcomeUnknownError(f"the fleet did not respond: {type(error).__name__}: {error}"))
        finally:
            await self.broker.leave(self._run)

    def _time_to_wait(self) -> float:
        if self._pending and len(self._jobs) < self._max_jobs:
            return 0.0
        quiet_for = asyncio.get_running_loop().time() - self.received_at
        poll = min(max(_MIN_POLL, quiet_for / 10), _MAX_POLL)
        return min(poll if self._jobs else self.broker.claim_timeout, self.broker.claim_timeout / 4)

    def _next_job(self) -> _Job | None:
        """The next job: requests of one kind, as many as give each job an equal share."""
        self._pending = [each for each in self._pending if not each.result.done()]
        room = self._max_jobs - len(self._jobs)
        if not self._pending or not room:
            return None
        kind = self._pending[0].request.operation
        same = [each for each in self._pending if each.request.operation == kind]
        # A page is large, so each has a job of its own.
        job = _Job(same[: 1 if kind == "list_page" else min(-(-len(same) // room), self._batch_size)])
        self._pending = [each for each in self._pending if each not in job.sendings]
        self._jobs[job.id] = job
        return job

    async def _exchange(self, job: _Job | None) -> None:
        """Tell Redis what is new, and learn what is. While Redis is away, try again."""
        jobs, wanted, freed, received = [*self._jobs.values()], [*self._wanted], self._freed, self._received
        self._freed, self._received = [], []
        given = {"wanted": wanted, "freed": freed, "received": received, "waiting": [each.id for each in jobs]}
        now, timeout = asyncio.get_running_loop().time, self.broker.claim_timeout
        gone_at = now() + timeout
        while True:
            is_sent = False
            try:
                reply = await self.broker.exchange(self._run, given)  # without Redis, the job is not sent
                if job is not None:
                    is_sent = True
                    reply = await self.broker.exchange(self._run, given, job.id, job.text, job.groups)
                    job.may_be_queued = True
                break
            except REDIS_ERRORS as error:
                if job is not None:
                    job.may_be_queued |= is_sent and not isinstance(error, ResponseError)
                if now() >= gone_at:
                    message = f"the fleet's Redis has been unavailable for {timeout:g} s: {error}"
                    self._give_up(LimiterUnavailableError(message))
                    return
            await asyncio.sleep(min(10 * _MIN_POLL, timeout / 4))
        taken, states, is_alive = reply
        for group in wanted:
            _settle(self._wanted.pop(group), group not in taken)
        failures = [self._conclude(each, state) for each, state in zip(jobs, states, strict=True) if state]
        failure = next(filter(None, failures), None)
        if not (failure or is_alive or self._jobs):
            failure = self._silence()  # no job tells it, and it gets no group: it would wait for one forever
        if failure:
            self._give_up(failure)

    def _conclude(self, job: _Job, state: str) -> MutexError | None:
        """Pass on the answers of a job. If it has none, a worker may still be writing: return an error."""
        if state in ("skipped", "unknown"):
            job.may_be_queued = state == "unknown"
            return self._silence()
        is_again, state = state.startswith("again "), state.removeprefix("again ")
        try:
            answers, limiter = msgspec.structs.astuple(msgspec.json.decode(state, type=Result))
            results = [answer.result(each.request) for each, answer in zip(job.sendings, answers, strict=True)]
        except (ValueError, RecursionError):
            return OutcomeUnknownError(f"a worker failed to run the job: {state:.200}")
        for sending, result in zip(job.sendings, results, strict=True):
            if is_again and isinstance(result, MutexError) and sending.request.body is not None:
                result.maybe_applied = True  # by the worker that had the job before and died
            _settle(sending.result, result)
        # Results that come together have no order.
        self.limiter_state = max(limiter, self.limiter_state or limiter, key=attrgetter("resets_at", "used_today"))
        self.received_at = asyncio.get_running_loop().time()
        self._received.append(job.id)
        del self._jobs[job.id]
        return None

    def _silence(self) -> MutexError:
        timeout = self.broker.claim_timeout
        return LimiterUnavailableError(f"the fleet heard nothing of this run for {timeout:g} s and gave up its jobs")

    def _give_up(self, error: MutexError) -> None:
        """Send nothing more. Requests of jobs that workers may have begun may have been made."""
        begun = [each for job in self._jobs.values() if job.may_be_queued for each in job.sendings]
        self._failure = LimiterUnavailableError(str(error))
        self.on_failure(error.with_attempts(0, maybe_applied=bool(begun)))
        for each in begun:
            _settle(each.result, error)
        for each in (*self._pending, *(each for job in self._jobs.values() for each in job.sendings)):
            _settle(each.result, self._failure)
        for wanted in self._wanted.values():
            _settle(wanted, result=False)


def _settle(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)
