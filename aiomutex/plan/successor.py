"""Plans a group that replaces another, and lays out its slots so that as few users as possible move. Pure.

Both groups have one salt and bucketing key, so a user has the same place in both, from 0 to 100 %, and a slot is a
range of places. A user moves whose new slot has other experiments or holdouts than the old one. So slots keep their old
ranges as far as they can, and growth takes the places that others free, as further slots with the same members.

Why no layout moves fewer users: layouts are built from left to right, and the search always continues the one that
moves the fewest (A*). It counts those that have moved, and those that must still move because a slot needs more places
than its old ranges have left. That is never too many, so the first layout to be complete moves the fewest.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from msgspec import UNSET
from msgspec.structs import replace

from aiomutex.plan.desired import GROUP_FIELDS, DesiredGroup, DesiredSlot

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aiomutex.models import MutexGroup, Slot

    _Members: TypeAlias = tuple[frozenset[int], frozenset[int]]

MAX_SLOTS: Final = 20
_PERCENT: Final = 1_000_000
"""Places are counted in millionths of a percent, because the percentages of live slots may be fractions."""
_PATIENCE: Final = 3_000
"""Incomplete layouts that a search continues before it settles for one that is soon complete."""


def resolve(
    group: DesiredGroup, replaced: list[MutexGroup], candidates: list[MutexGroup], *, is_kept: bool, split: bool
) -> tuple[DesiredGroup, list[str]]:
    """A group of a file with the fields and slots that it has if it replaces a live one, and why it cannot."""
    if group.replaced is None:
        return group, []
    errors = [] if candidates or replaced else [f"replaces {group.replaces}, which does not exist or is archived"]
    for old in replaced:
        buckets = [(getattr(old, name), getattr((*candidates, group)[0], name)) for name in GROUP_FIELDS[3:]]
        reasons = {
            "the file keeps or replaces it elsewhere; remove it there, or add 'archived: true'": is_kept,
            "both must have one bucketingKey and bucketingSalt": any(not a or b not in (UNSET, a) for a, b in buckets),
            "its cohorts cannot be written": any(slot.cohorts for each in (old, group) for slot in each.slots or ()),
        }
        errors += [f"cannot replace {old.key}: {reason}" for reason, applies in reasons.items() if applies]
    if candidates and group.slots:
        is_same = _contents(group.slots) == _contents(candidates[0].slots)
        errors += [] if is_same else ["its slots differ from the file; to change them, take them over with a pull"]
        return replace(group, slots=UNSET), errors
    if errors or candidates or not group.slots:
        return group, errors
    fields = {name: getattr(replaced[0], name) or UNSET for name in GROUP_FIELDS if getattr(group, name) is UNSET}
    slots = lay_out(sorted(replaced[0].slots, key=lambda slot: slot.index), group.slots, split=split)
    return replace(group, slots=tuple(slots), **fields), errors


def _members(slot: Slot | DesiredSlot) -> _Members:
    return frozenset(slot.experiments or ()), frozenset(slot.holdouts or ())


def _ranges(slots: Iterable[Slot | DesiredSlot]) -> list[tuple[int | None, _Members, int, int]]:
    """The index of each slot, its members, and the start and end of its range; last the rest without a slot."""
    ranges: list[tuple[int | None, _Members, int, int]] = []
    end = 0
    for index, slot in enumerate(slots, 1):
        start, end = end, min(end + round(slot.percentage * _PERCENT), 100 * _PERCENT)
        ranges.append((index, _members(slot), start, end))
    return [*ranges, (None, (frozenset(), frozenset()), end, 100 * _PERCENT)]


def passages(old: Iterable[Slot], new: Iterable[Slot | DesiredSlot]) -> list[dict[str, Any]]:
    """From which slot to which one users come (``None`` is no slot), in order, and whether its members are others."""
    return [
        {"before": before, "after": after, "percentage": size / _PERCENT, "moves": one != other}
        for before, one, start, end in _ranges(old)
        for after, other, begin, stop in _ranges(new)
        if (size := min(end, stop) - max(start, begin)) > 0
    ]


def _contents(slots: Iterable[Slot | DesiredSlot]) -> dict[object, tuple[float, set[str]]]:
    """By experiments and holdouts, the percentage and the individuals of slots: equal for all layouts of a group."""
    found: dict[object, tuple[float, set[str]]] = {}
    for slot in slots:
        size, individuals = found.get(_members(slot), (0, set[str]()))
        found[_members(slot)] = round(size + slot.percentage, 6), individuals | {*(slot.individuals or ())}
    return found


def lay_out(old: Iterable[Slot], new: Sequence[DesiredSlot], *, split: bool = True) -> list[DesiredSlot]:
    """Order and split new slots so that as few users as possible move.

    Args:
        old: The slots of the group to be replaced, in order.
        new: The new slots. If their percentages are not integers that add up to 100, they stay as they are.
        split: Whether a new slot may become several. Its individuals are in the first of them.

    Returns:
        At most 20 slots. If the group has more than about 15 slots and most of them change, there may be better ones.
    """
    sizes = tuple(int(slot.percentage) for slot in new)
    if 0 in sizes or sum(sizes) != 100 or sum(slot.percentage for slot in new) != 100:  # noqa: PLR2004  # percent
        return [*new]
    labels = [_members(slot) for slot in new]
    ranges: dict[_Members, list[tuple[int, int]]] = {}
    for _, members, start, end in _ranges(old):
        ranges.setdefault(members, []).append((start, end))
    gone = {members: own for members, own in ranges.items() if members not in labels}
    places = range(0, 101 * _PERCENT, _PERCENT)
    # By members of new slots: what a user costs that leaves their old ranges, and how many of these places are before
    # each percent. Slots with other members than any old one have the ranges that share most experiments, if left.
    origins: dict[_Members, tuple[int, list[int]]] = {}
    for label in dict.fromkeys(labels):
        cost, own = (10**9, ranges[label]) if label in ranges else (1, [])
        alike = max(gone, key=lambda each: len(each[0] & label[0]), default=label)
        if label not in ranges and alike[0] & label[0]:
            own = gone.pop(alike, [])
        origins[label] = cost, [sum(min(max(p - start, 0), end - start) for start, end in own) for p in places]

    def must_move(place: int, left: Sequence[int]) -> int:
        """How many users at least move from a place on, if the slots still need these percentages."""
        needed = dict.fromkeys(labels, 0)
        for label, size in zip(labels, left, strict=True):
            needed[label] += size * _PERCENT
        return sum(cost * max(0, needed[each] - kept[100] + kept[place]) for each, (cost, kept) in origins.items())

    limit = MAX_SLOTS if split else len(new)
    # By urgency: the users that have moved, the pieces (a position in ``new`` and a percentage), and what is left.
    heap: list[tuple[int, int, int, tuple[tuple[int, int], ...], tuple[int, ...]]] = [(0, 0, 0, (), sizes)]
    seen: set[tuple[object, ...]] = set()
    while (entry := heappop(heap)) and any(entry[-1]):
        *_, moved, pieces, left = entry
        place, last = 100 - sum(left), pieces[-1][0] if pieces else None
        if (state := (left, last, len(pieces))) in seen:
            continue
        seen.add(state)
        for position, need in enumerate(left):
            cost, kept = origins[labels[position]]
            for size in range(1 if limit > len(new) else max(need, 1), need + 1) if position != last else ():
                end, rest = place + size, (*left[:position], need - size, *left[position + 1 :])
                if len(pieces) + 1 + len(rest) - rest.count(0) <= limit:
                    here = moved + cost * (size * _PERCENT - kept[end] + kept[place])
                    total = here + must_move(end, rest)
                    rank = (total, -end) if len(seen) < _PATIENCE else (-end, total)
                    heappush(heap, (*rank, here, (*pieces, (position, size)), rest))
    individuals = {position: slot.individuals for position, slot in enumerate(new)}  # for the first piece of each
    return [replace(new[at], percentage=size, individuals=individuals.pop(at, ())) for at, size in entry[3]]
