"""Safe changes of one group: read, compute, write only what changes, read back.

Calls on one group queue up inside a process. Against others there is no lock to take: the service has no ETags, so a
write of theirs between our read and our write is overwritten unseen; one between our write and our read is noticed.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from msgspec import UNSET, UnsetType

from aiomutex._api import requests, validation
from aiomutex.bulk.content import Content, check, content_of
from aiomutex.errors import DeadlineExceededError, InvalidRequestError, MutexError
from aiomutex.models import SLOT_LISTS, find_slot

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from aiomutex._api.requests import Request
    from aiomutex._http.call import CallResult
    from aiomutex.models import MutexGroup, Slot

__all__ = ["Changes", "GroupLocks", "Turn", "change_slot", "move_experiment"]

if TYPE_CHECKING:
    Send = Callable[[Request[Any]], Awaitable[CallResult[Any]]]

Changes = dict[str, "Sequence[Any] | UnsetType"]
"""``add_`` or ``remove_`` and the name of a list, with the ids to add or remove."""


class GroupLocks:
    """A lock for each group that somebody is changing; forgotten when nobody is."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, group_id: str) -> asyncio.Lock:
        """The group's lock; keep it for as long as it is needed."""
        lock = self._locks.get(group_id)
        if lock is None:
            lock = self._locks[group_id] = asyncio.Lock()
        return lock


class Turn:
    """One change's turn at its group.

    Args:
        send: Sends a request that is to be done by ``ends_at``.
        locks: Those of the session.
        ends_at: When the change must have ended, on the loop's clock.
        deadline: The seconds that ``ends_at`` came from, for the message.
    """

    def __init__(self, send: Send, locks: GroupLocks, ends_at: float, deadline: float) -> None:
        self.send = send
        self.has_written = False
        self._locks = locks
        self._ends_at = ends_at
        self._deadline = deadline

    @asynccontextmanager
    async def at(self, group_id: str) -> AsyncGenerator[None]:
        """Wait for the other changes of the group, and let further ones wait.

        Raises:
            DeadlineExceededError: The others took too long; nothing was sent.
        """
        lock = self._locks.of(group_id)
        try:
            async with asyncio.timeout_at(self._ends_at):
                await lock.acquire()
        except TimeoutError:
            first = requests.get_group(group_id)
            raise DeadlineExceededError(
                f"not done within its deadline of {self._deadline:g} s; it ended behind other changes of the group",
                method=first.method,
                path=first.path,
                deadline=self._deadline,
            ) from None
        try:
            yield
        except MutexError as error:
            # Which may come from a read, or from the second write of two.
            error.maybe_applied |= self.has_written
            raise
        finally:
            lock.release()


async def change_slot(
    turn: Turn,
    group_id: str | int,
    slot_index: int,
    changes: Changes,
) -> Slot:
    """Add to and remove from a slot's lists; the slot as it is afterwards."""
    segment, index = validation.group_segment(group_id), validation.slot_number(slot_index)
    checked = _checked(changes)
    async with turn.at(segment):
        before = _existing(await _read(turn, segment), index)
        wish = _wish(before, checked)
        if wish == (None, None, None):
            return before
        return await _written(turn, segment, before, wish)


async def move_experiment(
    turn: Turn,
    group_id: str | int,
    experiment: int,
    from_slot: int,
    to_slot: int,
) -> MutexGroup:
    """Move an experiment to another slot of its group; the group as it is afterwards."""
    segment = validation.group_segment(group_id)
    source, target = validation.slot_number(from_slot), validation.slot_number(to_slot)
    validation.id_list("experiment", [experiment])
    if source == target:
        raise InvalidRequestError(f"from_slot and to_slot are both {source}; they must differ")
    async with turn.at(segment):
        group = await _read(turn, segment)
        left, entered = _existing(group, source), _existing(group, target)
        if experiment not in left.experiments and experiment not in entered.experiments:
            raise InvalidRequestError(
                f"experiment is {experiment}, which is on neither slot {source} nor slot {target} of group {segment}"
            )
        # In the new slot first: for a moment it has the traffic of both, which the service allows. The other way round
        # it would for a moment be in no slot, and so run on users of other slots.
        if experiment not in entered.experiments:
            await _written(turn, segment, entered, ([*entered.experiments, experiment], None, None))
        if experiment in left.experiments:
            await _written(turn, segment, left, ([e for e in left.experiments if e != experiment], None, None))
        return await _read(turn, segment)


async def _read(turn: Turn, segment: str) -> MutexGroup:
    group: MutexGroup = (await turn.send(requests.get_group(segment))).value
    return group


async def _written(turn: Turn, segment: str, before: Slot, wish: Content) -> Slot:
    """Write a slot and read it back.

    Raises:
        VerificationError: It does not hold what was written, or something else of it changed.
    """
    lists: list[Any] = [UNSET if items is None else items for items in wish]
    await turn.send(requests.edit_slot(segment, before.index, *lists))
    turn.has_written = True
    group = await _read(turn, segment)
    if (difference := check(group, before.index, wish, before)) is not None:
        raise difference.with_attempts(1, maybe_applied=True)
    return _existing(group, before.index)


def _existing(group: MutexGroup, index: int) -> Slot:
    slot = find_slot(group, index)
    if slot is None:
        raise InvalidRequestError(
            f"slot_index is {index}; group {group.id} has slots {', '.join(str(slot.index) for slot in group.slots)}"
        )
    return slot


def _checked(changes: Changes) -> dict[str, Sequence[Any]]:
    checked: dict[str, Sequence[Any]] = {}
    for name, items in changes.items():
        check_list = validation.individual_list if name.endswith("individuals") else validation.id_list
        given = check_list(name, items)
        if not isinstance(given, UnsetType):
            checked[name] = given
    if not checked:
        raise InvalidRequestError(f"the change is empty; give at least one of {', '.join(changes)}")
    for field in SLOT_LISTS:
        both = set(checked.get(f"add_{field}", ())) & set(checked.get(f"remove_{field}", ()))
        if both:
            raise InvalidRequestError(f"add_{field} and remove_{field} both hold {sorted(both)!r}")
    return checked


def _wish(before: Slot, checked: dict[str, Sequence[Any]]) -> Content:
    """The whole lists after the change; ``None`` for those that stay as they are."""
    wish: list[Any] = []
    for field, old in zip(SLOT_LISTS, content_of(before), strict=True):
        items: list[Any] = list(old or ())
        removed = set(checked.get(f"remove_{field}", ()))
        kept = [item for item in items if item not in removed]
        new = kept + [item for item in dict.fromkeys(checked.get(f"add_{field}", ())) if item not in kept]
        wish.append(None if new == items else new)
    return wish[0], wish[1], wish[2]
