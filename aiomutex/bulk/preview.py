"""What a run of edits would change and cost. Nothing is written."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

import msgspec
from msgspec import UNSET

from aiomutex._util.wording import counted
from aiomutex.bulk.options import AnyEdit, freeze, request_of
from aiomutex.bulk.reads import GroupReader
from aiomutex.bulk.slot_lists import SlotLists, changed_lists, find_stale, same_items
from aiomutex.bulk.stretches import count_stretches
from aiomutex.errors import InvalidRequestError, MutexError, NotFoundError
from aiomutex.limits import Priority
from aiomutex.models import SLOT_LISTS, SlotChange, find_slot

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiomutex.bulk.options import Edits
    from aiomutex.limits import RateLimiter
    from aiomutex.models import GroupPage, MutexGroup

_CONCURRENCY: Final = 8
_SHOWN: Final = 20


class ReadingSession(Protocol):
    """What a preview needs of a session."""

    @property
    def rate_limiter(self) -> RateLimiter:
        """The limiter of its requests."""
        ...

    def with_options(self, *, priority: Priority) -> Self:
        """A view of the session with another priority."""
        ...

    async def get_group(self, group_id: str) -> MutexGroup:
        """Fetch one group."""
        ...

    async def list_page(self, *, limit: int, cursor: str | None) -> GroupPage:
        """Fetch one page of the listing."""
        ...


class SlotDifference(msgspec.Struct, frozen=True, kw_only=True):
    """What the edits of one slot would change in it."""

    group_id: str
    group_key: str
    slot_index: int
    added: dict[str, list[Any]]
    """By list, the members that would be added."""
    removed: dict[str, list[Any]]
    """By list, the members that would be removed."""

    def __str__(self) -> str:
        changes = [
            f"{name} {sign}{', '.join(map(str, items))}"
            for sign, lists in (("+", self.added), ("-", self.removed))
            for name, items in lists.items()
        ]
        return f"group {self.group_id} ({self.group_key}), slot {self.slot_index}: {'; '.join(changes)}"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An edit that would fail, or that contradicts an earlier one of the same slot."""

    position: int
    """Its position in the input, counted from 0."""
    edit: AnyEdit
    reason: str


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """What a run would do, compared with the groups as they were read."""

    edits: int
    """The number of edits in the input."""
    unchanged: int
    """Edits whose slot would already hold what they write, given the edits before them."""
    differences: list[SlotDifference]
    """What would change, for each slot that would end up different."""
    impossible: list[Problem]
    """Edits that would fail: invalid ones, and those of groups or slots that do not exist."""
    contradictions: list[Problem]
    """Edits that write other content to a slot than an edit before them."""
    requests: int
    """An estimate of the requests of the run: one for each possible edit, and the reads of each group.

    Identical edits of a slot that follow each other take fewer. Retries take more. So do edits of one group that are
    far apart in the input of a run with ``verify``, which reads the group again for them.
    """
    seconds: float
    """How long these take at the limiter's rate."""
    share_of_day: float
    """Their share of the daily budget, from 0 to 1."""

    def __str__(self) -> str:
        return self.describe(lambda problem: f"edit {problem.position}")

    def describe(self, name: Callable[[Problem], str]) -> str:
        """The summary, with problems named by their line in a file, for example, instead of by their position."""
        counts = (
            f"{counted(self.edits, 'edit')}: {counted(len(self.differences), 'slot')} would change, "
            f"{self.unchanged:,} unchanged, {len(self.impossible):,} impossible, "
            f"{len(self.contradictions):,} contradicting an earlier edit of the same slot"
        )
        cost = f"{counted(self.requests, 'request')}, {self.seconds:,.0f} s at the limit"
        shown = [f"{name(each)}: {each.reason}" for each in (*self.impossible, *self.contradictions)]
        shown += [str(each) for each in self.differences]
        rest = [f"… and {len(shown) - _SHOWN:,} more"] if len(shown) > _SHOWN else []
        return "\n".join([counts, f"{cost}, {self.share_of_day:.1%} of a day", *shown[:_SHOWN], *rest])


async def preview(session: ReadingSession, edits: Edits, *, journal: bool = False, verify: bool = False) -> Preview:
    """Compare edits with the live groups, and say what a run would do and cost. Nothing is written.

    The groups are read one by one or by pages of 1,000, whichever is cheaper. Memory grows with the number of edits.

    Args:
        session: Reads the groups.
        edits: The edits of the run.
        journal: Whether the run would keep a journal, which reads each group once before.
        verify: Whether the run would read each group before and after.

    Returns:
        The preview; print it for a summary.

    Raises:
        MutexError: A group could not be read.

    Example:
        >>> from aiomutex import SlotEdit
        >>> from aiomutex.bulk import preview
        >>> print(await preview(session, [SlotEdit("1", 1, experiments=[5]), SlotEdit("9", 1, experiments=[5])]))
        2 edits: 1 slot would change, 0 unchanged, 1 impossible, 0 contradicting an earlier edit of the same slot
        1 request, 0 s at the limit, 0.0% of a day
        edit 1: group 9 does not exist
        group 1 (group-1), slot 1: experiments +5; experiments -101
    """
    valid: list[tuple[int, AnyEdit]] = []
    impossible: list[Problem] = []
    total = 0

    def take(edit: AnyEdit) -> None:
        nonlocal total
        try:
            edit = freeze(edit)
            request_of(edit)
        except InvalidRequestError as error:
            if not isinstance(edit, AnyEdit):  # pyright: ignore[reportUnnecessaryIsInstance]  # users err
                raise
            impossible.append(Problem(position=total, edit=edit, reason=str(error)))
        else:
            valid.append((total, edit))
        total += 1

    if isinstance(edits, AsyncIterable):
        async for edit in edits:
            take(edit)
    else:
        for edit in edits:
            take(edit)
    view = session.with_options(priority=Priority.BULK)
    reader = GroupReader(view.get_group, lambda limit, cursor: view.list_page(limit=limit, cursor=cursor), _CONCURRENCY)
    groups: dict[str, MutexGroup] = {}
    for group_id, reading in (await reader.read({str(edit.group_id) for _, edit in valid})).items():
        if not isinstance(reading.group, MutexError):
            groups[group_id] = reading.group
        elif not isinstance(reading.group, NotFoundError):
            raise reading.group
    simulation = _Simulation(groups)
    for position, edit in valid:
        if (problem := simulation.apply(position, edit)) is not None:
            impossible.append(problem)
    touched = len({group_id for group_id, _ in simulation.content})
    passes = (1 + count_stretches(simulation.applied, reader.pages or 1)) if verify else int(journal)
    singly = touched * (2 if verify else int(journal))
    requests = simulation.applied + (min(singly, passes * reader.pages) if reader.pages else singly)
    state = session.rate_limiter.state()
    return Preview(
        edits=total,
        unchanged=simulation.unchanged,
        differences=simulation.differences(),
        impossible=sorted(impossible, key=lambda each: each.position),
        contradictions=simulation.contradictions,
        requests=requests,
        seconds=requests * state.window / state.per_window,
        share_of_day=requests / state.per_day,
    )


class _Simulation:
    """The slots as the edits would leave them."""

    def __init__(self, groups: dict[str, MutexGroup]) -> None:
        self._groups = groups
        self._written: dict[tuple[str, int], SlotLists] = {}
        self.content: dict[tuple[str, int], SlotLists] = {}
        self.contradictions: list[Problem] = []
        self.applied = 0
        self.unchanged = 0

    def apply(self, position: int, edit: AnyEdit) -> Problem | None:
        """Make an edit, or say why it is impossible."""
        at = (str(edit.group_id), edit.slot_index)
        if (group := self._groups.get(at[0])) is None:
            return Problem(position=position, edit=edit, reason=f"group {at[0]} does not exist")
        if (slot := find_slot(group, at[1])) is None:
            return Problem(position=position, edit=edit, reason=f"group {at[0]} has no slot {at[1]}")
        content = self.content.get(at, SlotLists.of_slot(slot))
        if isinstance(edit, SlotChange):
            lists = changed_lists(edit, content)
        elif edit.expected is not UNSET and (stale := find_stale(edit, group, content)) is not None:
            return Problem(position=position, edit=edit, reason=str(stale))
        else:
            lists = SlotLists.of_edit(edit)
        earlier = self._written.get(at, SlotLists())
        if not all(None in (old, new) or same_items(old, new) for old, new in zip(earlier, lists, strict=True)):
            reason = f"group {at[0]}, slot {at[1]}: an earlier edit writes other content"
            self.contradictions.append(Problem(position=position, edit=edit, reason=reason))
        updated = content.updated(lists)
        self.unchanged += all(map(same_items, content, updated))
        self.applied += 1
        self.content[at], self._written[at] = updated, earlier.updated(lists)
        return None

    def differences(self) -> list[SlotDifference]:
        """What differs between the slots as they were read and as the edits would leave them."""
        found: list[SlotDifference] = []
        for (group_id, index), after in self.content.items():
            group = self._groups[group_id]
            slot = find_slot(group, index)
            before = SlotLists() if slot is None else SlotLists.of_slot(slot)
            added, removed = _missing(before, after), _missing(after, before)
            if added or removed:
                key = group.key
                found.append(
                    SlotDifference(group_id=group_id, group_key=key, slot_index=index, added=added, removed=removed)
                )
        return found


def _missing(lists: SlotLists, other: SlotLists) -> dict[str, list[Any]]:
    """The members of ``other`` that ``lists`` does not have, for each list that has any."""
    missing: dict[str, list[Any]] = {}
    for name in SLOT_LISTS:
        known: set[Any] = set(getattr(lists, name) or ())
        if items := [item for item in getattr(other, name) or () if item not in known]:
            missing[name] = items
    return missing
