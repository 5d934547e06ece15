"""Check requests by the rules in the service's documentation.

Pure functions from a decoded body or query to checked values. A ``Rejection`` names the field, what is valid, and the
value. Nothing here is shared with the client, so that the client's mistakes show.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

import msgspec

from aiomutex.emulator.state import Group, Slot

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aiomutex.emulator.dialect import Dialect

__all__ = ["Rejection", "group_edit", "new_group", "page", "slot_edit"]

MAX_LIMIT = 1000
MAX_SLOTS = 20
FULL = 100

_GROUP_FIELDS = ("projectId", "name", "key", "description", "evaluationMode", "bucketingKey", "bucketingSalt", "slots")
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
    checks: dict[str, Callable[[object, str], list[Any]]]
    checks = {"experiments": _integers, "holdouts": _integers, "individuals": _strings}
    given = _fields(body, "", tuple(checks), dialect)
    if not given and dialect.empty_edit == "rejected":
        raise Rejection(400, "the body must have experiments, holdouts or individuals")
    return {name: check(given[name], name) for name, check in checks.items() if name in given}


def new_group(body: object, dialect: Dialect) -> Group:
    """Return the group that a create describes. What the service generates, its ID too, is empty if it is not given."""
    given = _fields(body, "", _GROUP_FIELDS, dialect)
    project_id = given.get("projectId", _MISSING)
    if project_id is _MISSING:
        raise _missing("projectId", "the ID of a project")
    # The documentation says that it is a number, but its example has a string.
    if not (_is_number(project_id) or (isinstance(project_id, str) and project_id.strip())):
        raise _invalid("projectId", project_id, "the ID of a project")
    if "name" in given:
        name = _string(given["name"], "name")
    elif dialect.create_name == "required":
        raise _missing("name", "a string")
    else:
        name = "Untitled mutex group"
    mode = given.get("evaluationMode", "remote")
    if mode not in ("local", "remote"):
        raise _invalid("evaluationMode", mode, '"local" or "remote"')
    return Group(
        id="",
        project_id=str(project_id),
        name=name,
        key=_string(given["key"], "key") if "key" in given else "",
        description=_description(given.get("description")),
        evaluation_mode=mode,
        bucketing_key=_string(given.get("bucketingKey", "amplitude_id"), "bucketingKey"),
        bucketing_salt=_string(given["bucketingSalt"], "bucketingSalt") if "bucketingSalt" in given else "",
        slots=_new_slots(given.get("slots", _MISSING), dialect),
    )


def _new_slots(value: object, dialect: Dialect) -> list[Slot]:
    if value is _MISSING:
        raise _missing("slots", f"a list of 1 to {MAX_SLOTS} slots")
    entries = _list(value, "slots")
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
    given = _fields(value, where, ("percentage", "experiments", "holdouts", "individuals"), dialect)
    percentage = given.get("percentage", _MISSING)
    if percentage is _MISSING:
        raise _missing(f"{where}.percentage", f"an integer from 1 to {FULL}")
    if not (_is_number(percentage) and 1 <= percentage <= FULL):
        raise _invalid(f"{where}.percentage", percentage, f"an integer from 1 to {FULL}")
    loose = dialect.create_lists == "loose"
    return Slot(
        index=index,
        percentage=percentage,
        experiments=_integers(given.get("experiments", []), f"{where}.experiments", loose=loose),
        holdouts=_integers(given.get("holdouts", []), f"{where}.holdouts", loose=loose),
        individuals=_strings(given.get("individuals", []), f"{where}.individuals", loose=loose),
    )


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


def _is_number(value: Any) -> bool:
    return type(value) is int and value >= 0


def _integers(value: object, where: str, *, loose: bool = False) -> list[int]:
    entries = _list(value, where)
    for place, entry in enumerate(entries):
        if loose and isinstance(entry, str) and re.fullmatch("[0-9]{1,18}", entry):
            entries[place] = int(entry)
        elif not _is_number(entry):
            raise _invalid(f"{where}[{place}]", entry, "an integer ID")
    return entries


def _strings(value: object, where: str, *, loose: bool = False) -> list[str]:
    entries = _list(value, where)
    for place, entry in enumerate(entries):
        if loose and _is_number(entry):
            entries[place] = str(entry)
        elif not (isinstance(entry, str) and entry):
            raise _invalid(f"{where}[{place}]", entry, "a non-empty string, a user or device ID")
    return entries


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise _invalid(where, value, "a list")
    # A copy, because the recorded commit keeps the body and the group's list may change.
    return [*value]


def _string(value: object, where: str) -> str:
    if not (isinstance(value, str) and value.strip()):
        raise _invalid(where, value, "a non-empty string")
    return value


def _description(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise _invalid("description", value, "a string or null")
    return value


def _missing(where: str, valid: str) -> Rejection:
    return Rejection(400, f"{where} is missing; it must be {valid}")


def _invalid(where: str, value: object, valid: str) -> Rejection:
    shown = msgspec.json.encode(value).decode()
    if len(shown) > 80:  # noqa: PLR2004  # enough to recognize the value
        shown = shown[:77] + "..."
    return Rejection(400, f"{where} must be {valid}, not {shown}")
