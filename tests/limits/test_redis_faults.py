"""What happens to workers when Redis fails, and how several processes share a budget."""

# Some tests use private attributes, to set a clock or to assert that nothing leaked.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import asyncio
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
import redis.asyncio
from limits_support import most_in_a_second, take
from worker_processes import WorkerProcesses

from aiomutex.errors import ConfigurationError, LimiterUnavailableError

if TYPE_CHECKING:
    from limits_support import Make, StartRedis
    from redis_server import RedisServer

    from aiomutex.limits.messages import LeaseRequest

pytestmark = pytest.mark.redis


async def test_an_absent_server_is_an_error_within_the_timeout(make: Make) -> None:
    limiter = make("redis://:hunter2@127.0.0.1:1/0")
    start = time.monotonic()
    results = await asyncio.gather(*(limiter.acquire() for _ in range(5)), return_exceptions=True)
    assert all(isinstance(r, LimiterUnavailableError) for r in results)
    assert str(results[0]) == "Redis at 127.0.0.1:1 cannot be reached"
    assert time.monotonic() - start < 2
    assert "hunter2" not in repr(limiter) + repr(limiter._budget)


async def test_a_hanging_server_is_an_error_within_the_timeout_until_it_responds_again(
    own_server: RedisServer, make: Make
) -> None:
    limiter = make(own_server)
    before = await limiter.acquire()
    own_server.signal(signal.SIGSTOP)
    start = time.monotonic()
    with pytest.raises(LimiterUnavailableError, match=r"did not respond within 0.5 s"):
        await limiter.acquire()
    assert 0.4 < time.monotonic() - start < 2
    own_server.signal(signal.SIGCONT)
    after = await limiter.acquire()
    assert after - before > 1.02  # the lease of the failed exchange counts as used


@pytest.mark.parametrize("command", ["FLUSHALL", "DEL '{aiomutex:project 1}:state'"])
async def test_a_server_that_evicts_the_budget_is_an_error_instead_of_an_endless_wait(
    own_server: RedisServer, make: Make, command: str
) -> None:
    limiter = make(own_server)
    await limiter.acquire()

    async def evict() -> None:
        while True:
            own_server.send(command)
            await asyncio.sleep(0.02)

    eviction = asyncio.ensure_future(evict())
    with pytest.raises(LimiterUnavailableError, match="loses the shared budget again and again; are its keys evicted"):
        await asyncio.wait_for(limiter.acquire(), 20)
    eviction.cancel()
    await asyncio.wait_for(limiter.acquire(), 20)
    own_server.send("FLUSHALL")
    await asyncio.wait_for(limiter.acquire(), 20)  # losing it once is no error


async def test_a_killed_server_is_an_error_and_after_its_restart_the_limiter_waits_a_window(
    own_server: RedisServer, make: Make
) -> None:
    limiter = make(own_server)
    await limiter.acquire()
    own_server.kill()
    with pytest.raises(LimiterUnavailableError, match="cannot be reached"):
        await limiter.acquire()
    own_server.start()
    back = time.monotonic()
    assert await limiter.acquire() - back > 1.0
    assert limiter.state().used_today >= 2


async def test_a_wrong_password_is_an_error_that_does_not_show_it(start_redis: StartRedis, make: Make) -> None:
    server = start_redis("--requirepass", "right")
    for url in (f"redis://:hunter2@127.0.0.1:{server.port}/0", server.url):
        limiter = make(url)
        with pytest.raises(ConfigurationError, match="rejected the user or password") as caught:
            await limiter.acquire()
        assert "hunter2" not in f"{caught.value!r} {limiter!r}"
    assert await make(f"redis://:right@127.0.0.1:{server.port}/0").acquire()


async def test_a_replica_is_an_error(server: RedisServer, start_redis: StartRedis, make: Make) -> None:
    replica = start_redis("--replicaof", f"127.0.0.1 {server.port}")
    with pytest.raises(LimiterUnavailableError, match=r"read-only replica|MASTERDOWN"):
        await make(replica).acquire()


async def test_an_old_server_is_an_error(server: RedisServer, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = make(server)
    plain = limiter._request

    def from_the_future(*args: Any) -> LeaseRequest:
        request = plain(*args)
        request.oldest_version = 99
        return request

    monkeypatch.setattr(limiter, "_request", from_the_future)
    with pytest.raises(ConfigurationError, match="is too old: Redis 6 or later, or Valkey, is required"):
        await limiter.acquire()


async def test_a_key_of_another_type_is_an_error(server: RedisServer, make: Make) -> None:
    client = redis.asyncio.Redis(port=server.port)
    await client.set("{aiomutex:project 1}:log", "mine")
    await client.aclose()
    with pytest.raises(LimiterUnavailableError, match="WRONGTYPE"):
        await make(server).acquire()


async def test_a_jump_of_the_servers_clock_voids_the_lease(server: RedisServer, make: Make) -> None:
    limiter = make(server)
    before = await limiter.acquire()
    limiter._budget._low -= 30
    limiter._budget._high -= 30
    after = await limiter.acquire()
    assert after - before > 1.02


async def test_after_the_servers_clock_was_set_back_an_hour_the_limiter_waits_one_window(
    server: RedisServer, make: Make
) -> None:
    limiter = make(server)
    before = await limiter.acquire()
    client = redis.asyncio.Redis(port=server.port)
    await client.rpush("{aiomutex:project 1}:log", int((time.time() + 3600) * 1e6))
    await client.aclose()
    assert await asyncio.wait_for(limiter.acquire(), 20) - before > 1.02


async def test_a_slow_server_wastes_no_permits(server: RedisServer, make: Make) -> None:
    limiter = make(server)
    ask = limiter._budget._script

    async def slow(**kwargs: Any) -> Any:
        await asyncio.sleep(0.05)
        response = await ask(**kwargs)
        await asyncio.sleep(0.05)
        return response

    limiter._budget._script = slow
    times = await take(limiter, 100)
    assert most_in_a_second(times) <= 97
    assert limiter.state().used_today <= 150


# Without Redis


async def test_without_redis_a_worker_continues_with_its_share_after_one_silent_window(
    own_server: RedisServer, make: Make
) -> None:
    limiter = make(own_server, on_backend_failure="local", workers=2)
    await limiter.acquire()
    own_server.kill()
    start = time.monotonic()
    times = await take(limiter, 24)
    assert min(times) - start > 1.02
    assert most_in_a_second(times) <= 97 // 2
    assert repr(limiter).endswith("· without Redis>")
    own_server.start()
    end = time.monotonic() + 6
    while "without Redis" in repr(limiter) and time.monotonic() < end:
        times += await take(limiter, 3)
    times += await take(limiter, 30)
    assert "without Redis" not in repr(limiter)
    assert most_in_a_second(times) <= 97
    assert limiter.state().used_today >= len(times)


async def test_a_wrong_password_does_not_start_the_fallback(start_redis: StartRedis, make: Make) -> None:
    server = start_redis("--requirepass", "right")
    with pytest.raises(ConfigurationError):
        await make(server, on_backend_failure="local", workers=4).acquire()


# Several processes


def test_three_processes_stay_below_the_limit_and_use_most_of_it(server: RedisServer) -> None:
    reports = WorkerProcesses(server.url, 3, 2.5).reports()
    times = sorted(t for report in reports for t in report.permits)
    assert [e for report in reports for e in report.errors] == []
    assert most_in_a_second(times) <= 97
    assert len(times) / (times[-1] - times[0]) >= 80
    assert sum(report.exchanges for report in reports) / len(times) <= 0.4
    assert min(len(report.permits) for report in reports) >= len(times) / 6


@pytest.mark.deep
def test_three_processes_need_a_third_of_a_round_trip_per_permit(server: RedisServer) -> None:
    reports = WorkerProcesses(server.url, 3, 8.0).reports()
    times = sorted(t for report in reports for t in report.permits)
    assert most_in_a_second(times) <= 97
    # An idle machine reaches 93 (python -m benchmarks shared), a busy one less.
    assert len(times) / (times[-1] - times[0]) >= 85
    assert sum(report.exchanges for report in reports) / len(times) <= 0.3


@pytest.mark.deep
def test_ten_processes_need_no_more_round_trips_per_permit(server: RedisServer) -> None:
    reports = WorkerProcesses(server.url, 10, 6.0, tasks=20).reports()
    times = sorted(t for report in reports for t in report.permits)
    assert most_in_a_second(times) <= 97
    assert sum(report.exchanges for report in reports) / len(times) <= 0.35


@pytest.mark.deep
@pytest.mark.parametrize("fault", ["kill", "stop", "flush"])
@pytest.mark.parametrize("options", [{}, {"on_backend_failure": "local", "workers": 3}], ids=["raise", "local"])
def test_a_fault_during_a_run_never_exceeds_the_limit(
    own_server: RedisServer, fault: str, options: dict[str, Any]
) -> None:
    fleet = WorkerProcesses(own_server.url, 3, 6.5, **options)
    time.sleep(2.5)
    if fault == "kill":
        own_server.kill()
        time.sleep(1.5)
        own_server.start()
    elif fault == "stop":
        own_server.signal(signal.SIGSTOP)
        time.sleep(1.5)
        own_server.signal(signal.SIGCONT)
    else:
        own_server.send("FLUSHALL")
    reports = fleet.reports()
    times = sorted(t for report in reports for t in report.permits)
    assert most_in_a_second(times) <= 97
    assert len(times) > 150
    assert all(report.permits[-1] > times[-1] - 1.5 for report in reports)  # all of them continued
