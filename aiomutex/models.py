"""What travels: groups and slots as the service tells them, new groups and slot edits as users wish them.

Plain frozen structs, snake_case here and camelCase on the wire. They know nothing of HTTP; the rules that a write
must keep are in ``protocol``, because what can be *read* is wider than what may be *written*.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import force_setattr

__all__ = [
    "SLOT_LISTS",
    "UNSET",
    "CreatedGroup",
    "EvaluationMode",
    "GroupPage",
    "MutexGroup",
    "NewGroup",
    "NewSlot",
    "Slot",
    "SlotEdit",
    "SlotListName",
    "UnsetType",
    "find_slot",
]

EvaluationMode = Literal["local", "remote"]
SlotListName = Literal["experiments", "holdouts", "individuals"]

SLOT_LISTS: Final[tuple[SlotListName, ...]] = ("experiments", "holdouts", "individuals")
"""The lists of a slot that can be written, in the order of the documentation."""

if TYPE_CHECKING:
    _Id = str
    _Share = int | float
else:
    # The service writes ids as numbers or as strings; both are read, and users get one type.
    _Id = str | int
    # What no float can hold is no share.
    _Share = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | float


# gc=False: these structs hold texts, numbers and lists of those, so no cycle can run through them.
class Slot(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """One slot of a group: a share of the users, and who runs on it.

    Example:
        >>> Slot(index=1, percentage=40, experiments=[123]).experiments
        [123]
    """

    name: str = ""
    """What the service calls it, such as ``SLOT 1``."""
    index: int
    """Its place in the group, from 1."""
    variant_key: str = ""
    """The key of the variant that stands for it, such as ``slot-1``."""
    percentage: _Share
    """Its share of the users, 0 to 100. Captured groups leave a rest unallocated, so a group's need not make 100."""
    experiments: list[int] = []
    """Ids of the experiments that run on it."""
    holdouts: list[int] = []
    """Ids of the holdouts that run on it."""
    individuals: list[str] = []
    """User or device ids that always land in it."""
    cohorts: list[str | int] = []
    """Cohorts that always land in it; read only, the service documents no way to write them."""


class MutexGroup(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """A mutex group: users split into slots, so that experiments in different slots never share a user.

    Texts the service left out are empty. Source: Experiment Management API, "List mutex groups".
    """

    id: _Id
    """The group's id, always as text; the service writes it as a number or as a string."""
    project_id: _Id = ""
    """The project's id, always as text."""
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
    """Whether the group is archived, where the service tells; ``None`` where it does not."""

    def __post_init__(self) -> None:
        if type(self.id) is not str:
            force_setattr(self, "id", str(self.id))
        if type(self.project_id) is not str:
            force_setattr(self, "project_id", str(self.project_id))


def find_slot(group: MutexGroup, index: int) -> Slot | None:
    """The slot of ``group`` with this index; ``None`` if there is none."""
    for slot in group.slots:
        if slot.index == index:
            return slot
    return None


class GroupPage(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """One page of the listing."""

    groups: list[MutexGroup] = msgspec.field(name="mutexes")
    """In the service's order."""
    next_cursor: str | None = None
    """Where the next page starts; ``None`` on the last page."""
    cursor: str | None = None
    """Where this page started; ``None`` for the first. A run that stopped can continue from it."""


class NewSlot(msgspec.Struct, frozen=True, kw_only=True, rename="camel", gc=False):
    """A slot of a group to be created."""

    percentage: int
    """Share of the users: a whole number from 1 to 100; all slots of a group add up to 100."""
    experiments: Sequence[int] | UnsetType = UNSET
    holdouts: Sequence[int] | UnsetType = UNSET
    individuals: Sequence[str] | UnsetType = UNSET


class NewGroup(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A group to be created. What is not given is not sent, and the service's default holds.

    Percentages, number of slots, salt, bucketing key and mode cannot be changed after creation.

    Example:
        >>> NewGroup(project_id=1, name="Checkout", slots=[NewSlot(percentage=40), NewSlot(percentage=60)]).name
        'Checkout'
    """

    project_id: str | int
    name: str
    key: str | UnsetType = UNSET
    """Unique across flags, experiments, holdouts and groups. When it is not given, the session makes one, so that a
    create whose answer was lost can be found again."""
    description: str | UnsetType | None = UNSET
    evaluation_mode: EvaluationMode | UnsetType = UNSET
    """``remote`` unless given."""
    bucketing_key: str | UnsetType = UNSET
    """``amplitude_id`` unless given, which local evaluation usually cannot see."""
    bucketing_salt: str | UnsetType = UNSET
    """Random unless given."""
    slots: Sequence[NewSlot]
    """1 to 20; their order is the slots' index."""


class CreatedGroup(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a group that was just created."""

    id: str
    url: str | None
    """Where the web page of the group is; ``None`` if the answer was lost and the group found again by its key."""
    key: str


class _SlotAddress(msgspec.Struct, frozen=True, gc=False):
    group_id: str | int
    """Kept as text, whichever is given."""
    slot_index: int
    """From 1."""

    def __post_init__(self) -> None:
        # Other numbers stay as they are, and are refused with their field's name when the edit is sent.
        if type(self.group_id) is int and 0 <= self.group_id < 2**63:
            force_setattr(self, "group_id", str(self.group_id))


class SlotEdit(_SlotAddress, frozen=True, kw_only=True, gc=False):
    """A wish for one slot: each list that is given is the whole list the slot shall have afterwards.

    The first two arguments may be given by position, the lists only by name. What is not given is not sent.

    Example:
        >>> SlotEdit(7, 1, experiments=[123]) == SlotEdit("7", 1, experiments=[123])
        True
    """

    experiments: Sequence[int] | UnsetType = UNSET
    holdouts: Sequence[int] | UnsetType = UNSET
    individuals: Sequence[str] | UnsetType = UNSET
