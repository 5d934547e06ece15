"""The desired state: what a file says about groups.

A group is identified by its project and key. What a file does not mention stays as it is, groups and fields alike.
"""

from __future__ import annotations

from typing import Literal
from unicodedata import normalize

import msgspec
from msgspec import UNSET, UnsetType

__all__ = ["Desired", "DesiredGroup", "DesiredSlot", "Identity", "Thresholds", "group_name", "identity_of"]

Identity = tuple[str, str]
"""The project's ID and the group's key in Unicode normal form C, which identify a group in a file."""


class DesiredSlot(msgspec.Struct, frozen=True, kw_only=True):
    """The desired state of a slot. A list that is given is the whole list."""

    percentage: int | float
    experiments: tuple[int, ...] | UnsetType = UNSET
    holdouts: tuple[int, ...] | UnsetType = UNSET
    individuals: tuple[str, ...] | UnsetType = UNSET
    cohorts: tuple[str | int, ...] | UnsetType = UNSET
    """Compared and never written: the service does not document a way to write cohorts."""
    line: int = 0


class DesiredGroup(msgspec.Struct, frozen=True, kw_only=True):
    """The desired state of a group. Fields that are UNSET are neither compared nor written."""

    project_id: str
    key: str
    name: str | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    evaluation_mode: Literal["local", "remote"] | UnsetType = UNSET
    bucketing_key: str | UnsetType = UNSET
    bucketing_salt: str | UnsetType = UNSET
    archived: bool | UnsetType = UNSET
    """``True`` archives the group, ``False`` unarchives it."""
    slots: tuple[DesiredSlot, ...] | UnsetType = UNSET
    ignore: tuple[str, ...] = ()
    """Lint rules that are disabled for this group."""
    line: int = 0
    """The line in the file; 0 if it is unknown."""

    @property
    def identity(self) -> Identity:
        """The project's ID and the normalized key."""
        return identity_of(self.project_id, self.key)


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """Limits on a plan. A plan that exceeds one needs ``force``; ``None`` sets no limit."""

    removals: float | None = None
    """The largest share of the members of the file's groups that may leave their slots, from 0 to 1."""
    updates: float | None = None
    """The largest share of the file's existing groups that may change, from 0 to 1."""


class Desired(msgspec.Struct, frozen=True, kw_only=True):
    """A desired state: groups and settings."""

    groups: tuple[DesiredGroup, ...] = ()
    thresholds: Thresholds = Thresholds()
    ignore: tuple[str, ...] = ()
    """Lint rules that are disabled for the whole file."""
    file: str = ""
    """The name of the file it was read from."""


def identity_of(project_id: str, key: str) -> Identity:
    """The identity of a group. Spellings of a key that look the same, such as on two operating systems, are equal."""
    return project_id, normalize("NFC", key)


def group_name(project_id: str, key: str) -> str:
    """How messages name a group."""
    return f"{key} (project {project_id})"
