"""The connection pool: what happens to permits when connections are lost, and which calls get a connection first."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from cancelling import run_with_fake_clock
from support import (
    GROUP,
    ONCE,
    RawServer,
    connector_of,
    fast_limiter,
    http,
    idle,
    permit_at_connection,
    say_nothing,
    session_for,
    until,
)

from aiomutex import ConnectionFailedError, DeadlineExceededError, LocalRateLimiter, NewGroup, NewSlot, Priority

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from cancelling import Loop
    from support import Visit

NEW = NewGroup(project_id=1, name="n", key="k", slots=[NewSlot(percentage=100)])


# ------------------------------------------------------------------ connections that are lost while calls wait


def hang_up(visits: list[Visit]) -> None:
    for visit in visits:
        visit.writer.close()


@permit_at_connection
def test_permits_do_not_accumulate_while_lost_connections_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(loop: Loop) -> None:
        arrivals: list[float] = []
        visits: list[Visit] = []
        ready = asyncio.Event()

        async def note(visit: Visit) -> None:
            arrivals.append(loop.time())
            visits.append(visit)
            await visit.send(http(200, GROUP))

        async def let_pass(seconds: float) -> None:
            end = loop.time() + seconds
            while loop.time() < end:
                loop.advance(0.01)
                await asyncio.sleep(0.0005)

        limiter = LocalRateLimiter(per_second=20)
        async with (
            RawServer() as raw,
            session_for(raw.url, rate_limiter=limiter, max_connections=16, deadline=100.0) as session,
        ):
            raw.answer(note)
            calls = [asyncio.ensure_future(session.get_group("7")) for _ in range(60)]
            await until(lambda: limiter.state().waiting == 16)
            connector = connector_of(session)
            connect = connector._create_connection

            async def late(*args: Any) -> Any:
                await ready.wait()
                return await connect(*args)

            monkeypatch.setattr(connector, "_create_connection", late)
            hang_up(visits)
            await let_pass(2.5)
            ready.set()
            await let_pass(3.0)
            await asyncio.gather(*calls)
        busiest = max(sum(start <= at < start + 1 for at in arrivals) for start in arrivals)
        assert busiest <= 20
        assert limiter.state().used_today == len(arrivals) == 60

    run_with_fake_clock(main)


async def test_connections_lost_during_a_pause_use_no_probes(raw: RawServer) -> None:
    visits: list[Visit] = []

    async def note(visit: Visit) -> None:
        visits.append(visit)
        await visit.send(http(200, GROUP))

    raw.answer(note)
    limiter = fast_limiter()
    async with session_for(raw.url, rate_limiter=limiter, retry=ONCE) as session:
        await asyncio.gather(*(session.get_group("7") for _ in range(8)))
        limiter.throttled(await limiter.acquire(), 0.3)
        calls = [asyncio.ensure_future(session.get_group("7")) for _ in range(8)]
        await until(lambda: limiter.state().waiting == 8)
        hang_up(visits)
        async with asyncio.timeout(20):
            await asyncio.gather(*calls)
    assert limiter.state().used_today == 1 + len(raw.requests) == 17


@permit_at_connection
async def test_a_server_that_drops_connections_is_not_flooded_with_new_ones(raw: RawServer) -> None:
    limiter = LocalRateLimiter(per_second=1)
    made: list[float] = []

    def drop_some(writer: asyncio.StreamWriter) -> bool:
        made.append(asyncio.get_running_loop().time())
        if stays := len(made) not in (2, 3, 4):
            return stays
        writer.close()
        return stays

    raw.greet = drop_some
    async with session_for(raw.url, rate_limiter=limiter, retry=ONCE, max_connections=1) as session:
        await session.get_group("7")
        for (protocol, _), *_ in connector_of(session)._conns.values():
            protocol.close()
        await session.get_group("7")
    assert len(made) == 5
    # Only the first replacement is made at once. The next two wait at least half of 0.25 s and half of 0.5 s.
    assert made[3] - made[2] >= 0.12
    assert made[4] - made[3] >= 0.24


class LosesConnection(LocalRateLimiter):
    """A limiter that calls ``lose`` as it grants the next permit."""

    def __init__(self) -> None:
        super().__init__()
        self.lose: Callable[[], object] | None = None

    async def acquire(self, priority: Priority = Priority.INTERACTIVE) -> float:
        permit = await super().acquire(priority)
        if self.lose is not None:
            self.lose()
            self.lose = None
        return permit


@permit_at_connection
async def test_a_permit_granted_as_its_connection_is_lost_is_discarded(raw: RawServer) -> None:
    limiter = LosesConnection()
    async with session_for(raw.url, rate_limiter=limiter, retry=ONCE, max_connections=1) as session:
        limiter.lose = lambda: [protocol.transport.close() for protocol in connector_of(session)._acquired]
        assert (await session.get_group("7")).id == "7"
        assert idle(session)
    assert (len(raw.requests), limiter.state().used_today) == (1, 2)


@permit_at_connection
async def test_no_permit_is_taken_for_a_dead_connection(raw: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = fast_limiter()
    async with session_for(raw.url, rate_limiter=limiter, retry=ONCE, max_connections=1) as session:
        connector = connector_of(session)
        connect = connector._create_connection

        async def dead(*args: Any) -> Any:
            monkeypatch.undo()
            made = await connect(*args)
            made.transport.close()
            return made

        monkeypatch.setattr(connector, "_create_connection", dead)
        assert (await session.get_group("7")).id == "7"
    assert len(raw.requests) == limiter.state().used_today == 1


@permit_at_connection
async def test_a_write_whose_server_dies_while_it_waits_for_a_permit_is_not_sent() -> None:
    limiter = fast_limiter()
    async with RawServer() as raw, session_for(raw.url, rate_limiter=limiter, retry=ONCE) as session:
        await asyncio.gather(session.get_group("7"), session.get_group("7"))
        limiter.throttled(await limiter.acquire(), 5.0)
        calls: list[Awaitable[object]] = [session.edit_slot("7", 1, experiments=[1]), session.create_group(NEW)]
        tasks = [asyncio.ensure_future(call) for call in calls]
        await until(lambda: limiter.state().waiting == 2)
        await raw.__aexit__()
        for task in tasks:
            with pytest.raises(ConnectionFailedError, match="cannot connect") as caught:
                await task
            assert not caught.value.sent
            assert not caught.value.maybe_applied
        assert len(raw.requests) == 2


# ------------------------------------------------------------------ interactive calls go ahead of bulk calls


@pytest.mark.parametrize("connections", [1, 2, 4])
async def test_bulk_calls_leave_connections_to_interactive_calls(raw: RawServer, connections: int) -> None:
    limiter = LocalRateLimiter(per_second=20)
    async with session_for(raw.url, rate_limiter=limiter, retry=ONCE, max_connections=connections) as session:
        bulk = session.with_options(priority=Priority.BULK)
        slow = [asyncio.ensure_future(bulk.get_group("7")) for _ in range(60)]
        await until(lambda: limiter.state().waiting)
        done = sum(call.done() for call in slow)
        await session.get_group("7")
        assert sum(call.done() for call in slow) - done <= 2
        for call in slow:
            call.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        assert idle(session)
        await bulk.get_group("7")


async def test_a_bulk_call_that_waits_for_a_slot_obeys_its_deadline_and_leaks_nothing(raw: RawServer) -> None:
    limiter = fast_limiter()
    raw.answer(say_nothing, http(200, GROUP))
    async with session_for(raw.url, rate_limiter=limiter, retry=ONCE, max_connections=2) as session:
        bulk = session.with_options(priority=Priority.BULK)
        holder = asyncio.ensure_future(bulk.get_group("7"))
        await until(lambda: raw.requests)
        impatient = asyncio.ensure_future(bulk.with_options(deadline=0.02).edit_slot("7", 1, experiments=[1]))
        behind = asyncio.ensure_future(bulk.with_options(attempt_timeout=0.1).get_group("7"))
        with pytest.raises(DeadlineExceededError, match="before the request was sent") as caught:
            await impatient
        assert (caught.value.attempts, caught.value.maybe_applied) == (0, False)
        await asyncio.sleep(0.1)
        holder.cancel()
        # The wait for a slot is not part of its attempt.
        assert (await behind).id == "7"
        assert limiter.state().used_today == 2
        assert idle(session)
