"""What a slot holds, as the journal keeps it and the read-back compares it: three lists to write, and cohorts.

Pure. The service documents no order inside a list, so two lists are the same when they hold the same things.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET

from aiomutex.errors import VerificationError
from aiomutex.models import SLOT_LISTS, SlotEdit, find_slot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiomutex.models import MutexGroup, Slot

__all__ = [
    "NOTHING",
    "Content",
    "check",
    "content_of",
    "holds",
    "opened",
    "overlaid",
    "packed",
    "packed_all",
    "restoring",
    "same",
    "settled",
    "unpacked",
    "unpacked_all",
    "wish_of",
]

Content = tuple[list[int] | None, list[int] | None, list[str] | None]
"""The lists in the order of ``SLOT_LISTS``; ``None`` where one was not given."""


def wish_of(edit: SlotEdit) -> Content:
    """What an edit gives; the same for the same edit in each process, so the items of a set have an order."""
    given: list[Any] = []
    for field in SLOT_LISTS:
        items = getattr(edit, field)
        in_order: Any = sorted if isinstance(items, AbstractSet) else list
        given.append(None if items is UNSET else in_order(items))
    return given[0], given[1], given[2]


def content_of(slot: Slot) -> Content:
    """What a slot holds."""
    return slot.experiments, slot.holdouts, slot.individuals


def same(one: list[Any] | None, other: list[Any] | None) -> bool:
    """Whether two lists hold the same things."""
    return one == other or (one is not None and other is not None and set(one) == set(other))


def holds(slot: Slot | None, wish: Content) -> bool:
    """Whether a slot holds what was expected for; lists that were not given do not count."""
    return slot is not None and all(
        expected is None or same(expected, found) for expected, found in zip(wish, content_of(slot), strict=True)
    )


def check(
    group: MutexGroup, index: int, wish: Content, before: Slot | None, unsettled: Sequence[Content] = ()
) -> VerificationError | None:
    """The difference between a slot read back and what it should hold, if there is one.

    Lists that were not given, and cohorts, should be as they were before. A list may also be what one of the
    ``unsettled`` writes gave, which were sent later and may have arrived.
    """
    found = find_slot(group, index)
    expected: dict[str, list[Any]] = {}
    for field, items in zip(SLOT_LISTS, wish, strict=True):
        if items is not None:
            expected[field] = items
        elif before is not None:
            expected[field] = getattr(before, field)
    if before is not None:
        expected["cohorts"] = list(before.cohorts)
    if found is not None and all(
        same(items, getattr(found, field)) or _arrived(field, found, unsettled) for field, items in expected.items()
    ):
        return None
    shown = {} if found is None else {field: list(getattr(found, field)) for field in expected}
    return VerificationError(
        group_id=group.id,
        slot_index=index,
        expected={field: _sorted(items) for field, items in expected.items()},
        actual={field: _sorted(items) for field, items in shown.items()},
    )


def _arrived(field: str, found: Slot, unsettled: Sequence[Content]) -> bool:
    return field in SLOT_LISTS and any(same(each[SLOT_LISTS.index(field)], getattr(found, field)) for each in unsettled)


def _sorted(items: list[Any]) -> list[Any]:
    return sorted(items, key=lambda item: (isinstance(item, str), item))


def restoring(group_id: str, slot_index: int, before: Content) -> SlotEdit:
    """The edit that writes ``before`` back."""
    experiments, holdouts, individuals = before
    return SlotEdit(
        group_id,
        slot_index,
        experiments=UNSET if experiments is None else experiments,
        holdouts=UNSET if holdouts is None else holdouts,
        individuals=UNSET if individuals is None else individuals,
    )


NOTHING: Final[Content] = (None, None, None)
"""No list given."""

_MOST_UNSETTLED: Final = 20
"""Unsettled writes of one slot that are remembered, the latest; an outage may leave any number of them."""
_decoder = msgspec.json.Decoder(Content)
_decoder_of_all = msgspec.json.Decoder(list[Content])


def packed(content: Content) -> bytes | None:
    """The content as a short text; ``None`` when there is none."""
    return None if content == NOTHING else msgspec.json.encode(content)


def unpacked(text: bytes | str | None) -> Content:
    """The content that ``packed`` made."""
    content: Content = NOTHING if text is None else _decoder.decode(text)
    return content


def packed_all(contents: list[Content]) -> bytes | None:
    """Several contents as a short text; ``None`` when there are none."""
    return msgspec.json.encode(contents) if contents else None


def unpacked_all(text: bytes | str | None) -> list[Content]:
    """The contents that ``packed_all`` made."""
    return [] if text is None else _decoder_of_all.decode(text)


def overlaid(old: Content, new: Content) -> Content:
    """The later content where it is given, else the earlier."""
    return (
        new[0] if new[0] is not None else old[0],
        new[1] if new[1] is not None else old[1],
        new[2] if new[2] is not None else old[2],
    )


def opened(unsettled: list[Content], wish: Content) -> list[Content]:
    """The unsettled writes with one more."""
    return [*unsettled, wish][-_MOST_UNSETTLED:]


def settled(unsettled: list[Content], wish: Content) -> list[Content]:
    """What is left of the unsettled writes once a later one is confirmed: the lists that it did not give."""
    left = [
        (
            old[0] if wish[0] is None else None,
            old[1] if wish[1] is None else None,
            old[2] if wish[2] is None else None,
        )
        for old in unsettled
    ]
    return [content for content in left if content != NOTHING]
