"""How much traffic an experiment gets, computed from percentages alone."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from aiomutex._util.checks import describe
from aiomutex.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiomutex.models import MutexGroup


def _shares(group: MutexGroup, experiment: int) -> list[Fraction]:
    return [Fraction(str(slot.percentage)) / 100 for slot in group.slots if experiment in slot.experiments]


def slot_share(group: MutexGroup, experiment: int) -> float:
    """Return the share of users, 0 to 1, that an experiment (its ID) gets in one group: the sum of its slots.

    Several slots of one group are a documented way to give an experiment more traffic. Individuals are not counted.
    """
    return float(sum(_shares(group, experiment)))


def traffic_share(experiment: int, groups: Iterable[MutexGroup], *, held_out: Iterable[float] = ()) -> float:
    """Return the share of all users, 0 to 1, that an experiment (its ID) gets: the product over groups and holdouts.

    Groups that do not list the experiment and archived groups do not limit it. The groups' salts are assumed to be
    independent. ``held_out`` is the percentage of users, 0 to 100, that each holdout of the experiment holds out.

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
    share = Fraction(1)
    for group in groups:
        if not group.deleted and (shares := _shares(group, experiment)):
            share *= sum(shares)
    for percentage in held_out:
        if not 0 <= percentage <= 100:  # noqa: PLR2004  # percent
            raise InvalidRequestError(f"held_out must be percentages from 0 to 100, not {describe(percentage)}")
        share *= 1 - Fraction(str(percentage)) / 100
    return float(share)
