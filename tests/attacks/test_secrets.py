"""The key appears in no error, traceback, log, object or file, even when a server repeats it."""

from __future__ import annotations

import asyncio
import base64
import functools
import gc
import html
import logging
import pickle
import re
import secrets
import traceback
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote

import aiohttp
import msgspec
import pytest
from bulk_support import EmulatorProcess
from support import GROUP, KEY, ONCE, RawServer, fast_limiter, http, idle, session_for, until

import aiomutex
from aiomutex import APIError, JournalError, MutexError, MutexSession, PaginationError, SlotEdit
from aiomutex._api.redaction import SecretStr

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator
    from pathlib import Path

    from support import Visit


# ------------------------------------------------------------------ errors and tracebacks


def parts_of(value: object, depth: int = 6, *, opens_objects: bool = True) -> Iterator[object]:
    """A value, its items, and the attributes of objects of this package."""
    yield value
    if depth == 0 or isinstance(value, str | bytes | int | float | type | None):
        return
    inside: list[object] = []
    if isinstance(value, dict):
        inside += [*cast("dict[object, object]", value), *cast("dict[object, object]", value).values()]
    elif isinstance(value, list | tuple | set | frozenset):
        inside += list(cast("Iterable[object]", value))
    elif opens_objects and type(value).__module__.startswith("aiomutex"):
        names = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
        inside += [getattr(value, name, None) for name in names]
        inside.append(getattr(value, "__dict__", None))
    for each in inside:
        yield from parts_of(each, depth - 1, opens_objects=opens_objects)


def frames_of(error: BaseException, seen: set[int]) -> Iterator[dict[str, Any]]:
    """The locals of each frame of a traceback and of chained errors, except frames of tests."""
    if id(error) in seen:
        return
    seen.add(id(error))
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if "/tests/" not in frame.f_code.co_filename:
            yield frame.f_locals
    for other in (error.__cause__, error.__context__, *getattr(error, "earlier", ())):
        if other is not None:
            yield from frames_of(other, seen)


def shown_by(error: BaseException) -> list[str]:
    """All that tools show of an error: strings, attributes, pickles, and tracebacks with the parts of locals."""
    shown = [str(error), repr(error), repr(error.args), repr(vars(error))]
    with suppress(TypeError):
        shown.append(repr(pickle.dumps(error)))
    for names in frames_of(error, set()):
        for name, value in names.items():
            shown += [f"{name}: {part!r}" for part in parts_of(value, 3, opens_objects=False)]
    return shown


def leaks(outputs: list[str], key: str = KEY) -> list[str]:
    return [output[:300] for output in outputs if key in output]


def echoing(before: bytes, *, cut: bool = False) -> Callable[[Visit], Awaitable[None]]:
    """A server that repeats the key wherever possible, and does not finish its response."""

    async def act(visit: Visit) -> None:
        key = visit.request.headers["authorization"].encode()
        echo = b"X-Echo: %s\r\nSet-Cookie: %s=1\r\nLocation: /?%s\r\nContent-Type: %s\r\n" % (key, key, key, key)
        await visit.send(before.replace(b"KEY", key).replace(b"ECHO\r\n", echo))
        if cut:
            visit.writer.close()
            return
        await asyncio.sleep(0.01)
        await visit.send(key * 100)
        await visit.reader.read()

    return act


UNFINISHED: Final[dict[str, Callable[[Visit], Awaitable[None]]]] = {
    "cut in the body": echoing(b"HTTP/1.1 200 KEY\r\nECHO\r\nContent-Length: 99999\r\n\r\nKEY", cut=True),
    "slow in the body": echoing(b"HTTP/1.1 200 KEY\r\nECHO\r\nContent-Length: 99999\r\n\r\nKEY"),
    "slow in an error response": echoing(b"HTTP/1.1 400 KEY\r\nECHO\r\nContent-Length: 99999\r\n\r\nKEY"),
    "slow after early hints": echoing(b"HTTP/1.1 103 KEY\r\nECHO\r\n\r\nHTTP/1.1 200 KEY\r\nX: "),
    "a body too large": echoing(b"HTTP/1.1 200 KEY\r\nECHO\r\nContent-Length: 99999\r\n\r\n" + b"KEY " * 2_000),
    "a switch of protocols": echoing(b"HTTP/1.1 101 KEY\r\nUpgrade: x\r\nConnection: upgrade\r\nECHO\r\n\r\n"),
    "an invalid status": echoing(b"HTTP/1.1 KEY OK\r\n\r\n"),
    "an invalid header": echoing(b"HTTP/1.1 200 OK\r\nKEY\x00: KEY\r\n\r\n"),
    "invalid chunks": echoing(b"HTTP/1.1 200 OK\r\nECHO\r\nTransfer-Encoding: chunked\r\n\r\nKEY\r\n"),
    "an invalid coding": echoing(b"HTTP/1.1 200 OK\r\nECHO\r\nContent-Encoding: gzip\r\nX: y\r\n\r\nKEY", cut=True),
}  # fmt: skip


@pytest.mark.parametrize("act", UNFINISHED.values(), ids=UNFINISHED.keys())
@pytest.mark.parametrize(("borrowed", "cancelled"), [(False, False), (False, True), (True, True)])
async def test_an_unfinished_response_does_not_reveal_the_key(
    raw: RawServer, caplog: pytest.LogCaptureFixture, act: Any, borrowed: bool, cancelled: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    unhandled: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unhandled.append(context))
    raw.answer(act)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http_session:
        session = session_for(raw.url, http=http_session if borrowed else None, attempt_timeout=0.06, retry=ONCE)
        async with session:
            inside: Any = session
            inside._transport._max_body = 20_000
            call = asyncio.ensure_future(session.edit_slot("7", 1, experiments=[1]))
            await until(lambda: raw.requests or call.done())  # on a busy machine, the timeout may come first
            if cancelled:
                await asyncio.sleep(0.03)
                call.cancel()
            with pytest.raises((MutexError, asyncio.CancelledError)) as caught:
                await call
            assert borrowed or idle(session)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        gc.collect(1)
    messages = [caplog.text, repr(unhandled), *(str(each.message) for each in warned)]
    assert leaks(shown_by(caught.value) + messages) == []


async def test_the_warning_about_an_unclosed_session_does_not_hold_the_key(raw: RawServer) -> None:
    messages: list[str] = []
    # Keep strings only: keeping the objects would keep them alive.
    asyncio.get_running_loop().set_exception_handler(lambda _, context: messages.extend(map(repr, parts_of(context))))
    session: Any = session_for(raw.url)
    session._transport.open()
    await session.get_group("7")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        del session
        for _ in range(2):  # the warning about the session holds the connector, which warns next
            gc.collect()
            messages += [repr(each.message) for each in warned]
            warned.clear()
    assert "Unclosed connector" in "".join(messages)
    assert leaks(messages) == []


# ------------------------------------------------------------------ encodings that a service may use

AWKWARD: Final = 'mgmt/3f9a51+c07b"e2\\4d&68<z>=='
ENCODINGS: Final[dict[str, Callable[[str], str]]] = {
    "plain": str,
    "in a header": "Bearer {}".format,
    "in a URL": lambda key: f"https://login/?token={quote(key, safe='')}",
    "in a URL with its slashes": lambda key: f"https://login/?token={quote(key)}",
    "in a URL in lower case": lambda key: re.sub("%..", lambda code: code[0].lower(), quote(key, safe="")),
    "in JSON": lambda key: msgspec.json.encode(key).decode(),
    "in JSON with escaped slashes": lambda key: msgspec.json.encode(key).decode().replace("/", "\\/"),
    "in JSON as ASCII": lambda key: re.sub(r"[^\w/-]", lambda mark: f"\\u{ord(mark[0]):04x}", key),
    "in JSON with all punctuation escaped": lambda key: re.sub(r"\W", lambda mark: f"\\u{ord(mark[0]):04X}", key),
    "in HTML as decimal references": lambda key: re.sub(r"\W", lambda mark: f"&#{ord(mark[0])};", key),
    "in HTML as hexadecimal references": lambda key: re.sub(r"\W", lambda mark: f"&#x{ord(mark[0]):x};", key),
    "in HTML": lambda key: f"<h1>{html.escape(key)}</h1>",
    "in a repr": "{!r}".format,
    "twice": lambda key: key + key,
}


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=ENCODINGS.keys())
@pytest.mark.parametrize("key", [KEY, AWKWARD], ids=["plain key", "awkward key"])
async def test_an_echo_in_any_encoding_is_redacted(raw: RawServer, encode: Callable[[str], str], key: str) -> None:
    raw.answer(http(400, f"you sent {encode(key)}, which is invalid", {"X-Request-Id": "r"}, content_type="text/plain"))
    async with MutexSession(key, base_url=raw.url, rate_limiter=fast_limiter(), retry=ONCE) as session:
        with pytest.raises(APIError) as caught:
            await session.get_group("7")
    shown = f"{caught.value} {caught.value.detail} {caught.value.body}"
    assert "***" in shown
    assert encode(key) not in shown
    assert key not in shown
    assert shown.count("which is invalid") == 3


async def test_a_long_echo_is_not_cut_within_a_key(raw: RawServer) -> None:
    raw.answer(http(400, KEY * 5_000, content_type="text/plain"))
    async with session_for(raw.url, retry=ONCE) as session:
        with pytest.raises(APIError) as caught:
            await session.get_group("7")
    assert set(caught.value.body) == {"*"}


@pytest.mark.parametrize("way", ["list_page", "collect", "find_group"])
async def test_a_cursor_that_holds_the_key_is_not_followed(raw: RawServer, way: str) -> None:
    raw.answer(http(200, {"mutexes": [], "nextCursor": f"at {KEY}"}))
    async with session_for(raw.url, retry=ONCE) as session:
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "list_page": session.list_page,
            "collect": session.list_groups().collect,
            "find_group": functools.partial(session.find_group, "k"),
        }
        with pytest.raises(PaginationError) as caught:
            await calls[way]()
    assert leaks(shown_by(caught.value)) == []
    assert caught.value.cursor == "at ***"
    assert len(raw.requests) == 1


# ------------------------------------------------------------------ objects


async def test_only_secret_strings_hold_the_key_and_no_repr_or_pickle_shows_it() -> None:
    key = SecretStr(f"mgmt-{secrets.token_hex(16)}")
    coded = SecretStr(base64.b64encode(key.encode()).decode())
    # The emulator holds the key as well, so it runs in another process.
    with EmulatorProcess(groups=3, limits=False) as emulator:
        async with MutexSession(key, base_url=emulator.url, rate_limiter=fast_limiter(), retry=ONCE) as session:
            await session.edit_slot("1", 1, experiments=[1])
            await session.list_groups().collect()
            report = await session.edit_slots([SlotEdit("1", 1, experiments=[2]), SlotEdit("9", 1, experiments=[2])])
            with pytest.raises(MutexError) as caught:
                await session.get_group("404")
            error = caught.value
            found = parts_of([session, session.with_options(), session.rate_limiter, report, vars(error)], 12)
            assert leaks([repr(part) for part in found], key) == []
            gc.collect()
            # Of all objects in the process, only secret strings hold the key, also inside aiohttp.
            held = [
                f"{type(text)} in {type(holder)}"
                for holder in gc.get_objects()
                for text in cast("list[object]", gc.get_referents(holder))
                if (type(text) is str and (key in text or coded in text))
                or (type(text) is bytes and key.encode() in text)
            ]
            assert held == []
    for value in (session, session.with_options(), [key], {"Authorization": key}):
        with pytest.raises((TypeError, AttributeError)):
            pickle.dumps(value)
    for kept in (report, error):
        assert key.encode() not in pickle.dumps(kept)


# ------------------------------------------------------------------ files


async def test_no_file_holds_the_key_during_or_after_a_run(raw: RawServer, tmp_path: Path) -> None:
    writes = 0

    async def echo_key(visit: Visit) -> None:
        nonlocal writes
        key = visit.request.headers["authorization"]
        if visit.request.line.startswith("GET"):
            await visit.send(http(200, GROUP, {"X-Echo": key}))
            return
        writes += 1
        await visit.send(http(200 if writes % 2 else 400, {"message": f"you sent {key}"}, {"X-Request-Id": key}))

    raw.answer(echo_key)
    files: list[tuple[str, bytes]] = []

    def collect() -> None:
        files.extend((path.name, path.read_bytes()) for path in tmp_path.iterdir())

    edits = [SlotEdit("7", 1 + n % 2, experiments=[n]) for n in range(20)]
    async with session_for(raw.url, retry=ONCE) as session:
        async with session.stream_slot_edits(edits, journal=tmp_path / "run.db", concurrency=2) as outcomes:
            async for _ in outcomes:
                collect()
        # The journal also keeps the outcomes of an undo.
        with suppress(JournalError):
            await aiomutex.bulk.undo(session, tmp_path / "run.db")
    collect()
    assert {name for name, _ in files} >= {"run.db", "run.db-wal"}
    assert [name for name, data in files if KEY.encode() in data] == []
