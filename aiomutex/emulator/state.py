"""What the emulator knows: groups and their slots, in the order of their ids.

Groups made by the thousand exist as a recipe until somebody looks at one, so that half a million cost nothing to
start with. The state knows no HTTP, no dialect and no rule but that ids and keys are unique.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

__all__ = ["Group", "GroupStore", "Slot"]

KEY_PREFIX = "group-"
MAX_GENERATED = 1_000_000
"""What still fits into memory once the order of ids needs a list."""


@dataclass(slots=True)
class Slot:
    """One slot of a group; ``index`` counts from 1."""

    index: int
    percentage: int | float
    name: str = ""
    variant_key: str = ""
    experiments: list[int] = field(default_factory=list[int])
    holdouts: list[int] = field(default_factory=list[int])
    individuals: list[str] = field(default_factory=list[str])
    cohorts: list[str | int] = field(default_factory=list[str | int])

    def __post_init__(self) -> None:
        """Name the slot after its index, as the service does."""
        self.name = self.name or f"SLOT {self.index}"
        self.variant_key = self.variant_key or f"slot-{self.index}"


@dataclass(slots=True)
class Group:
    """One mutex group. Change it freely: the next answer shows the change."""

    id: str
    project_id: str
    name: str
    key: str
    description: str | None = None
    evaluation_mode: str = "remote"
    bucketing_key: str = "amplitude_id"
    bucketing_salt: str = ""
    slots: list[Slot] = field(default_factory=list[Slot])
    deleted: bool = False


def even_percentages(slots: int) -> list[int]:
    """Percentages of ``slots`` slots that add up to 100, the larger ones first."""
    share, rest = divmod(100, slots)
    return [share + 1] * rest + [share] * (slots - rest)


def generated_group(number: int | str, slots: int) -> Group:
    """The group that stands for ``number`` when groups are made by the thousand: the same one every time.

    The number appears in every value as it is, which lets a page of generated groups be filled in from a template.
    """
    return Group(
        id=str(number),
        project_id="1",
        name=f"Group {number}",
        key=f"{KEY_PREFIX}{number}",
        description=f"Generated group {number}",
        bucketing_salt=f"salt-{number}",
        slots=[
            Slot(index=index, percentage=percentage, experiments=[int(f"{number}{index:02}")])
            for index, percentage in enumerate(even_percentages(slots), start=1)
        ],
    )


def _rank(group_id: str) -> tuple[int, int, str]:
    return (0, int(group_id), "") if _is_number(group_id) else (1, 0, group_id)


def _is_number(group_id: str) -> bool:
    # Longer runs of digits are names; Python refuses to make numbers of thousands of them.
    short = len(group_id) <= 18  # noqa: PLR2004 - what fits into 64 bits
    return short and group_id.isascii() and group_id.isdigit() and (group_id == "0" or group_id[0] != "0")


class GroupStore(MutableMapping[str, Group]):
    """Groups by id, always in the order of their ids: numbers by size, then everything else by text.

    Args:
        generated: How many groups to stand in for ids 1 to that number.
        slots: How many slots each generated group has, 1 to 20.
    """

    def __init__(self, generated: int = 0, *, slots: int = 3) -> None:
        if not 0 <= generated <= MAX_GENERATED:
            raise ValueError(f"groups is {generated}; a number of groups must be 0 to {MAX_GENERATED:,}")
        if not 1 <= slots <= 20:  # noqa: PLR2004 - the service's own bound
            raise ValueError(f"slots is {slots}; a group has 1 to 20 slots")
        self.generated = generated
        self.generated_slots = slots
        self._made: dict[str, Group] = {}
        self._removed: set[str] = set()
        self._ids_by_key: dict[str, str] = {}
        # As long as the ids are 1, 2, 3, … their order needs no list.
        self._order: range | list[str] = range(1, generated + 1)

    def __repr__(self) -> str:
        return f"<GroupStore {len(self)} groups, {len(self._made)} looked at or changed>"

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[str]:
        return map(str, self._order)

    def __contains__(self, group_id: object) -> bool:
        return isinstance(group_id, str | int) and (str(group_id) in self._made or self._is_generated(str(group_id)))

    def __getitem__(self, group_id: str) -> Group:
        group_id = str(group_id)
        group = self._made.get(group_id)
        if group is None:
            if not self._is_generated(group_id):
                raise KeyError(group_id)
            group = self._made[group_id] = generated_group(group_id, self.generated_slots)
            self._ids_by_key[group.key] = group_id
        return group

    def __setitem__(self, group_id: str, group: Group) -> None:
        group_id = str(group_id)
        if group.id != group_id:
            raise ValueError(f"the group's id is {group.id!r}; it must be the id it is stored under, {group_id!r}")
        owner = self.id_of_key(group.key)
        if owner not in (None, group_id):
            raise ValueError(f"key {group.key!r} is taken by group {owner}; keys are unique")
        if group_id in self:
            self._ids_by_key.pop(self[group_id].key, None)
        else:
            self._insert(group_id)
        self._made[group_id] = group
        self._ids_by_key[group.key] = group_id

    def __delitem__(self, group_id: str) -> None:
        group_id = str(group_id)
        group = self[group_id]
        ids = self._order = [str(number) for number in self._order]
        del ids[bisect_left(ids, _rank(group_id), key=_rank)]
        del self._made[group_id]
        self._ids_by_key.pop(group.key, None)
        if _is_number(group_id) and 1 <= int(group_id) <= self.generated:
            self._removed.add(group_id)

    def look(self, group_id: str) -> Group | int | None:
        """The group; or its number, if it is a generated one nobody has touched; or None."""
        return self._made.get(group_id) or (int(group_id) if self._is_generated(group_id) else None)

    def id_of_key(self, key: str) -> str | None:
        """The id of the group that has ``key``, archived ones included."""
        group_id = self._ids_by_key.get(key)
        if group_id is not None:
            return group_id
        suffix = key.removeprefix(KEY_PREFIX)
        return suffix if suffix != key and suffix not in self._made and self._is_generated(suffix) else None

    def free_id(self) -> str:
        """The id of the next group to be created: one above the highest number."""
        if isinstance(self._order, range):
            return str(len(self._order) + 1)
        numbers = bisect_left(self._order, (1, 0, ""), key=_rank)
        return str(int(self._order[numbers - 1]) + 1) if numbers else "1"

    def page(self, offset: int, limit: int, keep: Callable[[Group], bool] | None = None) -> tuple[list[str], int]:
        """Ids ``offset`` to ``offset + limit`` in order, and how many there are in all.

        Args:
            offset: How many ids to skip.
            limit: How many ids to give at most.
            keep: Whether a group counts. Generated groups that nobody touched always do.
        """
        order: Sequence[int | str] = self._order
        if keep is not None:
            dropped = {group_id for group_id, group in self._made.items() if not keep(group)}
            if dropped:
                order = [group_id for group_id in self if group_id not in dropped]
        return [str(group_id) for group_id in order[offset : offset + limit]], len(order)

    def touched(self) -> list[Group]:
        """The groups that differ from the recipe, or may."""
        return sorted(self._made.values(), key=lambda group: _rank(group.id))

    def removed(self) -> list[str]:
        """The ids of generated groups that were deleted outright."""
        return sorted(self._removed, key=_rank)

    def copy(self) -> GroupStore:
        """A store of its own with the same groups."""
        return deepcopy(self)

    def _is_generated(self, group_id: str) -> bool:
        return _is_number(group_id) and 1 <= int(group_id) <= self.generated and group_id not in self._removed

    def _insert(self, group_id: str) -> None:
        if isinstance(self._order, range):
            if group_id == str(len(self._order) + 1):
                self._order = range(1, len(self._order) + 2)
                return
            self._order = [str(number) for number in self._order]
        self._removed.discard(group_id)
        insort(self._order, group_id, key=_rank)
