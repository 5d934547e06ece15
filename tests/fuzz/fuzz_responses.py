# The targets are private, and their inputs have no types.
# pyright: reportPrivateUsage=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownLambdaType=false
"""Fuzz targets for responses: pages, groups, errors, headers, and the findings of the probe."""

from __future__ import annotations

import asyncio
import contextlib
import io
import math
from typing import TYPE_CHECKING, Final

import msgspec
from fuzz_promises import Target, harmless, in_loop, keep, only, text_of
from multidict import CIMultiDict
from support import GROUP, KEY

from aiomutex import (
    APIError,
    ConfigurationError,
    InvalidRequestError,
    LocalRateLimiter,
    MutexError,
    MutexGroup,
    NewGroup,
    NewSlot,
    PaginationError,
    RetryPolicy,
    UnexpectedResponseError,
)
from aiomutex._api.redaction import Redactor
from aiomutex._api.requests import create_group, decode_response, get_group, list_page
from aiomutex._api.responses import Response, read_group, retry_after_of
from aiomutex.bulk.slot_lists import SlotLists, find_difference
from aiomutex.fleet.wire import PackedError, pack_error, unpack_error
from aiomutex.paging import GroupPager
from aiomutex.plan import after, desired_from, dump_desired, experiments, fingerprint, lint, parse_desired, plan, render
from aiomutex.plan.formats import DesiredFileError
from aiomutex.plan.render import plan_json
from aiomutex.plan.saved import remaining
from aiomutex.probe.findings import Findings
from aiomutex.retry import wait_before_next
from aiomutex.traffic import compare, simulate, slot_share, traffic_share

if TYPE_CHECKING:
    from aiomutex import GroupPage

PAGE: Final = b'{"mutexes":[%b],"nextCursor":1}' % GROUP
WORDS: Final = ("mutexes", "nextCursor", "slots", "index", "percentage", "experiments", "holdouts", "individuals")
_POLICY: Final = RetryPolicy()


_redact: Final = Redactor(KEY)


def _response(data: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(status, CIMultiDict(headers or {}), data, redact=_redact)


def page(data: bytes) -> None:
    """A page is decoded or rejected, and a pager ends whatever the cursors are."""
    with only(UnexpectedResponseError, PaginationError, InvalidRequestError):
        read = decode_response(list_page(1000, None), _response(data))
        keep(read.next_cursor is None or read.next_cursor, "an empty cursor")
        keep(all(type(group.id) is str for group in read.groups), "an ID that is not a string")

        async def fetch(size: int, cursor: str | None) -> GroupPage:
            return decode_response(list_page(size, cursor), _response(data))

        collected = in_loop(GroupPager(fetch, page_size=1000, cursor=None).collect(concurrency=2))
        keep({group.id for group in read.groups} == {group.id for group in collected}, "the pager lost a group")


def group(data: bytes) -> None:
    """A decoded group can be encoded, compared, planned with, bucketed and shown."""
    with only(UnexpectedResponseError):
        read = decode_response(get_group(7), _response(data))
        keep(type(read.id) is str and type(read.project_id) is str, "an ID that is not a string")
        keep(read_group(msgspec.json.encode(read)) == read, "the group changed on the wire")
        _use(read)


def _use(group: MutexGroup) -> None:
    from aiomutex.cli.groups import print_groups  # noqa: PLC0415  # the command line is an extra

    for slot in group.slots:
        held = SlotLists.of_slot(slot)
        again = msgspec.json.decode(msgspec.json.encode(held), type=SlotLists)
        keep(again == held, "the content changed in the journal")
    for slot in group.slots[:1]:
        if (error := find_difference(group, slot.index, SlotLists([1], None, ["a"]), slot)) is not None:
            str(error)
    keep(len(fingerprint(group)) == 32, "a fingerprint of the wrong length")
    desired = desired_from([group])
    for format_ in ("yaml", "json"):
        with only(DesiredFileError, keyless=False):
            parse_desired(dump_desired(desired, format_), format_=format_)
    lint(desired)
    steps = plan(desired, [group])
    render(steps)
    msgspec.json.encode(plan_json(steps))
    with only(MutexError, keyless=False):
        remaining(steps, [group])
    with only(ConfigurationError, keyless=False):
        compare([group], after(steps, [group]), ["ada", "", "x"])
        simulate([group], ["ada", "", "x"])
    slot_share(group, 123)
    traffic_share(123, [group], held_out=[5])
    with contextlib.redirect_stdout(io.StringIO()):
        print_groups([group])


def created(data: bytes) -> None:
    """The response to a create has an ID, or is rejected."""
    new = NewGroup(project_id=1, name="n", key="k", slots=[NewSlot(percentage=100)])
    with only(UnexpectedResponseError):
        response = decode_response(create_group(new), _response(data))
        keep(type(response.id) is str and response.id, "no ID")
        keep(response.url is None or type(response.url) is str, "a URL that is not a string")


def error_response(data: bytes) -> None:
    """An error response is an ``APIError`` that can be printed and sent through a fleet, and has a finite wait."""
    head, _, body = data.partition(b"\n\n")
    first, *lines = text_of(head).split("\n")
    status = 300 + sum(first.encode("utf-8", "surrogateescape")) % 300
    pairs = (line.partition(":") for line in lines)
    headers = CIMultiDict({name: value for name, _, value in pairs})
    response = Response(status, headers, body, redact=_redact)
    try:
        decode_response(get_group(7), response)
    except APIError as error:
        keep(error.status == status and len(error.body) <= 4096, "a wrong status or a body that is too long")
        keep(len(str(error)) < 1500, "a message that is too long")
        harmless(error)
        waits = wait_before_next(error, 1, _POLICY)
        keep(0 <= waits <= max(_POLICY.cap, _POLICY.max_retry_after), "a wait that is too long")
        sent = unpack_error(msgspec.json.decode(msgspec.json.encode(pack_error(error)), type=PackedError))
        keep(str(sent) == str(error), "the error changed on the wire")
    else:
        keep(promise=False, what="an error response was decoded as a success")
    with only(UnexpectedResponseError):
        decode_response(get_group(7), Response(200, headers, body, redact=_redact))
    found = Findings()
    found.add_response("read", response)
    found.report(requests=1, wrote=False).to_json()


def retry_after(data: bytes) -> None:
    """``Retry-After`` is ``None`` or a finite number of seconds from 0, and a limiter can use it."""
    seconds = retry_after_of({"Retry-After": text_of(data)})
    keep(seconds is None or 0 <= seconds < math.inf, "not a finite number of seconds")

    async def hold() -> None:
        limiter = LocalRateLimiter()
        permit = await limiter.acquire()
        limiter.throttled(permit, seconds)
        paused_for, passed = limiter.state().paused_for, asyncio.get_running_loop().time() - permit
        # On a busy machine, a short pause may be over already.
        keep("Limiter" in repr(limiter) and (paused_for > 0 or passed > 0.1), "no pause after a 429")

    in_loop(hold())


def experiment(data: bytes) -> None:
    """The state of an experiment is always decided, whatever its description contains."""
    try:
        decoded = _response(data).json()
    except UnexpectedResponseError:
        decoded = None
    state, reason = experiments.state_of(experiments.describe(decoded))
    keep(state in ("running", "stopped", "unknown") and reason, "no state")


def probe(data: bytes) -> None:
    """The probe can report on any page."""
    found = Findings()
    found.add_page(_response(data, headers={"Content-Type": text_of(data[:40])}))
    found.report(requests=1, wrote=False).to_json()


_ERRORS: Final = (
    b'd\nRetry-After: 5\nX-Request-Id: 7f3a\n\n{"message":"slot 3 does not exist"}',
    b"\x81\nLocation: https://elsewhere/%b\nContent-Type: text/html\n\n<html><title>%b</title>"
    % (KEY.encode(), KEY.encode()),
    b'a\nRequest-Id: %b\n\n{"error":{"reason":"%b"}}' % (KEY.encode(), KEY.encode()),
)

RESPONSES: Final[dict[str, Target]] = {
    "page": Target(page, (PAGE, b'{"mutexes":[],"nextCursor":"2"}', b'{"mutexes":null}'), WORDS),
    "group": Target(group, (GROUP, GROUP.replace(b"7", b'"7"')), (*WORDS, KEY)),
    "created": Target(created, (b'{"id":"7","url":"https://x/7"}', b'{"id":7}'), ("id", "url", KEY)),
    "error_response": Target(error_response, _ERRORS, ("Retry-After: ", "message", "error", KEY, "<title>", "\n\n")),
    "retry_after": Target(
        retry_after,
        (b"5", b"1.5", b"Mon, 23 Nov 2026 12:00:30 GMT", b"Monday, 23-Nov-26 12:01:00 +0100", b"Mon Nov 23 12:01:00 1"),
        ("Jan", "Mon,", "GMT", "+9999", "-0000", "9999", "23:59:60", "EST"),
        longest=64,
    ),
    "experiment": Target(experiment, (b'{"state":"running","enabled":true,"deleted":false}',), ("archived", KEY)),
    "probe": Target(probe, (PAGE, b'{"mutexes":[],"nextCursor":null}'), WORDS),
}
