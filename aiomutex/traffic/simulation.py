"""Many users through many groups: counts by slot, overlaps of experiments, and who moves when groups change.

Users are streamed in blocks. Within a block each experiment has one large integer with a byte for each user, 1 where
the user can see the experiment, so that overlaps and moves are single operations on whole blocks.
"""

from __future__ import annotations

from itertools import combinations, islice
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from aiomutex._util.files import lines_of
from aiomutex.errors import InvalidRequestError
from aiomutex.traffic.bucketing import Bucketing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from aiomutex.models import MutexGroup

__all__ = [
    "Comparison",
    "ExperimentMove",
    "GroupCount",
    "Overlap",
    "Simulation",
    "compare",
    "read_users",
    "simulate",
]

_BLOCK: Final = 1 << 15
_BYTES: Final = 256


class GroupCount(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How the users spread over one group."""

    group_id: str
    key: str
    slots: dict[int, int]
    """Users by slot index."""
    unallocated: int
    """Users in no slot."""


class Overlap(NamedTuple):
    """Two experiments, and the users that can see both."""

    first: int
    second: int
    users: int


class Simulation(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What :func:`simulate` counted."""

    users: int
    groups: list[GroupCount]
    experiments: dict[int, int]
    """Users that can see each experiment: those in one of its slots, in every group it belongs to."""
    overlaps: list[Overlap]
    """Pairs of experiments with common users, the most users first."""


class ExperimentMove(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What a change does to the users of one experiment."""

    experiment: int
    before: int
    after: int
    gained: int
    lost: int


class Comparison(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What :func:`compare` counted."""

    users: int
    moved: int
    """Users for whom at least one experiment appears or disappears."""
    experiments: list[ExperimentMove]
    """Experiments that gain or lose users, by id."""

    @property
    def share(self) -> float:
        """Share of the users that move, 0 to 1."""
        return self.moved / self.users if self.users else 0.0


def read_users(path: str | Path | int) -> Iterator[str]:
    """User ids of a file, one a line; empty lines and the white space around an id are left out.

    A number is a file descriptor: 0 for standard input.

    A user that stands there twice is counted twice.

    Raises:
        InvalidRequestError: The file is not UTF-8 text, or a line of it does not end.
    """
    with open(path, encoding="utf-8") as lines:  # noqa: PTH123  # a Path has no descriptors
        try:
            for line in lines_of(lines):
                user = line.strip()
                if user:
                    yield user
        except UnicodeDecodeError as error:
            raise InvalidRequestError(f"the file of users is not UTF-8 text ({error.reason})") from None


class _View:
    """A set of groups, asked block by block who sees which experiment."""

    def __init__(self, groups: Iterable[MutexGroup]) -> None:
        self.rules = [Bucketing(group) for group in groups if not group.deleted]
        # For each experiment: the groups it is in, each with a table from slot position to 1 (in it) or 0.
        self.members: dict[int, list[tuple[int, bytes]]] = {}
        for place, rule in enumerate(self.rules):
            tables: dict[int, bytearray] = {}
            for position, slot in enumerate(rule.slots):
                for experiment in slot.experiments:
                    tables.setdefault(experiment, bytearray(_BYTES))[position] = 1
            for experiment, table in tables.items():
                self.members.setdefault(experiment, []).append((place, bytes(table)))

    def columns(self, block: Sequence[str]) -> list[bytes]:
        return [rule.positions(block) for rule in self.rules]

    def seen(self, experiment: int, columns: Sequence[bytes], everybody: int) -> int:
        """The users that can see an experiment; who is in no group is seen by everybody."""
        users = everybody
        for place, table in self.members.get(experiment, ()):
            users &= int.from_bytes(columns[place].translate(table), "little")
        return users


def _blocks(users: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(users)
    while block := list(islice(iterator, _BLOCK)):
        yield block


def _everybody(count: int) -> int:
    return int.from_bytes(b"\x01" * count, "little")


def simulate(groups: Iterable[MutexGroup], users: Iterable[str], *, overlaps: bool = True) -> Simulation:
    """Count who lands where. Archived groups are left out.

    Memory does not grow with the number of users. Time is one hash for each user and group; overlaps add a little for
    each pair of experiments, so leave them out when there are thousands of experiments.

    Args:
        groups: The groups as the service tells them.
        users: The bucketing values, for example from :func:`read_users`. Each is used for every group, so simulate
            groups of one ``bucketing_key`` together.
        overlaps: Whether to count the users that any two experiments share.

    Raises:
        ConfigurationError: A group has no salt, or the package ``mmh3`` is not installed.

    Example:
        >>> from aiomutex import MutexGroup, Slot
        >>> halves = [Slot(index=1, percentage=50, experiments=[1]), Slot(index=2, percentage=50, experiments=[2])]
        >>> result = simulate([MutexGroup(id="7", bucketing_salt="abcd", slots=halves)], map(str, range(1000)))
        >>> sum(result.groups[0].slots.values()), result.overlaps
        (1000, [])
    """
    view = _View(groups)
    total = 0
    slots = [[0] * (len(rule.slots) + 1) for rule in view.rules]
    seen = dict.fromkeys(sorted(view.members), 0)
    common: dict[tuple[int, int], int] = {}
    for block in _blocks(users):
        total += len(block)
        columns = view.columns(block)
        for counts, column in zip(slots, columns, strict=True):
            for position in range(len(counts)):
                counts[position] += column.count(position)
        everybody = _everybody(len(block))
        masks = {experiment: view.seen(experiment, columns, everybody) for experiment in seen}
        for experiment, mask in masks.items():
            seen[experiment] += mask.bit_count()
        if overlaps:
            for (first, mask), (second, other) in combinations(masks.items(), 2):
                if both := (mask & other).bit_count():
                    common[first, second] = common.get((first, second), 0) + both
    return Simulation(
        users=total,
        groups=[
            GroupCount(
                group_id=rule.group.id,
                key=rule.group.key,
                slots={slot.index: count for slot, count in zip(rule.slots, counts, strict=False)},
                unallocated=counts[-1],
            )
            for rule, counts in zip(view.rules, slots, strict=True)
        ],
        experiments=seen,
        overlaps=sorted((Overlap(*pair, count) for pair, count in common.items()), key=lambda each: (-each[2], each)),
    )


def compare(before: Iterable[MutexGroup], after: Iterable[MutexGroup], users: Iterable[str]) -> Comparison:
    """Count who moves when ``before`` becomes ``after``: users for whom an experiment appears or disappears.

    An experiment that belongs to no group can be seen by everybody, so adding it to a slot of 40 % takes it from
    60 % of the users.

    Args:
        before: The groups as they are.
        after: The groups as they shall be, for example from ``aiomutex.plan.after``.
        users: The bucketing values.

    Raises:
        ConfigurationError: A group has no salt, or the package ``mmh3`` is not installed.

    Example:
        >>> from aiomutex import MutexGroup, Slot
        >>> empty = MutexGroup(id="7", bucketing_salt="abcd", slots=[Slot(index=1, percentage=100)])
        >>> joined = MutexGroup(id="7", bucketing_salt="abcd", slots=[Slot(index=1, percentage=100, experiments=[1])])
        >>> compare([empty], [joined], map(str, range(1000))).moved
        0
    """
    was, will = _View(before), _View(after)
    total = moved = 0
    # Before, after, lost.
    counts = {experiment: [0, 0, 0] for experiment in sorted(was.members.keys() | will.members.keys())}
    for block in _blocks(users):
        total += len(block)
        everybody = _everybody(len(block))
        columns_before, columns_after = was.columns(block), will.columns(block)
        differing = 0
        for experiment, count in counts.items():
            old = was.seen(experiment, columns_before, everybody)
            new = will.seen(experiment, columns_after, everybody)
            differing |= old ^ new
            count[0] += old.bit_count()
            count[1] += new.bit_count()
            count[2] += (old & ~new).bit_count()
        moved += differing.bit_count()
    return Comparison(
        users=total,
        moved=moved,
        experiments=[
            ExperimentMove(experiment=experiment, before=old, after=new, gained=new - old + lost, lost=lost)
            for experiment, (old, new, lost) in counts.items()
            if lost or new != old
        ],
    )
