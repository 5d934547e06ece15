"""The slot edits of a plan, in an order in which no member that stays in a group is in none of its slots on the way.

Pure. An edit writes whole lists of one slot, so to move a member takes two edits, and their order matters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiomutex.models import SlotEdit
from aiomutex.plan.members import unique

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aiomutex.plan.diff import GroupPlan

__all__ = ["edit_rounds"]

_Members = set[tuple[str, int | str]]
"""Members of a slot, each with the name of its list."""


def edit_rounds(steps: Iterable[GroupPlan]) -> list[list[SlotEdit]]:
    """The slot edits of a plan, in rounds; no edit takes out of a slot what another of its round puts into one.

    A member that moves to another slot so enters the new one in an earlier round than it leaves the old one, and can
    stay there if the new one does not take it. Where slots pass members round in a circle, one of them holds its old
    members and its new ones for a round, and has two edits.
    """
    rounds: list[list[SlotEdit]] = []
    for step in steps:
        number = 0
        entered: _Members = set()
        for edit, entering, leaving in _ordered(step):
            if leaving & entered:
                number += 1
                entered.clear()
            entered |= entering
            if number == len(rounds):
                rounds.append([])
            rounds[number].append(edit)
    return rounds


def _ordered(step: GroupPlan) -> Iterator[tuple[SlotEdit, _Members, _Members]]:
    """The edits of one group, each with the members that enter its slot and those that leave it."""
    wishes: dict[int, dict[str, Any]] = {}
    gains: dict[int, _Members] = {}
    losses: dict[int, _Members] = {}
    for change in sorted(step.lists, key=lambda change: change.slot_index):
        wishes.setdefault(change.slot_index, {})[change.field] = change.after
        gains.setdefault(change.slot_index, set()).update((change.field, member) for member in change.added)
        losses.setdefault(change.slot_index, set()).update((change.field, member) for member in change.removed)

    def awaited(index: int) -> int | None:
        """A slot that is still to gain what this one is to lose."""
        return next((other for other in wishes if other != index and gains[other] & losses[index]), None)

    while wishes:
        path: list[int] = []
        index: int | None = next(iter(wishes))
        while index is not None and index not in path:
            path.append(index)
            index = awaited(index)
        if index is None:
            index = path[-1]
            yield SlotEdit(step.group_id or "", index, **wishes.pop(index)), gains[index], losses[index]
            continue
        # The path bites its tail: this slot waits for one that waits for it.
        others = set[tuple[str, int | str]]().union(*(gains[other] for other in wishes if other != index))
        kept = losses[index] & others
        both = {
            field: list(unique([*after, *(member for name, member in kept if name == field)]))
            for field, after in wishes[index].items()
        }
        yield SlotEdit(step.group_id or "", index, **both), gains[index], losses[index] - kept
        gains[index], losses[index] = set(), kept
        wishes[index] = {field: after for field, after in wishes[index].items() if both[field] != list(unique(after))}
