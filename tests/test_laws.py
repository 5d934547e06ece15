"""The laws of the design: each test here breaks when its law is broken."""

from __future__ import annotations

import ast
import asyncio
import copy
import functools
import io
import logging
import pickle
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from support import (
    FAST,
    GROUP,
    KEY,
    ONCE,
    RawServer,
    connector_of,
    fast_limiter,
    http,
    idle,
    reset_before_answer,
    say_nothing,
    session_for,
    until,
)

import aiomutex
from aiomutex import (
    UNSET,
    AttemptTimeoutError,
    ConfigurationError,
    DeadlineExceededError,
    LocalRateLimiter,
    MutexError,
    MutexSession,
    NewGroup,
    NewSlot,
    Priority,
    RetryPolicy,
)
from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from support import Visit

NEW = NewGroup(project_id=1, name="n", key="k", slots=[NewSlot(percentage=100)])
PACKAGE = Path(aiomutex.__file__).parent


# ------------------------------------------------------------------ 1. the key is a secret


def told_of(error: BaseException) -> str:
    """All that an error shows: its texts, its attributes, and a traceback that prints locals."""
    shown = [str(error), repr(error), repr(vars(error)), repr(error.args)]
    with suppress(Exception):
        shown.append(repr(pickle.dumps(error)))
    trace = traceback.TracebackException.from_exception(error, capture_locals=True)
    shown += list(trace.format())
    shown += [told_of(earlier) for earlier in getattr(error, "earlier", ())]
    return "\n".join(shown)


ECHOES: dict[str, Callable[[bytes], bytes]] = {
    "text": lambda key: b"you sent " + key,
    "object": lambda key: b'{"message": "bad key ' + key + b'"}',
    "html": lambda key: b"<html><title>" + key + b"</title>" + key * 10_000,
    "near the cut": lambda key: b"x" * (4096 - len(key) // 2) + key,
}


def echo(status: int, body: Callable[[bytes], bytes]) -> Callable[[Visit], Awaitable[None]]:
    """A server that repeats the key: in the body, and in each header that an error looks at."""

    async def answer(visit: Visit) -> None:
        secret = visit.request.headers["authorization"].removeprefix("Bearer ")
        headers = {"X-Request-Id": secret, "Location": f"https://evil/?k={secret}", "X-Echo": f"Bearer {secret}"}
        headers["Retry-After"] = "0.001"
        await visit.send(http(status, body(secret.encode()), headers, kind=f"text/{secret}"))

    return answer


ANSWERS: dict[str, Any] = {
    **{
        f"{status} {name}": echo(status, body)
        for status in (200, 301, 400, 401, 429, 500)
        for name, body in ECHOES.items()
    },
    "reset": reset_before_answer,
    "silence": say_nothing,
    "no HTTP": b"NONSENSE\r\n\r\n",
    "cut short": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n{",
    "success": http(200, GROUP),
}


@pytest.mark.parametrize("name", ["200 text", "500 object", "reset", "success"])
async def test_the_key_is_shown_by_no_log_of_a_loop_in_debug_mode(
    raw: RawServer, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    caplog.set_level(logging.DEBUG)
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 0.0
    raw.answer(ANSWERS[name])
    async with session_for(raw.url, retry=ONCE) as session:
        with suppress(MutexError):
            await session.get_group("7")
    assert "took" in caplog.text
    assert KEY not in caplog.text


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
@pytest.mark.parametrize("borrowed", [False, True])
async def test_the_key_is_shown_by_no_error_log_or_traceback(
    raw: RawServer, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], answer: Any, borrowed: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    loop = asyncio.get_running_loop()
    unhandled: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unhandled.append(context))
    raw.answer(answer)
    errors: list[BaseException] = []
    async with aiohttp.ClientSession() as mine:
        session = session_for(
            raw.url, http=mine if borrowed else None, attempt_timeout=0.1, retry=RetryPolicy(max_attempts=2, base=0)
        )
        async with session:
            for call in (session.get_group("7"), session.edit_slot("7", 1, experiments=[1]), session.create_group(NEW)):
                try:
                    await asyncio.wait_for(call, 5)
                except (MutexError, TimeoutError) as error:
                    errors.append(error)
            inside: Any = session
            insides: list[dict[str, Any]] = [vars(inside), vars(inside._transport)]
            shown = [repr(session), *map(repr, insides)]
    shown += [told_of(error) for error in errors]
    shown += [caplog.text, repr(unhandled), *capsys.readouterr()]
    assert not [text for text in shown if KEY in text or KEY[:12] in text]
    assert raw.requests[0].headers["authorization"] == f"Bearer {KEY}"


async def test_the_key_is_shown_by_no_traceback_of_a_cancelled_call(raw: RawServer) -> None:
    raw.answer(say_nothing)
    async with session_for(raw.url) as session:
        call = asyncio.ensure_future(session.get_group("7"))
        await until(lambda: raw.requests)
        stack = io.StringIO()
        call.print_stack(file=stack)
        call.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await call
    assert KEY not in told_of(caught.value) + stack.getvalue() + repr(call)


@pytest.mark.parametrize(
    "wrong",
    [
        {"region": "mars"},
        {"base_url": "http://example.com"},
        {"max_connections": 0},
        {"attempt_timeout": -1},
        {"retry": "x"},
        {"api_key": f"{KEY}\n"},
        {"api_key": f" {KEY}"},
        {"api_key": f"{KEY}é"},
    ],
    ids=str,
)
def test_the_key_is_shown_by_no_traceback_of_a_constructor_that_refuses(wrong: dict[str, Any]) -> None:
    options: dict[str, Any] = {"api_key": KEY} | wrong
    with pytest.raises(ConfigurationError) as caught:
        MutexSession(**options)
    trace = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    ours = [frame for frame in trace.stack if Path(frame.filename).is_relative_to(PACKAGE)]
    assert ours
    assert not [frame for frame in ours if KEY in repr(frame.locals)]
    assert KEY not in str(caught.value)


async def test_the_key_is_pickled_and_copied_by_nothing(emulator: MutexEmulator) -> None:
    async with session_for(emulator.url) as session:
        for give in (pickle.dumps, copy.deepcopy):
            with pytest.raises((TypeError, AttributeError)):
                give(session)
            inside: Any = session
            with pytest.raises(TypeError, match="an API key cannot be pickled"):
                give(inside._transport._key)


async def test_the_key_goes_over_plain_http_to_loopback_only() -> None:
    with pytest.raises(ConfigurationError, match="https"):
        MutexSession(KEY, base_url="http://192.0.2.1")


async def test_a_short_key_mangles_no_message(emulator: MutexEmulator) -> None:
    async with MutexSession("key", base_url=emulator.url) as session:
        emulator.add_group(key="taken")
        with pytest.raises(MutexError, match="key") as caught:
            await session.create_group(NewGroup(project_id=1, name="n", key="taken", slots=[NewSlot(percentage=100)]))
    assert "***" not in str(caught.value)


# ------------------------------------------------------------------ 3. UNSET is not None is not empty


async def test_unset_is_not_sent_none_is_null_and_empty_is_empty(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    emulator.add_group("g", slots=[{"percentage": 100, "experiments": [1], "holdouts": [2], "individuals": ["u"]}])
    await session.edit_slot("g", 1, holdouts=[])
    await session.edit_group("g", name="n")
    await session.edit_group("g", description=None)
    await session.edit_group("g", name=UNSET, description="")
    await session.edit_slot("g", 1, experiments=UNSET, holdouts=UNSET, individuals=[])
    bodies = [request.body for request in emulator.requests]
    assert bodies == [
        b'{"holdouts":[]}',
        b'{"name":"n"}',
        b'{"description":null}',
        b'{"description":""}',
        b'{"individuals":[]}',
    ]
    slot = emulator.groups["g"].slots[0]
    assert (slot.experiments, slot.holdouts, slot.individuals) == ([1], [], [])


# ------------------------------------------------------------------ 4. the budget


async def test_a_permit_is_taken_once_the_connection_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = fast_limiter()
    async with (
        MutexEmulator(groups=1, limits=False, handshake_delay=0.15) as emulator,
        session_for(emulator.url, rate_limiter=limiter) as session,
    ):
        permits: list[float] = []
        acquire = limiter.acquire

        async def noted(priority: Priority = Priority.INTERACTIVE) -> float:
            # A connector that is asked for a permit holds a connection already.
            assert len(connector_of(session)._acquired) == 1
            permits.append(await acquire(priority))
            return permits[-1]

        monkeypatch.setattr(limiter, "acquire", noted)
        await session.get_group("1")
    assert len(permits) == 1


async def test_the_attempts_clock_starts_with_the_permit_and_not_before(emulator: MutexEmulator) -> None:
    async with session_for(
        emulator.url, rate_limiter=LocalRateLimiter(per_second=1), attempt_timeout=0.5, retry=ONCE
    ) as session:
        # The second permit comes a second after the first.
        await session.get_group("1")
        assert (await session.get_group("2")).id == "2"


async def test_the_wait_for_a_connection_is_no_part_of_an_attempt(raw: RawServer) -> None:
    async def slowly(visit: Visit) -> None:
        await asyncio.sleep(0.1)
        await visit.send(http(200, GROUP))

    raw.answer(slowly)
    async with session_for(raw.url, max_connections=1, attempt_timeout=0.35, retry=ONCE) as session:
        await asyncio.gather(*(session.get_group("7") for _ in range(6)))
    assert raw.connections == 1


async def test_interactive_calls_go_ahead_of_bulk_ones(emulator: MutexEmulator) -> None:
    limiter = LocalRateLimiter(per_second=20)
    async with session_for(emulator.url, rate_limiter=limiter, retry=ONCE) as session:
        bulk = session.with_options(priority=Priority.BULK)
        await asyncio.gather(*(session.get_group("1") for _ in range(19)))
        slow = [asyncio.ensure_future(bulk.get_group("2")) for _ in range(8)]
        await until(lambda: limiter.state().waiting >= 8)
        await session.get_group("3")
        assert sum(call.done() for call in slow) <= 1
        for call in slow:
            call.cancel()
        await asyncio.gather(*slow, return_exceptions=True)


async def test_two_sessions_with_one_limiter_share_its_budget(emulator: MutexEmulator) -> None:
    limiter = LocalRateLimiter(per_day=5)
    async with (
        session_for(emulator.url, rate_limiter=limiter) as one,
        session_for(emulator.url, rate_limiter=limiter) as other,
    ):
        assert one.rate_limiter is other.rate_limiter is limiter
        results = await asyncio.gather(
            *(session.get_group("1") for session in (one, other) for _ in range(5)), return_exceptions=True
        )
    assert sum(isinstance(result, MutexError) for result in results) == 5
    assert len(emulator.requests) == 5


async def test_every_request_has_a_permit_and_no_second_has_more_than_100(
    emulator: MutexEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Measured where permits are given: when requests arrive depends on how busy this machine is.
    limiter = LocalRateLimiter()
    permits: list[float] = []
    acquire = limiter.acquire

    async def noted(priority: Priority = Priority.INTERACTIVE) -> float:
        permits.append(await acquire(priority))
        return permits[-1]

    monkeypatch.setattr(limiter, "acquire", noted)
    async with session_for(emulator.url, rate_limiter=limiter) as session:
        await asyncio.gather(*(session.get_group("1") for _ in range(150)))
    assert len(permits) == len(emulator.requests) == 150
    assert all(later - earlier >= 1 for earlier, later in zip(permits, permits[100:], strict=False))


# ------------------------------------------------------------------ 6. cancellation is clean


def in_flight(session: MutexSession) -> int:
    inside: Any = session
    return inside._transport.in_flight  # type: ignore[no-any-return]


async def assert_clean(session: MutexSession, before: set[asyncio.Task[Any]]) -> None:
    await asyncio.sleep(0)
    assert idle(session)
    assert asyncio.all_tasks() == before
    assert session.rate_limiter.state().waiting == 0


async def cancelled(call: asyncio.Task[Any]) -> None:
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert call.cancelled()


async def test_cancelled_while_it_waits_for_a_permit(emulator: MutexEmulator) -> None:
    limiter = LocalRateLimiter(per_second=1)
    async with session_for(emulator.url, rate_limiter=limiter) as session:
        await session.get_group("1")
        before = asyncio.all_tasks()
        call = asyncio.ensure_future(session.get_group("1"))
        await until(lambda: limiter.state().waiting)
        await cancelled(call)
        await assert_clean(session, before)
        assert limiter.state().used_today == 1
        await session.get_group("1")
    assert len(emulator.requests) == 2


async def test_cancelled_while_it_waits_for_a_connection(raw: RawServer) -> None:
    limiter = fast_limiter()
    raw.answer(say_nothing)
    async with session_for(raw.url, rate_limiter=limiter, max_connections=1) as session:
        before = asyncio.all_tasks()
        holder = asyncio.ensure_future(session.get_group("7"))
        await until(lambda: raw.requests)
        call = asyncio.ensure_future(session.get_group("7"))
        await until(lambda: any(connector_of(session)._waiters.values()))
        await cancelled(call)
        await cancelled(holder)
        await asyncio.sleep(0.01)
        assert idle(session)
        assert len(asyncio.all_tasks() - before) <= 1  # the server's end of the connection
        assert limiter.state().used_today == 1


async def test_cancelled_while_it_connects(raw: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    limiter = fast_limiter()
    async with session_for(raw.url, rate_limiter=limiter) as session:
        before = asyncio.all_tasks()
        reached = asyncio.Event()

        async def stuck(*args: object, **more: object) -> None:
            reached.set()
            await asyncio.Event().wait()

        connector = connector_of(session)
        monkeypatch.setattr(connector, "_create_connection", stuck)
        call = asyncio.ensure_future(session.get_group("7"))
        await reached.wait()
        await cancelled(call)
        await assert_clean(session, before)
        assert limiter.state().used_today == 0
        monkeypatch.undo()
        assert (await session.get_group("7")).id == "7"


async def test_cancelled_while_it_waits_for_the_answer(emulator: MutexEmulator) -> None:
    emulator.fail_next(kind="stall")
    async with session_for(emulator.url, max_connections=1) as session:
        call = asyncio.ensure_future(session.edit_slot("1", 1, experiments=[9]))
        await until(lambda: emulator.requests)
        await cancelled(call)
        assert idle(session)
        assert (await session.get_group("1")).id == "1"


async def test_cancelled_within_the_body(raw: RawServer) -> None:
    reached = asyncio.Event()

    async def half(visit: Visit) -> None:
        await visit.send(http(200, GROUP)[:-10])
        reached.set()
        await visit.reader.read()

    raw.answer(half, http(200, GROUP))
    async with session_for(raw.url, max_connections=1) as session:
        call = asyncio.ensure_future(session.get_group("7"))
        await reached.wait()
        await asyncio.sleep(0.01)
        await cancelled(call)
        assert idle(session)
        assert (await session.get_group("7")).id == "7"
    assert raw.connections == 2


async def test_cancelled_in_a_back_off(emulator: MutexEmulator) -> None:
    emulator.fail_next(status=503)
    async with session_for(emulator.url, retry=RetryPolicy(base=5.0, cap=5.0)) as session:
        call = asyncio.ensure_future(session.get_group("1"))
        await until(lambda: emulator.requests and idle(session))
        await cancelled(call)
        assert idle(session)
        assert (await session.get_group("1")).id == "1"
    assert len(emulator.requests) == 2


async def test_cancelled_at_any_turn_of_the_loop_leaks_nothing(emulator: MutexEmulator) -> None:
    limiter = fast_limiter()
    async with session_for(emulator.url, rate_limiter=limiter, max_connections=1, retry=ONCE) as session:
        for turns in range(60):
            call = asyncio.ensure_future(session.edit_slot("1", 1, experiments=[turns]))
            for _ in range(turns):
                await asyncio.sleep(0)
            call.cancel()
            with suppress(asyncio.CancelledError):
                await call
            assert in_flight(session) == 0
        await session.get_group("1")
        assert idle(session)
        assert limiter.state().waiting == 0


async def test_a_timeout_of_the_users_own_comes_out_as_a_timeout(raw: RawServer) -> None:
    raw.answer(say_nothing)
    async with session_for(raw.url, max_connections=1) as session:
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.05):
                await session.get_group("7")
        assert not isinstance(caught.value, MutexError)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert idle(session)


async def test_a_timeout_of_ours_cancels_nothing_of_the_users(raw: RawServer) -> None:
    raw.answer(say_nothing)
    task = asyncio.current_task()
    assert task is not None
    async with session_for(raw.url, attempt_timeout=0.02, retry=ONCE) as session, asyncio.timeout(5):
        for _ in range(3):
            with pytest.raises(AttemptTimeoutError):
                await session.get_group("7")
            assert task.cancelling() == 0
            await asyncio.sleep(0)


async def test_a_task_cancelled_as_its_timeout_strikes_is_cancelled(raw: RawServer) -> None:
    raw.answer(say_nothing)
    async with session_for(raw.url, attempt_timeout=5.0, deadline=0.03, retry=ONCE) as session:
        loop = asyncio.get_running_loop()
        outcomes: set[type[BaseException]] = set()
        for step in range(-3, 4):
            call = asyncio.ensure_future(session.get_group("7"))
            loop.call_later(0.03 + step * 0.0004, call.cancel)
            try:
                await call
            except (asyncio.CancelledError, DeadlineExceededError) as error:
                outcomes.add(type(error))
            assert in_flight(session) == 0
        assert outcomes <= {asyncio.CancelledError, DeadlineExceededError}
        assert asyncio.current_task() in asyncio.all_tasks()


async def test_a_call_made_while_its_task_is_being_cancelled_works_and_times_out(raw: RawServer) -> None:
    raw.answer(say_nothing, http(200, GROUP))

    async def clean_up_when_cancelled() -> tuple[str, str]:
        try:
            await asyncio.Event().wait()
        finally:
            with pytest.raises(AttemptTimeoutError):
                await session.get_group("7")
            assert (await session.get_group("7")).id == "7"
            done.append("cleaned up")
        raise AssertionError

    done: list[str] = []
    async with session_for(raw.url, attempt_timeout=0.05, retry=ONCE) as session:
        task = asyncio.ensure_future(clean_up_when_cancelled())
        await asyncio.sleep(0)
        await cancelled(task)
    assert done == ["cleaned up"]


async def test_closing_a_session_fails_its_calls_and_cancels_no_task(raw: RawServer) -> None:
    raw.answer(say_nothing)
    async with session_for(raw.url, max_connections=1, retry=ONCE) as session:
        calls = [asyncio.ensure_future(session.get_group("7")) for _ in range(3)]
        await until(lambda: raw.requests)
        await session.aclose()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(outcome, MutexError) for outcome in outcomes), outcomes


# ------------------------------------------------------------------ 7, 8, 9: structure


@functools.cache
def modules() -> dict[str, ast.Module]:
    return {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in PACKAGE.rglob("*.py")
    }


def imports(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("aiomutex.")}


def test_nothing_yields_inside_a_task_group() -> None:
    for name, tree in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.AsyncWith) and "create_task_group" in ast.unparse(node.items[0]):
                assert not any(isinstance(inner, ast.Yield | ast.YieldFrom) for inner in ast.walk(node)), name


def test_no_object_cleans_up_by_being_forgotten() -> None:
    for name, tree in modules().items():
        assert not any(isinstance(node, ast.FunctionDef) and node.name == "__del__" for node in ast.walk(tree)), name


# Each room may import from the rooms on lines above its own, and from itself.
LAYERS = (
    {"errors"},
    {"_util"},
    {"models", "limits"},
    {"retry", "_api"},
    {"_http"},
    {"paging", "bulk"},
    {"session"},
    {"fleet", "probe", "traffic"},
    {"plan"},
    {"cli"},
    {"__main__"},
)


def room_of(module: str) -> str:
    """``aiomutex.bulk.journal`` is in the room ``bulk``."""
    return module.removeprefix("aiomutex.").partition(".")[0]


def test_every_import_points_downwards() -> None:
    rank = {room: place for place, rooms in enumerate(LAYERS) for room in rooms}
    rooms = {room_of(name.removesuffix(".py").replace("/", ".")) for name in modules()}
    assert rooms == {*rank, "__init__", "emulator", "testing"}
    wrong: list[str] = []
    for name, tree in modules().items():
        room = room_of(name.removesuffix(".py").replace("/", "."))
        if room in ("__init__", "emulator", "testing"):
            continue
        for module in imports(tree):
            target = room_of(module)
            if target == "emulator" and room == "cli":
                continue
            if target != room and rank.get(target, len(LAYERS)) >= rank[room] and target in {*rank, "emulator"}:
                wrong.append(f"{name} imports {module}")
    assert not wrong


def test_emulator_and_client_import_nothing_of_each_other() -> None:
    for name, tree in modules().items():
        if name.startswith("emulator/"):
            assert all(module.startswith("aiomutex.emulator") for module in imports(tree)), name


def test_the_pure_modules_know_no_socket() -> None:
    pure = [name for name in modules() if name.startswith("_api/")] + ["errors.py", "models.py", "retry.py"]
    for name in pure:
        for node in ast.walk(modules()[name]):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {module.partition(".")[0] for module in names} & {"aiohttp", "asyncio", "anyio", "socket"}, name


def test_only_the_http_room_and_the_limiters_examples_know_aiohttp() -> None:
    for name, tree in modules().items():
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        if any(module and module.partition(".")[0] == "aiohttp" for module in imported):
            assert name.startswith(("_http/", "emulator/", "session.py", "client.py")), name


async def test_an_answer_of_ordinary_size_keeps_its_connection_and_a_huge_one_is_refused(raw: RawServer) -> None:
    raw.answer(http(200, GROUP + b" " * 1_000_000), http(200, GROUP))
    async with session_for(raw.url, retry=FAST) as session:
        await session.get_group("7")
        await session.get_group("7")
    assert raw.connections == 1


async def test_a_connection_lost_while_it_waits_for_its_permit_is_replaced_and_costs_no_attempt(raw: RawServer) -> None:
    limiter = LocalRateLimiter(per_second=1)
    gone = asyncio.Event()

    async def answer_and_leave(visit: Visit) -> None:
        await visit.send(http(200, GROUP))
        await until(lambda: limiter.state().waiting)
        visit.writer.close()
        gone.set()

    raw.answer(answer_and_leave, http(200, GROUP))
    async with session_for(raw.url, rate_limiter=limiter, retry=ONCE) as session:
        await session.get_group("7")
        await session.get_group("7")
    assert gone.is_set()
    assert (raw.connections, len(raw.requests), limiter.state().used_today) == (2, 2, 2)
