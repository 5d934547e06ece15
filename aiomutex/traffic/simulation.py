"""Many users in many groups: counts by slot, overlaps of experiments, and the users that a change moves.

Users are streamed in blocks. Within a block each experiment has a mask: one large integer with a byte for each user,
1 if the user can see the experiment. Overlaps and moves are then single operations on whole blocks.
"""

from __future__ import annotations

import math
import random
from heapq import nlargest, nsmallest
from itertools import chain, combinations, islice
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from aiomutex._util.files import lines_of
from aiomutex.errors import InvalidRequestError
from aiomutex.traffic.bucketing import Bucketing, traffic_share

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from aiomutex.models import MutexGroup

_BLOCK: Final = 1 << 12
_MAX_EXPERIMENTS: Final = 300
_MAX_PAIRS: Final = 45_000  # about the pairs of that many experiments


class GroupCount(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How users are distributed over one group."""

    group_id: str
    key: str
    slots: dict[int, int]
    """Users by slot index."""
    unallocated: int
    """Users in no slot."""


class Overlap(NamedTuple):
    """Two experiments and the number of users that can see both."""

    first: int
    second: int
    users: int


class Simulation(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The result of ``simulate``."""

    users: int
    groups: list[GroupCount]
    experiments: dict[int, int]
    """Users that can see each experiment, by its ID: those in one of its slots, in every group it belongs to."""
    overlaps: list[Overlap]
    """The pairs of experiments that share the most users, the largest first."""


class ExperimentMove(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """How many users one experiment has before and after a change."""

    experiment: int
    before: int
    after: int
    gained: int
    lost: int


class Comparison(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The result of ``compare``."""

    users: int
    moved: int
    """Users who gain or lose at least one experiment."""
    experiments: list[ExperimentMove]
    """Experiments that gain or lose users, ordered by ID."""


def read_users(path: str | Path | int) -> Iterator[str]:
    """Read user IDs from a file, one a line, without loading the whole file.

    Empty lines and white space around an ID are ignored. An ID that occurs twice is counted twice. ``path`` may be 0,
    or another file descriptor.

    Raises:
        InvalidRequestError: The file is not UTF-8, or a line is too long.
    """
    with open(path, encoding="utf-8") as lines:  # noqa: PTH123  # a Path has no descriptors
        try:
            yield from filter(None, map(str.strip, lines_of(lines)))
        except UnicodeDecodeError as error:
            raise InvalidRequestError(f"the file of user IDs is not UTF-8 ({error.reason})") from None


def sample_users(users: Iterable[str], size: int, *, seed: int = 0) -> tuple[list[str], int]:
    """Draw a random sample of users, without keeping the others.

    Returns:
        The sample, and the number of all users. With at most ``size`` users, it is all of them.
    """
    rest = iter(users)
    sample = list(islice(rest, size))
    population = len(sample)
    draw = random.Random(seed).random
    for population, user in enumerate(rest, len(sample) + 1):
        if (place := int(draw() * population)) < size:
            sample[place] = user
    return sample, population


def sampling_error(share: float, sample: int, population: int) -> float:
    """Return the error of a share that was counted in a sample of a population, with 95 % confidence."""
    if sample >= population:
        return 0.0
    return 1.96 * math.sqrt(share * (1 - share) / sample * (population - sample) / (population - 1))


class _Visibility:
    """Which users can see which experiment under a set of groups, block by block."""

    def __init__(self, groups: Iterable[MutexGroup]) -> None:
        self.rules = [Bucketing(group) for group in groups if not group.deleted]
        # For each experiment and group it is in, a table for bytes.translate: slot position to 1 (visible) or 0.
        self.members: dict[int, dict[int, bytearray]] = {}
        for place, rule in enumerate(self.rules):
            for position, slot in enumerate(rule.slots):
                for experiment in slot.experiments:
                    tables = self.members.setdefault(experiment, {})
                    tables.setdefault(place, bytearray(256))[position] = 1

    def mask(self, experiment: int, columns: Sequence[bytes], all_users: int) -> int:
        """The mask of users that can see an experiment; all users can see one that is in no group."""
        for place, table in self.members.get(experiment, {}).items():
            all_users &= int.from_bytes(columns[place].translate(table), "little")
        return all_users

    def pairs(self) -> set[tuple[int, int]]:
        """The pairs of experiments that are expected to share the most users."""
        groups = {each: [self.rules[place].group for place in tables] for each, tables in self.members.items()}
        shares = {experiment: traffic_share(experiment, own) for experiment, own in groups.items()}
        most = sorted(nlargest(_MAX_EXPERIMENTS, shares, key=shares.__getitem__))
        together = (sorted(set(slot.experiments)) for rule in self.rules for slot in rule.slots)
        expected = chain(
            ((shares[one] * shares[two], one, two) for one, two in combinations(most, 2)),
            ((min(shares[one], shares[two]), one, two) for each in together for one, two in combinations(each, 2)),
        )
        return {(one, two) for _, one, two in nlargest(_MAX_PAIRS, expected)}


def _experiments(group: MutexGroup) -> set[int]:
    return {experiment for slot in group.slots for experiment in slot.experiments}


def _blocks(users: Iterable[str]) -> Iterator[tuple[list[str], int]]:
    """Yield blocks of users, each with the mask of all its users."""
    iterator = iter(users)
    while block := list(islice(iterator, _BLOCK)):
        yield block, int.from_bytes(b"\x01" * len(block), "little")


def simulate(groups: Iterable[MutexGroup], users: Iterable[str], *, overlaps: int = 50) -> Simulation:
    """Count users by slot and by experiment. Archived groups are left out.

    Memory does not grow with the number of users. The time is one hash for each user and group. Overlaps are counted
    for all pairs of up to 300 experiments; of more, for the 45,000 pairs that are expected to share the most users.

    Args:
        groups: The groups as the service returns them.
        users: The bucketing values, for example from ``read_users``. Each is used for every group, so simulate only
            groups with the same ``bucketing_key`` together.
        overlaps: How many of the largest overlaps of two experiments to return.

    Raises:
        ConfigurationError: A group has no salt, or the package ``mmh3`` is not installed.
        InvalidRequestError: A user ID contains a lone surrogate.
    """
    view = _Visibility(groups)
    total = 0
    slots = [[0] * (len(rule.slots) + 1) for rule in view.rules]
    visible = dict.fromkeys(sorted(view.members), 0)
    shared = dict.fromkeys(view.pairs() if overlaps else (), 0)
    masks = dict.fromkeys(chain.from_iterable(shared), 0)  # of all experiments they would not fit into memory
    for block, all_users in _blocks(users):
        total += len(block)
        columns = [rule.positions(block) for rule in view.rules]
        for counts, column in zip(slots, columns, strict=True):
            counts[:] = [count + column.count(position) for position, count in enumerate(counts)]
        for experiment in visible:
            mask = view.mask(experiment, columns, all_users)
            visible[experiment] += mask.bit_count()
            if experiment in masks:
                masks[experiment] = mask
        for first, second in shared:
            shared[first, second] += (masks[first] & masks[second]).bit_count()
    pairs = (Overlap(*pair, count) for pair, count in shared.items() if count)
    largest = nsmallest(overlaps, pairs, key=lambda each: (-each.users, each))
    found: list[GroupCount] = []
    for rule, counts in zip(view.rules, slots, strict=True):
        by_slot = {slot.index: count for slot, count in zip(rule.slots, counts, strict=False)}
        found.append(GroupCount(group_id=rule.group.id, key=rule.group.key, slots=by_slot, unallocated=counts[-1]))
    return Simulation(users=total, groups=found, experiments=visible, overlaps=largest)


def compare(before: Iterable[MutexGroup], after: Iterable[MutexGroup], users: Iterable[str]) -> Comparison:
    """Count the users who gain or lose an experiment when ``before`` becomes ``after``.

    All users can see an experiment that belongs to no group, so adding it to a slot of 40 % takes it away from 60 % of
    the users. The time is one hash for each user and each group with an experiment of a changed group.

    Args:
        before: The current groups.
        after: The groups after the change, for example from ``aiomutex.plan.after``.
        users: The bucketing values, as for ``simulate``, which raises the same errors.
    """
    old, new = ({msgspec.json.encode(each): each for each in groups if not each.deleted} for groups in (before, after))
    changed = {each for text in old.keys() ^ new.keys() for each in _experiments(old.get(text) or new[text])}
    views = [_Visibility(each for each in groups.values() if changed & _experiments(each)) for groups in (old, new)]
    total = moved = 0
    # For each experiment: users before, users after, users lost.
    counts = {experiment: [0, 0, 0] for experiment in sorted(changed)}
    for block, all_users in _blocks(users):
        total += len(block)
        known = {rule.identity: rule for view in views for rule in view.rules}
        columns = {identity: rule.positions(block) for identity, rule in known.items()}
        sides = [(view, [columns[rule.identity] for rule in view.rules]) for view in views]
        moved_here = 0
        for experiment, count in counts.items():
            had, has = (view.mask(experiment, own, all_users) for view, own in sides)
            moved_here |= had ^ has
            for position, mask in enumerate((had, has, had & ~has)):
                count[position] += mask.bit_count()
        moved += moved_here.bit_count()
    moves = [
        ExperimentMove(experiment=experiment, before=had, after=has, gained=has - had + lost, lost=lost)
        for experiment, (had, has, lost) in counts.items()
        if lost or has != had
    ]
    return Comparison(users=total, moved=moved, experiments=moves)
