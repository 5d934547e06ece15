"""Injected faults: what the client sees, and whether the change was made."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from yarl import URL

from aiomutex.emulator import Dialect, Fault, Latency, MutexEmulator
from aiomutex.emulator.faults import Faults

from .helpers import PATH

if TYPE_CHECKING:
    from .conftest import Start
    from .helpers import Api


async def edit(api: Api, **options: Any) -> Any:
    return await api.edit_slot("1", 1, {"experiments": [7]}, **options)


async def leave(api: Api, experiment: int = 7) -> None:
    await api.leave("PATCH", f"{PATH}/1/slots/1", json={"experiments": [experiment]})


def was_made(api: Api) -> bool:
    """Whether the edit was made, according to the group and to the recorded commits, which must agree."""
    made = api.emulator.groups["1"].slots[0].experiments == [7]
    assert made == (api.emulator.writes["1", 1] == 1) == (len(api.emulator.commits) == 1)
    return made


async def test_a_scheduled_error_changes_nothing_and_ends(api: Api) -> None:
    api.emulator.fail_next(2, status=503)
    assert [(await edit(api)).status for _ in range(2)] == [503, 503]
    assert not was_made(api)
    assert (await edit(api)).status == 200
    assert was_made(api)


async def test_an_error_can_come_after_the_change(api: Api) -> None:
    api.emulator.fail_next(status=502, after_commit=True)
    assert (await edit(api)).status == 502
    assert was_made(api)


async def test_a_response_can_be_lost_after_the_change(api: Api) -> None:
    api.emulator.fail_next(after_commit=True)
    with pytest.raises(aiohttp.ClientOSError):
        await edit(api)
    assert was_made(api)
    assert api.emulator.requests[-1].status is None


async def test_responses_can_be_lost_at_a_rate(start: Start) -> None:
    api = await start(groups=1, faults=["reset-after:100%"])
    with pytest.raises(aiohttp.ClientOSError):
        await edit(api)
    assert was_made(api)


async def test_a_connection_can_be_reset_before_the_change(api: Api) -> None:
    api.emulator.fail_next(kind="reset-before")
    with pytest.raises(aiohttp.ClientOSError):
        await edit(api)
    assert not was_made(api)


@pytest.mark.parametrize("patch_body", ["ok", "empty", "json"])
async def test_a_response_can_be_truncated(start: Start, patch_body: Any) -> None:
    api = await start(groups=1, dialect=Dialect(patch_body=patch_body))
    api.emulator.fail_next(kind="truncate")
    with pytest.raises(aiohttp.ClientPayloadError):
        await edit(api)
    assert was_made(api)


async def test_a_response_can_be_garbage(api: Api) -> None:
    api.emulator.fail_next(kind="garbage")
    reply = await edit(api)
    assert reply.status == 200
    with pytest.raises(ValueError):
        _ = reply.json
    assert was_made(api)


@pytest.mark.parametrize("after_commit", [False, True])
async def test_a_stalled_request_gets_no_response(api: Api, after_commit: bool) -> None:
    api.emulator.fail_next(kind="stall", after_commit=after_commit)
    await leave(api)
    assert was_made(api) == after_commit


async def test_a_late_change_is_made_although_the_client_left(api: Api) -> None:
    api.emulator.clock.freeze()
    api.emulator.fail_next(kind="late", delay=5)
    await leave(api)
    api.emulator.clock.advance(4.9)
    assert (await api.get("1")).json["slots"][0]["experiments"] == [101]
    assert (was_made(api), api.emulator.pending_changes) == (False, 1)
    api.emulator.clock.advance(0.1)
    # A request sees every change that is due.
    assert (await api.get("1")).json["slots"][0]["experiments"] == [7]
    assert (was_made(api), api.emulator.pending_changes) == (True, 0)


@pytest.mark.parametrize("writes", ["atomic", "racy"])
async def test_a_late_change_ends_with_a_reset(start: Start, writes: Any) -> None:
    api = await start(groups=1, faults=["late:100%:0.15s"], dialect=Dialect(slot_writes=writes))
    started = perf_counter()
    with pytest.raises(aiohttp.ClientOSError):
        await edit(api)
    assert was_made(api)
    assert perf_counter() - started >= 0.15
    assert api.emulator.requests[-1].status is None


async def test_a_late_change_overwrites_changes_made_meanwhile(api: Api) -> None:
    api.emulator.clock.freeze()
    for number, delay in ((1, 9), (2, 3), (3, 6)):
        api.emulator.fail_next(kind="late", delay=delay)
        await leave(api, number)
    assert (await edit(api)).status == 200
    api.emulator.clock.advance(10)
    await asyncio.sleep(0.05)
    assert api.emulator.groups["1"].slots[0].experiments == [1]
    assert [commit.body["experiments"] for commit in api.emulator.commits] == [[7], [2], [3], [1]]


async def test_a_late_change_ends_with_the_emulator_and_with_its_groups(api: Api) -> None:
    api.emulator.clock.freeze()
    before = api.emulator.snapshot()
    for _ in range(2):
        api.emulator.fail_next(kind="late", delay=5)
        await leave(api)
        assert api.emulator.pending_changes == 1
        api.emulator.restore(before)
        api.emulator.clock.advance(10)
        assert (await api.get("1")).json["slots"][0]["experiments"] == [101]
        assert not was_made(api)
    api.emulator.fail_next(kind="late", delay=60)
    await leave(api)
    await api.emulator.__aexit__(None, None, None)
    assert api.emulator.pending_changes == 0


@pytest.mark.parametrize("text", ["maintenance", None])
async def test_maintenance_is_a_page_for_any_request(start: Start, text: str | None) -> None:
    api = await start(groups=1, faults=[text] if text else [])
    api.emulator.fail_next(3, kind="maintenance", body=None if text else "<p>back at 9</p>")
    new = {"projectId": 1, "name": "n", "slots": [{"percentage": 100}]}
    for reply in (await edit(api), await api.create(new), await api.list()):
        assert (reply.status, reply.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert reply.text == ("<p>back at 9</p>" if text is None else reply.text)
        assert reply.body.startswith(b"<")
    assert not was_made(api)
    assert len(api.emulator.groups) == 1


async def test_an_error_has_the_given_headers_and_body(api: Api) -> None:
    api.emulator.fail_next(status=429, retry_after=7, body={"error": "slow down"})
    api.emulator.fail_next(status=301, headers={"Location": "http://elsewhere/"}, body="<html>")
    api.emulator.fail_next(status=500, body=b"\x00" * 10_000_000, retry_after="Wed, 21 Oct 2026 07:28:00 GMT")
    api.emulator.fail_next(status=204)
    slow, moved, large, empty = [await api.list() for _ in range(4)]
    assert (slow.status, slow.headers["Retry-After"], slow.json) == (429, "7", {"error": "slow down"})
    assert (moved.status, moved.headers["Location"], moved.text) == (301, "http://elsewhere/", "<html>")
    assert moved.headers["Content-Type"].startswith("text/html")
    assert (large.headers["Retry-After"], len(large.body)) == ("Wed, 21 Oct 2026 07:28:00 GMT", 10_000_000)
    assert (empty.status, empty.body) == (204, b"")


async def test_a_fault_happens_only_to_matching_requests(api: Api) -> None:
    api.emulator.fail_next(method="patch", path=f"{PATH}/2*")
    assert (await api.get("2")).status == 200
    assert (await api.edit("1", {"name": "x"})).status == 200
    assert api.emulator.faults.pending == 1
    assert (await api.edit_slot("2", 1, {"experiments": [7]})).status == 500
    assert api.emulator.faults.pending == 0


async def test_a_rejected_request_uses_up_no_fault(start: Start) -> None:
    api = await start(groups=1, per_second=1, key="right")
    api.emulator.clock.freeze()
    assert (await api.send("GET", PATH, key="right")).status == 200
    api.emulator.fail_next()
    assert (await api.send("GET", PATH, key="right")).status == 429
    assert (await api.send("GET", PATH, key="wrong")).status == 401
    assert api.emulator.faults.pending == 1


async def test_cleared_faults_do_not_happen(start: Start) -> None:
    api = await start(groups=1, faults=["500"])
    api.emulator.fail_next(3)
    api.emulator.storm(60)
    api.emulator.faults.clear()
    assert (await api.list()).status == 200


async def test_a_storm_rejects_every_request_until_it_ends(start: Start) -> None:
    api = await start(groups=1, dialect=Dialect(retry_after="seconds"))
    api.emulator.clock.freeze()
    api.emulator.storm(5)
    replies = [await api.list() for _ in range(3)]
    assert [(reply.status, reply.headers["Retry-After"]) for reply in replies] == [(429, "5")] * 3
    api.emulator.clock.advance(5)
    assert (await api.list()).status == 200


async def test_a_storm_can_happen_at_a_rate(start: Start) -> None:
    api = await start(groups=1, faults=["storm:100%:3s"])
    api.emulator.clock.freeze()
    assert (await edit(api)).status == 429
    api.emulator.faults.random.clear()
    assert (await edit(api)).status == 429
    api.emulator.clock.advance(3)
    assert (await edit(api)).status == 200
    assert was_made(api)


async def test_the_daily_budget_can_be_nearly_used_up(start: Start) -> None:
    api = await start(used_today=99_999)
    assert [(await api.list()).status for _ in range(2)] == [200, 429]
    assert api.emulator.used_today == 100_000


async def test_the_same_seed_gives_the_same_faults(start: Start) -> None:
    async def statuses(seed: int) -> list[int]:
        api = await start(faults=["503:30%", "500:20%"], seed=seed, limits=False)
        return [(await api.list()).status for _ in range(100)]

    first = await statuses(1)
    assert first == await statuses(1)
    assert first != await statuses(2)
    assert 15 < first.count(503) < 45
    assert 8 < first.count(500) < 32


async def test_a_response_takes_as_long_as_its_latency(start: Start) -> None:
    api = await start(groups=1, latency="60ms±20ms")

    async def durations() -> list[float]:
        times = [perf_counter()]
        for _ in range(5):
            await api.list()
            times.append(perf_counter())
        return [end - start for start, end in pairwise(times)]

    slow = await durations()
    assert min(slow) >= 0.04
    assert max(slow) - min(slow) > 0.001
    api.emulator.latency = 0
    assert min(await durations()) < 0.04


async def test_the_change_is_made_before_the_latency(start: Start) -> None:
    api = await start(groups=1, latency=5)
    await leave(api)
    assert was_made(api)


async def test_a_new_connection_waits_for_the_handshake_delay(start: Start) -> None:
    api = await start(groups=1, handshake_delay=0.1)
    durations: list[float] = []
    for _ in range(2):
        started = perf_counter()
        assert (await edit(api)).status == 200
        durations.append(perf_counter() - started)
    assert durations[0] >= 0.1 > durations[1]


async def test_a_client_can_disconnect_during_the_handshake_delay(start: Start) -> None:
    api = await start(groups=1, handshake_delay=0.2)
    _, writer = await asyncio.open_connection("127.0.0.1", URL(api.url).port)
    writer.write(b"GET /api/1/mutexes/1 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer key\r\n\r\n")
    writer.close()
    assert (await edit(api)).status == 200  # after the delay of both connections
    assert [request.method for request in api.emulator.requests] == ["PATCH"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("reset-after:2%", Fault(kind="reset-after", rate=0.02)),
        ("503:0.5%", Fault(kind="status", status=503, rate=0.005)),
        ("500:1%", Fault(kind="status", rate=0.01)),
        (" Stall ", Fault(kind="stall")),
        ("storm:1%:5s", Fault(kind="storm", rate=0.01, seconds=5)),
        ("late:2%:0.5s", Fault(kind="late", rate=0.02, seconds=0.5)),
        ("late:2%:0s", Fault(kind="late", rate=0.02, seconds=0)),
    ],
)
def test_a_fault_is_parsed(text: str, fault: Fault) -> None:
    assert Fault.parse(text) == fault


@pytest.mark.parametrize(
    "text", ["reset:2%", "200:1%", "503:1", "stall:-1%", "stall:101%", "", "503:", "stall:1%:5s", "status:1%"]
)
def test_an_invalid_fault_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"^fault must "):
        Fault.parse(text)


def test_invalid_fields_of_faults_are_errors() -> None:
    with pytest.raises(ValueError, match="at most 100%, not 120%"):
        Faults(["stall:60%", "503:60%"])
    with pytest.raises(ValueError, match="rate must be from 0 to 1, not 2"):
        Fault(kind="stall", rate=2)
    with pytest.raises(ValueError, match="status must be from 200 to 599, not 99"):
        Fault(kind="status", status=99)
    with pytest.raises(ValueError, match=r"kind must be one of status, .*, not 'rest'"):
        Fault(kind="rest")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="n must be 1 or more, not 0"):
        Faults().schedule(0, Fault(kind="stall"), method=None, path=None)


@pytest.mark.parametrize(
    ("text", "latency"),
    [
        ("80ms", Latency(0.08)),
        ("80ms±40ms", Latency(0.08, 0.04)),
        ("80ms±40", Latency(0.08, 0.04)),
        ("80ms+-40", Latency(0.08, 0.04)),
        ("80 ms +/- 40 ms", Latency(0.08, 0.04)),
        ("1.5s±500ms", Latency(1.5, 0.5)),
        (2, Latency(2)),
        (Latency(1, 1), Latency(1, 1)),
    ],
)
def test_a_latency_is_parsed(text: Any, latency: Latency) -> None:
    parsed = Latency.parse(text)
    assert parsed.base == pytest.approx(latency.base)
    assert parsed.jitter == pytest.approx(latency.jitter)
    emulator = MutexEmulator()
    emulator.latency = text
    assert emulator.latency == parsed


@pytest.mark.parametrize("text", ["80", "80m", "ms", "-80ms", "80ms±", "80ms±90ms", "80ms40ms", -1])
def test_an_invalid_latency_is_an_error(text: Any) -> None:
    with pytest.raises(ValueError, match=r"^latency must "):
        Latency.parse(text)
