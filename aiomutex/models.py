"""The data of the API: groups and slots as the service returns them, new groups and slot edits as users write them.

Plain frozen structs, snake_case here and camelCase on the wire, without any knowledge of HTTP. The rules for writes are
in ``_api/validation.py``, because more can be read than may be written. Structs with lists do not hash: tuples in their
place would not equal the lists that users write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import force_setattr

__all__ = [
    "UNSET", "CreatedGroup", "GroupPage", "MutexGroup", "NewGroup", "NewSlot", "Slot", "SlotChange", "SlotEdit",
    "UnsetType",
]  # fmt: skip

EvaluationMode = Literal["local", "remote"]
SlotListName = Literal["experiments", "holdouts", "individuals"]

SLOT_LISTS: Final[tuple[SlotListName, ...]] = ("experiments", "holdouts", "individuals")
"""The lists of a slot that can be written, in the order of the documentation."""

if TYPE_CHECKING:
    _Id = str
    _Share = int | float
else:
    # The service writes IDs as numbers or as strings. Both are read, and users always get strings.
    _Id = str | int
    # Integers that do not fit into 64 bits are rejected instead of converted.
    _Share = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | float


class Model(msgspec.Struct, frozen=True):
    """A struct that pydantic, and so FastAPI, can use as a model. Others, such as Litestar, know structs."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: object, handler: Any) -> Any:
        from aiomutex._util.pydantic_schema import schema_of  # noqa: PLC0415  # pydantic asks, so it is installed

        return schema_of(cls, handler)


# gc=False: these structs hold strings, numbers and lists of those, so they cannot be part of a reference cycle.
class Slot(Model, frozen=True, kw_only=True, rename="camel", gc=False):
    """One slot of a group: a share of the users, and the experiments that run on it.

    Example:
        >>> Slot(index=1, percentage=40, experiments=[123]).experiments
        [123]
    """

    name: str = ""
    """Its display name, such as ``SLOT 1``."""
    index: int
    """Its place in the group, from 1."""
    variant_key: str = ""
    """The key of its variant, such as ``slot-1``."""
    percentage: _Share
    """Its share of the users, 0 to 100. The slots of an existing group may add up to less than 100."""
    experiments: list[int] = []
    """IDs of the experiments that run on it."""
    holdouts: list[int] = []
    """IDs of the holdouts that run on it."""
    individuals: list[str] = []
    """User or device IDs that are always in this slot."""
    cohorts: list[str | int] = []
    """Cohorts that are always in this slot. Read-only: no way to write them is documented."""


class MutexGroup(Model, frozen=True, kw_only=True, rename="camel", gc=False):
    """A mutex group: users split into slots, so that experiments in different slots never share a user.

    Strings that the service left out are empty. Source: Experiment Management API, "List mutex groups".
    """

    id: _Id
    """The group's ID, always a string; the service writes it as a number or as a string."""
    project_id: _Id = ""
    """The project's ID, always a string."""
    name: str = ""
    key: str = ""
    """Unique across flags, experiments, holdouts and mutex groups of a project."""
    description: str | None = None
    evaluation_mode: str = ""
    """``local`` or ``remote``."""
    bucketing_key: str = ""
    bucketing_salt: str = ""
    slots: list[Slot]
    deleted: bool | None = None
    """Whether the group is archived; ``None`` if the service does not say."""

    def __post_init__(self) -> None:
        if type(self.id) is not str:
            force_setattr(self, "id", str(self.id))
        if type(self.project_id) is not str:
            force_setattr(self, "project_id", str(self.project_id))


def find_slot(group: MutexGroup, index: int) -> Slot | None:
    """The slot of ``group`` with this index; ``None`` if there is none."""
    return next((slot for slot in group.slots if slot.index == index), None)


class GroupPage(Model, frozen=True, kw_only=True, rename="camel", gc=False):
    """One page of the listing."""

    groups: list[MutexGroup] = msgspec.field(name="mutexes")
    """In the service's order."""
    next_cursor: str | None = None
    """Where the next page starts; ``None`` on the last page."""
    cursor: str | None = None
    """Where this page starts; ``None`` for the first. An interrupted listing can continue from it."""


class NewSlot(Model, frozen=True, kw_only=True, rename="camel", gc=False):
    """A slot of a group to be created."""

    percentage: int
    """Share of the users: an integer from 1 to 100. All slots of a group add up to 100."""
    experiments: Sequence[int] | UnsetType = UNSET
    holdouts: Sequence[int] | UnsetType = UNSET
    individuals: Sequence[str] | UnsetType = UNSET


class NewGroup(Model, frozen=True, kw_only=True, rename="camel"):
    """A group to be created. Fields that are not given are not sent, so the service's defaults apply.

    Percentages, the number of slots, salt, bucketing key and mode cannot be changed after creation.

    Example:
        >>> NewGroup(project_id=1, name="Checkout", slots=[NewSlot(percentage=40), NewSlot(percentage=60)]).name
        'Checkout'
    """

    project_id: str | int
    name: str
    key: str | UnsetType = UNSET
    """Unique across flags, experiments, holdouts and groups. If it is not given, the session generates one, so that a
    group whose response was lost can be found again."""
    description: str | UnsetType | None = UNSET
    evaluation_mode: EvaluationMode | UnsetType = UNSET
    """``remote`` unless given."""
    bucketing_key: str | UnsetType = UNSET
    """``amplitude_id`` unless given, which is usually not available to local evaluation."""
    bucketing_salt: str | UnsetType = UNSET
    """Random unless given."""
    slots: Sequence[NewSlot]
    """1 to 20 slots, in the order of their indexes."""


class CreatedGroup(Model, frozen=True, kw_only=True):
    """A group that was just created."""

    id: str
    url: str | None
    """The group's web page; ``None`` if the response was lost and the group was found again by its key."""
    key: str


class _SlotAddress(Model, frozen=True, gc=False):
    group_id: str | int
    """An integer or a string; kept as a string."""
    slot_index: int
    """From 1."""

    def __post_init__(self) -> None:
        # Other numbers are kept: sending the edit rejects them, with the name of the field.
        if type(self.group_id) is int and 0 <= self.group_id < 2**63:
            force_setattr(self, "group_id", str(self.group_id))


if TYPE_CHECKING:
    _Lists = Slot | Mapping[str, Sequence[int | str]]
    _Expected = _Lists | Sequence[_Lists]
else:
    _Expected = Any  # msgspec does not decode a union of a struct and a mapping


class SlotEdit(_SlotAddress, frozen=True, kw_only=True, gc=False):
    """An edit of one slot: each list that is given replaces the slot's whole list.

    The first two arguments may be positional, the lists are keyword-only. Lists that are not given are not sent.

    Example:
        >>> SlotEdit(7, 1, experiments=[123]) == SlotEdit("7", 1, experiments=[123])
        True
    """

    experiments: Sequence[int] | UnsetType = UNSET
    holdouts: Sequence[int] | UnsetType = UNSET
    individuals: Sequence[str] | UnsetType = UNSET
    expected: _Expected | UnsetType = UNSET
    """In a bulk run: what the slot must hold, else the edit fails with ``StaleSlotError``. A slot, or lists by name
    (``{"experiments": [1]}``), or a sequence of these: then each list may be any of them. It is not sent."""


class SlotChange(_SlotAddress, frozen=True, kw_only=True, gc=False):
    """A change of one slot in a bulk run: members to add and to remove, computed from what the slot holds.

    The slot is written only if something changes. To change a single slot, use ``MutexSession.change_slot``.

    Example:
        >>> SlotChange(7, 1, add_experiments=[123], remove_experiments=[45]).remove_experiments
        [45]
    """

    add_experiments: Sequence[int] | UnsetType = UNSET
    remove_experiments: Sequence[int] | UnsetType = UNSET
    add_holdouts: Sequence[int] | UnsetType = UNSET
    remove_holdouts: Sequence[int] | UnsetType = UNSET
    add_individuals: Sequence[str] | UnsetType = UNSET
    remove_individuals: Sequence[str] | UnsetType = UNSET
