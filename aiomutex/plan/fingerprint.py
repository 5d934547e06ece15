"""A digest of all fields of a group, by which a saved plan recognizes groups that changed since."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

import msgspec

from aiomutex.plan.members import unique

if TYPE_CHECKING:
    from aiomutex.models import MutexGroup

__all__ = ["ABSENT", "fingerprint"]

ABSENT: Final = "absent"


def fingerprint(group: MutexGroup | None) -> str:
    """Return the fingerprint of a group, whatever the order of its lists; ``absent`` for ``None``.

    Example:
        >>> fingerprint(None)
        'absent'
    """
    if group is None:
        return ABSENT
    slots = [
        (
            slot.index,
            float(slot.percentage),
            unique(slot.experiments),
            unique(slot.holdouts),
            unique(slot.individuals),
            unique(map(str, slot.cohorts)),
        )
        for slot in sorted(group.slots, key=lambda slot: slot.index)
    ]
    fields = (
        *(group.id, group.project_id, group.key, group.name, group.description, group.evaluation_mode),
        *(group.bucketing_key, group.bucketing_salt, bool(group.deleted), slots),
    )
    return hashlib.sha256(msgspec.json.encode(fields)).hexdigest()[:32]
