"""What the service accepts, written down from its documentation alone.

Pure functions from a decoded body or query to checked values; a broken rule is a ``Refusal`` that names the field,
the value it has and what would be right. Nothing here is shared with the client, so that its mistakes show.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiomutex.emulator.dialect import Dialect

__all__ = ["GroupEdit", "NewGroup", "NewSlot", "Refusal", "SlotEdit", "group_edit", "new_group", "page", "slot_edit"]

MAX_LIMIT = 1000
MAX_SLOTS = 20
FULL = 100

_GROUP_FIELDS = (
    "projectId",
    "name",
    "key",
    "description",
    "evaluationMode",
    "bucketingKey",
    "bucketingSalt",
    "slots",
)
_MISSING = object()


class Refusal(Exception):  # noqa: N818 - a rule that is broken is an answer here, not an error of the emulator
    """A request that breaks a rule, as status and message of the answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupEdit:
    """A checked group edit: what to set, by the attribute's name."""

    archive: bool | None = None
    changes: dict[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotEdit:
    """A checked slot edit; None stands for a list that was not given."""

    experiments: list[int] | None = None
    holdouts: list[int] | None = None
    individuals: list[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSlot:
    """A checked slot of a group to create."""

    percentage: int
    experiments: list[int]
    holdouts: list[int]
    individuals: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewGroup:
    """A checked group to create; None stands for what the service is to fill in."""

    project_id: str
    name: str
    key: str | None
    description: str | None
    evaluation_mode: str
    bucketing_key: str
    bucketing_salt: str | None
    slots: list[NewSlot] = field(default_factory=list[NewSlot])


def page(query: Mapping[str, str], dialect: Dialect) -> tuple[int, int]:
    """The checked ``cursor`` (an offset) and ``limit`` of a list request."""
    limit = _whole(query, "limit", lowest=1, default=MAX_LIMIT)
    if limit > MAX_LIMIT and dialect.over_limit == "rejected":
        raise _broken("limit", limit, f"must be 1 to {MAX_LIMIT}")
    return _whole(query, "cursor", lowest=0, default=0), min(limit, MAX_LIMIT)


def group_edit(body: object, dialect: Dialect) -> GroupEdit:
    """The checked body of a group edit. With ``archive: true`` nothing else is even looked at."""
    given = _fields(body, "", ("name", "description", "archive"), dialect)
    archive = given.get("archive")
    if "archive" in given and not isinstance(archive, bool):
        raise _broken("archive", archive, "must be true or false")
    if archive:
        return GroupEdit(archive=True, changes={})
    changes: dict[str, str | None] = {}
    if "name" in given:
        changes["name"] = _text(given["name"], "name")
    if "description" in given:
        changes["description"] = _description(given["description"])
    if not changes and archive is None and dialect.empty_edit == "rejected":
        raise Refusal(400, "the body sets nothing; it must have name, description or archive")
    return GroupEdit(archive=archive, changes=changes)


def slot_edit(body: object, dialect: Dialect) -> SlotEdit:
    """The checked body of a slot edit: experiments and holdouts are numbers, individuals strings."""
    given = _fields(body, "", ("experiments", "holdouts", "individuals"), dialect)
    if not given and dialect.empty_edit == "rejected":
        raise Refusal(400, "the body sets nothing; it must have experiments, holdouts or individuals")
    return SlotEdit(
        experiments=_numbers(given["experiments"], "experiments") if "experiments" in given else None,
        holdouts=_numbers(given["holdouts"], "holdouts") if "holdouts" in given else None,
        individuals=_texts(given["individuals"], "individuals") if "individuals" in given else None,
    )


def new_group(body: object, dialect: Dialect) -> NewGroup:
    """The checked body of a create."""
    given = _fields(body, "", _GROUP_FIELDS, dialect)
    project_id = given.get("projectId", _MISSING)
    if project_id is _MISSING:
        raise _missing("projectId", "the number of the project")
    # The documentation calls it a number and sends a string.
    if not (_is_number(project_id) or (isinstance(project_id, str) and project_id.strip())):
        raise _broken("projectId", project_id, "must be the number of a project")
    if "name" in given:
        name = _text(given["name"], "name")
    elif dialect.create_name == "required":
        raise _missing("name", "a string")
    else:
        name = "Untitled mutex group"
    mode = given.get("evaluationMode", "remote")
    if mode not in ("local", "remote"):
        raise _broken("evaluationMode", mode, 'must be "local" or "remote"')
    return NewGroup(
        project_id=str(project_id),
        name=name,
        key=_text(given["key"], "key") if "key" in given else None,
        description=_description(given.get("description")),
        evaluation_mode=mode,
        bucketing_key=_text(given.get("bucketingKey", "amplitude_id"), "bucketingKey"),
        bucketing_salt=_text(given["bucketingSalt"], "bucketingSalt") if "bucketingSalt" in given else None,
        slots=_new_slots(given.get("slots", _MISSING), dialect),
    )


def _new_slots(value: object, dialect: Dialect) -> list[NewSlot]:
    if value is _MISSING:
        raise _missing("slots", f"a list of 1 to {MAX_SLOTS} slots")
    entries = _list(value, "slots")
    if not 1 <= len(entries) <= MAX_SLOTS:
        raise Refusal(400, f"slots has {len(entries)} entries; a group has 1 to {MAX_SLOTS} slots")
    slots = [_new_slot(entry, f"slots[{place}]", dialect) for place, entry in enumerate(entries)]
    total = sum(slot.percentage for slot in slots)
    if total != FULL:
        shares = " + ".join(str(slot.percentage) for slot in slots)
        raise Refusal(400, f"the percentages of slots add up to {total} ({shares}); they must add up to {FULL}")
    return slots


def _new_slot(value: object, where: str, dialect: Dialect) -> NewSlot:
    given = _fields(value, where, ("percentage", "experiments", "holdouts", "individuals"), dialect)
    percentage = given.get("percentage", _MISSING)
    if percentage is _MISSING:
        raise _missing(f"{where}.percentage", f"a whole number from 1 to {FULL}")
    if not (_is_number(percentage) and 1 <= percentage <= FULL):
        raise _broken(f"{where}.percentage", percentage, f"must be a whole number from 1 to {FULL}")
    loose = dialect.create_lists == "loose"
    return NewSlot(
        percentage=percentage,
        experiments=_numbers(given.get("experiments", []), f"{where}.experiments", loose=loose),
        holdouts=_numbers(given.get("holdouts", []), f"{where}.holdouts", loose=loose),
        individuals=_texts(given.get("individuals", []), f"{where}.individuals", loose=loose),
    )


def _fields(body: object, where: str, known: tuple[str, ...], dialect: Dialect) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise _broken(where or "the body", body, "must be a JSON object")
    given = cast("dict[str, Any]", body)
    if dialect.unknown_fields == "rejected":
        for name in given:
            if name not in known:
                raise Refusal(400, f"{where + '.' if where else ''}{name} is unknown; known are {', '.join(known)}")
    return given


def _whole(query: Mapping[str, str], name: str, *, lowest: int, default: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    digits = len(text) <= 15 and text.isascii() and text.isdigit()  # noqa: PLR2004 - far above any offset
    if not digits or int(text) < lowest:
        raise _broken(name, text, f"must be a whole number of {lowest} or more")
    return int(text)


def _is_number(value: Any) -> bool:
    return type(value) is int and value >= 0


def _numbers(value: object, where: str, *, loose: bool = False) -> list[int]:
    entries = _list(value, where)
    for place, entry in enumerate(entries):
        if loose and isinstance(entry, str) and re.fullmatch("[0-9]{1,18}", entry):
            entries[place] = int(entry)
        elif not _is_number(entry):
            raise _broken(f"{where}[{place}]", entry, "must be a number (an id)")
    return entries


def _texts(value: object, where: str, *, loose: bool = False) -> list[str]:
    entries = _list(value, where)
    for place, entry in enumerate(entries):
        if loose and _is_number(entry):
            entries[place] = str(entry)
        elif not (isinstance(entry, str) and entry):
            raise _broken(f"{where}[{place}]", entry, "must be a string (a user or device id)")
    return entries


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise _broken(where, value, "must be a list")
    # A copy: the body goes into the record of commits as it came, whatever becomes of the group's list.
    return [*value]


def _text(value: object, where: str) -> str:
    if not (isinstance(value, str) and value.strip()):
        raise _broken(where, value, "must be a string that is not empty")
    return value


def _description(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise _broken("description", value, "must be a string or null")
    return value


def _missing(where: str, right: str) -> Refusal:
    return Refusal(400, f"{where} is missing; it must be {right}")


def _broken(where: str, value: object, right: str) -> Refusal:
    shown = msgspec.json.encode(value).decode()
    if len(shown) > 80:  # noqa: PLR2004 - enough to recognise the value
        shown = shown[:77] + "..."
    return Refusal(400, f"{where} is {shown}; it {right}")
