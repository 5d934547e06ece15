"""The lists of a slot: compare them, merge them, and find what differs from a slot that was read back.

Pure. The service documents no order inside a list, so two lists are equal when they hold the same items.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self, cast

import msgspec
from msgspec import UNSET

from aiomutex._api import validation
from aiomutex._util.checks import describe
from aiomutex.errors import InvalidRequestError, StaleSlotError, VerificationError
from aiomutex.models import SLOT_LISTS, Slot, SlotEdit, find_slot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiomutex.models import MutexGroup, SlotChange

_CHANGES: Final = tuple(f"{verb}_{name}" for name in SLOT_LISTS for verb in ("add", "remove"))
_MAX_UNCONFIRMED: Final = 20
"""Unconfirmed writes of one slot that are kept, the latest ones. An outage may leave any number of them."""


class SlotLists(NamedTuple):
    """The lists of one slot that can be written; ``None`` for a list that is not given."""

    experiments: list[int] | None = None
    holdouts: list[int] | None = None
    individuals: list[str] | None = None

    @classmethod
    def of_edit(cls, edit: SlotEdit) -> Self:
        """The lists an edit gives. The items of a set are sorted, so that every process gets the same order."""
        given: list[Any] = []
        for name in SLOT_LISTS:
            items = getattr(edit, name)
            in_order: Any = sorted if isinstance(items, AbstractSet) else list
            given.append(None if items is UNSET else in_order(items))
        return cls(*given)

    @classmethod
    def of_slot(cls, slot: Slot) -> Self:
        """The lists a slot holds."""
        return cls(slot.experiments, slot.holdouts, slot.individuals)

    @property
    def is_empty(self) -> bool:
        """Whether no list is given."""
        return self == (None, None, None)

    def updated(self, newer: SlotLists) -> SlotLists:
        """The newer lists where they are given, else these."""
        pairs: Any = zip(self, newer, strict=True)
        return SlotLists(*(old if new is None else new for old, new in pairs))

    def only(self, other: SlotLists) -> SlotLists:
        """These lists where ``other`` gives one."""
        pairs: Any = zip(self, other, strict=True)
        return SlotLists(*(None if given is None else items for items, given in pairs))

    def without(self, other: SlotLists) -> SlotLists:
        """These lists where ``other`` gives none."""
        pairs: Any = zip(self, other, strict=True)
        return SlotLists(*(items if given is None else None for items, given in pairs))

    @property
    def arguments(self) -> list[Any]:
        """The lists as arguments of a slot edit: ``UNSET`` for one that is not given."""
        return [UNSET if items is None else items for items in self]

    def edit_of(self, group_id: str, slot_index: int) -> SlotEdit:
        """The edit that writes these lists to a slot."""
        given: dict[str, Any] = {name: items for name, items in self._asdict().items() if items is not None}
        return SlotEdit(group_id, slot_index, **given)


def same_items(one: list[Any] | None, other: list[Any] | None) -> bool:
    """Whether two lists hold the same items, in any order."""
    return one == other or (one is not None and other is not None and set(one) == set(other))


def slot_holds(slot: Slot | SlotLists | None, desired: SlotLists) -> bool:
    """Whether a slot holds the desired lists. Lists that are not given do not count."""
    return slot is not None and all(
        items is None or same_items(items, getattr(slot, name)) for name, items in zip(SLOT_LISTS, desired, strict=True)
    )


def no_slot(group: MutexGroup, index: int) -> InvalidRequestError:
    """The error of an edit of a slot that its group does not have."""
    slots = ", ".join(str(slot.index) for slot in group.slots)
    return InvalidRequestError(f"slot_index must be a slot of group {group.id} ({slots}), not {index}")


def find_difference(
    group: MutexGroup, index: int, desired: SlotLists, before: Slot | None, unconfirmed: Sequence[SlotLists] = ()
) -> VerificationError | None:
    """How a slot that was read back differs from what it should hold, if it does.

    Its cohorts, and lists that are not ``desired``, should be those ``before``. A list may also be what one of the
    later, ``unconfirmed`` writes gave.
    """
    slot = find_slot(group, index)
    lists = desired if before is None else SlotLists.of_slot(before).updated(desired)
    expected: dict[str, list[Any]] = {name: items for name, items in lists._asdict().items() if items is not None}
    if before is not None:
        expected["cohorts"] = list(before.cohorts)
    if slot is not None and all(
        same_items(items, getattr(slot, name))
        or any(same_items(getattr(each, name, None), getattr(slot, name)) for each in unconfirmed)
        for name, items in expected.items()
    ):
        return None
    return VerificationError(
        group_id=group.id,
        slot_index=index,
        expected={name: _sorted(items) for name, items in expected.items()},
        actual={} if slot is None else {name: _sorted(getattr(slot, name)) for name in expected},
    )


def check_expected(expected: Any) -> tuple[SlotLists, ...]:
    """The contents that an edit expects, as copies; ``InvalidRequestError`` if it is not a slot or lists by name."""
    if isinstance(expected, list | tuple) and expected and not isinstance(expected, SlotLists):
        return tuple(lists for each in cast("Sequence[Any]", expected) for lists in check_expected(each))
    if isinstance(expected, SlotLists):
        return (expected,)
    if isinstance(expected, Slot):
        expected = {name: getattr(expected, name) for name in SLOT_LISTS}
    given = cast("Mapping[str, Any]", expected)
    if not isinstance(expected, Mapping) or not given or not set(given) <= set(SLOT_LISTS):
        raise InvalidRequestError(
            f"expected must be a Slot, or lists by name ({', '.join(SLOT_LISTS)}), not {describe(given)}"
        )
    return (SlotLists(**{name: _checked_list(f"expected.{name}", items) for name, items in given.items()}),)


def find_stale(edit: SlotEdit, group: MutexGroup, content: SlotLists | None) -> StaleSlotError | None:
    """The error of an edit whose slot holds neither what the edit expects nor what it writes.

    ``content`` is what the slot holds; ``None`` if the group has no such slot.
    """
    expected: tuple[SlotLists, ...] = () if edit.expected is UNSET else edit.expected  # type: ignore[assignment]  # as frozen
    desired = SlotLists.of_edit(edit)
    names = [name for name in SLOT_LISTS if any(getattr(each, name) is not None for each in expected)]
    if content is not None and all(
        any(same_items(getattr(each, name), getattr(content, name)) for each in (*expected, desired)) for name in names
    ):
        return None
    wanted: dict[str, list[Any]] = {}
    for lists in expected:
        wanted |= {name: items for name, items in lists._asdict().items() if items is not None}
    return StaleSlotError(
        group_id=group.id,
        slot_index=edit.slot_index,
        expected={name: _sorted(items) for name, items in wanted.items()},
        actual={} if content is None else {name: _sorted(getattr(content, name) or []) for name in names},
    )


def check_change(change: SlotChange) -> SlotChange:
    """A copy of a change with lists of its own; ``InvalidRequestError`` if it breaks a rule."""
    copies: dict[str, Any] = {}
    for name in _CHANGES:
        if (items := getattr(change, name)) is not UNSET:
            copies[name] = _checked_list(name, items)
    validation.group_segment(change.group_id)
    validation.slot_number(change.slot_index)
    if not copies:
        raise InvalidRequestError(f"the change is empty; pass at least one of {', '.join(_CHANGES)}")
    for name in SLOT_LISTS:
        if both := set(copies.get(f"add_{name}", ())) & set(copies.get(f"remove_{name}", ())):
            raise InvalidRequestError(f"add_{name} and remove_{name} both contain {sorted(both)!r}")
    return msgspec.structs.replace(change, **copies)


def _checked_list(name: str, items: object) -> list[Any]:
    check: Any = validation.individual_list if name.endswith("individuals") else validation.id_list
    return list(check(name, items))


def changed_lists(change: SlotChange, content: SlotLists) -> SlotLists:
    """The lists that a change makes different, in full; those that stay as they are, are not given."""
    changed: list[Any] = []
    for name, old in zip(SLOT_LISTS, content, strict=True):
        removed: Any = getattr(change, f"remove_{name}") or ()
        added: Any = getattr(change, f"add_{name}") or ()
        kept = [item for item in old or () if item not in set(removed)]
        new = kept + [item for item in dict.fromkeys(added) if item not in kept]
        changed.append(None if new == list(old or ()) else new)
    return SlotLists(*changed)


def _sorted(items: list[Any]) -> list[Any]:
    return sorted(items, key=lambda item: (isinstance(item, str), item))


def with_unconfirmed(unconfirmed: list[SlotLists], lists: SlotLists) -> list[SlotLists]:
    """The unconfirmed writes of a slot and one more."""
    return [*unconfirmed, lists][-_MAX_UNCONFIRMED:]


def without_overwritten(unconfirmed: list[SlotLists], confirmed: SlotLists) -> list[SlotLists]:
    """What is left of unconfirmed writes when a later write is confirmed: the lists that it did not give."""
    left = [lists.without(confirmed) for lists in unconfirmed]
    return [lists for lists in left if not lists.is_empty]
