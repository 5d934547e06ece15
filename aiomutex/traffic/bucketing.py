"""The service's bucketing rule: from a salt and a value to a slot, and the shares of traffic that follow from it.

The rule is the one in Amplitude's open-source evaluation engine, and the tests compare the two.
"""

from __future__ import annotations

from bisect import bisect_right
from fractions import Fraction
from itertools import accumulate, pairwise
from math import ceil, prod
from typing import TYPE_CHECKING, Final

from aiomutex._util.checks import describe
from aiomutex.errors import ConfigurationError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aiomutex.models import MutexGroup, Slot

_BUCKETS: Final = 100
_DISTRIBUTION_VALUES: Final = 42_949_673


class Bucketing:
    """The bucketing rule of one group, prepared for many users.

    With ``h = murmur3_x86_32(f"{salt}/{value}")``, the distribution value of a user is ``h // 100``, 0 to 42,949,672.
    The slots divide that range in the order of their index: a slot ends before ``ceil(42,949,673 * c / 100)``, where
    ``c`` is the sum of its own percentage and those before it. Users beyond the last slot are in no slot. The
    allocation bucket ``h % 100`` does not matter, because a group allocates all of its buckets.

    A user listed as an individual lands in the first slot that lists them, whatever the hash.

    Args:
        group: The group as the service returns it; it must have a ``bucketing_salt``.

    Raises:
        ConfigurationError: The group has no salt, or the package ``mmh3`` is not installed.

    Source: the engine in the package ``amplitude-experiment`` (``evaluation/engine.py``) and flag configurations that
    Amplitude's SDKs contain as test data. The help centre ("How randomization works") puts the boundary of a 50:50
    split one value lower, which affects one user in 42,949,673.
    """

    def __init__(self, group: MutexGroup) -> None:
        if not group.bucketing_salt:
            raise ConfigurationError(f"group {group.key or group.id} has no bucketingSalt, which bucketing needs")
        try:
            from mmh3 import hash as murmur3  # noqa: PLC0415  # an optional package
        except ImportError:
            problem = "bucketing needs the package 'mmh3', which is not installed: pip install 'aiomutex[traffic]'"
            raise ConfigurationError(problem) from None
        self.group, self._hash = group, murmur3
        self.slots: list[Slot] = sorted(group.slots, key=lambda slot: slot.index)
        self.prefix = f"{group.bucketing_salt}/"
        self.ends: list[int] = []
        self.individuals: dict[str, int] = {}
        total = Fraction(0)
        for position, slot in enumerate(self.slots):
            # Fraction(33.3) would be the nearest binary number, not 33.3.
            total = min(total + Fraction(str(slot.percentage)), Fraction(100))
            # h // 100 < end is the same as h < 100 * end, which saves a division for each value.
            self.ends.append(_BUCKETS * ceil(_DISTRIBUTION_VALUES * total / 100))
            for individual in slot.individuals:
                self.individuals.setdefault(individual, position)
        # Groups with the same salt, split and individuals place every user alike.
        self.identity = (self.prefix, tuple(self.ends), tuple(self.individuals.items()))

    def __repr__(self) -> str:
        return f"<Bucketing {self.group.key or self.group.id} · {len(self.slots)} slots>"

    def slot(self, value: str, *, ids: Iterable[str] = ()) -> Slot | None:
        """Return the slot of one user, or ``None``; see ``slot_of``."""
        listed = next((each for each in (value, *ids) if each in self.individuals), value)
        position = self.positions([listed])[0]
        return self.slots[position] if position < len(self.slots) else None

    def value(self, value: str) -> int:
        """Return the distribution value of a user, from 0 to 42,949,672."""
        return self._hash(self.prefix + value, 0, False) // _BUCKETS

    def positions(self, values: Sequence[str]) -> bytes:
        """Return the position in ``slots`` for each value, and ``len(slots)`` for a value in no slot.

        Raises:
            InvalidRequestError: A value contains a lone surrogate.
        """
        # mmh3 crashes the interpreter on a lone surrogate.
        try:
            "".join((self.prefix, *values)).encode()
        except UnicodeEncodeError as error:
            found = f"{error.object[error.start]!r}, a lone surrogate, which UTF-8 cannot encode"
            raise InvalidRequestError(f"a user ID contains {found}") from None
        hash_of, prefix, ends, find = self._hash, self.prefix, self.ends, bisect_right
        places = bytearray([find(ends, hash_of(prefix + value, 0, False)) for value in values])
        if self.individuals or "" in values:
            for place, value in enumerate(values):
                if value in self.individuals or not value:  # the engine does not bucket an empty value
                    places[place] = self.individuals.get(value, len(self.slots))
        return bytes(places)


def slot_of(group: MutexGroup, value: str, *, ids: Iterable[str] = ()) -> Slot | None:
    """Return the slot in which a user lands, or ``None`` if the user is in no slot.

    ``value`` is the user's value of the group's ``bucketing_key``, for example their device ID, and ``ids`` are other
    IDs of the same user, which a slot may list as individuals. For many users of one group, create one ``Bucketing``.

    Raises:
        ConfigurationError: The group has no salt, or the package ``mmh3`` is not installed.
        InvalidRequestError: The value contains a lone surrogate.
    """
    return Bucketing(group).slot(value, ids=ids)


def _ranges(group: MutexGroup, experiment: int) -> list[tuple[Fraction, Fraction]]:
    slots = sorted(group.slots, key=lambda slot: slot.index)
    ends = accumulate((Fraction(str(slot.percentage)) / 100 for slot in slots), initial=Fraction(0))
    return [bounds for slot, bounds in zip(slots, pairwise(ends), strict=True) if experiment in slot.experiments]


def split_of(group: MutexGroup) -> tuple[str, str] | None:
    """What groups that place users alike have in common: salt and bucketing key; ``None`` without a salt."""
    return (group.bucketing_salt, group.bucketing_key) if group.bucketing_salt else None


def slot_share(group: MutexGroup, experiment: int) -> float:
    """Return the share of users, 0 to 1, that an experiment (its ID) gets in one group: the sum of its slots.

    Several slots of one group are a documented way to give an experiment more traffic. Individuals are not counted.
    """
    return float(sum(end - start for start, end in _ranges(group, experiment)))


def traffic_share(experiment: int, groups: Iterable[MutexGroup], *, held_out: Iterable[float] = ()) -> float:
    """Return the share of all users, 0 to 1, that an experiment (its ID) gets: the product over groups and holdouts.

    Groups that do not list the experiment and archived groups do not limit it. Shares in groups with the same salt and
    bucketing key do not multiply: their ranges intersect. Other groups are assumed to be independent. ``held_out`` is
    the percentage of users, 0 to 100, that each holdout of the experiment holds out.

    Raises:
        InvalidRequestError: A percentage is out of range.

    Example:
        >>> from aiomutex import MutexGroup, Slot
        >>> half = [Slot(index=1, percentage=50, experiments=[1]), Slot(index=2, percentage=50)]
        >>> traffic_share(1, [MutexGroup(id="7", slots=half), MutexGroup(id="8", slots=half)])
        0.25
        >>> traffic_share(1, [MutexGroup(id="7", slots=half)], held_out=[5])
        0.475

    Source: Experiment's help centre, "Mutual exclusion groups" (shares multiply across groups and holdouts).
    """
    shared: dict[object, list[tuple[Fraction, Fraction]]] = {}
    for group in groups:
        if not group.deleted and (own := _ranges(group, experiment)):
            split = split_of(group) or len(shared)
            both = [(max(a, c), min(b, d)) for a, b in shared.get(split, [(Fraction(0), Fraction(1))]) for c, d in own]
            shared[split] = [(start, end) for start, end in both if start < end]
    share = prod((sum(end - start for start, end in ranges) for ranges in shared.values()), start=Fraction(1))
    for percentage in held_out:
        if not 0 <= percentage <= 100:  # noqa: PLR2004  # percent
            raise InvalidRequestError(f"held_out must be percentages from 0 to 100, not {describe(percentage)}")
        share *= 1 - Fraction(str(percentage)) / 100
    return float(share)
