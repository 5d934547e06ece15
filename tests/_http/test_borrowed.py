"""A borrowed ``aiohttp.ClientSession``: its settings and credentials do not change what a session does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING

import aiohttp
import pytest
from support import (
    FAST,
    ONCE,
    ROOT,
    RawServer,
    assert_only_our_errors,
    failure_of,
    fast_limiter,
    say_nothing,
    session_for,
    until,
)

from aiomutex import (
    AttemptTimeoutError,
    ConfigurationError,
    ConnectionFailedError,
    LocalRateLimiter,
    NotFoundError,
)
from aiomutex.limits import Priority
from aiomutex.limits.machine import MachineRateLimiter

if TYPE_CHECKING:
    from pathlib import Path

    from aiomutex.testing import MutexEmulator

PATH = f"{ROOT}/7"
HTML = "<html><head><title>Sign in</title></head><body>please</body></html>"


async def test_a_borrowed_session_is_used_and_stays_open(emulator: MutexEmulator) -> None:
    async with aiohttp.ClientSession() as mine:
        async with session_for(emulator.url, http=mine) as session:
            assert (await session.get_group("1")).id == "1"
            await session.edit_slot("1", 1, experiments=[5])
        assert not mine.closed
        assert "Authorization" not in mine.headers
    assert emulator.groups["1"].slots[0].experiments == [5]
    assert all(request.headers["authorization"] == "Bearer ***" for request in emulator.requests)


async def test_a_borrowed_session_with_raise_for_status_raises_the_same_errors(emulator: MutexEmulator) -> None:
    async with (
        aiohttp.ClientSession(raise_for_status=True) as mine,
        session_for(emulator.url, http=mine, retry=ONCE) as session,
    ):
        with pytest.raises(NotFoundError):
            await session.get_group("404")


async def test_a_borrowed_session_with_credentials_is_rejected(raw: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async with aiohttp.ClientSession() as mine:
        # aiohttp deprecates the argument, but other code may still pass it.
        monkeypatch.setattr(mine, "_default_auth", object())
        with pytest.raises(ConfigurationError, match="'http' must not have an 'auth'"):
            async with session_for(raw.url, http=mine):
                pass
    assert raw.requests == []


async def test_a_borrowed_session_with_credentials_from_netrc_is_rejected_and_nothing_is_sent(
    raw: RawServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ada password lovelace\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with aiohttp.ClientSession(trust_env=True) as mine, session_for(raw.url, http=mine) as session:
        with pytest.raises(ConfigurationError, match=r"the \.netrc file has credentials for this host") as caught:
            await session.edit_slot("7", 1, experiments=[1])
        assert_only_our_errors(caught.value)
    assert raw.requests == []


async def test_a_borrowed_session_of_another_event_loop_is_rejected(raw: RawServer) -> None:
    mine: list[aiohttp.ClientSession] = []

    async def make() -> None:
        mine.append(aiohttp.ClientSession())

    await asyncio.to_thread(asyncio.run, make())
    with pytest.raises(ConfigurationError, match="belongs to another event loop"):
        async with session_for(raw.url, http=mine[0]):
            pass
    await mine[0].close()


async def test_the_content_type_of_a_borrowed_session_is_overridden(raw: RawServer) -> None:
    async with (
        aiohttp.ClientSession(headers={"Content-Type": "text/plain"}) as mine,
        session_for(raw.url, http=mine) as session,
    ):
        await session.edit_slot("7", 1, experiments=[1])
    assert raw.requests[0].headers["content-type"] == "application/json"


async def test_a_closed_borrowed_session_is_a_configuration_error(emulator: MutexEmulator) -> None:
    mine = aiohttp.ClientSession()
    async with session_for(emulator.url, http=mine) as session:
        await mine.close()
        with pytest.raises(ConfigurationError, match="passed as 'http' is closed"):
            await session.get_group("1")
    assert not emulator.requests


async def test_a_borrowed_session_takes_a_permit_for_each_attempt_and_retries(emulator: MutexEmulator) -> None:
    limiter = fast_limiter()
    emulator.fail_next(2, status=503)
    async with (
        aiohttp.ClientSession() as mine,
        session_for(emulator.url, http=mine, rate_limiter=limiter, retry=FAST) as session,
    ):
        await session.get_group("1")
    assert limiter.state().used_today == 3


async def test_the_timeouts_of_a_borrowed_session_are_overridden(raw: RawServer) -> None:
    raw.answer(say_nothing)
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.01)) as mine,
        session_for(raw.url, http=mine, retry=ONCE, attempt_timeout=0.1) as session,
    ):
        error = await failure_of(session)
    assert isinstance(error, AttemptTimeoutError)


async def test_a_write_over_a_borrowed_session_that_cannot_connect_is_not_sent() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        async with aiohttp.ClientSession() as mine, session_for(url, http=mine, retry=ONCE) as session:
            with pytest.raises(ConnectionFailedError, match="cannot connect") as caught:
                await session.edit_slot("7", 1, experiments=[1])
    assert (caught.value.sent, caught.value.maybe_applied) == (False, False)


def proxied(monkeypatch: pytest.MonkeyPatch, how: str, proxy: str) -> aiohttp.ClientSession:
    if how == "argument":
        return aiohttp.ClientSession(proxy=proxy)
    monkeypatch.setenv(how, proxy)
    return aiohttp.ClientSession(trust_env=True)


@pytest.mark.parametrize("how", ["argument", "http_proxy", "HTTP_PROXY"])
async def test_the_key_is_not_sent_through_a_proxy_in_clear(
    emulator: MutexEmulator, raw: RawServer, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async with proxied(monkeypatch, how, raw.url) as mine, session_for(emulator.url, http=mine) as session:
        with pytest.raises(
            ConfigurationError, match="a proxy, which would see the API key because 'http://127"
        ) as caught:
            await session.edit_slot("1", 1, experiments=[1])
    assert (caught.value.attempts, caught.value.maybe_applied) == (0, False)
    assert not raw.requests
    assert not emulator.requests


async def test_the_key_is_not_sent_through_a_proxy_that_is_set_while_the_call_waits(
    emulator: MutexEmulator, raw: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Setting(LocalRateLimiter):
        async def acquire(self, priority: Priority = Priority.INTERACTIVE) -> float:
            monkeypatch.setenv("HTTP_PROXY", raw.url)
            return await super().acquire(priority)

    async with (
        aiohttp.ClientSession(trust_env=True) as mine,
        session_for(emulator.url, http=mine, rate_limiter=Setting()) as session,
    ):
        with pytest.raises(ConfigurationError, match="a proxy, which would see the API key"):
            await session.get_group("1")
    assert not raw.requests


async def test_an_error_of_the_limiter_is_not_taken_for_one_of_netrc(emulator: MutexEmulator, tmp_path: Path) -> None:
    limiter = MachineRateLimiter(tmp_path / "budget.db")
    await limiter.aclose()
    async with (
        aiohttp.ClientSession(trust_env=True) as mine,
        session_for(emulator.url, http=mine, rate_limiter=limiter) as session,
    ):
        with pytest.raises(ConfigurationError, match="this MachineRateLimiter is closed"):
            await session.get_group("1")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")  # aiohttp's
@pytest.mark.parametrize("iterations", range(12))
async def test_detaching_a_borrowed_session_during_a_call_raises_only_errors_of_this_library(
    emulator: MutexEmulator, iterations: int
) -> None:
    mine = aiohttp.ClientSession()
    connector = mine.connector
    assert connector is not None
    async with session_for(emulator.url, http=mine, retry=ONCE) as session:
        call = asyncio.ensure_future(session.get_group("1"))
        for _ in range(iterations):
            await asyncio.sleep(0)
        mine.detach()
        with contextlib.suppress(ConfigurationError, ConnectionFailedError):
            await call
    await connector.close()


@pytest.mark.parametrize("how", ["https_proxy", "http_proxy"])
async def test_a_proxy_that_is_not_used_for_this_url_does_no_harm(
    emulator: MutexEmulator, raw: RawServer, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    if how == "https_proxy":
        monkeypatch.delenv("no_proxy")
    async with proxied(monkeypatch, how, raw.url) as mine, session_for(emulator.url, http=mine) as session:
        await session.get_group("1")
    assert not raw.requests


async def test_over_https_a_proxy_gets_a_tunnel_without_the_key(raw: RawServer) -> None:
    raw.answer(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    async with (
        aiohttp.ClientSession(proxy=raw.url) as mine,
        session_for("https://service.invalid", http=mine, retry=ONCE) as session,
    ):
        with pytest.raises(ConnectionFailedError):
            await session.get_group("1")
    assert raw.requests[0].line == "CONNECT service.invalid:443 HTTP/1.1"
    assert "authorization" not in raw.requests[0].headers


async def test_a_borrowed_session_closed_during_a_call_is_a_configuration_error(emulator: MutexEmulator) -> None:
    limiter = LocalRateLimiter(per_second=1)
    mine = aiohttp.ClientSession()
    async with session_for(emulator.url, http=mine, rate_limiter=limiter) as session:
        await session.get_group("1")
        call = asyncio.ensure_future(session.get_group("1"))
        await until(lambda: limiter.state().waiting)
        await mine.close()
        with pytest.raises(ConfigurationError, match="passed as 'http' is closed"):
            await call
    assert len(emulator.requests) == 1


async def test_a_borrowed_session_without_decompression_asks_for_none(raw: RawServer) -> None:
    async with aiohttp.ClientSession(auto_decompress=False) as mine, session_for(raw.url, http=mine) as session:
        await session.get_group("7")
        await session.edit_slot("7", 1, experiments=[1])
    assert [request.headers["accept-encoding"] for request in raw.requests] == ["identity"] * 2
