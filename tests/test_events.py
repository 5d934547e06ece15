"""What a session reports about its attempts: to hooks and to the log."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from support import GROUP, KEY, ROOT, http, session_for

from aiomutex import BadRequestError, ConfigurationError, LocalRateLimiter, MutexSession, Priority, ServerError
from aiomutex.events import Attempt, route_of

if TYPE_CHECKING:
    from support import RawServer

    from aiomutex.testing import MutexEmulator


async def test_each_attempt_is_passed_to_every_hook(emulator: MutexEmulator) -> None:
    first: list[Attempt] = []
    second: list[Attempt] = []
    emulator.fail_next(2, status=503)
    async with session_for(emulator.url, on_attempt=[first.append, second.append]) as session:
        bulk = session.with_options(priority=Priority.BULK)
        await bulk.edit_slot("1", 2, experiments=[5])
    assert first == second
    assert [(each.number, each.status, type(each.error)) for each in first] == [
        (1, 503, ServerError),
        (2, 503, ServerError),
        (3, 200, type(None)),
    ]
    assert all(each.retry_in is not None for each in first[:2])
    last = first[-1]
    assert (last.method, last.path, last.route) == (
        "PATCH",
        f"{ROOT}/1/slots/2",
        "/api/1/mutexes/{id}/slots/{slotIndex}",
    )
    assert (last.retry_in, last.priority) == (None, Priority.BULK)
    assert all(each.duration > 0 and each.permit_wait >= 0 and each.connection_wait >= 0 for each in first)


async def test_the_wait_for_a_permit_is_not_part_of_the_duration(emulator: MutexEmulator) -> None:
    attempts: list[Attempt] = []
    limiter = LocalRateLimiter(per_second=1)
    async with session_for(emulator.url, rate_limiter=limiter, on_attempt=attempts.append) as session:
        await session.get_group("1")
        await session.get_group("1")
    assert attempts[1].permit_wait > 0.9
    assert attempts[1].duration < attempts[1].permit_wait


async def test_a_final_error_is_reported_without_a_retry(raw: RawServer) -> None:
    attempts: list[Attempt] = []
    raw.answer(http(400, b'{"message":"no"}', {"X-Request-Id": "7f3a"}))
    async with session_for(raw.url, on_attempt=attempts.append) as session:
        with pytest.raises(BadRequestError):
            await session.get_group("7")
    [attempt] = attempts
    assert (attempt.status, attempt.request_id, attempt.retry_in) == (400, "7f3a", None)


async def test_a_hook_that_raises_affects_no_call(emulator: MutexEmulator, caplog: pytest.LogCaptureFixture) -> None:
    attempts: list[Attempt] = []

    def fail(attempt: Attempt) -> None:
        raise ZeroDivisionError(attempt.number)

    async with session_for(emulator.url, on_attempt=[fail, attempts.append]) as session:
        assert (await session.get_group("1")).id == "1"
    assert len(attempts) == 1
    assert "on_attempt failed" in caplog.text


@pytest.mark.parametrize("wrong", [5, "print", [print, 5]])
def test_a_hook_that_cannot_be_called_is_rejected(wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="on_attempt must be a function, a Tracer or a list"):
        MutexSession(KEY, on_attempt=wrong)


@pytest.mark.parametrize(
    ("path", "route"),
    [
        (f"{ROOT}?limit=5&cursor=7", ROOT),
        (f"{ROOT}/abc", f"{ROOT}/{{id}}"),
        (f"{ROOT}/7/slots/20", f"{ROOT}/{{id}}/slots/{{slotIndex}}"),
        ("/api/1/experiments/123?x=1", "/api/1/experiments/{id}"),
        ("/api/1/flags", "/api/1/flags"),
    ],
)
def test_a_route_has_placeholders_instead_of_ids(path: str, route: str) -> None:
    assert route_of(path) == route


async def test_attempts_are_logged_at_debug_and_retries_at_info_without_the_key(
    raw: RawServer, caplog: pytest.LogCaptureFixture
) -> None:
    raw.answer(http(503, KEY.encode()), http(200, GROUP))
    caplog.set_level(logging.DEBUG, "aiomutex.http")
    async with session_for(raw.url) as session:
        await session.get_group("7")
    retry, success = [record for record in caplog.records if record.name == "aiomutex.http"]
    assert (retry.levelno, success.levelno) == (logging.INFO, logging.DEBUG)
    assert retry.getMessage().startswith(f"GET {ROOT}/7, attempt 1: GET {ROOT}/7 answered 503")
    assert "attempt 2 follows in 0.0" in retry.getMessage()
    assert (success.aiomutex_status, success.aiomutex_number) == (200, 2)  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    assert KEY not in caplog.text + repr([vars(record) for record in caplog.records])


def test_the_environment_switches_the_log_on() -> None:
    program = "import logging, aiomutex.session; print(logging.getLogger('aiomutex.http').isEnabledFor(logging.DEBUG))"
    for value, enabled in (("debug", "True"), ("", "False"), ("nonsense", "False")):
        done = subprocess.run(
            [sys.executable, "-c", program], env={"AIOMUTEX_LOG": value}, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == enabled
