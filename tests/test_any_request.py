"""``session.request``: any endpoint, through the same limiter, retries and errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support import ONCE, RawServer, http, reset_before_response, session_for

from aiomutex import (
    ConnectionFailedError,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
    Response,
    UnexpectedResponseError,
)

if TYPE_CHECKING:
    from aiomutex import MutexSession
    from aiomutex.testing import MutexEmulator


async def test_the_response_has_status_headers_body_and_attempts(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    emulator.fail_next(2, status=503)
    response = await session.request("GET", "/api/1/mutexes?limit=1")
    assert isinstance(response, Response)
    assert (response.status, response.attempts, response.method, response.path) == (
        200,
        3,
        "GET",
        "/api/1/mutexes?limit=1",
    )
    assert response.headers["content-type"].startswith("application/json")
    assert response.json()["mutexes"][0]["key"] == "group-1"
    assert b"group-1" in response.body


async def test_the_request_id_of_the_response_is_read(raw: RawServer) -> None:
    raw.answer(http(200, b"{}", {"X-Request-Id": "7f3a"}))
    async with session_for(raw.url) as session:
        assert (await session.request("GET", "/api/1/anything")).request_id == "7f3a"


@pytest.mark.parametrize(
    ("json", "body"),
    [({"name": "n", "description": None}, b'{"name":"n","description":null}'), (None, b"null"), ([], b"[]")],
)
async def test_a_body_is_sent_as_json(raw: RawServer, json: object, body: bytes) -> None:
    raw.answer(http(200, b"{}"))
    async with session_for(raw.url) as session:
        await session.request("PUT", "/api/1/anything", json=json)
    assert raw.requests[0].body == body
    assert raw.requests[0].headers["content-type"] == "application/json"


async def test_a_body_that_is_not_given_is_not_sent(raw: RawServer) -> None:
    raw.answer(http(200, b"{}"))
    async with session_for(raw.url) as session:
        await session.request("POST", "/api/1/anything")
    assert raw.requests[0].headers.get("content-length", "0") == "0"
    assert "content-type" not in raw.requests[0].headers


@pytest.mark.parametrize(
    ("method", "idempotent", "attempts"),
    [
        ("GET", None, 2),
        ("HEAD", None, 2),
        ("OPTIONS", None, 2),
        ("PUT", None, 2),
        ("DELETE", None, 2),
        ("PATCH", None, 1),
        ("POST", None, 1),
        ("PATCH", True, 2),
        ("POST", True, 2),
        ("PUT", False, 1),
        ("GET", False, 1),
    ],
)
async def test_a_lost_response_is_retried_only_if_the_request_is_idempotent(
    raw: RawServer, method: str, idempotent: bool | None, attempts: int
) -> None:
    raw.answer(reset_before_response, http(200))
    async with session_for(raw.url) as session:
        if attempts == 1:
            with pytest.raises(ConnectionFailedError) as caught:
                await session.request(method, "/api/1/anything", idempotent=idempotent)
            assert caught.value.maybe_applied
        else:
            response = await session.request(method, "/api/1/anything", idempotent=idempotent)
            assert response.attempts == attempts
    assert len(raw.requests) == attempts


async def test_every_attempt_takes_a_permit(emulator: MutexEmulator, session: MutexSession) -> None:
    emulator.fail_next(1, status=503)
    await session.request("GET", "/api/1/mutexes/1")
    assert session.rate_limiter.state().used_today == 2


async def test_an_error_status_raises_the_error_of_that_status(emulator: MutexEmulator) -> None:
    async with session_for(emulator.url, retry=ONCE) as session:
        with pytest.raises(NotFoundError) as caught:
            await session.request("GET", "/api/1/mutexes/99")
        assert (caught.value.method, caught.value.path) == ("GET", "/api/1/mutexes/99")
        emulator.fail_next(1, status=429)
        with pytest.raises(RateLimitedError):
            await session.request("GET", "/api/1/mutexes/1")


async def test_a_body_that_is_not_json_is_reported_when_it_is_decoded(raw: RawServer) -> None:
    raw.answer(http(200, b"<html>maintenance</html>"))
    async with session_for(raw.url) as session:
        response = await session.request("GET", "/api/1/anything")
        with pytest.raises(UnexpectedResponseError, match="24 bytes") as caught:
            response.json()
    assert (caught.value.status, caught.value.path) == (200, "/api/1/anything")
    assert "maintenance" in (caught.value.body or "")


@pytest.mark.parametrize(
    ("invalid", "message"),
    [
        ({"method": "get"}, "method must be an HTTP method in capital letters, not 'get' (str)"),
        ({"method": "GET\r\nX: y"}, "method must be an HTTP method in capital letters"),
        ({"method": ""}, "method must be an HTTP method"),
        ({"method": b"GET"}, "method must be an HTTP method in capital letters, not b'GET' (bytes)"),
        ({"path": "api/1/mutexes"}, "path must be percent-encoded and begin with one"),
        ({"path": "//other.example/x"}, "path must be percent-encoded and begin with one"),
        ({"path": "https://other.example/"}, "path must be percent-encoded and begin with one"),
        ({"path": "/a b"}, "path must be percent-encoded and begin with one"),
        ({"path": "/a\nb"}, "path must be percent-encoded and begin with one"),
        ({"path": "/a#b"}, "path must be percent-encoded and begin with one"),
        ({"path": "/é"}, "path must be percent-encoded and begin with one"),
        ({"path": None}, "not None"),
        ({"idempotent": "yes"}, "idempotent must be True, False or None, not 'yes' (str)"),
        ({"idempotent": 1}, "idempotent must be True, False or None, not 1 (int)"),
        ({"json": object()}, "json cannot be encoded"),
        ({"json": {1j: 2}}, "json cannot be encoded"),
    ],
)
async def test_an_argument_that_cannot_be_sent_is_rejected_by_name(
    emulator: MutexEmulator, session: MutexSession, invalid: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {"method": "GET", "path": "/api/1/mutexes"} | invalid
    method, path = arguments.pop("method"), arguments.pop("path")
    with pytest.raises(InvalidRequestError) as caught:
        await session.request(method, path, **arguments)
    assert message in str(caught.value)
    assert not emulator.requests


async def test_the_path_cannot_leave_the_service(raw: RawServer) -> None:
    """``..`` and encoded slashes reach the service as they are given, on its own host."""
    raw.answer(http(200, b"{}"))
    async with session_for(raw.url) as session:
        await session.request("GET", "/api/1/a%2Fb/../c?x=%41")
    assert raw.requests[0].head.split(b"\r\n")[0] == b"GET /api/1/a%2Fb/../c?x=%41 HTTP/1.1"
