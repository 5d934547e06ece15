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
from aiomutex.errors import (
    BadRequestError,
    ConflictError,
    DeadlineExceededError,
    MutexError,
    OutcomeUnknownError,
    ServerError,
)
from aiomutex.models import UNSET, CreatedGroup, NewGroup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiomutex._http.call import CallOptions
    from aiomutex._http.transport import Transport
    from aiomutex.models import MutexGroup

__all__ = ["create_once"]

if TYPE_CHECKING:
    Find = Callable[[str, float], Awaitable[MutexGroup | None]]


async def create_once(transport: Transport, group: NewGroup, options: CallOptions, find: Find) -> CreatedGroup:
    """Create ``group``, and never a second one.

    Args:
        transport: Makes the attempts.
        group: What to create; without a key it gets a random one.
        options: Timeouts, policy and priority; ``max_attempts`` counts creates, not lookups.
        find: Finds a group by its key in the listing, before a time on the loop's clock.

    Returns:
        The new group's ID and key, and its URL unless the response was lost.

    Raises:
        OutcomeUnknownError: A response was lost, and the lookup failed, found a group that differs from ``group``, or
            found none although the create may still be on its way.
        MutexError: The service rejected the create, or was never reached.
    """
    request = requests.create_group(requests.with_key(group))
    # What was sent, because the caller may change the lists of ``group`` before a lookup compares it.
    group = msgspec.json.decode(request.body or b"", type=NewGroup)
    key = str(group.key)
    ends_at = asyncio.get_running_loop().time() + options.deadline
    left = options.retry.max_attempts
    lost: MutexError | None = None
    while True:
        policy = msgspec.structs.replace(options.retry, max_attempts=left)
        try:
            return (await send(transport, request, msgspec.structs.replace(options, retry=policy), ends_at)).value
        except MutexError as error:
            failure = error
        left -= max(1, failure.attempts)
        may_exist = retry.may_have_applied(failure) or (
            isinstance(failure, DeadlineExceededError) and failure.maybe_applied
        )
        if not may_exist and not (lost and isinstance(failure, BadRequestError | ConflictError)):
            # Rejected, or it never arrived. After a lost response, "that key is taken" may mean that the first create
            # was applied, so that one is looked up below.
            if lost and not isinstance(failure, BadRequestError | ConflictError):
                raise _unknown(key, lost, failure)
            raise failure
        lost = lost or failure
        pause = retry.backoff(options.retry.max_attempts - left, base=options.retry.base, cap=options.retry.cap)
        if asyncio.get_running_loop().time() + pause >= ends_at:
            raise _unknown(key, lost, failure)
        await asyncio.sleep(pause)
        try:
            found = await find(key, ends_at)
        except MutexError as error:
            raise _unknown(key, lost, error) from None
        if found is not None:
            if _matches(found, group):
                return CreatedGroup(id=found.id, url=None, key=key)
            raise _unknown(key, lost, failure, "a group with this key exists, but it differs from the one to create")
        if not may_exist or (left < 1 and isinstance(failure, ServerError)):
            # The rejection has nothing to do with the key, or the service reported a failure and lists no such group.
            raise failure
        if left < 1 or not retry.is_retryable(failure):
            raise _unknown(key, lost, failure, "no group has this key so far")


def _unknown(key: str, lost: MutexError, last: MutexError, found: str = "") -> OutcomeUnknownError:
    detail = f"whether the group with key {key!r} was created is unknown: {lost.args[0]}"
    if found:
        detail += f"; {found}"
    elif last is not lost:
        detail += f"; looking up the key failed: {last}"
    unknown = OutcomeUnknownError(f"{detail}. Look up the key before you create the group again", key=key)
    return unknown.with_attempts(lost.attempts, (lost,) if last is lost else (lost, last), maybe_applied=True)


def _matches(found: MutexGroup, group: NewGroup) -> bool:
    """Whether a group found by its key can be the one that the lost request created: not archived, and equal to it."""
    return (
        found.deleted is not True
        and found.name == group.name
        and found.project_id in ("", str(group.project_id))
        and [slot.percentage for slot in found.slots] == [slot.percentage for slot in group.slots]
        and (group.bucketing_salt is UNSET or found.bucketing_salt == group.bucketing_salt)
    )
