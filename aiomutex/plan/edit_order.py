"""Orders the slot edits of a plan so that a member that stays in a group is in one of its slots at all times. Pure.

An edit writes whole lists of one slot. To move a member takes two edits, and the new slot must come first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiomutex.models import SlotEdit
from aiomutex.plan.desired import unique

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from aiomutex.plan.changes import GroupPlan

_Members = set[tuple[str, int | str]]
"""Members of a slot, each with the name of its list."""


def edit_rounds(changes: Iterable[GroupPlan]) -> list[list[SlotEdit]]:
    """Return the slot edits of a plan, in rounds to be sent one after another.

    No edit removes a member that another edit of the same round adds. So a member that moves enters its new slot in an
    earlier round than it leaves the old one, and it stays in the old one if the edit of the new one fails. Where slots
    exchange members in a cycle, one of them is edited twice: it holds its old and its new members in between.

    Args:
        changes: The plan's changes of groups.
    """
    rounds: list[list[SlotEdit]] = []
    for change in changes:
        number = 0
        entered: _Members = set()
        for edit, entering, leaving in _ordered(change):
            if leaving & entered:
                number += 1
                entered.clear()
            entered |= entering
            if number == len(rounds):
                rounds.append([])
            rounds[number].append(edit)
    return rounds


def _ordered(group: GroupPlan) -> Iterator[tuple[SlotEdit, _Members, _Members]]:
    """Yield the edits of one group in order, each with the members that enter its slot and those that leave it."""
    targets: dict[int, dict[str, Any]] = {}
    known: dict[int, list[dict[str, Any]]] = {}
    gains: dict[int, _Members] = {}
    losses: dict[int, _Members] = {}
    for change in sorted(group.lists, key=lambda change: change.slot_index):
        targets.setdefault(change.slot_index, {})[change.field] = change.after
        known.setdefault(change.slot_index, [{}])[0][change.field] = change.before
        gains.setdefault(change.slot_index, set()).update((change.field, member) for member in change.added)
        losses.setdefault(change.slot_index, set()).update((change.field, member) for member in change.removed)

    def must_wait_for(index: int) -> int | None:
        """A slot that is yet to gain a member that this one loses."""
        return next((other for other in targets if other != index and gains[other] & losses[index]), None)

    def edit(index: int, lists: dict[str, Any]) -> SlotEdit:
        expected = tuple(known[index])
        known[index].append(lists)
        return SlotEdit(group.group_id or "", index, expected=expected, **lists)

    while targets:
        path: list[int] = []
        index: int | None = next(iter(targets))
        while index is not None and index not in path:
            path.append(index)
            index = must_wait_for(index)
        if index is None:
            index = path[-1]
            yield edit(index, targets.pop(index)), gains[index], losses[index]
            continue
        # Cycle: these slots wait for each other. This one keeps for now the members that others are yet to gain.
        others = set[tuple[str, int | str]]().union(*(gains[other] for other in targets if other != index))
        kept = losses[index] & others
        combined = {
            field: list(unique([*after, *(member for name, member in kept if name == field)]))
            for field, after in targets[index].items()
        }
        yield edit(index, combined), gains[index], losses[index] - kept
        gains[index], losses[index] = set(), kept
        targets[index] = {
            field: after for field, after in targets[index].items() if combined[field] != list(unique(after))
        }
