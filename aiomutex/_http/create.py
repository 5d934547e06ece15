"""Creating a group once and only once, on a service that has no idempotency key.

The group's own key serves as one: when an answer was lost, the key is looked up before anything is sent again.
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
from aiomutex.models import UNSET, CreatedGroup

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiomutex._http.call import Options
    from aiomutex._http.transport import Transport
    from aiomutex.models import MutexGroup, NewGroup

__all__ = ["create_once"]

if TYPE_CHECKING:
    Find = Callable[[str, float], Awaitable[MutexGroup | None]]


async def create_once(transport: Transport, group: NewGroup, options: Options, find: Find) -> CreatedGroup:
    """Create ``group``, and never a second one.

    Args:
        transport: Where attempts are made.
        group: What to create; without a key it gets a random one.
        options: Timeouts, policy and priority; ``max_attempts`` counts creates, not look-ups.
        find: Looks a key up in the listing, before a moment on the loop's clock.

    Raises:
        OutcomeUnknownError: An answer was lost and the look-up failed, or found a group that is not the wished one,
            or found none although the request may still be on its way.
        MutexError: The service refused, or was never reached.
    """
    group = requests.with_key(group)
    request = requests.create_group(group)
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
        is_open = retry.may_have_applied(failure) or (
            isinstance(failure, DeadlineExceededError) and failure.maybe_applied
        )
        if not is_open and not (lost and isinstance(failure, BadRequestError | ConflictError)):
            # Refused, or never arrived. (After a lost answer, "that key is taken" may mean that the first one landed.)
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
            if _is_the_wished(found, group):
                return CreatedGroup(id=found.id, url=None, key=key)
            raise _unknown(key, lost, failure, "a group with this key exists, but it is not the one wished for")
        if not is_open or (left < 1 and isinstance(failure, ServerError)):
            # A refusal that has nothing to do with the key, or a service that answered "failed" and shows no group.
            raise failure
        if left < 1 or not retry.is_retryable(failure):
            raise _unknown(key, lost, failure, "no group has this key so far")


def _unknown(key: str, lost: MutexError, last: MutexError, found: str = "") -> OutcomeUnknownError:
    detail = f"whether the group with key {key!r} was created could not be learned: {lost.args[0]}"
    if found:
        detail += f"; {found}"
    elif last is not lost:
        detail += f"; looking it up failed: {last}"
    unknown = OutcomeUnknownError(f"{detail}. Look the key up before you create it again", key=key)
    return unknown.with_attempts(lost.attempts, (lost,) if last is lost else (lost, last), maybe_applied=True)


def _is_the_wished(found: MutexGroup, wished: NewGroup) -> bool:
    """Whether a group found by its key can be what the lost request made: in use, and like it as far as it tells."""
    return (
        found.deleted is not True
        and found.name == wished.name
        and found.project_id in ("", str(wished.project_id))
        and [slot.percentage for slot in found.slots] == [slot.percentage for slot in wished.slots]
        and (wished.bucketing_salt is UNSET or found.bucketing_salt == wished.bucketing_salt)
    )
