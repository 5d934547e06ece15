"""Check requests by the rules in the service's documentation.

Pure functions from a decoded body or query to checked values. A ``Rejection`` names the field, what is valid, and the
value. Nothing here is shared with the client, so that the client's mistakes show.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from aiomutex.emulator.state import Group

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from aiomutex.emulator.dialect import Dialect

MAX_LIMIT = 1000
MAX_SLOTS = 20
FULL = 100

_GROUP_FIELDS = ("projectId", "name", "key", "description", "evaluationMode", "bucketingKey", "bucketingSalt", "slots")
_LISTS = ("experiments", "holdouts", "individuals")


def _is_number(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


_RULES: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    # The documentation says that it is a number, but its example has a string.
    "projectId": (lambda value: _is_number(value) or _is_text(value), "the ID of a project"),
    **dict.fromkeys(("name", "key", "bucketingKey", "bucketingSalt"), (_is_text, "a non-empty string")),
    "description": (lambda value: value is None or isinstance(value, str), "a string or null"),
    "evaluationMode": (lambda value: value in ("local", "remote"), '"local" or "remote"'),
    "archive": (lambda value: isinstance(value, bool), "true or false"),
    "slots": (lambda value: isinstance(value, list), f"a list of 1 to {MAX_SLOTS} slots"),
    "percentage": (lambda value: _is_number(value) and 1 <= value <= FULL, f"an integer from 1 to {FULL}"),
    **dict.fromkeys(_LISTS, (lambda value: isinstance(value, list), "a list")),
}
"""By field, whether a value is valid, and what a valid one is."""


class Rejection(Exception):  # noqa: N818  # it is a response, not an error of the emulator
    """A request is invalid; its arguments are those of ``Encoder.error``."""


def page(query: Mapping[str, str], dialect: Dialect) -> tuple[int, int]:
    """Return the checked ``cursor``, which is an offset, and ``limit`` of a listing request."""
    limit = _integer(query, "limit", lowest=1, default=MAX_LIMIT)
    if limit > MAX_LIMIT and dialect.over_limit == "rejected":
        raise _invalid("limit", limit, f"an integer from 1 to {MAX_LIMIT}")
    return _integer(query, "cursor", lowest=0, default=0), min(limit, MAX_LIMIT)


def group_edit(body: Any, dialect: Dialect) -> dict[str, Any]:
    """Return the new values of attributes of ``Group``. With ``archive: true`` all other fields are ignored."""
    fields = cast("dict[str, Any]", body) if isinstance(body, dict) else {}
    if fields.get("archive") is True:
        body = {name: fields[name] for name in fields if name not in ("name", "description")}
    given = _fields(body, ("name", "description", "archive"), dialect)
    return {"deleted" if name == "archive" else name: value for name, value in given.items()}


def slot_edit(body: Any, dialect: Dialect) -> dict[str, list[Any]]:
    """Return the checked lists of a slot edit that the body has."""
    return _lists(_fields(body, _LISTS, dialect), "")


def new_group(body: Any, dialect: Dialect) -> Group:
    """Return the group that a create describes. What the service generates, its ID too, is empty if it is not given."""
    required = ("projectId", "name", "slots") if dialect.create_name == "required" else ("projectId", "slots")
    given = _fields(body, _GROUP_FIELDS, dialect, required=required)
    entries = given["slots"]
    if not 1 <= len(entries) <= MAX_SLOTS:
        raise Rejection(400, f"slots must have 1 to {MAX_SLOTS} entries, not {len(entries)}")
    slots = [_new_slot(entry, index, dialect) for index, entry in enumerate(entries, start=1)]
    percentages = [slot["percentage"] for slot in slots]
    if (total := sum(percentages)) != FULL:
        terms = " + ".join(map(str, percentages))
        raise Rejection(400, f"the percentages of slots must add up to {FULL}, not {total} ({terms})")
    fields = {"id": "", "name": "Untitled mutex group", "key": "", **given}
    return msgspec.convert({**fields, "projectId": str(given["projectId"]), "slots": slots}, Group)


def _new_slot(entry: Any, index: int, dialect: Dialect) -> dict[str, Any]:
    where = f"slots[{index - 1}]"
    given = _fields(entry, ("percentage", *_LISTS), dialect, where, required=("percentage",))
    return {"index": index, **given, **_lists(given, f"{where}.", loose=dialect.create_lists == "loose")}


def _fields(
    body: Any, known: tuple[str, ...], dialect: Dialect, where: str = "", *, required: Collection[str] = ()
) -> dict[str, Any]:
    """Return the ``known`` fields of ``body``, checked. Without ``required`` ones it is an edit."""
    if not isinstance(body, dict):
        raise _invalid(where or "the body", body, "a JSON object")
    fields = cast("dict[str, Any]", body)
    prefix = f"{where}." if where else ""
    if dialect.unknown_fields == "rejected" and (unknown := [name for name in fields if name not in known]):
        raise Rejection(400, f"{prefix}{unknown[0]} is unknown; fields are {', '.join(known)}")
    for name in known:
        is_valid, valid = _RULES[name]
        if name in required and name not in fields:
            raise Rejection(400, f"{prefix}{name} is missing; it must be {valid}")
        if name in fields and not is_valid(fields[name]):
            raise _invalid(prefix + name, fields[name], valid)
    given = {name: fields[name] for name in known if name in fields}
    if not given and not required and dialect.empty_edit == "rejected":
        raise Rejection(400, f"the body must have {', '.join(known[:-1])} or {known[-1]}")
    return given


def _integer(query: Mapping[str, str], name: str, *, lowest: int, default: int) -> int:
    text = query.get(name, str(default))
    if not re.fullmatch("[0-9]{1,15}", text) or int(text) < lowest:
        raise _invalid(name, text, f"an integer of {lowest} or more")
    return int(text)


def _lists(given: Mapping[str, Any], prefix: str, *, loose: bool = False) -> dict[str, list[Any]]:
    return {
        name: [_member(name, each, f"{prefix}{name}[{place}]", loose) for place, each in enumerate(given[name])]
        for name in _LISTS
        if name in given
    }


def _member(name: str, value: Any, where: str, loose: bool) -> Any:
    if name == "individuals":
        value = str(value) if loose and _is_number(value) else value
        if not (isinstance(value, str) and value):
            raise _invalid(where, value, "a non-empty string, a user or device ID")
    else:
        value = int(value) if loose and isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value) else value
        if not _is_number(value):
            raise _invalid(where, value, "an integer ID")
    return value


def _invalid(where: str, value: object, valid: str) -> Rejection:
    shown = msgspec.json.encode(value).decode()
    if len(shown) > 80:  # noqa: PLR2004  # enough to recognize the value
        shown = shown[:77] + "..."
    return Rejection(400, f"{where} must be {valid}, not {shown}")
