# The targets are private, and their inputs have no types.
# pyright: reportPrivateUsage=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownLambdaType=false
"""Fuzz targets for files of edits, journals and the budgets of machines."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import math
import shutil
import sqlite3
import time
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec
from fuzz_promises import Target, folder, in_loop, keep, only

from aiomutex import ConfigurationError, JournalError, MutexGroup, Slot, SlotEdit
from aiomutex.bulk import undo
from aiomutex.bulk.group_queues import Item
from aiomutex.bulk.journal import Journal
from aiomutex.bulk.journal_file import checksum
from aiomutex.bulk.options import request_of
from aiomutex.bulk.slot_lists import SlotLists
from aiomutex.cli.edits_file import read_edits
from aiomutex.limits.machine import MachineBudget
from aiomutex.limits.messages import LeaseRequest

if TYPE_CHECKING:
    from pathlib import Path

TODAY: Final = 20_780  # 2026-11-23
LIVE: Final = MutexGroup(
    id="7", project_id="1", name="n", key="a", evaluation_mode="remote", bucketing_key="amplitude_id",
    bucketing_salt="s", slots=[Slot(index=1, percentage=40, experiments=[1, 2]), Slot(index=2, percentage=60)],
)  # fmt: skip


def _edits(data: bytes, format_: str) -> None:
    """Each line is a valid edit that survives a round trip, or a bad line that can be written to the failures file."""
    lines = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors="surrogateescape")
    for item in read_edits(lines, format_):
        keep(item.number > 0, "no line number")
        kept = json.dumps(item.fields, ensure_ascii=False)
        kept.encode("utf-8", "surrogateescape")
        if item.edit is not None:
            again = list(read_edits([kept], "jsonl"))
            keep([line.edit for line in again] == [item.edit], "the edit changed in a file")


def edits_jsonl(data: bytes) -> None:
    """Each line of JSON Lines is a valid edit or a bad line."""
    _edits(data, "jsonl")


def edits_csv(data: bytes) -> None:
    """Each row of CSV is a valid edit or a bad line."""
    _edits(data, "csv")


# ---------------------------------------------------------------------------------------------- journal


@functools.cache
def _journal() -> Path:
    """Create a journal of a run with two slots, one of them with an unknown outcome."""
    path = folder() / "journal.db"
    group = MutexGroup(id="7", slots=[Slot(index=1, percentage=50, experiments=[9]), Slot(index=2, percentage=50)])

    async def fill() -> None:
        with Journal(path) as kept:
            for position, slot in enumerate((1, 2, 1)):
                items = [_item(position, SlotEdit("7", slot, experiments=[position], individuals=["ada"]))]
                await kept.record_sent(items, group)
                if position < 2:
                    kept.record_outcome(items, "applied", confirmed=True)
            kept.record_end(3)

    in_loop(fill())
    return path


def _item(position: int, edit: SlotEdit) -> Item:
    return Item(position, edit, request_of(edit))


async def _read_journal(path: Path) -> None:
    edit = SlotEdit("7", 1, experiments=[0], individuals=["ada"])
    with only(JournalError), Journal(path) as kept:
        for position in (0, 1, 2, 3):
            with only(JournalError):
                keep(
                    kept.progress_of(position, edit) in ("new", "sent", "applied", "failed", "unknown"),
                    "an invalid status",
                )
        with only(JournalError):
            kept.check_input([edit])
        with only(JournalError):
            kept.check_not_undone()
        with only(JournalError):
            await kept.has_before("7", [1, 2])
        with only(JournalError):
            await kept.record_sent([_item(0, edit)], LIVE)
            kept.record_outcome([_item(0, edit)], "applied", confirmed=True)
        for record in kept.written_slots():
            keep(type(record.group_id) is str and type(record.slot_index) is int, "an invalid slot")
            for held in (record.before, record.after, *record.unconfirmed):
                keep(msgspec.json.decode(msgspec.json.encode(held), type=SlotLists) == held, "the content changed")


def journal_bytes(data: bytes) -> None:
    """A journal with changed bytes is read or rejected. Each patch is three bytes of offset and the bytes to write."""
    path = folder() / "changed.db"
    whole = bytearray(_journal().read_bytes())
    for patch in data.split(b"|"):
        place = int.from_bytes(patch[:3], "big") % len(whole)
        whole[place : place + len(patch[3:])] = patch[3:]
    path.write_bytes(whole)
    for more in ("-wal", "-shm"):
        (folder() / f"changed.db{more}").unlink(missing_ok=True)
    in_loop(_read_journal(path))


def journal_rows(data: bytes) -> None:
    """A journal whose rows have any value that SQLite allows is read or rejected."""
    path = folder() / "rows.db"
    shutil.copy(_journal(), path)
    try:
        rows = json.loads(data)
        assert isinstance(rows, dict)
    except (ValueError, RecursionError, AssertionError):
        return
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        for table, width in (("facts", 2), ("edits", 3), ("slots", 8)):
            given = rows.get(table)
            for row in given if isinstance(given, list) else []:
                values = [_sql(value) for value in row[:width]] if isinstance(row, list) else []
                values += [None] * (width - len(values))
                if table == "slots":
                    values = [*values[:2], values[3], json.dumps(row).encode()]
                with contextlib.suppress(sqlite3.Error, OverflowError, UnicodeEncodeError):
                    values.append(checksum(*(values[3:] or values)))
                    file.execute(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(values))})", values)
    in_loop(_read_journal(path))


def _sql(value: Any) -> Any:
    if isinstance(value, dict):
        return b"\xff" + json.dumps(value).encode()
    return json.dumps(value) if isinstance(value, list) else value


def undo_of_a_journal(data: bytes) -> None:
    """An undo of an unusable journal raises ``JournalError`` before anything is sent."""
    path = folder() / "nothing.db"
    path.write_bytes(data)
    with only(JournalError):
        in_loop(undo(cast("Any", _NoSession()), path))  # no request may be sent


class _NoSession:
    def with_options(self, **_: object) -> _NoSession:
        return self


def machine_budget(data: bytes) -> None:
    """Whatever a budget file holds, it gives a lease within the limits, or a ``ConfigurationError``."""
    path = folder() / "budget.db"
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    if data.startswith(b"{"):
        in_loop(MachineBudget(path).lease(_request(0), time.monotonic))
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE budget SET state = ?", (data,))
    else:
        path.write_bytes(data)

    async def lease() -> None:
        budget = MachineBudget(path)
        granted = 0
        for _ in range(3):
            lease = await budget.lease(_request(40), time.monotonic)
            granted += len(lease.send_times)
            keep(lease.used >= granted, "the count of the day decreased")
            keep(lease.wait >= 0 and all(map(math.isfinite, lease.send_times)), "not a time")
        keep(granted <= 97, "more permits than a window may have")
        await budget.aclose()

    with only(ConfigurationError):
        in_loop(lease())


def _request(wanted: int) -> LeaseRequest:
    return LeaseRequest(max_permits=97, window=1.02, per_day=100_000, wanted=wanted, interactive=wanted // 2,
                        uncertain=False, day=0, used=0, spacing=0.01)  # fmt: skip


_ROWS: Final = (
    b'{"facts":[["total",5]],"edits":[[0,123,2],[7,1,9]],"slots":[["7",1,[[1],null,["a"]],1,[[2],[],[]],[],0,0],'
    b"[8,1,[[1],null,null],2,[null,null,null],[[[],[],[]]],0,1]]}"
)

FILES: Final[dict[str, Target]] = {
    "edits_jsonl": Target(
        edits_jsonl,
        (b'{"group_id":"7","slot_index":1,"experiments":[1]}\r\n\n{"group_id":7,"slot_index":2,"individuals":["a"]}',),
        ("group_id", "slot_index", "experiments", "holdouts", "individuals", "line"),
    ),
    "edits_csv": Target(
        edits_csv,
        (b'group_id,slot_index,experiments,individuals\n7,1,1;2,"a;b"\n8,2,[],\n', b"slot_index,group_id\n1,2\n3\n"),
        ("group_id", "slot_index", "experiments", "holdouts", "individuals", "[]", '"', ";"),
    ),
    "journal_bytes": Target(journal_bytes, (b"\x00\x00\x60\x01|\x00\x10\x00\xff",), ("|",), share=0.1, longest=256),
    "journal_rows": Target(journal_rows, (_ROWS,), ("facts", "edits", "slots"), share=0.2),
    "undo": Target(undo_of_a_journal, (b"", b"SQLite format 3\x00"), share=0.1, longest=8192),
    "machine_budget": Target(
        machine_budget,
        (
            b'{"clock":1.7e9,"state":{"log":[1.0,2.0],"day":20780,"used":5,"reserved":[2.0],"paused":true}}',
            b"SQLite format 3\x00",
        ),
        ("clock", "state", "log", "permits", "pause_until", "suspected_day"),
        0.1,
        64,
    ),
}
