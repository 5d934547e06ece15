"""How much traffic an experiment gets, by arithmetic on percentages alone."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

from aiomutex.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiomutex.models import MutexGroup

__all__ = ["slot_share", "traffic_share"]


def _slot_share(group: MutexGroup, experiment: int) -> Fraction | None:
    slots = [slot for slot in group.slots if experiment in slot.experiments]
    if not slots:
        return None
    return sum((Fraction(str(slot.percentage)) for slot in slots), Fraction(0)) / 100


def slot_share(group: MutexGroup, experiment: int) -> float:
    """The share of users that an experiment gets in one group: the sum of its slots, 0 to 1; 0 if it is in none.

    Several slots of one group are a documented way to add traffic. Individuals are not counted.

    Example:
        >>> from aiomutex import MutexGroup, Slot
        >>> made = [(1, 40, [1]), (2, 35, [2]), (3, 25, [1])]
        >>> slots = [Slot(index=i, percentage=p, experiments=e) for i, p, e in made]
        >>> slot_share(MutexGroup(id="7", slots=slots), 1)
        0.65
    """
    return float(_slot_share(group, experiment) or 0)


def traffic_share(experiment: int, groups: Iterable[MutexGroup], *, held_out: Iterable[float] = ()) -> float:
    """The share of all users that an experiment gets: the product over its groups and holdouts, 0 to 1.

    Groups that do not list the experiment do not limit it, and neither do archived ones. The salts of the groups are
    taken to be independent.

    Args:
        experiment: Its id.
        groups: All groups, or those of the experiment.
        held_out: For each holdout of the experiment, the percentage of users it holds out, 0 to 100.

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
        in_group = None if group.deleted else _slot_share(group, experiment)
        if in_group is not None:
            share *= in_group
    for percentage in held_out:
        if not 0 <= percentage <= 100:  # noqa: PLR2004  # a percentage
            raise InvalidRequestError(f"held_out has {percentage!r}; a holdout holds out 0 to 100 percent of the users")
        share *= 1 - Fraction(str(percentage)) / 100
    return float(share)
