"""Create a group exactly once, on a service without idempotency keys.

The group's own key serves as one: when a response was lost, the key is looked up before the create is sent again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from aiomutex import retry
from aiomutex._api import requests
from aiomutex._http.call import send
from aiomutex.errors import BadRequestError, ConflictError, MutexError, OutcomeUnknownError, ServerError
from aiomutex.models import SLOT_LISTS, UNSET, CreatedGroup, NewGroup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiomutex._http.call import CallOptions
    from aiomutex._http.transport import Transport
    from aiomutex.models import MutexGroup, NewSlot, Slot

    Find = Callable[[str, float, list[int]], Awaitable[MutexGroup | None]]


async def create_once(transport: Transport, group: NewGroup, options: CallOptions, find: Find) -> CreatedGroup:
    """Create ``group``, and never a second one; ``max_attempts`` counts creates, not lookups.

    ``find`` finds a group by key before a time on the loop's clock, and adds its numbers of attempts to a list. If a
    response was lost and the lookup cannot tell whether the group was created, ``OutcomeUnknownError`` is raised.
    """
    request = requests.create_group(requests.with_key(group))
    # What was sent, because the caller may change the lists of ``group`` before a lookup compares it.
    group = msgspec.json.decode(request.body or b"", type=NewGroup)
    key = str(group.key)
    ends_at = asyncio.get_running_loop().time() + options.deadline
    left = options.retry.max_attempts
    history: tuple[MutexError, ...] = ()
    attempts: list[int] = []  # of every request, lookups included
    lost: MutexError | None = None

    def unknown(found: str) -> OutcomeUnknownError:
        detail = f"whether the group with key {key!r} was created is unknown: {lost.args[0] if lost else ''}; {found}"
        error = OutcomeUnknownError(f"{detail}. Look up the key before you create the group again", key=key)
        return error.with_attempts(sum(attempts), history, maybe_applied=True)

    while True:
        policy = msgspec.structs.replace(options.retry, max_attempts=left)
        try:
            return (await send(transport, request, msgspec.structs.replace(options, retry=policy), ends_at)).value
        except MutexError as error:
            failure = error
        left -= max(1, failure.attempts)
        attempts.append(failure.attempts)
        earlier = (*history, *failure.earlier)
        history = (*earlier, failure)
        is_rejected = isinstance(failure, BadRequestError | ConflictError)
        may_exist = failure.maybe_applied
        if not may_exist and not lost:
            raise failure.with_attempts(sum(attempts), earlier)  # rejected, or it never arrived
        if not may_exist and not is_rejected:
            raise unknown(f"the next create failed: {failure}")
        # After a lost response, "that key is taken" may mean that the first create was applied.
        lost = lost or failure
        pause = retry.backoff(options.retry.max_attempts - left, base=options.retry.base, cap=options.retry.cap)
        if asyncio.get_running_loop().time() + pause >= ends_at:
            raise unknown("the deadline leaves no time to look up the key")
        await asyncio.sleep(pause)
        try:
            found = await find(key, ends_at, attempts)
        except MutexError as error:
            attempts.append(error.attempts)
            history = (*history, *error.earlier, error)
            raise unknown(f"looking up the key failed: {error}") from None
        if found is not None:
            if _matches(found, group):
                return CreatedGroup(id=found.id, url=None, key=key)
            raise unknown("a group with this key exists, but it differs from the one to create")
        if left < 1 and isinstance(failure, ServerError):
            # The service reported a failure and lists no such group.
            raise failure.with_attempts(sum(attempts), earlier, maybe_applied=True)
        if not may_exist:
            # The listing may lag behind the first create, so the rejection proves nothing.
            raise unknown(f"the next create was rejected, but no group has this key so far: {failure}")
        if left < 1 or not retry.is_retryable(failure):
            raise unknown("no group has this key so far")


def _matches(found: MutexGroup, group: NewGroup) -> bool:
    """Whether a group found by its key can be the one that the lost request created: not archived, and as given."""
    return (
        found.deleted is not True
        and found.name == group.name
        and found.project_id in ("", str(group.project_id))
        and (group.description is UNSET or (group.description or "") == (found.description or ""))
        and all(
            getattr(group, field) is UNSET or getattr(found, field) in ("", getattr(group, field))
            for field in ("evaluation_mode", "bucketing_key", "bucketing_salt")
        )
        and len(found.slots) == len(group.slots)
        and all(map(_slot_matches, found.slots, group.slots))
    )


def _slot_matches(found: Slot, slot: NewSlot) -> bool:
    # A list that was not given is created empty.
    same = (set(getattr(found, field)) == set(getattr(slot, field) or ()) for field in SLOT_LISTS)
    return found.percentage == slot.percentage and all(same)
