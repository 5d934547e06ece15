"""A wrong, endless, slow or enormous response raises a typed error in time; the next call reads its own response."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from aiohttp.http_parser import HttpResponseParserPy
from hostile_responses import HOSTILE, TIMED_OUT, encoded, raw_response, repeat, send_and_close
from support import GROUP, KEY, ONCE, RawServer, connector_of, http, idle, pooled, session_for, until

from aiomutex import (
    APIError,
    AttemptTimeoutError,
    ConnectionFailedError,
    DeadlineExceededError,
    MutexError,
    MutexSession,
    NewGroup,
    NewSlot,
    RetryPolicy,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from support import Visit

OTHER: Final = GROUP.replace(b'"id":7', b'"id":8')
STOLEN: Final = GROUP.replace(b'"id":7', b'"id":666')
NEW: Final = NewGroup(project_id=1, name="n", key="k", slots=[NewSlot(percentage=100)])


@pytest.mark.parametrize(("error", "response"), HOSTILE.values(), ids=HOSTILE.keys())
async def test_a_hostile_response_raises_a_typed_error_and_the_next_call_works(
    raw: RawServer, error: type[MutexError], response: Any
) -> None:
    raw.answer(response, http(200, OTHER))
    # An endless response takes as long as the timeout, which must be enough to connect on a busy machine.
    timeout = 0.5 if error is TIMED_OUT else 5.0
    async with session_for(raw.url, retry=ONCE, max_connections=1, attempt_timeout=timeout) as session:
        async with asyncio.timeout(20):
            with pytest.raises(MutexError) as caught:
                await session.get_group("7")
        assert isinstance(caught.value, error)
        assert len(str(caught.value)) < 500
        assert idle(session)
        assert (await session.with_options(attempt_timeout=5.0).get_group("8")).id == "8"


@pytest.mark.parametrize(
    ("response", "group_id"),
    [
        (http(200, b'{"id":1,"id":7,"slots":{},"slots":[]}'), "7"),
        (send_and_close(b"HTTP/1.0 200 OK\r\n\r\n" + GROUP), "7"),
        (encoded("gzip", gzip.compress(GROUP[:50]) + gzip.compress(GROUP[50:])), "7"),
        (encoded("deflate", zlib.compress(GROUP)[2:-4]), "7"),
        (http(200, b'{"id":%s,"slots":[]}' % (b"9" * 4_000)), "9" * 4_000),
    ],
    ids=["duplicate keys", "HTTP/1.0", "gzip in two members", "raw deflate", "an id of 4,000 digits"],
)
async def test_an_unusual_but_readable_response_is_read(raw: RawServer, response: Any, group_id: str) -> None:
    raw.answer(response)
    async with session_for(raw.url, retry=ONCE) as session:
        assert (await session.get_group("7")).id == group_id


# ------------------------------------------------------------------ more than the response


def respond_and_send(*pieces: bytes, after: float = 0.0) -> Callable[[Visit], Awaitable[None]]:
    async def act(visit: Visit) -> None:
        if not after:
            await visit.send(http(200, GROUP) + b"".join(pieces))
            return
        await visit.send(http(200, GROUP))
        for piece in pieces:
            await asyncio.sleep(after)
            await visit.send(piece)

    return act


UNREQUESTED: Final[dict[str, bytes]] = {
    "a response": http(200, STOLEN),
    "100 responses": http(200, STOLEN) * 100,
    "an empty response": http(204),
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "an empty line": b"\r\n",
}


def pooled_connection(session: MutexSession) -> Any:
    (protocol,) = [protocol for waiting in connector_of(session)._conns.values() for protocol, _ in waiting]
    return protocol


@pytest.mark.parametrize("more", UNREQUESTED.values(), ids=UNREQUESTED.keys())
@pytest.mark.parametrize("after", [0.0, 0.01])
async def test_unrequested_data_is_not_the_response_to_the_next_request(
    raw: RawServer, more: bytes, after: float
) -> None:
    raw.answer(respond_and_send(more, after=after), http(200, OTHER))
    async with session_for(raw.url, max_connections=1) as session:
        assert (await session.get_group("7")).id == "7"
        if after:
            protocol = pooled_connection(session)
            await until(lambda: not protocol.is_connected())
        assert (await session.get_group("8")).id == "8"


async def test_a_flood_between_two_requests_closes_its_connection(raw: RawServer) -> None:
    raw.answer(respond_and_send(*[http(204) * 100] * 1_000_000, after=0.0001), http(200, OTHER))
    async with session_for(raw.url) as session:
        await session.get_group("7")
        protocol = pooled_connection(session)
        await until(lambda: not protocol.is_connected())
        assert not protocol._buffer
        assert (await session.get_group("8")).id == "8"


async def test_informational_responses_before_a_response_keep_the_connection(raw: RawServer) -> None:
    async def hints(visit: Visit) -> None:
        for status in ("100 Continue", "102 Processing", "103 Early Hints\r\nLink: </x>", "199 Another"):
            await visit.send(raw_response(status))
            await asyncio.sleep(0.005)
        await visit.send(http(200, GROUP))

    raw.answer(hints)
    async with session_for(raw.url, retry=ONCE) as session:
        for _ in range(3):
            await session.get_group("7")
    assert raw.connections == 1


async def test_a_connection_is_not_reused_when_the_response_came_before_the_request_was_sent(raw: RawServer) -> None:
    raw.reads_bodies = False

    async def overtake(visit: Visit) -> None:
        await visit.send(http(200))
        await asyncio.Event().wait()

    raw.answer(overtake, http(200, OTHER))
    async with session_for(raw.url, retry=ONCE, max_connections=1) as session:
        await session.edit_slot("7", 1, individuals=["user-" + "x" * 100] * 100_000)
        assert idle(session)
        assert pooled(session) == 0
        assert (await session.get_group("8")).id == "8"


# ------------------------------------------------------------------ size, number and time


@pytest.mark.parametrize("call", ["get_group", "archive_group", "create_group"])
async def test_a_response_above_the_maximum_size_is_fetched_once(raw: RawServer, call: str) -> None:
    raw.answer(repeat(bytes(65_536), b"HTTP/1.1 200 OK\r\n\r\n"), http(200, b'{"mutexes":[],"nextCursor":null}'))
    async with session_for(raw.url) as session:
        inside: Any = session
        inside._transport._max_body = 2**20
        with pytest.raises(MutexError, match="a body of more than 1,048,576 bytes") as caught:
            await getattr(session, call)(NEW if call == "create_group" else "7")
    # After a create, the key is looked up; the create is not repeated.
    assert len(raw.requests) == (2 if call == "create_group" else 1)
    assert caught.value.maybe_applied is (call != "get_group")


async def test_slow_attempts_end_within_the_deadline(raw: RawServer) -> None:
    raw.answer(repeat(b"x", http(200, GROUP)[:-400], pause=0.01))
    started = asyncio.get_running_loop().time()
    policy = RetryPolicy(max_attempts=1_000, base=0.001, cap=0.001)
    async with session_for(raw.url, retry=policy, attempt_timeout=0.05, deadline=0.4) as session:
        with pytest.raises((AttemptTimeoutError, DeadlineExceededError)):
            await session.get_group("7")
    assert asyncio.get_running_loop().time() - started < 20
    assert len(raw.requests) > 1


async def test_a_tls_handshake_that_never_ends_raises_a_typed_error(raw: RawServer) -> None:
    async with session_for(
        raw.url.replace("http:", "https:"), retry=ONCE, attempt_timeout=0.1, deadline=2.0
    ) as session:
        async with asyncio.timeout(20):
            with pytest.raises((ConnectionFailedError, DeadlineExceededError)):
                await session.get_group("7")
        assert idle(session)


async def test_a_connection_that_switched_protocols_is_not_reused(
    raw: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The parser of aiohttp without its C extension.
    monkeypatch.setattr("aiohttp.client_proto.HttpResponseParser", HttpResponseParserPy)
    raw.answer(HOSTILE["a switch of protocols"][1], http(200, OTHER))
    async with session_for(raw.url, retry=ONCE, max_connections=1) as session:
        with pytest.raises(APIError, match="answered 101"):
            await session.get_group("7")
        assert pooled(session) == 0
        assert (await session.get_group("8")).id == "8"


async def test_cookies_are_neither_kept_nor_sent(raw: RawServer) -> None:
    many = b"".join(b"Set-Cookie: c%d=%s; Path=/; Max-Age=99999\r\n" % (n, b"x" * 60) for n in range(100))
    raw.answer(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (many, len(GROUP), GROUP))
    async with session_for(raw.url, retry=ONCE) as session:
        for _ in range(20):
            await session.get_group("7")
        inside: Any = session
        assert len(inside._transport._http.cookie_jar) == 0
    assert not any("cookie" in request.headers for request in raw.requests)


async def test_an_error_message_holds_no_control_characters(raw: RawServer) -> None:
    raw.answer(http(400, json.dumps({"message": "a\x1b]0;b\x07c\u202ed\x9be"}), {"X-Request-Id": "r"}))
    async with session_for(raw.url, retry=ONCE) as session:
        with pytest.raises(APIError) as caught:
            await session.get_group("7")
    assert str(caught.value).isprintable()


# ------------------------------------------------------------------ memory, as the operating system counts it


@pytest.mark.deep
@pytest.mark.parametrize(
    ("attack", "limit"),
    [
        ("10 GB", 160),
        ("10 GB of chunks", 160),
        ("10 GB of an error response", 20),
        ("10 GB of gzip", 160),
        ("10 GB of gzip of an error response", 20),
        ("10 GB of small chunks", 160),
        ("10 GB of early hints", 20),
        ("10 GB of header lines", 20),
        ("10 GB after the response", 10),
    ],
)
def test_memory_stays_within_a_bound(attack: str, limit: int) -> None:
    run = [sys.executable, str(Path(__file__).with_name("hostile_process.py")), attack]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=True)
    result = json.loads(done.stdout)
    print(f"{attack}: {result}")
    assert result["megabytes"] < limit
    assert KEY not in done.stdout + done.stderr
