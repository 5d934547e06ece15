"""Start, observe and stop the emulator, in an event loop and in a thread."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from time import perf_counter
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme
from aiohttp import web
from support import until

from aiomutex.emulator import Group, MutexEmulator, Slot, serve

from .helpers import PATH, Api

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Start

REQUEST = b"GET /api/1/mutexes HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer key\r\n\r\n"


def fetch(url: str) -> Any:
    request = urllib.request.Request(url + PATH, headers={"Authorization": "Bearer key"})
    with urllib.request.urlopen(request, timeout=20) as response:
        return json.load(response)


def test_it_runs_in_a_thread_for_synchronous_code() -> None:
    before = threading.active_count()
    with MutexEmulator(groups=2) as emulator:
        assert len(fetch(emulator.url)["mutexes"]) == 2
        emulator.add_group()
        assert len(fetch(emulator.url)["mutexes"]) == 3
    assert threading.active_count() == before
    with pytest.raises(RuntimeError, match="not running"):
        _ = emulator.url


async def test_it_runs_in_a_thread_next_to_a_running_loop() -> None:
    with MutexEmulator(groups=2) as emulator:
        assert len((await asyncio.to_thread(fetch, emulator.url))["mutexes"]) == 2


async def test_it_keeps_its_groups_when_started_again() -> None:
    emulator = MutexEmulator(groups=2)
    async with Api(emulator) as api:
        await api.edit("1", {"name": "kept"})
    async with Api(emulator) as api:
        assert (await api.get("1")).json["name"] == "kept"


async def test_it_cannot_run_twice_at_once() -> None:
    async with MutexEmulator() as emulator:
        with pytest.raises(RuntimeError, match="already running"):
            await emulator.__aenter__()
    with MutexEmulator() as emulator, pytest.raises(RuntimeError, match="already running"):
        emulator.__enter__()


async def test_a_port_in_use_is_an_error(tmp_path: Path) -> None:
    async with MutexEmulator() as first:
        second = MutexEmulator(port=first.port, state_file=tmp_path / "f.db")
        with pytest.raises(OSError, match="in use"):
            await second.__aenter__()
        with pytest.raises(OSError, match="in use"):
            second.__enter__()
    async with second:
        assert second.url == f"http://127.0.0.1:{second.port}"


async def seconds_to_stop(*, threaded: bool) -> float:
    emulator = MutexEmulator(handshake_delay=0.05, groups=1)
    if threaded:
        emulator.__enter__()
    else:
        await emulator.__aenter__()
    emulator.fail_next(2, kind="stall")
    idle = socket.create_connection((emulator.host, emulator.port))
    half = socket.create_connection((emulator.host, emulator.port))
    half.sendall(REQUEST[:30])
    stalled = [socket.create_connection((emulator.host, emulator.port)) for _ in range(2)]
    for connection in stalled:
        connection.sendall(REQUEST)
    await until(lambda: len(emulator.requests) == 2)
    waiting = socket.create_connection((emulator.host, emulator.port))
    started = perf_counter()
    if threaded:
        emulator.__exit__(None, None, None)
    else:
        await emulator.__aexit__(None, None, None)
    ended = perf_counter()
    for connection in (idle, half, *stalled, waiting):
        connection.close()
    return ended - started


@pytest.mark.parametrize("threaded", [False, True])
async def test_it_stops_at_once_with_open_connections(threaded: bool) -> None:
    for _ in range(5):  # a busy machine may take longer now and then
        if await seconds_to_stop(threaded=threaded) < 0.2:
            return
    pytest.fail("it waits for its connections")


async def test_it_stops_at_once_during_a_slow_and_a_large_response() -> None:
    async with Api(MutexEmulator(groups=1, latency=10)) as api:
        slow = asyncio.create_task(api.get("1"))
        await asyncio.sleep(0.05)
        api.emulator.latency = 0
        api.emulator.fail_next(body=b"x" * 50_000_000)
        lazy = socket.create_connection((api.emulator.host, api.emulator.port))
        lazy.sendall(REQUEST)
        await asyncio.sleep(0.05)
        started = perf_counter()
    # This includes closing the client.
    assert perf_counter() - started < 5
    with pytest.raises(aiohttp.ClientError):
        await slow
    lazy.settimeout(5)
    received = 0
    with lazy, suppress(ConnectionResetError):
        while chunk := lazy.recv(1 << 20):
            received += len(chunk)
    assert received < 50_000_000


async def test_it_is_ready_within_50_ms() -> None:
    durations: list[float] = []
    for _ in range(5):
        started = perf_counter()
        async with MutexEmulator(groups=1000):
            durations.append(perf_counter() - started)
    assert min(durations) < 0.05


async def test_serve_runs_until_it_is_cancelled() -> None:
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(MutexEmulator(groups=1), on_ready=lambda emulator: ready.set_result(emulator.url)))
    url = await ready
    assert len((await asyncio.to_thread(fetch, url))["mutexes"]) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(urllib.error.URLError):
        await asyncio.to_thread(fetch, url)


async def test_requests_are_recorded_without_the_key(start: Start) -> None:
    api = await start(groups=1, keep_requests=3)
    await api.list()
    await api.send("GET", f"{PATH}?limit=5&cursor=", key="s3cret", headers={"X-Test": "yes"})
    await api.send("PATCH", f"{PATH}/1/slots/1", json={"experiments": [1]}, key="s3cret")
    await api.send("PATCH", f"{PATH}/1/slots/9", data=b"{", key="s3cret")
    query, edit, bad = api.emulator.requests
    assert (query.method, query.path, query.query, query.status) == ("GET", PATH, {"limit": "5", "cursor": ""}, 400)
    assert (query.body, query.json, query.headers["x-test"]) == (b"", None, "yes")
    assert (edit.path, edit.json, edit.status) == (f"{PATH}/1/slots/1", {"experiments": [1]}, 200)
    assert abs(edit.at - api.emulator.clock.now()) < 5
    assert (bad.body, bad.status) == (b"{", 404)
    assert edit.headers["authorization"] == "Bearer ***"
    assert "s3cret" not in repr([query, edit, bad]) + str(edit.headers)


async def test_commits_are_recorded_in_order(start: Start) -> None:
    api = await start(groups=2)
    await api.edit_slot("2", 3, {"experiments": [1]})
    await api.edit("1", {"name": "x"})
    await api.create({"projectId": 1, "name": "n", "slots": [{"percentage": 100}]})
    await api.edit_slot("2", 3, {"experiments": ["no"]})
    await api.edit_slot("2", 3, {"experiments": [2]})
    seen = [(commit.seq, commit.method, commit.group_id, commit.slot_index) for commit in api.emulator.commits]
    assert seen == [(1, "PATCH", "2", 3), (2, "PATCH", "1", None), (3, "POST", "3", None), (4, "PATCH", "2", 3)]
    assert api.emulator.commits[3].body == {"experiments": [2]}
    assert api.emulator.writes == {("2", 3): 2, ("1", None): 1, ("3", None): 1}


async def test_requests_are_logged_if_log_is_true(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "aiomutex.emulator"):
        quiet = await start(groups=1)
        await quiet.list()
        assert not caplog.records
        api = await start(groups=1, log=True)
        await api.send("GET", f"{PATH}/9", key="s3cret")
        api.emulator.fail_next(kind="reset-before")
        with pytest.raises(aiohttp.ClientError):
            await api.edit("1", {"name": "x"})
        api.emulator.fail_next(kind="stall")
        await api.leave("GET", f"{PATH}/stalled")
        while len(caplog.records) < 3:  # noqa: ASYNC110  # the emulator sees later that the client left
            await asyncio.sleep(0.01)
    logged, lost, stalled = [record.getMessage() for record in caplog.records]
    time, *words, duration, unit = logged.split()
    assert (words, unit) == (["GET", f"{PATH}/9", "404"], "ms")
    assert len(time) == len("12:34:56.789")
    assert float(duration) >= 0
    assert "no response" in lost
    assert f"{PATH}/stalled no response" in stalled
    assert "s3cret" not in caplog.text


async def test_custom_pages_need_no_key_and_use_no_budget(start: Start) -> None:
    api = await start()

    async def hello(request: web.BaseRequest) -> web.Response:
        return web.Response(text=f"hello {request.method}")

    api.emulator.pages["/hello"] = hello
    assert (await api.send("GET", "/hello", key=None)).text == "hello GET"
    assert (api.emulator.limits.accepted, len(api.emulator.requests)) == (0, 0)


async def test_browsers_have_access_only_with_cors_origin(start: Start) -> None:
    closed = await start()
    assert (await closed.send("OPTIONS", PATH)).status == 405
    assert "Access-Control-Allow-Origin" not in (await closed.list()).headers
    api = await start(cors_origin="http://localhost:3000")
    preflight = await api.send("OPTIONS", PATH, key=None)
    assert preflight.status == 204
    assert "PATCH" in preflight.headers["Access-Control-Allow-Methods"]
    assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
    assert (await api.list()).headers["Access-Control-Allow-Origin"] == "http://localhost:3000"


async def test_it_serves_tls_with_an_ssl_context(start: Start) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)  # pyright: ignore[reportUnknownMemberType]  # untyped
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)  # pyright: ignore[reportUnknownMemberType]  # as above
    api = await start(groups=1, ssl_context=context, ssl=trusting, handshake_delay=0.01)
    assert api.emulator.url.startswith("https://127.0.0.1:")
    assert (await api.get("1")).status == 200
    api.emulator.fail_next(after_commit=True)
    with pytest.raises(aiohttp.ClientError):
        await api.edit("1", {"name": "x"})
    assert api.emulator.groups["1"].name == "x"


@pytest.mark.parametrize(
    "options",
    [
        *({"key": key} for key in ("", " ", " k", "k\n")),
        *({"cors_origin": each} for each in ("", "localhost:3000", "http://localhost:3000/", "http://a\nb", "**")),
    ],
    ids=str,
)
def test_a_key_or_origin_that_no_client_can_send_is_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        MutexEmulator(**options)
    assert MutexEmulator(key="k", cors_origin="https://app.example.com")


def test_reprs() -> None:
    with MutexEmulator(groups=1500) as emulator:
        assert repr(emulator) == f"<MutexEmulator {emulator.url} · 1,500 groups · 0 requests accepted>"
        _ = emulator.groups["7"]
        assert repr(emulator.groups) == "<GroupStore 1500 groups, 1 in memory>"
        assert repr(emulator.snapshot()) == "<Snapshot of 1500 groups>"
    assert repr(emulator) == "<MutexEmulator not running · 1,500 groups · 0 requests accepted>"
    assert repr(emulator.limits) == "<Limits 100/s and 100,000/day · 0 accepted · 0 rejected>"
    assert repr(emulator.faults) == "<Faults 0 scheduled, 0 random>"


def test_groups_can_be_objects_or_mappings() -> None:
    emulator = MutexEmulator(
        groups=[
            Group("7", "1", "seven", "k7", slots=[Slot(index=1, percentage=95)]),
            {
                "id": 8,
                "projectId": 5,
                "name": "eight",
                "slots": [{"percentage": 40, "variantKey": "v", "cohorts": None}],
            },
            {"bucketing_key": "device_id", "slots": [30, 20]},
        ],
    )
    assert list(emulator.groups) == ["7", "8", "9"]
    eight, nine = emulator.groups["8"], emulator.groups["9"]
    assert (eight.project_id, eight.name, eight.slots[0].variant_key, eight.slots[0].cohorts) == ("5", "eight", "v", [])
    assert (nine.bucketing_key, [slot.percentage for slot in nine.slots]) == ("device_id", [30, 20])
    added = emulator.add_group(12, slots=[40, {"percentage": 60, "experiments": [5]}], evaluation_mode="local")
    assert emulator.groups["12"] is added
    assert (added.id, added.evaluation_mode, added.slots[1].experiments) == ("12", "local", [5])
    assert [slot.percentage for slot in emulator.add_group().slots] == [50, 50]


def test_invalid_groups_are_errors() -> None:
    with pytest.raises(ValueError, match="key must be unique; group 1 has the key 'k'"):
        MutexEmulator(groups=[{"key": "k"}, {"key": "k"}])
    with pytest.raises(ValueError, match="group 1 has an unknown field 'nam'"):
        MutexEmulator(groups=[{"nam": "x"}])
    with pytest.raises(ValueError, match="slots\\[0\\] has an unknown field 'experiment'"):
        MutexEmulator(groups=[{"slots": [{"experiment": [1]}]}])
    with pytest.raises(ValueError, match="groups must be from 0 to 1,000,000, not -1"):
        MutexEmulator(groups=-1)
    with pytest.raises(ValueError, match="slots_per_group must be from 1 to 20, not 21"):
        MutexEmulator(groups=1, slots_per_group=21)
    emulator = MutexEmulator(groups=2)
    with pytest.raises(ValueError, match="the group's id must be '9', under which it is stored, not '1'"):
        emulator.groups["9"] = emulator.groups["1"]
    with pytest.raises(KeyError):
        _ = emulator.groups["3"]
