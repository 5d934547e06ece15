"""Slot edits in a file: JSON Lines or CSV, each edit remembering its line, so that a failure can name it."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import msgspec

from aiomutex import UNSET, InvalidRequestError, SlotEdit
from aiomutex._util.files import MAX_LINE, LineTooLongError
from aiomutex.bulk.options import request_of
from aiomutex.models import SLOT_LISTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["FORMATS", "BadLine", "LineEdit", "as_json_line", "read_edits"]

FORMATS: Final = ("jsonl", "csv")
_COLUMNS: Final = ("group_id", "slot_index", *SLOT_LISTS)


class LineEdit(SlotEdit, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An edit and the line it stands on, from 1."""

    line: int = 0


class BadLine(NamedTuple):
    """A line that is no edit, and why."""

    line: int
    text: str
    """What stands there, to be put right as a line of JSON; empty if it was not read."""
    problem: str


_decoder: Final = msgspec.json.Decoder(LineEdit)


def read_edits(lines: Iterable[str], format_: str) -> Iterator[LineEdit | BadLine]:
    """The edits of a file, as it is read. Empty lines are passed over.

    JSON Lines: ``{"group_id": "7", "slot_index": 1, "experiments": [123]}``. CSV: a first line with the columns
    ``group_id,slot_index`` and any of ``experiments,holdouts,individuals``; inside a cell items are parted by ``;``, an
    empty cell leaves the list as it is, and ``[]`` empties it.
    """
    try:
        yield from _from_csv(lines) if format_ == "csv" else _from_json(lines)
    except LineTooLongError as error:
        yield BadLine(error.line, "", f"it is {error.args[0]}")


def _checked(edit: LineEdit) -> LineEdit:
    request_of(edit)
    return edit


def as_json_line(edit: SlotEdit) -> str:
    """The edit as a line of JSON that ``read_edits`` reads again."""
    fields = {name: value for name in _COLUMNS if (value := getattr(edit, name)) is not UNSET}
    return msgspec.json.encode(fields).decode()


def _from_json(lines: Iterable[str]) -> Iterator[LineEdit | BadLine]:
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            yield _checked(msgspec.structs.replace(_decoder.decode(text), line=number))
        except (msgspec.MsgspecError, RecursionError, UnicodeError, InvalidRequestError) as error:
            yield BadLine(number, text.rstrip("\r\n"), str(error))


def _from_csv(lines: Iterable[str]) -> Iterator[LineEdit | BadLine]:
    # A limit of the whole process, which is the command line's own; left as it is, it would refuse a long list.
    csv.field_size_limit(MAX_LINE)
    # Strict, lest a quote that is never closed make one id of all the lines after it.
    reader = csv.reader(lines, strict=True)
    try:
        columns = [name.strip() for name in next(reader, cast("list[str]", []))]
        if problem := _wrong_columns(columns):
            yield BadLine(1, "", problem)
            return
        for row in reader:
            if not row:
                continue
            try:
                if len(row) > len(columns):
                    raise ValueError(f"{len(row)} cells for {len(columns)} columns")  # noqa: TRY301  # told as below
                "".join(row).encode()  # what is not UTF-8 ends here
                yield _checked(_from_row(dict(zip(columns, row, strict=False)), reader.line_num))
            except ValueError as error:
                told = row if len(row) > len(columns) else dict(zip(columns, row, strict=False))
                yield BadLine(reader.line_num, json.dumps(told, ensure_ascii=False), str(error))
    except csv.Error as error:
        yield BadLine(reader.line_num, "", f"no CSV: {error}")


def _wrong_columns(columns: list[str]) -> str | None:
    if unknown := [name for name in columns if name not in _COLUMNS]:
        return f"unknown columns {unknown}; known are {', '.join(_COLUMNS)}"
    if twice := [name for name in _COLUMNS if columns.count(name) > 1]:
        return f"columns {twice} stand there more than once"
    if missing := [name for name in _COLUMNS[:2] if name not in columns]:
        return f"the first line must name the columns; {missing} are missing"
    return None


def _from_row(row: dict[str, str], line: int) -> LineEdit:
    slot = row.get("slot_index", "").strip()
    if not slot.isdecimal():
        raise ValueError(f"slot_index is {slot!r}; it must be a whole number")
    given: dict[str, Any] = {}
    for name in SLOT_LISTS:
        cell = row.get(name, "").strip()
        if not cell:
            continue
        items = [item.strip() for item in cell.split(";")] if cell != "[]" else []
        given[name] = items if name == "individuals" else [_number(name, item) for item in items]
    return LineEdit(row.get("group_id", "").strip(), int(slot), line=line, **given)


def _number(name: str, item: str) -> int:
    if not item.isdecimal():
        raise ValueError(f"{name} holds {item!r}; ids are whole numbers, parted by ';'")
    return int(item)
