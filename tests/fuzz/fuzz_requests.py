# The targets are private, and their inputs have no types.
# pyright: reportPrivateUsage=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownLambdaType=false
"""Fuzz targets for arguments, URLs and keys, and for the messages of Redis and of a fleet's workers."""

from __future__ import annotations

import io
import json
import math
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec
from fuzz_promises import Target, harmless, in_loop, keep, only, text_of
from support import CREATE, GROUP_EDIT, KEY, SLOT_EDIT, fast_limiter
from yarl import URL

from aiomutex import (
    UNSET,
    ConfigurationError,
    InvalidRequestError,
    LimiterUnavailableError,
    NewGroup,
    NewSlot,
    SlotEdit,
)
from aiomutex._api.requests import Request, create_group, edit_group, edit_slot, get_group, list_page
from aiomutex._api.responses import read_group
from aiomutex._http.config import check_api_key, service_url
from aiomutex._http.transport import Transport
from aiomutex.emulator.dialect import Dialect
from aiomutex.emulator.responses import JSON, Encoder
from aiomutex.emulator.responses import Response as EmulatorResponse
from aiomutex.emulator.service import COLLECTION, Service
from aiomutex.emulator.state import GroupStore
from aiomutex.fleet.wire import JobRequest, Result
from aiomutex.limits.messages import LeaseRequest
from aiomutex.limits.redis_budget import RedisBudget


def ids(data: bytes) -> None:
    """An ID or a cursor leads to the path that it names, or is rejected."""
    text = text_of(data)
    for build, path in (
        (lambda: get_group(text), f"/api/1/mutexes/{text}"),
        (lambda: edit_group(text, name="n", description=UNSET), f"/api/1/mutexes/{text}"),
        (lambda: edit_slot(text, 1, [1], UNSET, UNSET), f"/api/1/mutexes/{text}/slots/1"),
    ):
        with only(InvalidRequestError):
            request: Request[Any] = build()
            keep(URL("https://host" + request.path, encoded=True).raw_path == path, "another path")
    with only(InvalidRequestError):
        request = list_page(1000, text)
        keep(request.path.isascii() and request.path.isprintable() and " " not in request.path, "a broken request line")
        keep(parse_qs(URL("https://host" + request.path, encoded=True).raw_query_string)["cursor"] == [text], "lost")


def writes(data: bytes) -> None:
    """Every request that the client sends is accepted by the rules of the emulator, which then holds what was sent."""
    try:
        given = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(given, dict):
        return
    service = Service(GroupStore(7), Encoder(Dialect(unknown_fields="rejected", empty_edit="rejected")))
    lists = {name: given.get(name, UNSET) for name in ("experiments", "holdouts", "individuals")}
    with only(InvalidRequestError):
        _send(service, edit_slot(given.get("group_id", 7), given.get("slot_index", 1), **lists))
    with only(InvalidRequestError):
        edit = SlotEdit(given.get("group_id", 7), given.get("slot_index", 1), **lists)
        _send(service, edit_slot(edit.group_id, edit.slot_index, edit.experiments, edit.holdouts, edit.individuals))
    with only(InvalidRequestError):
        _send(service, edit_group(7, name=given.get("name", UNSET), description=given.get("description", UNSET)))
    slots: Any = given.get("slots")
    if isinstance(slots, list):
        slots = [NewSlot(**_known(NewSlot, each)) if isinstance(each, dict) else each for each in slots]
    with only(InvalidRequestError):
        fields: dict[str, Any] = {"project_id": 1, "name": "n", "key": "new"}
        fields |= _known(NewGroup, given) | {"slots": slots}
        _send(service, create_group(NewGroup(**fields)))
        created = read_group(_request(service, "GET", f"{COLLECTION}/8", b"").body)
        keep(created.key == fields["key"] and len(created.slots) == len(slots), "another group than was requested")


def _known(kind: type[msgspec.Struct], given: dict[str, Any]) -> dict[str, Any]:
    wire = dict(zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True))
    needed = {"percentage": 1} if kind is NewSlot else {}
    return needed | {wire.get(name, name): value for name, value in given.items() if wire.get(name, name) in
                     kind.__struct_fields__}  # fmt: skip


def _send(service: Service, request: Request[Any]) -> None:
    path = request.path if "/slots/" not in request.path else f"{COLLECTION}/7/slots/{request.path.split('/')[-1]}"
    if request.method == "PATCH" and "/slots/" not in path:
        path = f"{COLLECTION}/7"
    response = _request(service, request.method, path, request.body or b"")
    no_such_slot = response.status == 404 and b"slot" in response.body
    keep(response.status == 200 or no_such_slot, f"the client sent an invalid request: {response.body[:200]!r}")


def _request(service: Service, method: str, path: str, body: bytes) -> EmulatorResponse:
    return service.respond(method, path, body, JSON)


def endpoint(data: bytes) -> None:
    """A base URL is safe, and no path leads to another origin; otherwise it is rejected."""
    text = text_of(data)
    with only(ConfigurationError):
        service_url(text, None)
    with only(ConfigurationError):
        url, shown = service_url(None, text)
        keep(url.user is None and url.password is None and (url.host or "") in shown, "not a plain host")
        keep(url.scheme == "https" or str(url.host).startswith(("localhost", "::1", "127.")), "not encrypted")
        transport = Transport(url, KEY, fast_limiter(), max_connections=1, http=None)
        for path in ("/api/1/mutexes/7", "/api/1/mutexes?limit=1"):
            target = URL(transport.root + path, encoded=True)
            keep(target.origin() == url.origin() and str(target).endswith(path), "a path that leads elsewhere")


def api_key(data: bytes) -> None:
    """A key is a valid header value, or it is rejected without being shown."""
    text = text_of(data)
    try:
        key = check_api_key(text)
        keep(key.isascii() and key.isprintable() and " " not in key and key, "a key that breaks the header")
    except ConfigurationError as error:
        keep(len(text) < 8 or text not in str(error), "the key is shown")
        harmless(error)


# ------------------------------------------------------------------------------------------------ Redis and fleet


def lease(data: bytes) -> None:
    """A response of Redis is a lease with finite times, or the limiter is unavailable."""
    reply, *instants = data.split(b"\n")

    async def script(**_: Any) -> list[Any]:
        return [reply, *(int(item) if item.isdigit() and len(item) < 20 else item for item in instants)]

    async def load(_: str) -> None:
        return None

    client = SimpleNamespace(register_script=lambda _: script, script_load=load, connection_pool=None)
    request = LeaseRequest(max_permits=1, window=1.0, per_day=1, wanted=1, interactive=0, uncertain=False, day=1,
                           used=1, spacing=1.0, fallback_grace=1.0)  # fmt: skip
    with only(LimiterUnavailableError):
        lease = in_loop(RedisBudget(client, "n", 1.0).lease(request, lambda: 1.0))
        keep(all(math.isfinite(instant) for instant in lease.send_times), "a send time that is not finite")


def fleet_result(data: bytes) -> None:
    """The result of a job is what a session would have returned or raised, or is rejected."""
    with only(ValueError, RecursionError):
        for answer in msgspec.json.decode(data, type=Result).answers:
            result = answer.result(get_group("7"))
            io.StringIO().write(f"{result} {result!r}")


def fleet_job(data: bytes) -> None:
    """A job is decoded or rejected, whatever is in the queue: a worker sends nothing but the requests of a run."""
    with only(ValueError, KeyError, RecursionError):
        for packed in msgspec.json.decode(data, type=list[JobRequest]):
            request = packed.to_request()
            keep(request.operation in ("edit_slot", "get_group", "list_page"), "another request")


_LEASE: Final = (
    b'{"now":"1790000000000000","wait":1,"next_free":1,"day":20780,"used":5,"permits":97,"used_in_window":1,'
    b'"paused":false,"is_probe":false,"pause_left":0.0,"failed_probes":0,"since_first_429":0.0,"suspected":false,'
    b'"requested_wait":0.0}\n1000\n2000'
)
_RESULT: Final = (
    b'{"answers":[["eyJpZCI6NywibmFtZSI6Im0iLCJzbG90cyI6W119",1,[],null],["",2,[["ConnectionFailedError",["no"],'
    b'{"sent":true},[]]],["NotFoundError",["no such"],{"status":404,"method":"PATCH","path":"/","detail":"no such",'
    b'"request_id":null,"body":"","retry_after":null},[]]],["",1,[],["DailyBudgetExhaustedError",["spent"],'
    b'{"resets_at":"2026-11-24T00:00:00Z","used":1,"limit":1,"suspected":false},[]]]],"limiter":{"used":1,'
    b'"per_window":97,"window":1.02,"used_today":1,"per_day":100000,"resets_at":"2026-11-24T00:00:00Z","waiting":0,'
    b'"paused_for":0.0}}'
)
_JOB: Final = (
    b'[["/api/1/mutexes/7/slots/1",{"experiments":[1]}],["/api/1/mutexes/7",null],'
    b'["/api/1/mutexes?limit=1000&cursor=5",null]]'
)
_EDIT_AND_GROUP: Final = (
    b'{"group_id":"7","slot_index":1,"name":"n","description":null,'
    + SLOT_EDIT[1:-1]
    + b',"slots":[{"percentage":40},{"percentage":60,"holdouts":[1]}]}'
)


_KEYS: Final = ("group_id", "slot_index", "slots", "percentage", "experiments", "individuals", "projectId", "name")

REQUESTS: Final[dict[str, Target]] = {
    "ids": Target(ids, (b"7", b"abc-1", b"..", b"a/b?c#d%2e"), longest=256),
    "writes": Target(writes, (_EDIT_AND_GROUP, CREATE, SLOT_EDIT, GROUP_EDIT), (*_KEYS, "NaN", "Infinity", "\\ud800")),
    "endpoint": Target(
        endpoint,
        (b"https://experiment.amplitude.com", b"http://127.0.0.1:8080/base/", b"http://[::1]:1", b"eu"),
        ("http://", "https://", "localhost", "@", ":99999", "xn--", "%2f", "[::ffff:127.0.0.1]", "/../"),
        longest=256,
    ),
    "api_key": Target(api_key, (KEY.encode(), b"a b", b"x\r\ny"), longest=256),
    "lease": Target(lease, (_LEASE,), ("NaN", "inf", "1e400")),
    "fleet_result": Target(fleet_result, (_RESULT,), ("MutexError", "APIError", "earlier", "resets_at")),
    "fleet_job": Target(fleet_job, (_JOB,), ("holdouts", "individuals")),
}
