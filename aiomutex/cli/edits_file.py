"""Slot edits in files: JSON Lines or CSV to read, each with its line, and JSON Lines of the edits that failed."""

from __future__ import annotations

import csv
import json
import os
import stat
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import msgspec

from aiomutex import UNSET, InvalidRequestError, SlotEdit
from aiomutex._util.checks import describe
from aiomutex._util.files import MAX_LINE, LineTooLongError, open_private
from aiomutex._util.wording import counted
from aiomutex.bulk.options import request_of
from aiomutex.models import SLOT_LISTS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

_REQUIRED: Final = ("group_id", "slot_index")
_FIELDS: Final = (*_REQUIRED, *SLOT_LISTS)
_REASON: Final = "reason"
"""The field of the file of failures that says why. It is ignored in edits."""
_MAX_DIGITS: Final = 20


class LineEdit(SlotEdit, frozen=True, kw_only=True):
    """An edit and the number of its line, from 1."""

    line: int = 0


class BadLine(NamedTuple):
    """A line that is not a valid edit, and why."""

    line: int
    text: str
    """The line as JSON, to be corrected and run again; empty if it could not be read."""
    problem: str

    def as_json(self) -> str:
        """Return the line of JSON for the file of failures. ``read_edits`` rejects it until it is corrected."""
        try:
            value: object = json.loads(self.text)
        except (ValueError, RecursionError):
            value = None
        fields = cast("dict[str, Any]", value) if isinstance(value, dict) else {"text": self.text}
        return json.dumps({**fields, _REASON: self.problem}, ensure_ascii=False)


def read_edits(lines: Iterable[str], format_: str) -> Iterator[LineEdit | BadLine]:
    """Read the edits of a file line by line. Empty lines are skipped.

    A line of JSON Lines is ``{"group_id": "7", "slot_index": 1, "experiments": [123]}``. The first line of a CSV file
    names the columns ``group_id,slot_index`` and any of ``experiments,holdouts,individuals``. The items of a cell are
    separated by ``;``. An empty cell leaves the list unchanged, and ``[]`` empties it.
    """
    try:
        yield from _from_csv(lines) if format_ == "csv" else _from_json(lines)
    except LineTooLongError as error:
        yield BadLine(error.line, "", str(error.args[0]))


def to_json_line(edit: SlotEdit, reason: str = "") -> str:
    """Return the edit, and why it failed, as a line of JSON that ``read_edits`` can read."""
    fields = {name: value for name in _FIELDS if (value := getattr(edit, name)) is not UNSET}
    return msgspec.json.encode(fields | ({_REASON: reason} if reason else {})).decode()


def _edit_of(fields: object, line: int) -> LineEdit:
    """Build an edit, or raise ``InvalidRequestError`` if a field is unknown, missing or invalid."""
    given = object_fields("an edit", fields, (*_FIELDS, _REASON), _REQUIRED)
    given.pop(_REASON, None)
    edit = LineEdit(**given, line=line)
    request_of(edit)
    return edit


def object_fields(noun: str, value: object, known: Collection[str], required: Collection[str]) -> dict[str, Any]:
    """The fields of a JSON object; ``InvalidRequestError`` if it is not one, or a field is unknown or missing."""
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{noun} must be an object, not {describe(value)}")
    given = cast("dict[str, Any]", value)
    if unknown := given.keys() - {*known}:
        raise InvalidRequestError(f"unknown field {min(unknown)!r}; {noun} has {', '.join(known)}")
    if missing := [name for name in required if name not in given]:
        raise InvalidRequestError(f"{missing[0]} is missing; {noun} must have {' and '.join(required)}")
    return given


def _problem(error: Exception) -> str:
    return "not valid UTF-8" if isinstance(error, UnicodeError) else str(error)


def _from_json(lines: Iterable[str]) -> Iterator[LineEdit | BadLine]:
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        try:
            yield _edit_of(msgspec.json.decode(text), number)
        except (msgspec.MsgspecError, RecursionError, UnicodeError, InvalidRequestError) as error:
            yield BadLine(number, text.rstrip("\r\n"), _problem(error))


def _from_csv(lines: Iterable[str]) -> Iterator[LineEdit | BadLine]:
    # Python's default limit of 131,072 characters is too short for a long list of users.
    csv.field_size_limit(MAX_LINE)
    # Without strict mode, a quote that is never closed would turn the rest of the file into one cell.
    reader = csv.reader(lines, strict=True)
    try:
        columns = [name.strip() for name in next(reader, cast("list[str]", []))]
        if problem := _header_problem(columns):
            yield BadLine(1, "", problem)
            return
        for row in reader:
            if row:
                yield _from_row(columns, row, reader.line_num)
    except csv.Error as error:
        yield BadLine(reader.line_num, "", f"invalid CSV: {error}")


def _header_problem(columns: list[str]) -> str | None:
    if unknown := [name for name in columns if name not in _FIELDS]:
        return f"unknown columns in the header: {', '.join(unknown)}; an edit has {', '.join(_FIELDS)}"
    if repeated := [name for name in _FIELDS if columns.count(name) > 1]:
        return f"repeated columns in the header: {', '.join(repeated)}"
    if missing := [name for name in _REQUIRED if name not in columns]:
        return f"columns missing from the header: {', '.join(missing)}"
    return None


def _from_row(columns: list[str], row: list[str], line: int) -> LineEdit | BadLine:
    cells = dict(zip(columns, row, strict=False))
    try:
        if len(row) > len(columns):
            raise InvalidRequestError(f"{counted(len(row), 'cell')} for {counted(len(columns), 'column')}")  # noqa: TRY301
        "".join(row).encode()  # raises UnicodeEncodeError where the file is not UTF-8
        fields: dict[str, Any] = {name: cells.get(name, "").strip() for name in _REQUIRED}
        fields["slot_index"] = _integer(fields["slot_index"])
        for name in SLOT_LISTS:
            if cell := cells.get(name, "").strip():
                items = [item.strip() for item in cell.split(";")] if cell != "[]" else []
                fields[name] = items if name == "individuals" else [_integer(item) for item in items]
        return _edit_of(fields, line)
    except (UnicodeError, InvalidRequestError) as error:
        # A row with too many cells is kept as a list, since the extra cells have no column.
        kept = row if len(row) > len(columns) else cells
        return BadLine(line, json.dumps(kept, ensure_ascii=False), _problem(error))


def _integer(cell: str) -> int | str:
    """Return an integer if the cell is one; the validation of the edit reports anything else."""
    return int(cell) if cell.isdecimal() and len(cell) <= _MAX_DIGITS else cell


class FailuresFile:
    """The open file of ``--failures``.

    The failures of an earlier run are kept until this run has one of its own or ends without any, so that a run that
    does not start loses nothing. Each line is flushed at once, so that a crash loses none.
    """

    def __init__(self, path: str) -> None:
        # Opening for append keeps the content, and fails before a long run if the file cannot be written.
        self._file = open_private(path, "a")
        self._has_previous = stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)
        self.close = self._file.close

    def write(self, line: str) -> None:
        """Add a line."""
        self.discard_previous()
        self._file.write(line + "\n")

    def discard_previous(self) -> None:
        """Remove the failures of an earlier run, unless that was done already."""
        if self._has_previous:
            self._has_previous = False
            self._file.truncate(0)
