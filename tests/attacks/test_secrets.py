"""The key shows nowhere: not where a server repeats it and then breaks off, not in any object, file or output."""

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


# ------------------------------------------------------------------ what a traceback shows, and what looks deeper


def parts_of(value: object, depth: int = 6, *, opens_objects: bool = True) -> Iterator[object]:
    """A value and its items, and what ``vars`` and slots tell of our own objects."""
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
    """The locals of each frame of a traceback and of those it hangs on, but for the tests' own."""
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
    """All that tools show of an error: texts, attributes, pickles, and tracebacks with locals, also looked into."""
    shown = [str(error), repr(error), repr(error.args), repr(vars(error))]
    with suppress(TypeError):
        shown.append(repr(pickle.dumps(error)))
    for names in frames_of(error, set()):
        for name, value in names.items():
            shown += [f"{name}: {part!r}" for part in parts_of(value, 3, opens_objects=False)]
    return shown


def leaks(texts: list[str], key: str = KEY) -> list[str]:
    return [text[:300] for text in texts if key in text]


def echoing(before: bytes, *, cut: bool = False) -> Callable[[Visit], Awaitable[None]]:
    """A server that repeats the key wherever it can, and does not come to an end."""

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


BREAKING_OFF: Final[dict[str, Callable[[Visit], Awaitable[None]]]] = {
    "within the body": echoing(b"HTTP/1.1 200 KEY\r\nECHO\r\nContent-Length: 99999\r\n\r\nKEY", cut=True),
    "dawdling in the body": echoing(b"HTTP/1.1 200 KEY\r\nECHO\r\nContent-Length: 99999\r\n\r\nKEY"),
    "dawdling in a refusal": echoing(b"HTTP/1.1 400 KEY\r\nECHO\r\nContent-Length: 99999\r\n\r\nKEY"),
    "dawdling after early hints": echoing(b"HTTP/1.1 103 KEY\r\nECHO\r\n\r\nHTTP/1.1 200 KEY\r\nX: "),
    "a body too large": echoing(b"HTTP/1.1 200 KEY\r\nECHO\r\nContent-Length: 99999\r\n\r\n" + b"KEY " * 2_000),
    "a switch of protocols": echoing(b"HTTP/1.1 101 KEY\r\nUpgrade: x\r\nConnection: upgrade\r\nECHO\r\n\r\n"),
    "a status that is none": echoing(b"HTTP/1.1 KEY OK\r\n\r\n"),
    "a header that is none": echoing(b"HTTP/1.1 200 OK\r\nKEY\x00: KEY\r\n\r\n"),
    "chunks that are none": echoing(b"HTTP/1.1 200 OK\r\nECHO\r\nTransfer-Encoding: chunked\r\n\r\nKEY\r\n"),
    "a coding that is none": echoing(b"HTTP/1.1 200 OK\r\nECHO\r\nContent-Encoding: gzip\r\nX: y\r\n\r\nKEY", cut=True),
}  # fmt: skip


@pytest.mark.parametrize("act", BREAKING_OFF.values(), ids=BREAKING_OFF.keys())
@pytest.mark.parametrize(("borrowed", "cancelled"), [(False, False), (False, True), (True, True)])
async def test_an_echo_that_breaks_off_shows_the_key_nowhere(
    raw: RawServer, caplog: pytest.LogCaptureFixture, act: Any, borrowed: bool, cancelled: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    unhandled: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unhandled.append(context))
    raw.answer(act)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as mine:
        session = session_for(raw.url, http=mine if borrowed else None, attempt_timeout=0.06, retry=ONCE)
        async with session:
            inside: Any = session
            inside._transport._max_body = 20_000
            call = asyncio.ensure_future(session.edit_slot("7", 1, experiments=[1]))
            await until(lambda: raw.requests)
            if cancelled:
                await asyncio.sleep(0.03)
                call.cancel()
            with pytest.raises((MutexError, asyncio.CancelledError)) as caught:
                await call
            assert borrowed or idle(session)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        gc.collect(1)
    told = [caplog.text, repr(unhandled), *(str(each.message) for each in warned)]
    assert leaks(shown_by(caught.value) + told) == []


async def test_a_session_that_was_never_closed_is_complained_of_without_its_key(raw: RawServer) -> None:
    told: list[str] = []
    # Texts only: to keep what the complaint is about would keep it alive.
    asyncio.get_running_loop().set_exception_handler(lambda _, about: told.extend(map(repr, parts_of(about))))
    session: Any = session_for(raw.url)
    session._transport.open()
    await session.get_group("7")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        del session
        for _ in range(2):  # the complaint about the session holds its connector, of which comes the next
            gc.collect()
            told += [repr(each.message) for each in warned]
            warned.clear()
    assert "Unclosed connector" in "".join(told)
    assert leaks(told) == []


# ------------------------------------------------------------------ the key in the clothes a service may put it in

AWKWARD: Final = 'mgmt/3f9a51+c07b"e2\\4d&68<z>=='
CLOTHES: Final[dict[str, Callable[[str], str]]] = {
    "plain": str,
    "in a header": "Bearer {}".format,
    "in a URL": lambda key: f"https://login/?token={quote(key, safe='')}",
    "in a URL with its slashes": lambda key: f"https://login/?token={quote(key)}",
    "in a URL in lower case": lambda key: re.sub("%..", lambda code: code[0].lower(), quote(key, safe="")),
    "in JSON": lambda key: msgspec.json.encode(key).decode(),
    "in JSON with escaped slashes": lambda key: msgspec.json.encode(key).decode().replace("/", "\\/"),
    "in JSON of plain letters": lambda key: re.sub(r"[^\w/-]", lambda mark: f"\\u{ord(mark[0]):04x}", key),
    "in JSON of letters alone": lambda key: re.sub(r"\W", lambda mark: f"\\u{ord(mark[0]):04X}", key),
    "in HTML by numbers": lambda key: re.sub(r"\W", lambda mark: f"&#{ord(mark[0])};", key),
    "in HTML by hexadecimal numbers": lambda key: re.sub(r"\W", lambda mark: f"&#x{ord(mark[0]):x};", key),
    "in HTML": lambda key: f"<h1>{html.escape(key)}</h1>",
    "in a repr": "{!r}".format,
    "twice": lambda key: key + key,
}


@pytest.mark.parametrize("dress", CLOTHES.values(), ids=CLOTHES.keys())
@pytest.mark.parametrize("key", [KEY, AWKWARD], ids=["plain key", "awkward key"])
async def test_an_echo_in_any_likely_form_is_struck_out(raw: RawServer, dress: Callable[[str], str], key: str) -> None:
    raw.answer(http(400, f"you sent {dress(key)}, which is no good", {"X-Request-Id": "r"}, kind="text/plain"))
    async with MutexSession(key, base_url=raw.url, rate_limiter=fast_limiter(), retry=ONCE) as session:
        with pytest.raises(APIError) as caught:
            await session.get_group("7")
    told = f"{caught.value} {caught.value.detail} {caught.value.body}"
    assert "***" in told
    assert dress(key) not in told
    assert key not in told
    assert told.count("which is no good") == 3


async def test_a_long_echo_is_cut_within_no_key(raw: RawServer) -> None:
    raw.answer(http(400, KEY * 5_000, kind="text/plain"))
    async with session_for(raw.url, retry=ONCE) as session:
        with pytest.raises(APIError) as caught:
            await session.get_group("7")
    assert set(caught.value.body) == {"*"}


@pytest.mark.parametrize("way", ["list_page", "collect", "find_group"])
async def test_a_cursor_that_is_the_key_is_not_followed(raw: RawServer, way: str) -> None:
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


async def test_whatever_holds_the_key_is_a_secret_that_no_repr_or_pickle_tells() -> None:
    key = SecretStr(f"mgmt-{secrets.token_hex(16)}")
    coded = SecretStr(base64.b64encode(key.encode()).decode())
    # The service holds the key too, so it is kept out of this process.
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
            # Looked at from all there is: the key is held by secrets alone, also inside of aiohttp.
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


async def test_no_file_of_a_run_holds_the_key_while_it_runs_or_afterwards(raw: RawServer, tmp_path: Path) -> None:
    refusals = 0

    async def mixed(visit: Visit) -> None:
        nonlocal refusals
        key = visit.request.headers["authorization"]
        if visit.request.line.startswith("GET"):
            await visit.send(http(200, GROUP, {"X-Echo": key}))
            return
        refusals += 1
        await visit.send(http(200 if refusals % 2 else 400, {"message": f"you sent {key}"}, {"X-Request-Id": key}))

    raw.answer(mixed)
    files: list[tuple[str, bytes]] = []

    def look() -> None:
        files.extend((path.name, path.read_bytes()) for path in tmp_path.iterdir())

    edits = [SlotEdit("7", 1 + n % 2, experiments=[n]) for n in range(20)]
    async with session_for(raw.url, retry=ONCE) as session:
        async with session.stream_slot_edits(edits, journal=tmp_path / "run.db", concurrency=2) as outcomes:
            async for _ in outcomes:
                look()
        # The outcomes of an undo are kept in the journal, too.
        with suppress(JournalError):
            await aiomutex.bulk.undo(session, tmp_path / "run.db")
    look()
    assert {name for name, _ in files} >= {"run.db", "run.db-wal"}
    assert [name for name, data in files if KEY.encode() in data] == []
