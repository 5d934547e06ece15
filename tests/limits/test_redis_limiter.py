# Some tests use private attributes, to set a clock or to assert that nothing leaked.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import builtins
import importlib
import logging
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis.asyncio
from limits_support import exchanged, most_in_a_second, take
from support import until

from aiomutex.errors import ConfigurationError, DailyBudgetExhaustedError, LimiterUnavailableError
from aiomutex.limits import Priority, RateLimiter
from aiomutex.limits.redis import RedisRateLimiter

if TYPE_CHECKING:
    from limits_support import Make
    from redis_server import RedisServer


# Most tests here need a real server. They run with: pytest -m redis
pytestmark = pytest.mark.redis


async def test_it_is_a_rate_limiter_and_its_repr_states_facts(server: RedisServer, make: Make) -> None:
    limiter = make(server)
    assert isinstance(limiter, RateLimiter)
    async with limiter:
        pass
    assert repr(limiter).startswith(f"<RedisRateLimiter 'project 1' at 127.0.0.1:{server.port} · ")
    assert repr(limiter).endswith("of 97 permits used in 1.02 s · 1 of 100,000 today · 0 waiting>")
    assert limiter.state().used_today == 1


async def test_fifty_from_idle_do_not_wait_for_their_turn(server: RedisServer, make: Make) -> None:
    # Evenly spaced, they would take half a second. A machine that stalls once does not stall three times.
    took: list[float] = []
    for name in ("project 1", "project 2", "x"):
        limiter = make(server, name=name)
        times = await take(limiter, 48)
        took.append(max(times) - min(times))
        assert limiter.state().used_today >= 48
    assert min(took) < 0.25


async def test_two_workers_share_the_second_and_the_day(server: RedisServer, make: Make) -> None:
    first, second = make(server), make(server)
    times = [t for part in await asyncio.gather(take(first, 75), take(second, 75)) for t in part]
    assert most_in_a_second(times) <= 97
    await first.acquire()
    assert first.state().used_today >= 151  # more if a slow machine missed send times


async def test_budgets_with_different_names_are_independent(server: RedisServer, make: Make) -> None:
    first, second = make(server), make(server, name="project 2")
    await asyncio.gather(first.acquire(), second.acquire())
    assert (first.state().used_today, second.state().used_today) == (1, 1)
    assert b"{aiomutex:project 2}:log" in server.send("KEYS *")


async def test_order_and_priorities_are_kept_inside_a_worker(server: RedisServer, make: Make) -> None:
    limiter = make(server)
    order: list[tuple[Priority, int]] = []

    async def one(priority: Priority, number: int) -> None:
        await limiter.acquire(priority)
        order.append((priority, number))

    bulk = [asyncio.ensure_future(one(Priority.BULK, n)) for n in range(60)]
    await asyncio.sleep(0)
    calls = [asyncio.ensure_future(one(Priority.INTERACTIVE, n)) for n in range(14)]
    await asyncio.gather(*bulk, *calls)
    for priority in Priority:
        numbers = [n for p, n in order if p is priority]
        assert numbers == sorted(numbers)
    assert [p for p, _ in order[:16]].count(Priority.INTERACTIVE) == 14


async def test_cancelling_waiters_does_not_disturb_the_exchange(server: RedisServer, make: Make) -> None:
    limiter = make(server)
    served = 0
    for _ in range(30):
        tasks = [asyncio.ensure_future(limiter.acquire()) for _ in range(100)]
        await asyncio.sleep(0.003)
        for task in tasks[:-1]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        served += sum(isinstance(r, float) for r in results)
        assert isinstance(results[-1], float)
    assert served >= 30
    assert limiter.state().waiting == 0


async def test_the_day_is_shared_and_ends_in_an_error(
    server: RedisServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = make(server, per_day=40), make(server, per_day=40)
    with caplog.at_level(logging.WARNING, "aiomutex.limits"):
        await take(first, 30)
        results = await asyncio.gather(*(second.acquire() for _ in range(20)), return_exceptions=True)
    errors = [r for r in results if isinstance(r, DailyBudgetExhaustedError)]
    assert len(errors) >= 10
    assert "40 of 40 requests used today; the budget resets at " in str(errors[0])
    with pytest.raises(DailyBudgetExhaustedError):
        await first.acquire()
    assert any("requests used today (100%)" in message for message in caplog.messages)


async def test_a_new_budget_assumes_that_the_last_window_was_full(server: RedisServer, make: Make) -> None:
    server.send("FLUSHALL")
    start = time.monotonic()
    assert min(await take(make(server), 5)) - start > 1.02


@pytest.mark.parametrize(
    "event",
    ["DEL {aiomutex:x}:log", "HSET {aiomutex:x}:state run_id 0123456789ab"],
    ids=["lost log", "fail-over"],
)
async def test_a_log_that_may_be_incomplete_is_not_trusted(server: RedisServer, make: Make, event: str) -> None:
    limiter = make(server, name="x")
    before = await limiter.acquire()
    server.send(event)
    assert await limiter.acquire() - before > 1.02


async def test_the_count_of_the_day_survives_a_flush(server: RedisServer, make: Make) -> None:
    limiter = make(server)
    await take(limiter, 20)
    server.send("FLUSHALL")
    await limiter.acquire()
    assert limiter.state().used_today >= 21


async def test_a_new_day_on_the_servers_clock_starts_at_zero(server: RedisServer, make: Make) -> None:
    limiter = make(server)
    await take(limiter, 20)
    yesterday = limiter._daily_budget.day - 1
    client = redis.asyncio.Redis(port=server.port)
    await client.hset("{aiomutex:project 1}:state", mapping={"day": yesterday, "used": 5000})
    await client.aclose()
    limiter._daily_budget.sync(yesterday, 5000)
    await limiter.acquire()
    assert 1 <= limiter.state().used_today < 20, "a busy machine may miss the time of a permit, which is lost"


# 429s


async def test_a_429_pauses_all_workers_until_one_probe_succeeds(server: RedisServer, make: Make) -> None:
    first, second = make(server), make(server)
    throttled, _ = await asyncio.gather(first.acquire(), second.acquire())
    start = time.monotonic()
    first.throttled(throttled, 1.0)
    await asyncio.sleep(0.15)  # until send times leased before the 429 have passed
    waiting = {limiter: [asyncio.ensure_future(limiter.acquire()) for _ in range(20)] for limiter in (first, second)}
    tasks = [task for part in waiting.values() for task in part]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0.5)
    (probe,) = [task for task in tasks if task.done()]
    permit = probe.result()
    assert permit - start >= 0.99
    (prober,) = [limiter for limiter, part in waiting.items() if probe in part]
    prober.answered(permit)
    times = sorted(await asyncio.gather(*(task for task in tasks if task is not probe)))
    assert most_in_a_second(times, 0.1) <= 13  # no burst
    assert first.state().per_window == second.state().per_window == 95
    assert first.state().pauses_total == second.state().pauses_total == 1
    assert (first.state().throttled_total, second.state().throttled_total) == (1, 0)
    assert first.state().granted_total + second.state().granted_total == 42
    assert first.state().waits_total >= 19
    assert first.state().paused_for == second.state().paused_for == 0


async def test_after_a_pause_a_worker_does_not_ask_again_and_again_for_its_probe(
    server: RedisServer, make: Make
) -> None:
    limiter = make(server, per_second=3)
    lease, exchanges = limiter._budget.lease, 0

    async def counted(*args: Any) -> Any:
        nonlocal exchanges
        exchanges += 1
        return await lease(*args)

    setattr(limiter._budget, "lease", counted)  # noqa: B010 -- type checkers reject the assignment
    permits = [await limiter.acquire() for _ in range(2)]
    limiter.throttled(permits[-1], 0.05)
    await limiter.acquire()
    assert exchanges < 20


async def test_the_rate_recovers_for_all_workers(server: RedisServer, make: Make) -> None:
    first, second = make(server), make(server)
    permit, _ = await asyncio.gather(first.acquire(), second.acquire())
    client = redis.asyncio.Redis(port=server.port, decode_responses=True)
    key = "{aiomutex:project 1}:state"

    async def later(seconds: float) -> list[int]:
        """Make the last 429 that much older, and return the permits in a window that Redis and a limiter then use."""
        quiet_since = int(await client.hget(key, "quiet_since") or 0)
        await client.hset(key, "quiet_since", str(quiet_since - round(seconds * 1e6)))
        lease = await first._budget.lease(first._request(), asyncio.get_running_loop().time)
        await second.acquire()
        return [lease.recovery.permits(97, 0.0), second.state().per_window]

    for wait in (60, 120):  # the second 429 comes five minutes after a raise
        first.throttled(permit, 0.1)
        await until(lambda: exchanged(first))
        first.answered(await first.acquire())
        await until(lambda: exchanged(first))
        assert await later(wait - 5) == [95, 95]
        assert await later(5) == [96, 96]
        assert await later(wait) == [97, 97]
        await later(300)
        permit = await first.acquire()
    await client.aclose()


async def test_a_suspected_exhaustion_is_shared(server: RedisServer, make: Make) -> None:
    first, second = make(server), make(server)
    throttled, _ = await asyncio.gather(first.acquire(), second.acquire())
    first.throttled(throttled, 80_000.0)
    await asyncio.sleep(0.15)
    for limiter in (first, second):
        with pytest.raises(DailyBudgetExhaustedError, match="the service asked to wait 22 h 13 min") as caught:
            await limiter.acquire()
        assert caught.value.suspected


async def test_a_late_429_of_another_worker_does_not_extend_the_pause(server: RedisServer, make: Make) -> None:
    first, second = make(server), make(server)
    one, two = await asyncio.gather(first.acquire(), second.acquire())
    first.throttled(one, 0.5)
    await until(lambda: exchanged(first))
    second.throttled(two, 30.0)  # sent before the pause began
    await until(lambda: exchanged(second))
    permit = await asyncio.wait_for(first.acquire(), 20)
    assert permit - one < 5


# Arguments, event loops, closing


async def test_a_borrowed_client_is_not_closed(server: RedisServer) -> None:
    client: Any = redis.asyncio.Redis(port=server.port)
    limiter = RedisRateLimiter(client, name="x")
    await limiter.acquire()
    await limiter.aclose()
    assert await client.ping()
    await client.aclose()
    with pytest.raises(ConfigurationError, match="is closed"):
        await limiter.acquire()


async def test_closing_fails_the_waiters(server: RedisServer) -> None:
    limiter = RedisRateLimiter(server.url, name="x")
    tasks = [asyncio.ensure_future(limiter.acquire()) for _ in range(200)]
    await asyncio.sleep(0.05)
    await limiter.aclose()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(r, LimiterUnavailableError) for r in results) > 100
    await limiter.aclose()


def test_one_limiter_serves_one_loop_after_another(server: RedisServer) -> None:
    client = redis.asyncio.Redis(port=server.port)
    limiter = RedisRateLimiter(client, name="x")

    async def once() -> float:
        permit = await limiter.acquire()
        await client.aclose()
        return permit

    first, second = asyncio.run(once()), asyncio.run(once())
    assert second > first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ""}, "name must be a non-empty string, not "),
        ({"name": 7}, "name must be a non-empty string, not "),
        ({"per_second": 0}, "per_second must be an integer"),
        ({"per_day": True}, "per_day must be an integer"),
        ({"on_backend_failure": "ignore"}, 'on_backend_failure must be "raise" or "local"'),
        ({"on_backend_failure": "local"}, "workers must be an integer from 1 to 97, not None"),
        ({"on_backend_failure": "local", "workers": 0}, "workers must be an integer"),
        ({"on_backend_failure": "local", "workers": 98}, "workers must be an integer from 1 to 97, not 98"),
        ({"on_backend_failure": "local", "workers": 6, "per_day": 5}, "workers must be an integer from 1 to 5, not 6"),
        ({"timeout": 0}, "timeout must be a number of seconds"),
        ({"timeout": float("nan")}, "timeout must be a number of seconds"),
        ({"timeout": "1"}, "timeout must be a number of seconds"),
        ({"url_or_client": "http://:hunter2@x"}, "not a string with 'http' scheme"),
        ({"url_or_client": ":hunter2@x"}, "not a string with no scheme"),
        ({"url_or_client": redis.Redis()}, "or a redis.asyncio client, not the synchronous Redis"),
        ({"url_or_client": 7}, "must be a Redis URL or a redis.asyncio client, not int"),
    ],
)
def test_invalid_arguments_are_errors(options: dict[str, Any], message: str) -> None:
    make_limiter: Any = RedisRateLimiter
    with pytest.raises(ConfigurationError, match=message) as caught:
        make_limiter(**{"url_or_client": "redis://127.0.0.1", "name": "x", **options})
    assert "hunter2" not in str(caught.value)


def test_the_package_does_not_import_redis() -> None:
    code = "import sys, aiomutex.limits; assert 'redis' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_extra_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_redis(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("redis"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "aiomutex.limits.redis_budget")
    monkeypatch.setattr(builtins, "__import__", without_redis)
    with pytest.raises(ImportError, match=r"pip install 'aiomutex\[redis\]'"):
        importlib.import_module("aiomutex.limits.redis_budget")
