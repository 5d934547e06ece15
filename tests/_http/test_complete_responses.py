"""Complete responses: a value as documented, or one typed error with method, path and status."""

from __future__ import annotations

import pytest
from support import (
    GROUP,
    ONCE,
    ROOT,
    RawServer,
    failure_of,
    http,
    session_for,
)

from aiomutex import (
    APIError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    NewGroup,
    NewSlot,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    RetryPolicy,
    ServerError,
    UnexpectedResponseError,
)

PATH = f"{ROOT}/7"
NEW = NewGroup(project_id=1, name="Example", key="mutex-key", slots=[NewSlot(percentage=95), NewSlot(percentage=5)])
HTML = "<html><head><title>Sign in</title></head><body>please</body></html>"


@pytest.mark.parametrize(
    ("status", "error_class"),
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
    raw: RawServer, status: int, error_class: type[APIError], body: bytes
) -> None:
    raw.answer(http(status, b"" if status == 304 else body, {"X-Request-Id": "req-1", "Retry-After": "0.001"}))
    async with session_for(raw.url, retry=ONCE) as session:
        error = await failure_of(session)
    assert type(error) is error_class
    assert isinstance(error, APIError)
    assert (error.method, error.path, error.status) == ("GET", PATH, status)
    assert (error.request_id, error.retry_after, error.attempts) == ("req-1", 0.001, 1)
    assert len(error.body) <= 4096
    assert len(str(error)) < 500
    assert str(error).startswith(f"GET {PATH} answered {status}: ")


@pytest.mark.parametrize(
    ("response", "status"),
    [
        (http(200, HTML, content_type="text/html"), 200),
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
    raw: RawServer, response: bytes, status: int
) -> None:
    raw.answer(response)
    async with session_for(raw.url, retry=ONCE) as session:
        error = await failure_of(session)
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


@pytest.mark.parametrize("response", [b"{}", b"", b"null", b'{"id": null}', b'{"id": ""}', b"OK", b"[]"])
async def test_a_create_whose_response_has_no_id_is_looked_up(raw: RawServer, response: bytes) -> None:
    found = GROUP.replace(b'"mutex name"', b'"Example"').replace(b"[123]", b"[]").replace(b"[456]", b"[]")
    raw.answer(http(200, response), http(200, b'{"mutexes":[%s],"nextCursor":null}' % found))
    async with session_for(raw.url) as session:
        created = await session.create_group(NEW)
    assert (created.id, created.url, created.key) == ("7", None, "mutex-key")
    assert [request.line.split()[0] for request in raw.requests] == ["POST", "GET"]


@pytest.mark.parametrize(
    "body",
    [b"", b"OK", b"null", b"{}", b"[]", b'"<html>"', b'\xef\xbb\xbf {"n":"<p>"}', b"  ", b"\xff", b"1<2", GROUP[:30]],
)
@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_any_body_but_a_page_is_a_success_of_a_patch(raw: RawServer, body: bytes, status: int) -> None:
    raw.answer(b"HTTP/1.1 204 No Content\r\n\r\n" if status == 204 else http(status, body, content_type="text/html"))
    async with session_for(raw.url, retry=ONCE) as session:
        await session.edit_slot("7", 1, experiments=[1])
        await session.edit_group("7", name="n")
        await session.archive_group("7")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("call", ["get_group", "archive_group", "create_group"])
async def test_a_redirect_is_an_error_and_its_target_gets_no_request(raw: RawServer, status: int, call: str) -> None:
    argument = NEW if call == "create_group" else "7"
    async with RawServer() as other:
        raw.answer(http(status, b"", {"Location": f"{other.url}/steal"}))
        async with session_for(raw.url) as session:
            with pytest.raises(APIError, match="redirects are not followed") as caught:
                await getattr(session, call)(argument)
        assert f"{other.url}/steal" in str(caught.value)
        assert other.connections == 0
        assert other.requests == []
    assert len(raw.requests) == 1


PAGES = [
    b"<!DOCTYPE html><title>Maintenance</title>",
    b"\xef\xbb\xbf <html></html>",
    b"\n<?xml version='1.0'?>",
    b"<p>Maintenance",
    b"Maintenance\n<HTML>",
    b"\f\v\0<body>",
    *("\xa0\u200b<head>".encode(name) for name in ("utf-8", "utf-16", "utf-16-be")),
]


@pytest.mark.parametrize("page", PAGES)
async def test_a_page_in_response_to_a_write_is_not_a_success(raw: RawServer, page: bytes) -> None:
    raw.answer(http(200, page, content_type="text/html"))
    async with session_for(raw.url, retry=RetryPolicy(max_attempts=3, base=0.001)) as session:
        for call in (
            session.edit_slot("7", 1, experiments=[1]),
            session.edit_group("7", name="n"),
            session.archive_group("7"),
        ):
            with pytest.raises(UnexpectedResponseError, match="Expected no HTML page") as caught:
                await call
            assert (caught.value.attempts, caught.value.maybe_applied) == (3, True)
