"""The slot edits of a plan, in an order in which nobody who stays in a group is in none of its slots on the way.

Pure. An edit writes whole lists of one slot, so to move a member takes two edits, and their order matters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiomutex.models import SlotEdit
from aiomutex.plan.members import unique

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aiomutex.plan.diff import GroupPlan

__all__ = ["slot_edits"]

_Members = set[tuple[str, int | str]]
"""Members of a slot, each with the name of its list."""


def slot_edits(steps: Iterable[GroupPlan]) -> list[SlotEdit]:
    """The slot edits of a plan, group by group.

    A member that moves to another slot enters the new one before it leaves the old one. Where slots pass members round
    in a circle, no order does that: then one of them holds its old members and its new ones for a moment, and has two
    edits.
    """
    return [edit for step in steps for edit in _ordered(step)]


def _ordered(step: GroupPlan) -> Iterator[SlotEdit]:
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
            yield SlotEdit(step.group_id or "", path[-1], **wishes.pop(path[-1]))
            continue
        # The path bites its tail: this slot waits for one that waits for it.
        others = set[tuple[str, int | str]]().union(*(gains[other] for other in wishes if other != index))
        kept = losses[index] & others
        both = {
            field: list(unique([*after, *(member for name, member in kept if name == field)]))
            for field, after in wishes[index].items()
        }
        yield SlotEdit(step.group_id or "", index, **both)
        gains[index].clear()
        wishes[index] = {field: after for field, after in wishes[index].items() if both[field] != list(unique(after))}
