"""The desired state: what a file says about groups.

A group is identified by its project and key. What a file does not mention stays as it is, groups and fields alike.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Literal
from unicodedata import normalize

import msgspec
from msgspec import UNSET, UnsetType

if TYPE_CHECKING:
    from collections.abc import Iterable

GROUP_FIELDS: Final = ("name", "description", "evaluation_mode", "bucketing_key", "bucketing_salt")
"""The fields of a group that a file, a group to create and a live group call the same."""

Identity = tuple[str, str]
"""The project's ID and the group's key in Unicode normal form C, which identify a group in a file."""


class DesiredSlot(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The desired state of a slot. A list that is given is the whole list."""

    percentage: int | float
    experiments: tuple[int, ...] | UnsetType = UNSET
    holdouts: tuple[int, ...] | UnsetType = UNSET
    individuals: tuple[str, ...] | UnsetType = UNSET
    cohorts: tuple[str | int, ...] | UnsetType = UNSET
    """Compared and never written: the service does not document a way to write cohorts."""
    line: int = 0


class DesiredGroup(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The desired state of a group. Fields that are UNSET are neither compared nor written."""

    project_id: str
    key: str
    replaces: str | UnsetType = UNSET
    """The key of a group that this one replaces, with the same salt and bucketing key. It is then archived."""
    name: str | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    evaluation_mode: Literal["local", "remote"] | UnsetType = UNSET
    bucketing_key: str | UnsetType = UNSET
    bucketing_salt: str | UnsetType = UNSET
    archived: bool | UnsetType = UNSET
    """``True`` archives the group, ``False`` unarchives it."""
    ignore: tuple[str, ...] = ()
    """Lint rules that are disabled for this group."""
    slots: tuple[DesiredSlot, ...] | UnsetType = UNSET
    line: int = 0
    """The line in the file; 0 if it is unknown."""

    @property
    def identity(self) -> Identity:
        """The project's ID and the normalized key."""
        return identity_of(self.project_id, self.key)

    @property
    def replaced(self) -> Identity | None:
        """The identity of the group that this one replaces, unless it is archived itself."""
        return identity_of(self.project_id, self.replaces) if self.replaces and self.archived is not True else None


class Thresholds(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Limits on a plan. A plan that exceeds one needs ``force``; ``None`` sets no limit."""

    removals: float | None = None
    """The largest share of the members of the file's groups that may leave their slots for no other, from 0 to 1."""
    updates: float | None = None
    """The largest share of the file's existing groups that may change, from 0 to 1."""


class Desired(msgspec.Struct, frozen=True, kw_only=True):
    """A desired state: groups and settings."""

    groups: tuple[DesiredGroup, ...] = ()
    thresholds: Thresholds = Thresholds()
    ignore: tuple[str, ...] = ()
    """Lint rules that are disabled for the whole file."""


def identity_of(project_id: str, key: str) -> Identity:
    """The identity of a group. Spellings of a key that look the same, such as on two operating systems, are equal."""
    return project_id, normalize("NFC", key)


def group_name(project_id: str, key: str) -> str:
    """How messages name a group."""
    return f"{key} (project {project_id})"


def project_number(project_id: str) -> int | str:
    """The ID of a project as the integer that the service uses, if it is one."""
    return int(project_id) if re.fullmatch("0|[1-9][0-9]{0,17}", project_id) else project_id


def unique(members: Iterable[Any]) -> tuple[Any, ...]:
    """The members of a slot, numbers first, sorted and without duplicates, as the service documents no order."""
    return tuple(sorted(set(members), key=lambda member: (isinstance(member, str), member)))
