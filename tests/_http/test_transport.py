"""Bad answers: one typed error with method, path and status, in time, with nothing of aiohttp in it."""

from __future__ import annotations

import asyncio
import gzip
import socket
import tracemalloc
import zlib
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
import pytest
from support import (
    FAST,
    GROUP,
    KEY,
    ONCE,
    ROOT,
    RawServer,
    close_before_answer,
    fast_limiter,
    http,
    idle,
    permit_at_connection,
    pooled,
    reset,
    reset_before_answer,
    say_nothing,
    session_for,
    until,
)

from aiomutex import (
    APIError,
    AttemptTimeoutError,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ConflictError,
    ConnectionFailedError,
    DeadlineExceededError,
    MutexError,
    MutexSession,
    NewGroup,
    NewSlot,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    RetryPolicy,
    ServerError,
    TransportError,
    UnexpectedResponseError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from support import Visit

    from aiomutex.testing import MutexEmulator

PATH = f"{ROOT}/7"
WISHED = NewGroup(project_id=1, name="Example", key="mutex-key", slots=[NewSlot(percentage=95), NewSlot(percentage=5)])
HTML = "<html><head><title>Sign in</title></head><body>please</body></html>"


def chain(error: BaseException) -> list[BaseException]:
    """The error and everything a traceback would print below it."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        following = waiting.pop()
        if following is not None and following not in found:
            found.append(following)
            waiting += [following.__cause__, following.__context__]
            waiting += getattr(following, "earlier", ())
    return found


def assert_pure(error: BaseException) -> None:
    """Nothing but errors of this library is in the chain."""
    for link in chain(error):
        assert isinstance(link, MutexError), link


async def failure(session: MutexSession) -> MutexError:
    """What a GET fails with; it must be over well before the session's deadline."""
    async with asyncio.timeout(8):
        with pytest.raises(MutexError) as caught:
            await session.get_group("7")
    assert_pure(caught.value)
    assert idle(session)
    return caught.value


# ------------------------------------------------------------------ answers that are complete, and no good


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, APIError),
        (304, APIError),
        (400, BadRequestError),
        (401, AuthenticationError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (405, APIError),
        (409, ConflictError),
        (418, APIError),
        (429, RateLimitedError),
        (500, ServerError),
        (502, ServerError),
        (503, ServerError),
        (599, ServerError),
        (999, APIError),
    ],
)
@pytest.mark.parametrize(
    "body",
    [b'{"message": "no good"}', b'"no good"', HTML.encode(), b"", b"x" * 10_000_000],
    ids=["object", "string", "html", "empty", "10 MB"],
)
async def test_each_error_status_has_its_exception_whatever_the_body(
    raw: RawServer, status: int, kind: type[APIError], body: bytes
) -> None:
    raw.answer(http(status, b"" if status == 304 else body, {"X-Request-Id": "req-1", "Retry-After": "0.001"}))
    async with session_for(raw.url, retry=ONCE) as session:
        error = await failure(session)
    assert type(error) is kind
    assert isinstance(error, APIError)
    assert (error.method, error.path, error.status) == ("GET", PATH, status)
    assert (error.request_id, error.retry_after, error.attempts) == ("req-1", 0.001, 1)
    assert len(error.body) <= 4096
    assert len(str(error)) < 500
    assert str(error).startswith(f"GET {PATH} answered {status}: ")


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (http(200, HTML, kind="text/html"), 200),
        (http(200, GROUP[:100]), 200),
        (http(200, b"[%s]" % GROUP), 200),
        (http(200, b"null"), 200),
        (http(200, b'"OK"'), 200),
        (http(200, b"7"), 200),
        (http(200, b'{"id": 7}'), 200),
        (http(200, b'{"slots": []}'), 200),
        (http(200, b'{"id": null, "slots": []}'), 200),
        (http(200, b'{"id": true, "slots": []}'), 200),
        (http(200, b'{"id": 7, "slots": {}}'), 200),
        (http(200, b'{"id": 7, "slots": [7]}'), 200),
        (http(200, b'{"id": 7, "slots": [{"index": 1}]}'), 200),
        (http(200, b'{"error": "a failure that calls itself a success"}'), 200),
        (http(200, b""), 200),
        (http(200, b"\xff\xfe\x00"), 200),
        (http(200, b"[" * 100_000), 200),
        (http(200, b'{"id":' + b"9" * 10_000 + b"}"), 200),
        (http(202, b""), 202),
        (http(206, GROUP[:50]), 206),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204),
    ],
)
async def test_a_success_that_is_not_as_documented_is_an_unexpected_response(
    raw: RawServer, answer: bytes, status: int
) -> None:
    raw.answer(answer)
    async with session_for(raw.url, retry=ONCE) as session:
        error = await failure(session)
    assert isinstance(error, UnexpectedResponseError)
    assert (error.method, error.path, error.status) == ("GET", PATH, status)
    assert "do not read as documented" in str(error)


@pytest.mark.parametrize(
    "body",
    [b"[]", b'{"groups": []}', b'{"mutexes": {}}', b'{"mutexes": ""}', b'{"mutexes": false}', b'{"mutexes": [7]}'],
)
async def test_an_invalid_page_is_an_unexpected_response(raw: RawServer, body: bytes) -> None:
    raw.answer(http(200, body))
    async with session_for(raw.url, retry=ONCE) as session:
        with pytest.raises(UnexpectedResponseError) as caught:
            await session.list_page()
    assert caught.value.path == f"{ROOT}?limit=1000"


@pytest.mark.parametrize("answer", [b"{}", b"", b"null", b'{"id": null}', b'{"id": ""}', b"OK", b"[]"])
async def test_a_create_whose_response_has_no_id_is_looked_up(raw: RawServer, answer: bytes) -> None:
    found = GROUP.replace(b'"mutex name"', b'"Example"')
    raw.answer(http(200, answer), http(200, b'{"mutexes":[%s],"nextCursor":null}' % found))
    async with session_for(raw.url) as session:
        created = await session.create_group(WISHED)
    assert (created.id, created.url, created.key) == ("7", None, "mutex-key")
    assert [request.line.split()[0] for request in raw.requests] == ["POST", "GET"]


@pytest.mark.parametrize("body", [b"", b"OK", b"null", HTML.encode(), b"\xff", GROUP[:30]])
@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_the_response_to_a_patch_is_never_decoded(raw: RawServer, body: bytes, status: int) -> None:
    raw.answer(b"HTTP/1.1 204 No Content\r\n\r\n" if status == 204 else http(status, body))
    async with session_for(raw.url, retry=ONCE) as session:
        await session.edit_slot("7", 1, experiments=[1])
        await session.edit_group("7", name="n")
        await session.archive_group("7")


# ------------------------------------------------------------------ redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("call", ["get_group", "archive_group", "create_group"])
async def test_a_redirect_is_an_error_and_its_target_gets_no_request(raw: RawServer, status: int, call: str) -> None:
    argument = WISHED if call == "create_group" else "7"
    async with RawServer() as other:
        raw.answer(http(status, b"", {"Location": f"{other.url}/steal"}))
        async with session_for(raw.url) as session:
            with pytest.raises(APIError, match="redirects are not followed") as caught:
                await getattr(session, call)(argument)
        assert f"{other.url}/steal" in str(caught.value)
        assert other.connections == 0
        assert other.requests == []
    assert len(raw.requests) == 1


# ------------------------------------------------------------------ answers that never become complete


async def answer_then_reset(visit: Visit) -> None:
    await visit.send(http(200, GROUP)[:150])
    visit.reset()


async def answer_then_close(visit: Visit) -> None:
    await visit.send(http(200, GROUP)[:150])
    visit.writer.close()


async def head_then_close(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\nContent-Type: app")
    visit.writer.close()


async def broken_chunks(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\nhello\r\n")
    visit.writer.close()


async def huge_headers(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000 + b"\r\nContent-Length: 0\r\n\r\n")


async def many_headers(visit: Visit) -> None:
    lines = b"".join(b"X-%d: %s\r\n" % (number, b"y" * 80) for number in range(100_000 // 90))
    await visit.send(b"HTTP/1.1 200 OK\r\n" + lines + b"Content-Length: 2\r\n\r\n{}")


BROKEN: dict[str, Any] = {
    "reset before the answer": reset_before_answer,
    "closed before the answer": close_before_answer,
    "reset within the answer": answer_then_reset,
    "closed within the answer": answer_then_close,
    "closed within the head": head_then_close,
    "broken chunks": broken_chunks,
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "bad status line": b"HTTP/1.1 abc OK\r\n\r\n",
    "bad length": b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "control characters": b"HTTP/1.1 200 OK\r\nX-\x00Bad: 1\r\n\r\n",
    "gzip that is none": http(200, GROUP, {"Content-Encoding": "gzip"}),
    "gzip cut short": http(200, gzip.compress(GROUP * 50)[:40], {"Content-Encoding": "gzip"}),
    "deflate that is none": http(200, GROUP, {"Content-Encoding": "deflate"}),
    "100,000 bytes in one header": huge_headers,
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_response_is_a_typed_error(raw: RawServer, answer: Any) -> None:
    raw.answer(answer)
    async with session_for(raw.url, retry=ONCE, attempt_timeout=2.0) as session:
        error = await failure(session)
        assert isinstance(error, ConnectionFailedError | UnexpectedResponseError)
        assert (error.method, error.path, error.attempts) == ("GET", PATH, 1)
        if isinstance(error, TransportError):
            assert error.sent
        raw.answer(http(200, GROUP))
        assert (await session.get_group("7")).id == "7"


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
async def test_a_read_is_sent_again_after_a_broken_response(raw: RawServer, answer: Any) -> None:
    raw.answer(answer, http(200, GROUP))
    async with session_for(raw.url, attempt_timeout=2.0) as session:
        assert (await session.get_group("7")).id == "7"
    assert len(raw.requests) == 2


async def test_100_000_bytes_of_headers_are_a_typed_error(raw: RawServer) -> None:
    raw.answer(many_headers)
    async with session_for(raw.url, retry=ONCE) as session:
        error = await failure(session)
    assert isinstance(error, ConnectionFailedError | UnexpectedResponseError)


async def test_a_silent_server_is_an_attempt_timeout(raw: RawServer) -> None:
    raw.answer(say_nothing)
    async with session_for(raw.url, retry=ONCE, attempt_timeout=0.05) as session:
        error = await failure(session)
    assert isinstance(error, AttemptTimeoutError)
    assert "no complete response within 0.05 s" in str(error)
    assert error.sent
    assert (error.method, error.path) == ("GET", PATH)


async def test_a_request_to_a_silent_server_is_sent_again_as_the_policy_says(raw: RawServer) -> None:
    raw.answer(say_nothing)
    async with session_for(raw.url, attempt_timeout=0.15, deadline=30.0) as session:
        error = await failure(session)
    assert isinstance(error, AttemptTimeoutError)
    assert error.attempts == 6


async def test_a_deadline_shorter_than_an_attempt_ends_it(raw: RawServer) -> None:
    raw.answer(say_nothing)
    async with session_for(raw.url, attempt_timeout=5.0, deadline=0.05) as session:
        error = await failure(session)
    assert isinstance(error, DeadlineExceededError)
    assert isinstance(error, TimeoutError)
    assert "while waiting for the response" in str(error)
    assert (error.method, error.path, error.deadline, error.attempts) == ("GET", PATH, 0.05, 1)


async def drip(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        await visit.send(b"x")
        await asyncio.sleep(0.005)


async def endless(visit: Visit) -> None:
    await visit.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    while True:
        await visit.send(piece)


async def continues(visit: Visit) -> None:
    while True:
        await visit.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 10)
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("act", [drip, continues])
async def test_a_slow_response_does_not_extend_an_attempt(raw: RawServer, act: Any) -> None:
    raw.answer(act)
    async with session_for(raw.url, retry=ONCE, attempt_timeout=0.1) as session:
        error = await failure(session)
    assert isinstance(error, AttemptTimeoutError)


async def test_reading_an_endless_body_stops_at_the_maximum(raw: RawServer) -> None:
    raw.answer(endless)
    async with session_for(raw.url, retry=ONCE) as session:
        inside: Any = session
        inside._transport._max_body = 2**20
        error = await failure(session)
    assert isinstance(error, UnexpectedResponseError)
    assert error.status == 200
    assert "more than 1,048,576 bytes" in str(error)


async def test_reading_a_gzip_bomb_stops_at_the_maximum_without_using_memory(raw: RawServer) -> None:
    compressor = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(compressor.compress(bytes(2**20)) for _ in range(128)) + compressor.flush()
    raw.answer(http(200, bomb, {"Content-Encoding": "gzip"}))
    async with session_for(raw.url, retry=ONCE) as session:
        inside: Any = session
        inside._transport._max_body = 4 * 2**20
        tracemalloc.start()
        try:
            error = await failure(session)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert isinstance(error, UnexpectedResponseError | ConnectionFailedError)
    assert peak < 40 * 2**20


async def test_a_body_of_exactly_the_maximum_is_read(raw: RawServer) -> None:
    padded = GROUP + b" " * 1000
    raw.answer(http(200, padded))
    async with session_for(raw.url, retry=ONCE) as session:
        inside: Any = session
        inside._transport._max_body = len(padded)
        assert (await session.get_group("7")).id == "7"
        inside._transport._max_body = len(padded) - 1
        with pytest.raises(UnexpectedResponseError, match="a body of more than"):
            await session.get_group("7")


async def test_only_the_beginning_of_a_large_error_body_is_read(raw: RawServer) -> None:
    sent = 0

    async def long_refusal(visit: Visit) -> None:
        nonlocal sent
        await visit.send(b"HTTP/1.1 500 Oops\r\nContent-Length: 100000000\r\n\r\n")
        for _ in range(1000):
            await visit.send(b"x" * 100_000)
            sent += 100_000

    raw.answer(long_refusal)
    async with session_for(raw.url, retry=ONCE) as session:
        error = await failure(session)
    assert isinstance(error, ServerError)
    assert sent < 50_000_000


# ------------------------------------------------------------------ connections


async def test_a_closed_port_is_a_failed_connection_that_sent_nothing() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        async with session_for(f"http://127.0.0.1:{port}", retry=ONCE) as session:
            error = await failure(session)
    assert isinstance(error, ConnectionFailedError)
    assert f"cannot connect to 127.0.0.1:{port}" in str(error)
    assert not error.sent
    assert not error.maybe_applied


async def test_a_reset_before_the_request_is_a_failed_connection(raw: RawServer) -> None:
    def refuse(writer: asyncio.StreamWriter) -> bool:
        reset(writer)
        return False

    raw.greet = refuse
    async with session_for(raw.url, retry=ONCE) as session:
        assert isinstance(await failure(session), ConnectionFailedError)


async def test_an_unknown_host_is_a_failed_connection() -> None:
    async with session_for("https://no-such-host.invalid", retry=ONCE) as session:
        error = await failure(session)
    assert isinstance(error, ConnectionFailedError)
    assert "cannot connect to no-such-host.invalid:443" in str(error)


async def test_a_server_without_tls_is_a_failed_connection(raw: RawServer) -> None:
    def talk_http(writer: asyncio.StreamWriter) -> bool:
        writer.write(http(400))
        return False

    raw.greet = talk_http
    async with session_for(raw.url.replace("http:", "https:"), retry=ONCE) as session:
        error = await failure(session)
    assert isinstance(error, ConnectionFailedError)
    assert raw.requests == []


@permit_at_connection
async def test_connecting_times_out_and_nothing_is_sent() -> None:
    # A listener whose queue is full: the kernel leaves further handshakes unanswered.
    with socket.socket() as listener, socket.socket() as filler, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for client in (filler, second):
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        await asyncio.sleep(0.01)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        async with session_for(url, retry=ONCE, attempt_timeout=0.1) as session:
            error = await failure(session)
    assert isinstance(error, ConnectionFailedError)
    assert "connecting timed out" in str(error)
    assert not error.sent


async def test_an_idle_connection_is_used_again(raw: RawServer, raw_session: MutexSession) -> None:
    for _ in range(5):
        await raw_session.get_group("7")
    assert (pooled(raw_session), raw.connections) == (1, 1)


async def test_an_early_error_response_to_a_large_body_is_raised_and_frees_the_connection(raw: RawServer) -> None:
    async def refuse(visit: Visit) -> None:
        await visit.send(http(413, b"too much", kind="text/plain"))
        await asyncio.Event().wait()

    raw.reads_bodies = False
    raw.answer(refuse)
    async with session_for(raw.url, retry=ONCE, attempt_timeout=2.0) as session:
        with pytest.raises(APIError) as caught:
            await session.edit_slot("7", 1, individuals=["user-" + "x" * 100] * 100_000)
        await until(lambda: idle(session))
        assert pooled(session) == 0
    assert caught.value.status == 413
    assert_pure(caught.value)


async def test_a_body_of_more_than_a_megabyte_arrives_complete_in_every_attempt(raw: RawServer) -> None:
    individuals = [f"user-{number:030}" for number in range(50_000)]
    raw.answer(reset_before_answer, http(503), http())
    async with session_for(raw.url) as session:
        await session.edit_slot("1", 1, individuals=individuals)
    assert len(raw.requests) == 3
    for request in raw.requests:
        assert len(request.body) > 2**20
        assert request.headers["content-type"] == "application/json"
        assert msgspec.json.decode(request.body) == {"individuals": individuals}


async def test_a_thousand_individuals_on_a_slot_are_written_and_read(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    individuals = [f"user-{number}@example.com" for number in range(1000)]
    await session.edit_slot("1", 1, individuals=individuals)
    assert (await session.get_group("1")).slots[0].individuals == individuals


# ------------------------------------------------------------------ a borrowed aiohttp session


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
        # aiohttp deprecates its way to say so; sessions made elsewhere still have it.
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
        assert_pure(caught.value)
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
        error = await _failure_of(session)
    assert isinstance(error, AttemptTimeoutError)


async def _failure_of(session: MutexSession) -> MutexError:
    with pytest.raises(MutexError) as caught:
        await session.get_group("7")
    assert_pure(caught.value)
    return caught.value


async def test_the_key_is_in_one_header_of_each_request_and_nowhere_else(raw: RawServer) -> None:
    raw.answer(http(200, b'{"mutexes":[]}'))
    async with session_for(raw.url) as session:
        await session.list_page()
        await session.edit_slot("7", 1, experiments=[1])
    for request in raw.requests:
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert KEY.encode() not in request.body
        assert request.head.count(KEY.encode()) == 1


# ------------------------------------------------------------------ the end


@pytest.mark.parametrize("borrowed", [False, True])
async def test_closing_a_session_ends_the_calls_that_wait_for_permits(raw: RawServer, borrowed: bool) -> None:
    limiter = fast_limiter()
    async with aiohttp.ClientSession() as mine:
        session = session_for(raw.url, rate_limiter=limiter, retry=RetryPolicy(), http=mine if borrowed else None)
        async with session:
            await session.get_group("7")
            limiter.throttled(await limiter.acquire(), 5.0)
            used = limiter.state().used_today
            tasks = [
                asyncio.ensure_future(call)
                for call in (session.edit_slot("7", 1, experiments=[1]), session.create_group(WISHED))
            ]
            await until(lambda: limiter.state().waiting == 2)
            await session.aclose()
            done, _ = await asyncio.wait(tasks, timeout=0.1)
            assert len(done) == 2
            for task in tasks:
                error = task.exception()
                assert isinstance(error, MutexError)
                assert "closed" in str(error)
                assert not error.maybe_applied
        inside: Any = session
        assert inside._transport._timer._timer is None
        assert (limiter.state().used_today, limiter.state().waiting) == (used, 0)
        assert not mine.closed
    assert len(raw.requests) == 1


async def test_a_session_can_be_closed_after_its_event_loop_was_closed() -> None:
    async def leave() -> MutexSession:
        async with RawServer() as raw:
            raw.answer(say_nothing)
            session = session_for(raw.url)
            await session.__aenter__()
            calls.append(asyncio.ensure_future(session.get_group("7")))
            await until(lambda: raw.requests)
        return session

    calls: list[asyncio.Task[Any]] = []
    loop = asyncio.new_event_loop()
    try:
        session = await asyncio.to_thread(loop.run_until_complete, leave())
    finally:
        loop.close()
    await session.aclose()
    assert repr(session).count("closed") == 1
    calls[0]._log_destroy_pending = False  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


async def test_a_call_whose_coroutine_is_closed_from_outside_cleans_up(raw: RawServer) -> None:
    raw.answer(say_nothing)
    async with session_for(raw.url) as session:
        call = session.get_group("7")

        async def drive() -> object:
            return await call

        task = asyncio.ensure_future(drive())
        await until(lambda: raw.requests)
        call.close()
        assert idle(session)
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await task
