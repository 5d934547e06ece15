"""Check requests by the rules in the service's documentation.

Pure functions from a decoded body or query to checked values. A ``Rejection`` names the field, what is valid, and the
value. Nothing here is shared with the client, so that the client's mistakes show.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import msgspec

from aiomutex.emulator.state import Group, Slot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiomutex.emulator.dialect import Dialect

MAX_LIMIT = 1000
MAX_SLOTS = 20
FULL = 100

_GROUP_FIELDS = ("projectId", "name", "key", "description", "evaluationMode", "bucketingKey", "bucketingSalt", "slots")
_LISTS = ("experiments", "holdouts", "individuals")
_MISSING = object()


class Rejection(Exception):  # noqa: N818  # it is a response, not an error of the emulator
    """A request is invalid; the response has this status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def page(query: Mapping[str, str], dialect: Dialect) -> tuple[int, int]:
    """Return the checked ``cursor``, which is an offset, and ``limit`` of a listing request."""
    limit = _integer(query, "limit", lowest=1, default=MAX_LIMIT)
    if limit > MAX_LIMIT and dialect.over_limit == "rejected":
        raise _invalid("limit", limit, f"an integer from 1 to {MAX_LIMIT}")
    return _integer(query, "cursor", lowest=0, default=0), min(limit, MAX_LIMIT)


def group_edit(body: object, dialect: Dialect) -> dict[str, Any]:
    """Return the new values of attributes of ``Group``. With ``archive: true`` all other fields are ignored."""
    given = _fields(body, "", ("name", "description", "archive"), dialect)
    changes: dict[str, Any] = {}
    if "archive" in given:
        changes["deleted"] = given["archive"]
        if not isinstance(given["archive"], bool):
            raise _invalid("archive", given["archive"], "true or false")
        if given["archive"]:
            return changes
    if "name" in given:
        changes["name"] = _string(given["name"], "name")
    if "description" in given:
        changes["description"] = _description(given["description"])
    if not changes and dialect.empty_edit == "rejected":
        raise Rejection(400, "the body must have name, description or archive")
    return changes


def slot_edit(body: object, dialect: Dialect) -> dict[str, list[Any]]:
    """Return the checked lists of a slot edit that the body has."""
    given = _fields(body, "", _LISTS, dialect)
    if not given and dialect.empty_edit == "rejected":
        raise Rejection(400, "the body must have experiments, holdouts or individuals")
    return _lists(given, "")


def new_group(body: object, dialect: Dialect) -> Group:
    """Return the group that a create describes. What the service generates, its ID too, is empty if it is not given."""
    given = _fields(body, "", _GROUP_FIELDS, dialect)
    project_id = given.get("projectId", _MISSING)
    # The documentation says that it is a number, but its example has a string.
    if not (_is_number(project_id) or (isinstance(project_id, str) and project_id.strip())):
        raise _invalid("projectId", project_id, "the ID of a project")
    if "name" not in given and dialect.create_name == "required":
        raise _invalid("name", _MISSING, "a string")
    for name in ("name", "key", "bucketingKey", "bucketingSalt"):
        if name in given:
            _string(given[name], name)
    mode = given.get("evaluationMode", "remote")
    if mode not in ("local", "remote"):
        raise _invalid("evaluationMode", mode, '"local" or "remote"')
    return Group(
        id="",
        project_id=str(project_id),
        name=given.get("name", "Untitled mutex group"),
        key=given.get("key", ""),
        description=_description(given.get("description")),
        evaluation_mode=mode,
        bucketing_key=given.get("bucketingKey", "amplitude_id"),
        bucketing_salt=given.get("bucketingSalt", ""),
        slots=_new_slots(given.get("slots", _MISSING), dialect),
    )


def _new_slots(value: Any, dialect: Dialect) -> list[Slot]:
    if not isinstance(value, list):
        raise _invalid("slots", value, f"a list of 1 to {MAX_SLOTS} slots" if value is _MISSING else "a list")
    entries = cast("list[object]", value)
    if not 1 <= len(entries) <= MAX_SLOTS:
        raise Rejection(400, f"slots must have 1 to {MAX_SLOTS} entries, not {len(entries)}")
    slots = [_new_slot(entry, index, dialect) for index, entry in enumerate(entries, start=1)]
    total = sum(slot.percentage for slot in slots)
    if total != FULL:
        percentages = " + ".join(str(slot.percentage) for slot in slots)
        raise Rejection(400, f"the percentages of slots must add up to {FULL}, not {total} ({percentages})")
    return slots


def _new_slot(value: object, index: int, dialect: Dialect) -> Slot:
    where = f"slots[{index - 1}]"
    given = _fields(value, where, ("percentage", *_LISTS), dialect)
    percentage = given.get("percentage", _MISSING)
    if not (_is_number(percentage) and 1 <= percentage <= FULL):
        raise _invalid(f"{where}.percentage", percentage, f"an integer from 1 to {FULL}")
    lists: dict[str, Any] = _lists(given, f"{where}.", loose=dialect.create_lists == "loose")
    return Slot(index=index, percentage=percentage, **lists)


def _fields(body: object, where: str, known: tuple[str, ...], dialect: Dialect) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise _invalid(where or "the body", body, "a JSON object")
    given = cast("dict[str, Any]", body)
    if dialect.unknown_fields == "rejected":
        for name in given:
            if name not in known:
                raise Rejection(400, f"{where + '.' if where else ''}{name} is unknown; fields are {', '.join(known)}")
    return given


def _integer(query: Mapping[str, str], name: str, *, lowest: int, default: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    digits = len(text) <= 15 and text.isascii() and text.isdigit()  # noqa: PLR2004  # far above any offset
    if not digits or int(text) < lowest:
        raise _invalid(name, text, f"an integer of {lowest} or more")
    return int(text)


def _is_number(value: object) -> TypeGuard[int]:
    return type(value) is int and value >= 0


def _lists(given: Mapping[str, Any], where: str, *, loose: bool = False) -> dict[str, list[Any]]:
    checked: dict[str, list[Any]] = {}
    for name in _LISTS:
        if name in given:
            if not isinstance(given[name], list):
                raise _invalid(where + name, given[name], "a list")
            check = _individual if name == "individuals" else _id
            members = cast("list[object]", given[name])
            checked[name] = [check(each, f"{where}{name}[{place}]", loose) for place, each in enumerate(members)]
    return checked


def _id(value: object, where: str, loose: bool) -> int:
    if loose and isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value):
        return int(value)
    if not _is_number(value):
        raise _invalid(where, value, "an integer ID")
    return value


def _individual(value: object, where: str, loose: bool) -> str:
    if loose and _is_number(value):
        return str(value)
    if not (isinstance(value, str) and value):
        raise _invalid(where, value, "a non-empty string, a user or device ID")
    return value


def _string(value: object, where: str) -> str:
    if not (isinstance(value, str) and value.strip()):
        raise _invalid(where, value, "a non-empty string")
    return value


def _description(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise _invalid("description", value, "a string or null")
    return value


def _invalid(where: str, value: object, valid: str) -> Rejection:
    if value is _MISSING:
        return Rejection(400, f"{where} is missing; it must be {valid}")
    shown = msgspec.json.encode(value).decode()
    if len(shown) > 80:  # noqa: PLR2004  # enough to recognize the value
        shown = shown[:77] + "..."
    return Rejection(400, f"{where} must be {valid}, not {shown}")
