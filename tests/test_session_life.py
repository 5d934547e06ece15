"""Opening, draining and closing a session."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from typing import TYPE_CHECKING

import pytest
from support import KEY, ONCE, say_nothing, session_for, until

import aiomutex
from aiomutex import (
    AttemptTimeoutError,
    ConfigurationError,
    LocalRateLimiter,
    MutexSession,
    SessionClosedError,
    SlotEdit,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from support import RawServer

    from aiomutex.testing import MutexEmulator


async def test_a_session_can_be_opened_and_closed_without_a_block(emulator: MutexEmulator) -> None:
    session = await session_for(emulator.url).open()
    assert (await session.get_group("1")).id == "1"
    await session.aclose()
    with pytest.raises(SessionClosedError):
        await session.get_group("1")


class ClosableLimiter(LocalRateLimiter):
    """A limiter that counts how often it was closed."""

    closed = 0

    async def aclose(self) -> None:
        self.closed += 1


async def test_a_limiter_that_was_passed_in_is_not_closed_with_the_session(emulator: MutexEmulator) -> None:
    limiter = ClosableLimiter()
    async with session_for(emulator.url, rate_limiter=limiter) as session, session_for(emulator.url) as other:
        await session.get_group("1")
        other.rate_limiter = limiter
        await session.aclose()
        await other.get_group("1")
    assert not limiter.closed


async def test_draining_lets_calls_finish_with_their_retries_and_accepts_no_new_ones(emulator: MutexEmulator) -> None:
    emulator.fail_next(2, status=503)
    session = await session_for(emulator.url).open()
    call = asyncio.ensure_future(session.edit_slot("1", 1, experiments=[7]))
    await until(lambda: emulator.requests)
    closing = asyncio.ensure_future(session.aclose(drain=10.0))
    await asyncio.sleep(0)
    with pytest.raises(SessionClosedError) as caught:
        await session.get_group("1")
    assert (caught.value.attempts, caught.value.maybe_applied) == (0, False)
    await asyncio.gather(call, closing)
    assert emulator.groups["1"].slots[0].experiments == [7]
    assert len(emulator.requests) == 3


async def test_draining_ends_when_its_time_is_over(raw: RawServer) -> None:
    raw.answer(say_nothing)
    session = await session_for(raw.url).open()
    call = asyncio.ensure_future(session.edit_slot("7", 1, experiments=[7]))
    await until(lambda: raw.requests)
    start = time.monotonic()
    await session.aclose(drain=0.2)
    assert 0.15 < time.monotonic() - start < 5
    with pytest.raises(SessionClosedError, match="closed during the call") as caught:
        await call
    assert (caught.value.attempts, caught.value.maybe_applied) == (1, True)


async def test_draining_ends_with_the_last_call(emulator: MutexEmulator) -> None:
    session = await session_for(emulator.url).open()
    await session.get_group("1")
    emulator.fail_next(1, status=503)
    call = asyncio.ensure_future(session.get_group("1"))
    await until(lambda: len(emulator.requests) == 2)
    async with asyncio.timeout(20):
        await session.aclose(drain=60.0)
    assert (await call).id == "1"


async def test_closing_ends_calls_that_wait_for_a_permit(emulator: MutexEmulator) -> None:
    limiter = LocalRateLimiter()
    session = await session_for(emulator.url, rate_limiter=limiter).open()
    await session.get_group("1")
    limiter.throttled(asyncio.get_running_loop().time(), 60.0)
    call = asyncio.ensure_future(session.get_group("1"))
    await until(lambda: limiter.state().waiting)
    async with asyncio.timeout(20):
        await session.aclose()
        with pytest.raises(SessionClosedError, match="closed during the call"):
            await call
    assert limiter.state().waiting == 0


@pytest.mark.parametrize("sent", [False, True])
async def test_a_call_in_progress_says_whether_it_may_have_been_applied(raw: RawServer, sent: bool) -> None:
    raw.answer(say_nothing)
    session = await session_for(raw.url, max_connections=1, retry=ONCE).open()
    first = asyncio.ensure_future(session.get_group("7"))
    await until(lambda: raw.requests)
    if sent:
        first.cancel()
        await until(first.done)
    call = asyncio.ensure_future(session.edit_slot("7", 1, experiments=[7]))
    await (until(lambda: len(raw.requests) == 2) if sent else asyncio.sleep(0.01))
    await session.aclose()
    with pytest.raises(SessionClosedError) as caught:
        await call
    assert (caught.value.maybe_applied, caught.value.attempts) == (sent, int(sent))
    await asyncio.gather(first, return_exceptions=True)


async def test_a_cancelled_drain_closes_the_session(raw: RawServer) -> None:
    raw.answer(say_nothing)
    session = await session_for(raw.url).open()
    call = asyncio.ensure_future(session.get_group("7"))
    await until(lambda: raw.requests)
    closing = asyncio.ensure_future(session.aclose(drain=60.0))
    await asyncio.sleep(0.01)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    with pytest.raises(SessionClosedError):
        await call


async def test_a_bulk_run_over_a_session_that_closes_stops_and_skips_the_rest(emulator: MutexEmulator) -> None:
    session = await session_for(emulator.url).open()
    edits = [SlotEdit(number % 10 + 1, 1, experiments=[number]) for number in range(500)]
    run = asyncio.ensure_future(session.edit_slots(edits))
    await until(lambda: len(emulator.requests) > 20)
    await session.aclose()
    report = await run
    assert isinstance(report.stopped_by, SessionClosedError)
    assert len(report.skipped) > 100
    assert len(report.outcomes) == 500


def test_outside_asyncio_one_error_says_what_is_needed() -> None:
    opening: Coroutine[Any, Any, MutexSession] = MutexSession(KEY).open()
    with pytest.raises(ConfigurationError, match="MutexSession needs asyncio"):
        opening.send(None)


def test_the_version_is_that_of_the_installed_package() -> None:
    from importlib.metadata import version  # noqa: PLC0415

    assert aiomutex.__version__ == version("aiomutex")
    assert sys.version_info >= (3, 11)


async def test_attempts_in_progress_can_be_given_less_time(emulator: MutexEmulator) -> None:
    emulator.fail_next(2, kind="stall", method="PATCH")
    async with session_for(emulator.url, retry=ONCE) as session:
        calls = [asyncio.ensure_future(session.edit_slot(group, 1, experiments=[7])) for group in (1, 2)]
        await until(lambda: len(emulator.requests) == 2)
        started = time.monotonic()
        session.end_attempts(0.2)
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, AttemptTimeoutError)
            assert result.maybe_applied
            assert re.search(r"no complete response within 0\.\d+ s of sending", str(result))
        assert time.monotonic() - started < 20
        await session.edit_slot(1, 1, experiments=[8])
