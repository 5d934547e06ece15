"""The limiter of several machines on virtual time, with FakeRedis, which may be away."""

# Some tests use private attributes, to set a clock or to assert that nothing leaked.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import os
from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from limits_support import most_in_a_second, take, wait_for_many
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError
from virtual_time import run

from aiomutex.errors import ConfigurationError, DailyBudgetExhaustedError, LimiterUnavailableError
from aiomutex.limits.redis import RedisRateLimiter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

WINDOW = 1.02
MIDNIGHT = 20_780 * 86_400.0
AWAY = RedisConnectionError("away")


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    """FakeRedis sees the time of the event loop, on a day that does not end soon."""
    set_server_clock(monkeypatch, MIDNIGHT)


def set_server_clock(monkeypatch: pytest.MonkeyPatch, offset: float) -> None:
    """Let FakeRedis see the time of the event loop plus ``offset``."""
    clock = SimpleNamespace(time=lambda: offset + now())
    for module in ("commands_mixins.server_mixin", "_helpers", "_socket._base"):
        monkeypatch.setattr(f"fakeredis.{module}.time", clock)


class Client:
    """A client of FakeRedis whose exchanges raise ``error``, if there is one, at once or after ``delay``."""

    def __init__(self, server: FakeServer, error: Exception | None = None, delay: float = 0.0) -> None:
        self._redis: Any = FakeAsyncRedis(server=server)
        self.error = error
        self.delay = delay

    def register_script(self, text: str) -> Callable[..., Awaitable[Any]]:
        script = self._redis.register_script(text)

        async def exchange(**given: Any) -> Any:
            await self._reach()
            return await script(**given)

        return exchange

    async def script_load(self, text: str) -> Any:
        await self._reach()
        return await self._redis.script_load(text)

    async def _reach(self) -> None:
        if (error := self.error) is not None:
            await asyncio.sleep(self.delay)
            raise error


def limiter_of(client: Client, **options: Any) -> RedisRateLimiter:
    given: Any = client
    return RedisRateLimiter(given, name="x", **options)


def test_a_send_time_missed_by_more_than_the_margin_covers_is_lost() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        client = Client(FakeServer())
        limiter = limiter_of(client)
        await take(limiter, 60)  # a burst, and some that are spaced
        waiting = asyncio.ensure_future(limiter.acquire())
        await asyncio.sleep(0.005)
        loop.stall(limiter._leased[0] + 0.015 - now())
        stalled_until = now()
        assert await waiting > stalled_until
        await limiter.aclose()

    run(main())


def test_a_caller_who_finds_nobody_waiting_need_not_wait_for_the_turn_of_those_who_left() -> None:
    async def main() -> None:
        client = Client(FakeServer())
        limiters = [limiter_of(client) for _ in range(45)]
        await take(limiters[0], 1)
        crowd = [each for limiter in limiters for each in wait_for_many(limiter, 21)]
        await asyncio.sleep(0.5)
        for each in crowd:
            each.cancel()
        await asyncio.sleep(WINDOW + 0.2)
        late = limiters[-1]
        assert late._next_exchange - now() > 0.1
        start = now()
        assert await late.acquire() - start < 0.01
        for limiter in limiters:
            await limiter.aclose()

    run(main())


@pytest.mark.parametrize("jump", [-0.5, 0.5])
def test_after_a_jump_of_the_servers_clock_nothing_is_granted_for_one_window(
    jump: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        limiter = limiter_of(Client(FakeServer()))
        permits = await take(limiter, 40)
        await asyncio.sleep(0.5)
        set_server_clock(monkeypatch, MIDNIGHT + jump)
        jumped_at = now()
        permits += (after := await take(limiter, 90))
        assert min(after) - jumped_at > WINDOW
        assert most_in_a_second(permits) <= 97
        await limiter.aclose()

    run(main())


def test_by_default_a_caller_waits_half_a_second_for_redis() -> None:
    async def main() -> None:
        limiter = limiter_of(Client(FakeServer(), AWAY, 60.0))
        start = now()
        with pytest.raises(LimiterUnavailableError, match=r"did not respond within 0\.5 s"):
            await limiter.acquire()
        assert now() - start == pytest.approx(0.5)
        await limiter.aclose()

    run(main())


# Without Redis


@pytest.mark.parametrize(
    ("per_second", "workers", "interval"), [(100, 2, WINDOW / 48), (100, 97, WINDOW), (2, 1, WINDOW)]
)
def test_without_redis_a_worker_sends_its_share_evenly_after_one_silent_window(
    per_second: int, workers: int, interval: float
) -> None:
    async def main() -> None:
        limiter = limiter_of(
            Client(FakeServer(), AWAY), per_second=per_second, on_backend_failure="local", workers=workers
        )
        start = now()
        permits = await take(limiter, 4)
        assert WINDOW < permits[0] - start < 2 * WINDOW
        assert [later - sooner for sooner, later in pairwise(permits)] == pytest.approx([interval] * 3, abs=0.01)
        await limiter.aclose()

    run(main())


def test_without_redis_a_worker_has_its_share_of_the_day() -> None:
    async def main() -> None:
        client = Client(FakeServer(), AWAY)
        limiter = limiter_of(client, per_second=5, per_day=40, on_backend_failure="local", workers=4)
        await take(limiter, 10)
        with pytest.raises(DailyBudgetExhaustedError, match="10 of 10"):
            await limiter.acquire()
        await limiter.aclose()

    run(main())


def test_of_what_all_workers_sent_before_a_workers_share_of_the_day_has_its_part() -> None:
    async def main() -> None:
        client = Client(FakeServer())
        limiter = limiter_of(client, per_second=20, per_day=40, on_backend_failure="local", workers=4)
        await take(limiter, 10)
        client.error = AWAY
        await take(limiter, 7)
        with pytest.raises(DailyBudgetExhaustedError, match="10 of 10"):
            await limiter.acquire()
        await limiter.aclose()

    run(main())


def test_what_was_sent_without_redis_counts_once_it_is_back() -> None:
    async def main() -> None:
        client = Client(FakeServer(), AWAY)
        limiter = limiter_of(client, per_second=5, on_backend_failure="local", workers=4)
        await take(limiter, 10)  # in several attempts to reach Redis
        client.error = None
        await take(limiter, 5)
        assert "without Redis" not in repr(limiter)
        other = limiter_of(client)
        await other.acquire()
        assert other.state().used_today == 16
        for each in (limiter, other):
            await each.aclose()

    run(main())


def test_on_another_loop_a_worker_has_no_second_share_of_the_day_and_still_reports_what_it_sent() -> None:
    client = Client(FakeServer(), AWAY)
    limiter = limiter_of(client, per_second=5, per_day=40, on_backend_failure="local", workers=4)
    run(take(limiter, 6))
    run(take(limiter, 3))

    async def use_the_rest() -> None:
        await limiter.acquire()
        with pytest.raises(DailyBudgetExhaustedError, match="10 of 10"):
            await limiter.acquire()

    async def continue_with_redis() -> None:
        client.error = None
        await limiter.acquire()
        assert limiter.state().used_today == 11
        await limiter.aclose()

    run(use_the_rest())
    run(continue_with_redis())


def test_no_worker_of_many_uses_a_send_time_of_its_share_once_redis_grants_them_again() -> None:
    async def main() -> None:
        client = Client(FakeServer(), AWAY)
        limiters = [limiter_of(client, on_backend_failure="local", workers=75) for _ in range(75)]
        permits, end = list[float](), now() + 4.6

        async def use(limiter: RedisRateLimiter) -> None:
            while now() < end:
                permits.append(await limiter.acquire())

        using = list[asyncio.Task[None]]()
        for limiter in limiters:
            using += [asyncio.ensure_future(use(limiter)) for _ in range(2)]
            await asyncio.sleep(0.013)  # so their shares are spread over a window
        await asyncio.sleep(1.0)
        client.error = None
        await asyncio.gather(*using)
        assert 90 < most_in_a_second(permits) <= 97
        for limiter in limiters:
            await limiter.aclose()

    run(main())


def test_workers_that_notice_late_that_redis_is_back_empty_exceed_no_limit() -> None:
    async def main() -> None:
        server = FakeServer()
        clients = [Client(server, AWAY, 60.0), Client(server, AWAY)]
        late, soon = [limiter_of(client, on_backend_failure="local", workers=2, timeout=2.0) for client in clients]
        permits: list[float] = []

        async def use(limiter: RedisRateLimiter, until: float) -> None:
            while now() < until:
                permits.append(await limiter.acquire())

        end = now() + 12.0
        using = [asyncio.ensure_future(use(limiter, end)) for limiter in (late, soon) for _ in range(20)]
        await asyncio.sleep(4.95)
        clients[1].error = None
        await asyncio.sleep(0.15)  # an attempt of the late one has just begun, and will time out
        clients[0].error = None
        await asyncio.gather(*using)
        assert "without Redis" not in repr(late) + repr(soon)
        assert most_in_a_second(permits) <= 97
        assert most_in_a_second(permits) > 90
        for each in (late, soon):
            await each.aclose()

    run(main())


def test_a_worker_gives_up_the_send_time_it_had_planned_for_itself_when_it_reaches_redis() -> None:
    async def main() -> None:
        server = FakeServer()
        clients = [Client(server, AWAY, 60.0), Client(server, AWAY)]
        late, soon = [limiter_of(client, on_backend_failure="local", workers=40) for client in clients]
        waiting = wait_for_many(late, 40)
        await asyncio.sleep(0.05)
        waiting += wait_for_many(soon, 40)
        await asyncio.sleep(2.98)
        for each in clients:  # an attempt of the late one has just begun, and will time out
            each.error = None
        await asyncio.sleep(1.0)
        assert late._fallback
        ends_at = late._fallback.ends_at
        permits = await asyncio.gather(*waiting)
        assert any(ends_at - 1 < permit < ends_at for permit in permits)
        assert [permit - ends_at for permit in permits if ends_at < permit < ends_at + WINDOW - 0.001] == []
        for limiter in (late, soon):
            await limiter.aclose()

    run(main())


def test_a_borrowed_client_must_not_be_used_after_a_fork_and_a_url_may(monkeypatch: pytest.MonkeyPatch) -> None:
    borrowed = limiter_of(Client(FakeServer(), AWAY))
    own = RedisRateLimiter("redis://127.0.0.1:1", name="x")

    async def use(limiter: RedisRateLimiter) -> None:
        await limiter.acquire()

    for limiter in (borrowed, own):
        with pytest.raises(LimiterUnavailableError):
            run(use(limiter))
    child = os.getpid() + 1
    monkeypatch.setattr(os, "getpid", lambda: child)
    with pytest.raises(ConfigurationError, match="used before a fork; create both after it"):
        run(use(borrowed))
    with pytest.raises(LimiterUnavailableError):
        run(use(own))


def test_a_user_who_may_not_run_scripts_is_an_error_that_says_so() -> None:
    async def main() -> None:
        limiter = limiter_of(Client(FakeServer(), NoPermissionError("no permissions to run 'evalsha'")))
        with pytest.raises(ConfigurationError, match=r"does not allow this user to run the limiter's script: no perm"):
            await limiter.acquire()
        await limiter.aclose()

    run(main())
