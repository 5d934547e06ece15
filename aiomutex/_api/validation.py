"""The rules a write must keep before it leaves the machine: one function for each field.

Pure checks on plain values. Each failure is an ``InvalidRequestError`` that names the field, the value and its type.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NoReturn, cast

from aiomutex._util.checks import check_integer, describe
from aiomutex.errors import InvalidRequestError
from aiomutex.models import UNSET, NewGroup, NewSlot, UnsetType

MAX_SLOTS: Final = 20
MAX_PAGE_SIZE: Final = 1000
_MAX_ID: Final = 2**63 - 1
_HUNDRED_PERCENT: Final = 100
_NOT_LISTS: Final = (str, bytes, bytearray, memoryview)

# The characters that RFC 3986 calls unreserved: such an ID stays one path segment, whatever a proxy normalizes.
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,127}")

PROJECT_ID: Final = "an integer from 0, or a string without white space (of a number, its digits alone)"
"""What messages call a valid project ID."""
_NUMBER: Final = re.compile(r"[-+]?[\d.]+")
_PLAIN_NUMBER: Final = re.compile(r"0|[1-9][0-9]*")


def is_project_id(value: object) -> bool:
    """Whether this can be a project's ID. A number has only one valid spelling, so that equal IDs are equal strings."""
    if not isinstance(value, str):
        return type(value) is int and 0 <= value <= _MAX_ID
    if not value or not all(character.isprintable() and not character.isspace() for character in value):
        return False
    return _NUMBER.fullmatch(value) is None or _PLAIN_NUMBER.fullmatch(value) is not None


def _fail(field: str, requirement: str, value: object) -> NoReturn:
    raise InvalidRequestError(f"{field} must be {requirement}, not {describe(value)}")


def group_segment(group_id: object) -> str:
    """The group's ID as one path segment."""
    if type(group_id) is str and _SEGMENT.fullmatch(group_id):
        return group_id
    if type(group_id) is int and 0 <= group_id <= _MAX_ID:
        return str(group_id)
    _fail(
        "group_id",
        "an integer from 0, or a string of 1 to 128 of letters, digits, '-', '_', '~', '.', not beginning with '.'",
        group_id,
    )


def slot_number(slot_index: object) -> int:
    """The slot's index: an integer from 1 to 20."""
    return check_integer("slot_index", slot_index, least=1, most=MAX_SLOTS)


def _items(field: str, value: Any, of_what: str) -> Sequence[Any]:
    if type(value) is list or type(value) is tuple:
        return cast("Sequence[Any]", value)
    if isinstance(value, Sequence | AbstractSet) and not isinstance(value, _NOT_LISTS):
        return list(cast("Sequence[Any]", value))
    _fail(field, f"a list of {of_what}", cast("object", value))


def id_list(field: str, value: object) -> Sequence[int] | UnsetType:
    """IDs of experiments or holdouts: a list of integers from 0. ``UNSET`` is returned as it is."""
    if value is UNSET:
        return UNSET
    items = _items(field, value, "integer IDs")
    for position, item in enumerate(items):
        if type(item) is not int or not 0 <= item <= _MAX_ID:
            _fail(f"{field}[{position}]", "an integer from 0", item)
    return items


def individual_list(field: str, value: object) -> Sequence[str] | UnsetType:
    """User or device IDs: a list of non-empty strings. ``UNSET`` is returned as it is."""
    if value is UNSET:
        return UNSET
    items = _items(field, value, "user or device IDs, which are strings")
    for position, item in enumerate(items):
        nonempty_string(f"{field}[{position}]", item)
    return items


def nonempty_string(field: str, value: object) -> str:
    """A string with at least one character that is not white space."""
    if not isinstance(value, str) or not value or value.isspace():
        _fail(field, "a non-empty string", value)
    return _encodable(field, value)


def string_or_null(field: str, value: object) -> str | None:
    """A string, which may be empty, or ``None``, which is sent as null."""
    if value is None:
        return None
    if isinstance(value, str):
        return _encodable(field, value)
    _fail(field, "a string or None", value)


def _encodable(field: str, value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            _fail(field, "valid Unicode without lone surrogates", value)
    return value


def page_cursor(cursor: object) -> str | None:
    """The cursor of a page as a string; ``None`` is the beginning of the listing."""
    if cursor is None:
        return None
    if type(cursor) is int and 0 <= cursor <= _MAX_ID:
        return str(cursor)
    if not isinstance(cursor, str):
        _fail("cursor", "a string or an integer from 0", cursor)
    return nonempty_string("cursor", cursor)


def new_group(group: object) -> NewGroup:
    """Check a group to be created: each field, then the slots together."""
    if not isinstance(group, NewGroup):
        _fail("group", "a NewGroup", group)
    if not is_project_id(group.project_id):
        _fail("project_id", PROJECT_ID, group.project_id)
    nonempty_string("name", group.name)
    for field in ("key", "bucketing_key", "bucketing_salt"):
        value = getattr(group, field)
        if value is not UNSET:
            nonempty_string(field, value)
            if any(character.isspace() or not character.isprintable() for character in value):
                _fail(field, "a string without white space and control characters", value)
    if group.description is not UNSET:
        string_or_null("description", group.description)
    if group.evaluation_mode is not UNSET and group.evaluation_mode not in ("local", "remote"):
        _fail("evaluation_mode", "'local' or 'remote'", group.evaluation_mode)
    _check_slots(group.slots)
    return group


def _check_slots(slots: object) -> None:
    if isinstance(slots, AbstractSet):
        _fail("slots", "a list, because their order matters", cast("object", slots))
    items = _items("slots", slots, "NewSlot")
    if not 1 <= len(items) <= MAX_SLOTS:
        raise InvalidRequestError(f"slots must hold 1 to {MAX_SLOTS} slots, not {len(items)}")
    total = 0
    for position, slot in enumerate(items):
        where = f"slots[{position}]"
        if not isinstance(slot, NewSlot):
            _fail(where, "a NewSlot", slot)
        total += check_integer(f"{where}.percentage", slot.percentage, least=1, most=_HUNDRED_PERCENT)
        id_list(f"{where}.experiments", slot.experiments)
        id_list(f"{where}.holdouts", slot.holdouts)
        individual_list(f"{where}.individuals", slot.individuals)
    if total != _HUNDRED_PERCENT:
        parts = " + ".join(str(slot.percentage) for slot in items)
        raise InvalidRequestError(f"slots[].percentage must add up to {_HUNDRED_PERCENT}, not to {total} ({parts})")
