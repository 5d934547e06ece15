"""Requests as values, and the documented examples on the wire, byte for byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from support import CREATE, GROUP, GROUP_EDIT, KEY, ROOT, SLOT_EDIT, US, http, session_for

import aiomutex
from aiomutex import (
    UNSET,
    APIError,
    CreatedGroup,
    InvalidRequestError,
    MutexGroup,
    MutexSession,
    NewGroup,
    NewSlot,
    Slot,
    UnexpectedResponseError,
)
from aiomutex._api import requests
from aiomutex._api.requests import Effect
from aiomutex._api.responses import Response

if TYPE_CHECKING:
    from support import RawServer, Responses

    from aiomutex.testing import MutexEmulator

DOCUMENTED = MutexGroup(
    id="7",
    project_id="1",
    name="mutex name",
    key="mutex-key",
    description=None,
    evaluation_mode="local",
    bucketing_key="device_id",
    bucketing_salt="abcd",
    slots=[
        Slot(name="SLOT 1", index=1, variant_key="slot-1", percentage=95, experiments=[123], holdouts=[456]),
        Slot(name="SLOT 2", index=2, variant_key="slot-2", percentage=5),
    ],
)
EXAMPLE = NewGroup(
    project_id="<projectId>",
    name="Example Mutex Group",
    key="example-mutex",
    description="An example mutex group",
    evaluation_mode="remote",
    slots=[
        NewSlot(percentage=40, experiments=[123], holdouts=[456]),
        NewSlot(percentage=60, experiments=[789], individuals=["x@amplitude.com"]),
    ],
)


# ------------------------------------------------------------------ the documented examples, without a socket


async def test_the_documented_slot_edit_is_sent_byte_for_byte(responses: Responses) -> None:
    responses.answer("PATCH", f"{US}{ROOT}/7/slots/1", body=b"OK")
    async with MutexSession(KEY) as session:
        await session.edit_slot(
            "7",
            1,
            experiments=[123, 456],
            individuals=["x@amplitude.com", "y@amplitude.com", "abcde-12345"],
        )
    [(method, url, headers, body)] = responses.sent()
    assert (method, url, body) == ("PATCH", f"{US}{ROOT}/7/slots/1", SLOT_EDIT)
    assert headers["Authorization"] == f"Bearer {KEY}"


async def test_the_documented_group_edit_is_sent_byte_for_byte(responses: Responses) -> None:
    responses.answer("PATCH", f"{US}{ROOT}/7")
    async with MutexSession(KEY) as session:
        await session.edit_group(7, name="updated name", description="updated description")
    assert [sent[3] for sent in responses.sent()] == [GROUP_EDIT]


async def test_the_documented_create_is_sent_byte_for_byte(responses: Responses) -> None:
    response = b'{"id": "<id>", "url": "https://app.amplitude.com/experiment/1/mutex/7"}'
    responses.answer("POST", f"{US}{ROOT}", body=response)
    async with MutexSession(KEY) as session:
        created = await session.create_group(EXAMPLE)
    assert created == CreatedGroup(id="<id>", url="https://app.amplitude.com/experiment/1/mutex/7", key="example-mutex")
    [(method, url, _, body)] = responses.sent()
    assert (method, url, body) == ("POST", f"{US}{ROOT}", CREATE)


async def test_the_documented_group_is_decoded_completely(responses: Responses) -> None:
    responses.answer("GET", f"{US}{ROOT}/7", body=GROUP)
    async with MutexSession(KEY) as session:
        assert await session.get_group("7") == DOCUMENTED
    assert responses.sent()[0][3] is None


async def test_the_documented_page_is_requested_and_decoded_completely(
    responses: Responses,
) -> None:
    responses.answer("GET", f"{US}{ROOT}?limit=2&cursor=40", body=b'{"mutexes":[%s],"nextCursor":42}' % GROUP)
    async with MutexSession(KEY) as session:
        page = await session.list_page(limit=2, cursor=40)
    assert page.groups == [DOCUMENTED]
    assert (page.cursor, page.next_cursor) == ("40", "42")


async def test_the_eu_region_has_its_own_address(responses: Responses) -> None:
    eu = "https://experiment.eu.amplitude.com"
    responses.answer("GET", f"{eu}{ROOT}/7", body=GROUP)
    async with MutexSession(KEY, region="eu") as session:
        await session.get_group(7)
    assert responses.sent()[0][1] == f"{eu}{ROOT}/7"


# ------------------------------------------------------------------ the same over a real socket


async def test_each_call_writes_exactly_these_bytes(raw: RawServer) -> None:
    page = b'{"mutexes":[],"nextCursor":null}'
    created = b'{"id":8,"url":null}'
    group = http(200, GROUP)
    raw.answer(http(200, page), group, http(200, b"OK"), http(), http(), http(), http(), http(200, created))
    async with session_for(raw.url) as session:
        await session.list_page(limit=10, cursor="a b/&=")
        await session.get_group("7")
        await session.edit_group("7", name="updated name", description="updated description")
        await session.archive_group("7")
        await session.unarchive_group("7")
        await session.edit_slot(
            "7", 1, experiments=[123, 456], individuals=["x@amplitude.com", "y@amplitude.com", "abcde-12345"]
        )
        await session.edit_group("7", description=None)
        await session.create_group(EXAMPLE)
    host = raw.url.removeprefix("http://")
    common = (
        f"Host: {host}\r\nAuthorization: Bearer {KEY}\r\nAccept: application/json\r\n"
        f"User-Agent: {raw.requests[0].headers['user-agent']}\r\nAccept-Encoding: {{}}\r\n"
    )
    expected: list[tuple[str, bytes]] = [
        (f"GET {ROOT}?limit=10&cursor=a%20b%2F%26%3D", b""),
        (f"GET {ROOT}/7", b""),
        (f"PATCH {ROOT}/7", GROUP_EDIT),
        (f"PATCH {ROOT}/7", b'{"archive":true}'),
        (f"PATCH {ROOT}/7", b'{"archive":false}'),
        (f"PATCH {ROOT}/7/slots/1", SLOT_EDIT),
        (f"PATCH {ROOT}/7", b'{"description":null}'),
        (f"POST {ROOT}", CREATE),
    ]
    for request, (line, body) in zip(raw.requests, expected, strict=True):
        encodings = request.headers["accept-encoding"]
        tail = f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\n" if body else ""
        assert request.head.decode() == f"{line} HTTP/1.1\r\n{common.format(encodings)}{tail}\r\n"
        assert request.body == body
    assert raw.connections == 1
    assert raw.requests[0].headers["user-agent"].startswith(f"aiomutex/{aiomutex.__version__} aiohttp/")


async def test_all_endpoints_work_together_against_the_emulator(emulator: MutexEmulator, session: MutexSession) -> None:
    created = await session.create_group(EXAMPLE)
    assert created.key == "example-mutex"
    assert created.url is not None
    await session.edit_slot(created.id, 1, experiments=[123, 456], individuals=["a", "b"])
    await session.edit_group(created.id, name="updated name", description=None)
    group = await session.get_group(created.id)
    assert group.name == "updated name"
    assert group.description is None
    assert group.slots[0].experiments == [123, 456]
    assert group.slots[0].holdouts == [456]
    assert group.slots[1].individuals == ["x@amplitude.com"]
    assert await session.find_group("example-mutex") == group
    await session.archive_group(created.id)
    assert (await session.get_group(created.id)).deleted is True
    await session.unarchive_group(int(created.id))
    assert emulator.groups[created.id].deleted is False
    assert len([group async for group in session.list_groups(page_size=4)]) == 11


async def test_find_group_returns_none_for_an_unknown_key(session: MutexSession) -> None:
    assert await session.find_group("no-such-key") is None


async def test_find_group_stops_at_the_page_that_has_the_key(raw: RawServer, raw_session: MutexSession) -> None:
    raw.answer(http(200, b'{"mutexes":[%s],"nextCursor":1000}' % GROUP))
    found = await raw_session.find_group("mutex-key")
    assert found is not None
    assert len(raw.requests) == 1


# ------------------------------------------------------------------ requests as values


def test_what_is_not_given_is_not_sent() -> None:
    bare = NewGroup(project_id=1, name="Example", key="k", slots=[NewSlot(percentage=100)])
    body = b'{"projectId":1,"name":"Example","key":"k","slots":[{"percentage":100}]}'
    assert requests.create_group(bare).body == body
    assert requests.edit_slot("7", 1, UNSET, [], UNSET).body == b'{"holdouts":[]}'
    assert requests.edit_group("7", name=UNSET, description="").body == b'{"description":""}'


def test_reads_and_edits_may_be_sent_again_and_a_create_may_not() -> None:
    group = NewGroup(project_id=1, name="Example", key="k", slots=[NewSlot(percentage=100)])
    assert requests.get_group(7).effect is requests.list_page(1, None).effect is Effect.SAFE
    assert requests.edit_slot(7, 1, [1], UNSET, UNSET).effect is Effect.IDEMPOTENT
    assert requests.edit_group(7, name="n", description=UNSET).effect is Effect.IDEMPOTENT
    assert requests.archive_group(7, archive=True).effect is Effect.IDEMPOTENT
    assert requests.create_group(group).effect is Effect.NON_IDEMPOTENT


def test_a_group_without_a_key_gets_a_new_one_and_a_given_key_is_kept() -> None:
    bare = NewGroup(project_id=1, name="Example", slots=[NewSlot(percentage=100)])
    keys = {requests.with_key(bare).key for _ in range(100)}
    assert len(keys) == 100
    assert all(isinstance(key, str) and len(key) == 30 for key in keys)
    assert bare.key is UNSET
    own = msgspec.structs.replace(bare, key="own")
    assert requests.with_key(own) is own


def test_a_create_without_a_key_is_never_built() -> None:
    bare = NewGroup(project_id=1, name="Example", slots=[NewSlot(percentage=100)])
    with pytest.raises(InvalidRequestError, match=r"^key is missing; without it, a group"):
        requests.create_group(bare)


def test_an_invalid_argument_is_named() -> None:
    none: Any = None
    number: Any = 5
    with pytest.raises(InvalidRequestError, match=r"^the edit is empty; pass name, description or both$"):
        requests.edit_group(7, name=UNSET, description=UNSET)
    with pytest.raises(InvalidRequestError, match=r"^the edit is empty; pass at least one of experiments"):
        requests.edit_slot(7, 1, UNSET, UNSET, UNSET)
    with pytest.raises(InvalidRequestError, match=r"^name must be "):
        requests.edit_group(7, name=none, description=UNSET)
    with pytest.raises(InvalidRequestError, match=r"^description must be "):
        requests.edit_group(7, name=UNSET, description=number)
    with pytest.raises(InvalidRequestError, match=r"^limit must be an integer from 1 to 1,000, not 0 "):
        requests.list_page(0, None)
    for place, lists in enumerate(([[none], [], []], [[], [none], []], [[], [], [none]])):
        with pytest.raises(InvalidRequestError, match=rf"^{('experiments', 'holdouts', 'individuals')[place]}"):
            requests.edit_slot(7, 1, *lists)


def test_methods_and_paths_are_those_of_the_documentation() -> None:
    group = NewGroup(project_id=1, name="Example", key="k", slots=[NewSlot(percentage=100)])
    built: list[requests.Request[Any]] = [
        requests.list_page(5, "XX/"),
        requests.get_group(7),
        requests.edit_group(7, name="n", description=UNSET),
        requests.archive_group(7, archive=True),
        requests.edit_slot(7, 2, [1], UNSET, UNSET),
        requests.create_group(group),
    ]
    assert [(request.method, request.path) for request in built] == [
        ("GET", f"{ROOT}?limit=5&cursor=XX%2F"),
        ("GET", f"{ROOT}/7"),
        ("PATCH", f"{ROOT}/7"),
        ("PATCH", f"{ROOT}/7"),
        ("PATCH", f"{ROOT}/7/slots/2"),
        ("POST", ROOT),
    ]


class _String(str):
    __slots__ = ()


def test_subclasses_of_str_and_other_sequences_are_encoded_like_plain_ones() -> None:
    group = NewGroup(
        project_id=_String("1"),
        name=_String("Example"),
        key=_String("k"),
        slots=(NewSlot(percentage=100, experiments=range(1, 3), individuals={"u": 1}.keys()),),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    )
    body = requests.create_group(group).body
    assert body == (
        b'{"projectId":"1","name":"Example","key":"k",'
        b'"slots":[{"percentage":100,"experiments":[1,2],"individuals":["u"]}]}'
    )
    assert requests.edit_slot(7, 1, range(2), (5,), [_String("u")]).body == (
        b'{"experiments":[0,1],"holdouts":[5],"individuals":["u"]}'
    )


def decoding_error(body: bytes, headers: dict[str, str]) -> UnexpectedResponseError:
    with pytest.raises(UnexpectedResponseError) as caught:
        requests.decode_response(requests.get_group(7), Response(200, headers, body, method="GET", path=f"{ROOT}/7"))
    return caught.value


def test_a_success_that_cannot_be_decoded_says_what_it_is_and_where() -> None:
    error = decoding_error(b"[" * 100_000, {"Content-Type": "text/plain" + "x" * 200, "x-request-id": "7f3a"})
    kind = "text/plain" + "x" * 90
    assert f"100,000 bytes ({kind}) that do not read as documented: nested too deeply" in str(error)
    assert (error.status, error.method, error.path, error.request_id) == (200, "GET", f"{ROOT}/7", "7f3a")
    assert error.body == Response(200, {}, b"[" * 100_000).text
    truncated = decoding_error(b"{", {})
    assert "1 bytes (no content type) that do not read as documented: Input data was truncated" in str(truncated)


@pytest.mark.parametrize("status", [200, 201, 299])
def test_every_status_of_the_two_hundreds_is_a_success(status: int) -> None:
    assert requests.decode_response(requests.get_group(7), Response(status, {}, GROUP)) == DOCUMENTED


@pytest.mark.parametrize("status", [199, 300])
def test_no_other_status_is_a_success(status: int) -> None:
    with pytest.raises(APIError):
        requests.decode_response(requests.get_group(7), Response(status, {}, GROUP))
