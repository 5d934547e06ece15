"""What a write must keep before it may leave the machine: one function a rule, each naming the field it looks at.

Pure checks on plain values; every refusal is an ``InvalidRequestError`` that says what was given and what is right.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, cast

from aiomutex.errors import InvalidRequestError
from aiomutex.models import UNSET, NewGroup, NewSlot, UnsetType

__all__ = [
    "MAX_PAGE_SIZE",
    "MAX_SLOTS",
    "group_segment",
    "id_list",
    "individual_list",
    "new_group",
    "nonempty_text",
    "page_cursor",
    "page_limit",
    "slot_number",
    "text_or_null",
]

MAX_SLOTS: Final = 20
MAX_PAGE_SIZE: Final = 1000
_NO_LISTS: Final = (str, bytes, bytearray, memoryview)
_LARGEST_ID: Final = 2**63 - 1
_SHOWN: Final = 60

# What RFC 3986 calls unreserved: such an id cannot leave its path segment, whatever a proxy normalises.
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,127}")


def _shown(value: object) -> str:
    """The value as a message may show it: its repr, cut, with its kind."""
    try:
        text = repr(value)
    except ValueError:
        text = "too long to be shown"  # Python refuses to write whole numbers of more than 4,300 digits
    if len(text) > _SHOWN:
        text = text[:_SHOWN] + "…"
    return f"{text} ({type(value).__name__})"


def group_segment(group_id: object) -> str:
    """The id as one path segment: a non-empty text of letters, digits and ``- . _ ~``, or a number from 0."""
    if type(group_id) is str and _SEGMENT.fullmatch(group_id):
        return group_id
    if type(group_id) is int and 0 <= group_id <= _LARGEST_ID:
        return str(group_id)
    raise InvalidRequestError(
        f"group_id is {_shown(group_id)}; it must be a number from 0, or a text of 1 to 128 letters, digits, "
        "'-', '_', '~' and '.' that does not begin with '.'"
    )


def slot_number(slot_index: object) -> int:
    """The slot's index: a whole number from 1 to 20."""
    if type(slot_index) is int and 1 <= slot_index <= MAX_SLOTS:
        return slot_index
    raise InvalidRequestError(
        f"slot_index is {_shown(slot_index)}; it must be a whole number from 1 to {MAX_SLOTS}, as slots count from 1"
    )


def _items(field: str, value: Any, of_what: str) -> Sequence[Any]:
    if type(value) is list or type(value) is tuple:
        return cast("Sequence[Any]", value)
    if isinstance(value, Sequence | AbstractSet) and not isinstance(value, _NO_LISTS):
        return list(cast("Sequence[Any]", value))
    raise InvalidRequestError(f"{field} is {_shown(cast('object', value))}; it must be a list of {of_what}")


def id_list(field: str, value: object) -> Sequence[int] | UnsetType:
    """Ids of experiments or holdouts: a list of whole numbers from 0; ``UNSET`` passes."""
    if value is UNSET:
        return UNSET
    items = _items(field, value, "ids, which are whole numbers")
    for position, item in enumerate(items):
        if type(item) is not int or not 0 <= item <= _LARGEST_ID:
            raise InvalidRequestError(f"{field}[{position}] is {_shown(item)}; an id must be a whole number from 0")
    return items


def individual_list(field: str, value: object) -> Sequence[str] | UnsetType:
    """User or device ids: a list of non-empty texts; ``UNSET`` passes."""
    if value is UNSET:
        return UNSET
    items = _items(field, value, "user or device ids, which are texts")
    for position, item in enumerate(items):
        nonempty_text(f"{field}[{position}]", item)
    return items


def nonempty_text(field: str, value: object) -> str:
    """A text with at least one character that is not white space."""
    if not isinstance(value, str) or not value or value.isspace():
        raise InvalidRequestError(f"{field} is {_shown(value)}; it must be a text that is not empty")
    return _encodable(field, value)


def text_or_null(field: str, value: object) -> str | None:
    """A text, which may be empty, or ``None``, which is sent as null."""
    if value is None:
        return None
    if isinstance(value, str):
        return _encodable(field, value)
    raise InvalidRequestError(f"{field} is {_shown(value)}; it must be a text, or None for null")


def _encodable(field: str, value: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidRequestError(
                f"{field} is {_shown(value)}; it holds half of a surrogate pair, which UTF-8 cannot write"
            ) from None
    return value


def page_limit(field: str, value: object) -> int:
    """How many groups a page may hold: a whole number from 1 to 1,000."""
    if type(value) is int and 1 <= value <= MAX_PAGE_SIZE:
        return value
    raise InvalidRequestError(f"{field} is {_shown(value)}; it must be a whole number from 1 to {MAX_PAGE_SIZE:,}")


def page_cursor(cursor: object) -> str | None:
    """Where a page starts, as text: a number from 0 or a non-empty text; ``None`` is the beginning."""
    if cursor is None:
        return None
    if type(cursor) is int:
        if 0 <= cursor <= _LARGEST_ID:
            return str(cursor)
        raise InvalidRequestError(f"cursor is {_shown(cursor)}; it must be a number from 0, or a text")
    return nonempty_text("cursor", cursor)


def new_group(group: object) -> NewGroup:
    """A group that may be created: every field on its own, then the slots together."""
    if not isinstance(group, NewGroup):
        raise InvalidRequestError(f"group is {_shown(group)}; it must be a NewGroup")
    project: object = group.project_id
    if not (type(project) is int and 0 <= project <= _LARGEST_ID):
        if not isinstance(project, str):
            raise InvalidRequestError(f"project_id is {_shown(project)}; it must be a number from 0 or a text")
        nonempty_text("project_id", project)
    nonempty_text("name", group.name)
    for field in ("key", "bucketing_key", "bucketing_salt"):
        value = getattr(group, field)
        if value is not UNSET:
            nonempty_text(field, value)
            if any(character.isspace() or not character.isprintable() for character in value):
                raise InvalidRequestError(
                    f"{field} is {_shown(value)}; it must hold no white space or control character"
                )
    if group.description is not UNSET:
        text_or_null("description", group.description)
    if group.evaluation_mode is not UNSET and group.evaluation_mode not in ("local", "remote"):
        raise InvalidRequestError(f"evaluation_mode is {_shown(group.evaluation_mode)}; it must be 'local' or 'remote'")
    _slots(group.slots)
    return group


def _slots(slots: object) -> None:
    if isinstance(slots, AbstractSet):
        raise InvalidRequestError(f"slots is {_shown(cast('object', slots))}; their order counts, so it must be a list")
    items = _items("slots", slots, "NewSlot")
    if not 1 <= len(items) <= MAX_SLOTS:
        raise InvalidRequestError(f"slots has {len(items)} slots; a group has 1 to {MAX_SLOTS}")
    total = 0
    for position, slot in enumerate(items):
        where = f"slots[{position}]"
        if not isinstance(slot, NewSlot):
            raise InvalidRequestError(f"{where} is {_shown(slot)}; it must be a NewSlot")
        percentage: object = slot.percentage
        if type(percentage) is not int or not 1 <= percentage <= 100:  # noqa: PLR2004  # a percentage
            raise InvalidRequestError(
                f"{where}.percentage is {_shown(percentage)}; it must be a whole number from 1 to 100"
            )
        total += percentage
        id_list(f"{where}.experiments", slot.experiments)
        id_list(f"{where}.holdouts", slot.holdouts)
        individual_list(f"{where}.individuals", slot.individuals)
    if total != 100:  # noqa: PLR2004  # as above
        parts = " + ".join(str(slot.percentage) for slot in items)
        raise InvalidRequestError(
            f"the slots' percentages add up to {total} ({parts}); slots[].percentage must add up to 100"
        )
