"""The emulator's groups and slots, ordered by ID, with unique IDs and keys.

Generated groups are created when first accessed, so that half a million of them take no time and memory at the start.
"""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, MutableMapping

import msgspec

_INTEGER = re.compile("0|[1-9][0-9]{0,17}")
KEY_PREFIX = "group-"
MAX_GENERATED = 1_000_000
"""The most generated groups; the list of their IDs must fit into memory."""


class Slot(msgspec.Struct, kw_only=True, rename="camel"):
    """One slot of a group; ``index`` counts from 1."""

    name: str = ""
    index: int
    variant_key: str = ""
    percentage: int | float
    experiments: list[int] = []
    holdouts: list[int] = []
    individuals: list[str] = []
    cohorts: list[str | int] = []

    def __post_init__(self) -> None:
        # Absent names follow from the index, as in the service.
        self.name = self.name or f"SLOT {self.index}"
        self.variant_key = self.variant_key or f"slot-{self.index}"


class Group(msgspec.Struct, rename="camel"):
    """One mutex group. If you change a field, the next response has the change."""

    id: str
    project_id: str
    name: str
    key: str
    description: str | None = None
    evaluation_mode: str = "remote"
    bucketing_key: str = "amplitude_id"
    bucketing_salt: str = ""
    slots: list[Slot] = []
    deleted: bool = False


def generated_group(number: int | str, slots: int) -> Group:
    """Return the generated group of that number. It is part of the values, so that ``responses`` can use a template."""
    share, rest = divmod(100, slots)
    return Group(
        id=str(number),
        project_id="1",
        name=f"Group {number}",
        key=f"{KEY_PREFIX}{number}",
        description=f"Generated group {number}",
        bucketing_salt=f"salt-{number}",
        slots=[
            Slot(index=index, percentage=share + (index <= rest), experiments=[int(f"{number}{index:02}")])
            for index in range(1, slots + 1)
        ],
    )


def json_id(group_id: str) -> int | str:
    """Return an ID as it is sorted and sent: an integer if it reads like one, which 007 does not."""
    # A longer one is a string: Python cannot convert thousands of digits, and JSON readers may round beyond 64 bits.
    return int(group_id) if _INTEGER.fullmatch(group_id) else group_id


def _order(group_id: int | str) -> tuple[bool, int | str]:
    return isinstance(group_id, str), group_id


class GroupStore(MutableMapping[str, Group]):
    """Groups by ID, sorted by ID: integers by value, then all other IDs as strings.

    Args:
        generated: How many generated groups there are, with IDs from 1.
        slots: How many slots a generated group has, 1 to 20.

    Raises:
        ValueError: A number is out of range.
    """

    def __init__(self, generated: int = 0, *, slots: int = 3) -> None:
        if not 0 <= generated <= MAX_GENERATED:
            raise ValueError(f"groups must be from 0 to {MAX_GENERATED:,}, not {generated}")
        if not 1 <= slots <= 20:  # noqa: PLR2004  # the service's limit
            raise ValueError(f"slots_per_group must be from 1 to 20, not {slots}")
        self.generated = generated
        self.generated_slots = slots
        self._groups: dict[str, Group] = {}
        self.removed: set[str] = set()  # IDs of generated groups that were deleted
        self._ids_by_key: dict[str, dict[str, str]] = {}  # the IDs by key and project
        self._ids: list[int | str] = list(range(1, generated + 1))

    def __repr__(self) -> str:
        return f"<GroupStore {len(self)} groups, {len(self._groups)} in memory>"

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[str]:
        return map(str, self._ids)

    def __contains__(self, group_id: object) -> bool:
        return isinstance(group_id, str | int) and (str(group_id) in self._groups or self._is_generated(str(group_id)))

    def __getitem__(self, group_id: str) -> Group:
        group_id = str(group_id)
        if group_id not in self:
            raise KeyError(group_id)
        if group_id not in self._groups:
            self._keep(generated_group(group_id, self.generated_slots))
        return self._groups[group_id]

    def __setitem__(self, group_id: str, group: Group) -> None:
        group_id = str(group_id)
        if group.id != group_id:
            raise ValueError(f"the group's id must be {group_id!r}, under which it is stored, not {group.id!r}")
        owner = self.id_of_key(group.key, group.project_id)
        if owner not in (None, group_id):
            raise ValueError(f"key must be unique; group {owner} has the key {group.key!r}")
        if group_id in self:
            self._forget_key(self[group_id])
        else:
            self.removed.discard(group_id)
            insort(self._ids, json_id(group_id), key=_order)
        self._keep(group)

    def __delitem__(self, group_id: str) -> None:
        group_id = str(group_id)
        group = self[group_id]
        self._ids.remove(json_id(group_id))
        del self._groups[group_id]
        self._forget_key(group)
        if self._is_generated(group_id):
            self.removed.add(group_id)

    def peek(self, group_id: str) -> Group | int | None:
        """Return the group; its number if it is generated and not in memory; None if there is none."""
        return self._groups.get(group_id) or (int(group_id) if self._is_generated(group_id) else None)

    def id_of_key(self, key: str, project_id: str | None = None) -> str | None:
        """Return the ID of a group with ``key``, archived or not, in any project or in this one."""
        owners = {**self._ids_by_key.get(key, {})}
        suffix = key.removeprefix(KEY_PREFIX)
        if suffix != key and suffix not in self._groups and self._is_generated(suffix):
            owners["1"] = suffix
        return next(iter(owners.values()), None) if project_id is None else owners.get(project_id)

    def next_id(self) -> str:
        """Return the ID for a new group: one above the highest integer."""
        numbers = bisect_left(self._ids, _order(""), key=_order)
        return str(int(self._ids[numbers - 1]) + 1) if numbers else "1"

    def page(self, offset: int, limit: int, keep: Callable[[Group], bool] | None = None) -> tuple[list[str], int]:
        """Return the IDs of a page and the number of groups, without those in memory for which ``keep`` is false."""
        skipped = {json_id(group.id) for group in self._groups.values() if not keep(group)} if keep else None
        ids = [group_id for group_id in self._ids if group_id not in skipped] if skipped else self._ids
        return [str(group_id) for group_id in ids[offset : offset + limit]], len(ids)

    def materialized(self) -> list[Group]:
        """Return the groups in memory, sorted by ID; all others are as generated."""
        return sorted(self._groups.values(), key=lambda group: _order(json_id(group.id)))

    def _is_generated(self, group_id: str) -> bool:
        number = json_id(group_id)
        return isinstance(number, int) and 1 <= number <= self.generated and group_id not in self.removed

    def _keep(self, group: Group) -> None:
        self._groups[group.id] = group
        self._ids_by_key.setdefault(group.key, {})[group.project_id] = group.id

    def _forget_key(self, group: Group) -> None:
        self._ids_by_key.get(group.key, {}).pop(group.project_id, None)
