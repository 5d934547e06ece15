"""Edits of slots in files: JSON Lines or CSV to read, each with its line, and JSON Lines of the edits that failed.

Blocking input, such as a pipe, is read in a thread, so that the event loop can go on meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import json
import os
import re
import stat
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Iterator
from functools import cache, partial
from itertools import chain
from typing import Any, Final, NamedTuple, TypeVar, cast

import click
import msgspec

import aiomutex
from aiomutex import InvalidRequestError, SlotChange, SlotEdit
from aiomutex._util.checks import describe
from aiomutex._util.files import MAX_LINE, LineTooLongError, lines_of, open_private
from aiomutex._util.wording import counted
from aiomutex.bulk.options import AnyEdit, freeze, request_of
from aiomutex.cli.common import id_of
from aiomutex.models import SLOT_LISTS

T = TypeVar("T")

READ_AHEAD: Final = 64  # items that a thread reads before they are needed
_GROUP: Final = ("group_id", "group_key")
_WHOLE: Final = SlotEdit.__struct_fields__[2:]
_PARTS: Final = SlotChange.__struct_fields__[2:]
_FIELDS: Final = (*_GROUP, "slot_index", *_WHOLE, *_PARTS)
_COLUMNS: Final = (*_GROUP, "slot_index", *SLOT_LISTS, *_PARTS, *(f"expected_{name}" for name in SLOT_LISTS))
_UNDECODED: Final = re.compile("[\udc80-\udcff]")
_UTF_16: Final = ("\udcff\udcfe", "\udcfe\udcff")


class Line(NamedTuple):
    """A line of a file, numbered from 1: an edit, or why it is none."""

    number: int
    fields: dict[str, Any]
    """What it says, for the file of failures; empty if it could not be read."""
    edit: AnyEdit | None
    error: str = ""

    async def with_id(self, session: aiomutex.MutexSession, ids: dict[tuple[str, bool], list[str]]) -> Line:
        """Return the line with the ID that belongs to its key."""
        if self.edit is None or "group_key" not in self.fields:
            return self
        group_id, problem = await id_of(self.fields["group_key"], session, ids)
        edit = None if problem else msgspec.structs.replace(self.edit, group_id=group_id)
        return self._replace(edit=edit, error=problem)


def read_file(path: str, format_: str) -> Generator[Line]:
    """Read the edits of a file; ``-`` is standard input."""
    with click.open_file(path, encoding="utf-8", errors="surrogateescape") as file:
        yield from read_edits(lines_of(file), format_)


def read_edits(lines: Iterable[str], format_: str) -> Iterator[Line]:
    """Read the edits of a file line by line, without its empty lines. The help of ``slots bulk`` shows the format."""
    rest = iter(lines)
    try:
        first = next(rest, "")
        if first.startswith(_UTF_16):
            yield Line(1, {}, None, "the file is in UTF-16; save it as UTF-8")
        else:
            yield from (_from_csv if format_ == "csv" else _from_json)(chain([first], rest))
    except LineTooLongError as error:
        yield Line(error.line, {}, None, str(error.args[0]))


def _edit_of(value: object) -> AnyEdit:
    """Build an edit, or raise ``InvalidRequestError`` if a field is unknown, missing or invalid."""
    if not isinstance(value, dict):
        raise InvalidRequestError(f"an edit must be an object, not {describe(value)}")
    given = cast("dict[str, Any]", value)
    given.pop("reason", None)
    required = (_GROUP["group_key" in given], "slot_index")
    if unknown := given.keys() - {*_FIELDS}:
        raise InvalidRequestError(f"unknown field {min(unknown)!r}; an edit has {', '.join(_FIELDS)}")
    if missing := [name for name in required if name not in given]:
        raise InvalidRequestError(f"{missing[0]} is missing; an edit must have {' and '.join(required)}")
    fields: dict[str, Any] = {"group_id": 0} | given
    key = fields.pop("group_key", "key")
    if ("group_key" in given and "group_id" in given) or not key or not isinstance(key, str):
        raise InvalidRequestError("group_key must be a non-empty string, and the only name of the group")
    whole, parts = ([name for name in given if name in names] for names in (_WHOLE, _PARTS))
    if whole and parts:
        problem = f"an edit replaces whole lists or adds and removes items; it has both {whole[0]} and {parts[0]}"
        raise InvalidRequestError(f"{problem}. Use a line for each")
    edit = SlotChange(**fields) if parts else SlotEdit(**fields)
    request_of(freeze(edit) if parts or "expected" in given else edit)
    return edit


def _checked(number: int, text: str, value: Callable[[], Any], cells: dict[str, Any] | None = None) -> Line:
    given: Any = None
    try:
        given = value()
        text.encode()  # raises UnicodeEncodeError where the file is not UTF-8
        return Line(number, given, _edit_of(given))
    except (ValueError, RecursionError) as error:
        fields = cells or (cast("dict[str, Any]", given) if isinstance(given, dict) else {"text": text})
        return Line(number, fields, None, "not valid UTF-8" if isinstance(error, UnicodeError) else str(error))


def _from_json(lines: Iterable[str]) -> Iterator[Line]:
    for number, text in enumerate(lines, 1):
        if text.strip():
            # An escaped surrogate beside such bytes could not be written to the file of failures.
            is_kept = _UNDECODED.search(text) and "\\ud" not in text.lower()
            decode = json.loads if is_kept else msgspec.json.decode
            yield _checked(number, text.rstrip("\r\n"), partial(decode, text))


def _from_csv(lines: Iterable[str]) -> Iterator[Line]:
    # Python's default limit of 131,072 characters is too short for a long list of users.
    csv.field_size_limit(MAX_LINE)
    # Without strict mode, a quote that is never closed would turn the rest of the file into one cell.
    reader = csv.reader(lines, strict=True)
    try:
        columns = [name.strip() for name in next(reader, cast("list[str]", []))]
        if columns and (problem := _header_problem(columns)):
            yield Line(1, {}, None, problem)
            return
        for row in filter(None, reader):
            # A row with too many cells is kept as a list, since the extra cells have no column.
            cells = dict(zip(columns, row, strict=False)) if len(row) <= len(columns) else None
            text = json.dumps(row, ensure_ascii=False)
            yield _checked(reader.line_num, text, partial(_fields, columns, row), cells)
    except csv.Error as error:
        yield Line(reader.line_num, {}, None, f"invalid CSV: {error}")


def _header_problem(columns: list[str]) -> str | None:
    if len(columns) == 1 and (found := [separator for separator in (";", "\t") if separator in columns[0]]):
        return f"the columns are separated by {found[0]!r}; separate them by commas"
    if unknown := [name for name in columns if name not in _COLUMNS]:
        return f"unknown columns in the header: {', '.join(unknown)}; an edit has {', '.join(_COLUMNS)}"
    if repeated := [name for name in _COLUMNS if columns.count(name) > 1]:
        return f"repeated columns in the header: {', '.join(repeated)}"
    if missing := [names[0] for names in (_GROUP, ("slot_index",)) if not {*names} & {*columns}]:
        return f"columns missing from the header: {', '.join(missing)}"
    return None


def _fields(columns: list[str], row: list[str]) -> dict[str, Any]:
    if len(row) > len(columns):
        raise InvalidRequestError(f"{counted(len(row), 'cell')} for {counted(len(columns), 'column')}")
    fields: dict[str, Any] = {}
    for name, cell in zip(columns, map(str.strip, row), strict=False):
        if name in _GROUP:
            fields[name] = cell
        elif name == "slot_index":
            fields[name] = _integer(cell)
        elif cell:
            items = [item.strip() for item in cell.split(";")] if cell != "[]" else []
            target = fields.setdefault("expected", {}) if name.startswith("expected_") else fields
            target[name.removeprefix("expected_")] = items if name.endswith("individuals") else [*map(_integer, items)]
    return fields


def _integer(cell: str) -> int | str:
    """Return an integer if the cell is one; the validation of the edit reports anything else."""
    return int(cell) if cell.isdecimal() and len(cell) <= len(str(2**64)) else cell


@contextlib.contextmanager
def failures_file(path: str) -> Generator[Callable[[dict[str, Any]], None]]:
    """Open the file of ``--failures``. It keeps those of an earlier run until this one has failures or ends."""
    # Opening for append keeps the content, and fails before a long run if the file cannot be written.
    with open_private(path, "a") as file:

        @cache
        def discard_previous() -> None:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                file.truncate(0)

        def write(fields: dict[str, Any]) -> None:
            discard_previous()
            file.write(json.dumps(fields, ensure_ascii=False) + "\n")  # flushed at once, so that a crash loses none

        yield write
        discard_previous()


async def read_in_thread(items: Generator[T]) -> AsyncGenerator[T]:
    """Iterate over a blocking generator in a daemon thread, which closes it at its next item once this is closed."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[T] | BaseException | None] = asyncio.Queue()
    capacity = threading.Semaphore(READ_AHEAD)
    closed = threading.Event()

    def read(_stdin: object) -> None:
        end: BaseException | None = None
        try:
            with contextlib.closing(items):
                for item in items:
                    capacity.acquire()
                    if closed.is_set():
                        return
                    loop.call_soon_threadsafe(queue.put_nowait, (item,))
        except BaseException as error:  # noqa: BLE001  # raised again in the event loop
            end = error
        with contextlib.suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(queue.put_nowait, end)

    # The thread keeps a reference to sys.stdin: Python aborts if it finalizes standard input while a thread reads it.
    threading.Thread(target=read, args=(sys.stdin,), name="aiomutex input", daemon=True).start()
    try:
        while isinstance(item := await queue.get(), tuple):
            capacity.release()
            yield item[0]
        if item is not None:
            raise item
    finally:
        closed.set()
        capacity.release()
