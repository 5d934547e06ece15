# The targets are private, and their inputs have no types.
# pyright: reportPrivateUsage=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownLambdaType=false
"""Fuzz targets for the emulator: requests, its status page, dialects, faults, dumps and state files."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import math
import socket
import sqlite3
from typing import Any, Final

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from fuzz_promises import Target, folder, in_loop, keep, only, text_of
from support import CREATE, GROUP, GROUP_EDIT, KEY, SLOT_EDIT

from aiomutex._api.responses import read_group, read_page
from aiomutex.emulator import MutexEmulator
from aiomutex.emulator.dialect import Dialect
from aiomutex.emulator.faults import Fault, Faults, Latency
from aiomutex.emulator.responses import JSON, Encoder
from aiomutex.emulator.service import COLLECTION, Service
from aiomutex.emulator.state import GroupStore
from aiomutex.emulator.storage import StateFile, document_of, read_state, store_of, store_of_json

DIALECTS: Final = (
    Dialect(),
    Dialect(unknown_fields="rejected", empty_edit="rejected", over_limit="rejected", slot_patch="merge"),
    Dialect(create_lists="loose", create_name="optional", ids="string", error_body="string", patch_body="json"),
    Dialect(archived="hidden", offsets="all", end_of_list="probed", cursors="string", last_cursor="empty"),
    Dialect(slot_writes="racy", cohorts_on_edit="dropped", cohorts="absent", taken_key=409, error_body="html"),
    Dialect(error_body="text", patch_body="empty", created_id="number", project_ids="string", archived="listed"),
)


def service_request(data: bytes) -> None:
    """Every request gets a response, and the state afterwards can be listed, read and dumped."""
    head, _, body = data[1:].partition(b"\n")
    # HTTP parsers let only ASCII through.
    method, _, target = head.decode("ascii", "ignore").partition(" ")
    encoder = Encoder(DIALECTS[data[0] % len(DIALECTS) if data else 0])
    service = Service(GroupStore(3, slots=2), encoder, local_experiments=frozenset({5}))
    response = service.respond(method, target, body, JSON)
    keep(response.status in (200, 400, 404, 405, 409), f"status {response.status}")
    if response.body and response.content_type == JSON:
        msgspec.json.decode(response.body)
    _check_state(service)


def _check_state(service: Service) -> None:
    """Check that a client can read every group, and that a dump restores the state."""
    store = service.store
    service.encoder = Encoder(Dialect(archived="flagged"))
    listed = service.respond("GET", COLLECTION, b"", JSON)
    groups = read_page(listed.body, None).groups
    keep([group.id for group in groups] == list(store)[:1000], "a group is not listed")
    for group_id in list(store)[:1000]:
        found = service.respond("GET", f"{COLLECTION}/{group_id}", b"", JSON)
        keep(found.status != 200 or read_group(found.body).id == group_id, "lost")
    again = store_of(msgspec.json.decode(msgspec.json.encode(document_of(store))))
    keep(again.materialized() == store.materialized() and list(again) == list(store), "the dump is incomplete")
    keys = [(group.project_id, group.key) for group in store.values()]
    keep(len(set(keys)) == len(keys), "two groups of a project have the same key")


class _ErrorLog(logging.Handler):
    """Collects the errors that the server logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@functools.cache
def _emulator() -> tuple[MutexEmulator, _ErrorLog]:
    emulator = MutexEmulator(groups=3, limits=False, keep_requests=20)
    in_loop(emulator.__aenter__())
    log = _ErrorLog()
    for name in ("aiohttp.server", "asyncio"):
        logging.getLogger(name).addHandler(log)
    return emulator, log


def http_wire(data: bytes) -> None:
    """For any bytes the server responds with HTTP or closes the connection, without an internal error."""
    emulator, log = _emulator()
    log.records.clear()
    received = in_loop(_exchange(emulator, data))
    keep(not received or received.startswith(b"HTTP/"), "a response that is not HTTP")
    keep(received[8:12] != b" 500", "an internal error")
    for record in log.records:
        error = record.exc_info and record.exc_info[1]
        if isinstance(error, HttpProcessingError | web.RequestPayloadError):
            continue  # aiohttp responds to the first itself, and logs the second when it reads the rest of a body
        if error:
            raise error
        keep(promise=False, what=record.getMessage())
    if len(emulator.groups) > 20:
        emulator._replace(GroupStore(3))


async def _exchange(emulator: MutexEmulator, data: bytes) -> bytes:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    loop = asyncio.get_running_loop()
    server = web.Server(emulator._handle, handler_cancellation=True, access_log=None)
    transport, _ = await loop.connect_accepted_socket(server, theirs)
    received = bytearray()
    with ours, contextlib.suppress(ConnectionError):
        ours.send(data)
        for _ in range(25):
            await asyncio.sleep(0)
            with contextlib.suppress(BlockingIOError):
                received += ours.recv(65_536)
    transport.abort()
    for _ in range(3):
        await asyncio.sleep(0)
    return bytes(received)


def status_page(data: bytes) -> None:
    """The data of the status page are served for any query."""
    http_wire(b"GET /status.json?" + data.replace(b"\r\n", b"") + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")


def dialect(data: bytes) -> None:
    """A dialect survives a round trip, or is a ``ValueError``."""
    with only(ValueError):
        read = Dialect.from_json(data)
        keep(Dialect.from_json(read.to_json()) == read, "the dialect changed")


def faults(data: bytes) -> None:
    """A fault or a latency has finite, valid values, or is a ``ValueError``."""
    text = text_of(data)
    with only(ValueError):
        fault = Fault.parse(text)
        keep(0 <= fault.rate <= 1 and fault.seconds < math.inf and 200 <= fault.status <= 599, "an impossible value")
        Faults([text]).next_fault("GET", "/")
    with only(ValueError):
        latency = Latency.parse(text)
        keep(0 <= latency.jitter <= latency.base < math.inf, "an impossible value")


def state_json(data: bytes) -> None:
    """A dump, a page of the service or a list of groups is a valid state, or a ``ValueError``."""
    with only(ValueError):
        store = store_of_json(data)
        if len(store) < 2000:
            _check_state(Service(store, Encoder(Dialect())))


@functools.cache
def _state() -> bytes:
    path = folder() / "state.db"
    store = GroupStore(3)
    store["2"].name = "renamed"
    del store["3"]
    file = StateFile(path)
    file.save_all(store)
    file.close()
    return path.read_bytes()


def state_file(data: bytes) -> None:
    """A state file with changed bytes or rows is a valid state, or a ``ValueError``."""
    path = folder() / "changed-state.db"
    for more in ("-wal", "-shm"):
        (folder() / f"changed-state.db{more}").unlink(missing_ok=True)
    whole = bytearray(_state())
    if data[:1] != b"{":
        for patch in data.split(b"|"):
            place = int.from_bytes(patch[:3], "big") % len(whole)
            whole[place : place + len(patch[3:])] = patch[3:]
    path.write_bytes(whole)
    if data[:1] == b"{":
        _fill(path, data)
    with only(ValueError):
        store = read_state(path)
        if store is not None and len(store) < 2000:
            _check_state(Service(store, Encoder(Dialect())))
            # Damage that only shows when writing is not the concern of reading.
            with contextlib.suppress(sqlite3.Error), contextlib.closing(StateFile(path)) as file:
                file.save_all(store)


def _fill(path: Any, data: bytes) -> None:
    try:
        rows: dict[str, Any] = json.loads(data)
    except (ValueError, RecursionError):
        return
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        for table, columns in (("generated", ("count", "slots", "removed")), ("groups", ("id", "body"))):
            given = rows.get(table)
            if isinstance(given, dict):
                values = [
                    json.dumps(it) if isinstance(it := given.get(column), list | dict) else it for column in columns
                ]
                with contextlib.suppress(sqlite3.Error, OverflowError, UnicodeEncodeError):
                    file.execute(f"DELETE FROM {table}")
                    file.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(columns))})", values)


def _request(line: str, body: bytes = b"", dialect: int = 0) -> bytes:
    return bytes([dialect]) + line.encode() + b"\n" + body


def _wire(line: str, body: bytes = b"", *more: str) -> bytes:
    head = "\r\n".join((line, "Host: [::1]", f"Authorization: Bearer {KEY}", "Content-Type: application/json", *more,
                        f"Content-Length: {len(body)}"))  # fmt: skip
    return head.encode() + b"\r\n\r\n" + body


_CHUNKED: Final = (
    _wire(f"POST {COLLECTION} HTTP/1.1").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    + b"2\r\n{}\r\n0\r\n\r\n"
)
_STATE: Final = (
    b'{"generated":{"count":3,"slots":2,"removed":["3"]},"groups":[{"id":"2","project_id":"1","name":"n","key":"k",'
    b'"description":null,"slots":[{"index":1,"percentage":100,"experiments":[1],"cohorts":["c"]}],"deleted":true}]}'
)
_ROWS: Final = b'{"generated":{"count":3,"slots":2,"removed":["3"]},"groups":{"id":"7","body":%b}}' % _STATE[61:-2]
_KEYS: Final = ("projectId", "name", "key", "slots", "percentage", "experiments", "individuals", "archive", "cohorts")

EMULATOR: Final[dict[str, Target]] = {
    "service_request": Target(
        service_request,
        (
            _request(f"GET {COLLECTION}?limit=2&cursor=1"), _request(f"GET {COLLECTION}/2", dialect=3),
            _request(f"PATCH {COLLECTION}/1/slots/2", SLOT_EDIT, 1), _request(f"PATCH {COLLECTION}/1", GROUP_EDIT, 4),
            _request(f"PATCH {COLLECTION}/1", b'{"archive":true}'), _request(f"POST {COLLECTION}", CREATE, 2),
            _request(f"PATCH {COLLECTION}/%31/slots/1", b'{"experiments":[5,6]}', 4), _request(f"PUT {COLLECTION}"),
        ),
        (*_KEYS, "holdouts", "%2f", "/slots/", "limit=", "cursor=", "evaluationMode", "bucketingSalt"),
    ),
    "http_wire": Target(
        http_wire,
        (
            _wire(f"GET {COLLECTION}?limit=1 HTTP/1.1"), _wire(f"PATCH {COLLECTION}/1/slots/1 HTTP/1.1", SLOT_EDIT),
            _wire(f"POST {COLLECTION} HTTP/1.1", CREATE) + _wire("GET / HTTP/1.0"), _wire("OPTIONS * HTTP/1.1"),
            _CHUNKED,
        ),
        ("HTTP/1.1\r\n", "Expect: 100-continue\r\n", "Transfer-Encoding: chunked\r\n", "Content-Encoding: gzip\r\n",
         "Upgrade: websocket\r\n", "\r\n\r\n", "Connection: close\r\n"),
        share=0.2,
    ),
    "status_page": Target(status_page, (b"start=1&limit=5&q=group", b"q=%ff"), ("&q=", "limit=", "%00"), 0.1, 128),
    "dialect": Target(dialect, (Dialect().to_json().encode(), b'{"dialect":{"ids":"string"}}'), tuple(Dialect.knobs())),
    "faults": Target(
        faults,
        (b"reset-after:2%", b"503:1%", b"storm:0.1%:5s", "80ms±40ms".encode(), b"1.5s"),
        ("status", "stall", "garbage", "truncate", "reset-before", "+-", "ms"), longest=512,
    ),
    "state_json": Target(state_json, (_STATE, b"[%b]" % GROUP, b'{"mutexes":[{"slots":[50,50]}]}'), _KEYS),
    "state_file": Target(
        state_file, (_ROWS, b"\x00\x10\x00\x01|\x00\x20\x00\xff"), (*_KEYS, "generated", "groups"), share=0.1
    ),
}  # fmt: skip
