"""The request of each endpoint as a value: method, path, body, how to read the answer, what a lost answer means.

Pure: no socket, no clock, no state. A request that breaks a rule of the service is never built.
"""

from __future__ import annotations

import enum
import functools
import secrets
from collections.abc import Sequence  # msgspec reads the annotations of _SlotBody
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar, cast
from urllib.parse import quote

import msgspec
from msgspec import UNSET, UnsetType

from aiomutex import answers, rules
from aiomutex.errors import InvalidRequestError, UnexpectedResponseError
from aiomutex.models import CreatedGroup, GroupPage, MutexGroup, NewGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aiomutex.answers import Answer

__all__ = [
    "Effect",
    "Request",
    "archive_group",
    "create_group",
    "edit_group",
    "edit_slot",
    "get_group",
    "interpret",
    "list_page",
    "with_key",
]

T = TypeVar("T")

ROOT = "/api/1/mutexes"


def _plainly(value: object) -> object:
    """What msgspec does not write by itself, and the rules have let pass: a kind of text, or of sequence."""
    if isinstance(value, str):
        return str.__str__(value)
    return list(cast("Iterable[object]", value))


_encode = msgspec.json.Encoder(enc_hook=_plainly).encode


class Effect(enum.Enum):
    """What sending a request does to the service, and so what a lost answer leaves open."""

    NONE = "a read"
    SAME = "a write that may be sent again: the second leaves what the first did"
    CREATE = "a write that must not happen twice"


class Request(NamedTuple, Generic[T]):
    """One call of the service, ready to be sent."""

    method: str
    path: str
    """Path and query, percent-encoded."""
    read: Callable[[bytes], T]
    """Reads the body of a success; raises ``msgspec.MsgspecError`` where it does not read as documented."""
    effect: Effect = Effect.NONE
    body: bytes | None = None


def interpret(request: Request[T], answer: Answer) -> T:
    """The value an answer carries.

    Raises:
        APIError: The status is not 200 to 299.
        UnexpectedResponseError: The status is a success, the body is not.
    """
    if not 200 <= answer.status <= 299:  # noqa: PLR2004  # HTTP's
        raise answers.refusal(request.method, request.path, answer)
    try:
        return request.read(answer.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    kind = answer.header("Content-Type", "no content type")[:100]
    raise UnexpectedResponseError(
        f"{len(answer.body):,} bytes ({kind}) that do not read as documented: {problem}",
        status=answer.status,
        method=request.method,
        path=request.path,
        request_id=answer.request_id,
        body=answer.text,
    )


def _nothing(body: bytes) -> None:
    """Read the answer to a PATCH: its body is undocumented, so it is never looked at."""


def list_page(limit: int, cursor: str | int | None) -> Request[GroupPage]:
    """``GET /api/1/mutexes``."""
    query = f"limit={rules.page_limit('limit', limit)}"
    start = rules.page_cursor(cursor)
    if start is not None:
        query += f"&cursor={quote(start, safe='')}"
    return Request("GET", f"{ROOT}?{query}", functools.partial(answers.read_page, cursor=start))


def get_group(group_id: str | int) -> Request[MutexGroup]:
    """``GET /api/1/mutexes/{id}``."""
    return Request("GET", f"{ROOT}/{rules.group_segment(group_id)}", answers.read_group)


class _GroupBody(msgspec.Struct):
    name: str | UnsetType = UNSET
    description: str | UnsetType | None = UNSET


def edit_group(group_id: str | int, *, name: str | UnsetType, description: str | UnsetType | None) -> Request[None]:
    """``PATCH /api/1/mutexes/{id}`` with a name, a description or both."""
    segment = rules.group_segment(group_id)
    if name is UNSET and description is UNSET:
        raise InvalidRequestError("the edit is empty; give name, description or both")
    if name is not UNSET:
        rules.nonempty_text("name", name)
    if description is not UNSET:
        rules.text_or_null("description", description)
    return Request("PATCH", f"{ROOT}/{segment}", _nothing, Effect.SAME, _encode(_GroupBody(name, description)))


def archive_group(group_id: str | int, *, archive: bool) -> Request[None]:
    """``PATCH /api/1/mutexes/{id}`` with ``archive``, which makes the service ignore all else."""
    body = b'{"archive":true}' if archive else b'{"archive":false}'
    return Request("PATCH", f"{ROOT}/{rules.group_segment(group_id)}", _nothing, Effect.SAME, body)


class _SlotBody(msgspec.Struct, gc=False):
    experiments: Sequence[int] | UnsetType
    holdouts: Sequence[int] | UnsetType
    individuals: Sequence[str] | UnsetType


def edit_slot(
    group_id: str | int,
    slot_index: int,
    experiments: Sequence[int] | UnsetType,
    holdouts: Sequence[int] | UnsetType,
    individuals: Sequence[str] | UnsetType,
) -> Request[None]:
    """``PATCH /api/1/mutexes/{id}/slots/{slotIndex}`` with the whole lists the slot shall have."""
    segment = rules.group_segment(group_id)
    number = rules.slot_number(slot_index)
    if experiments is UNSET and holdouts is UNSET and individuals is UNSET:
        raise InvalidRequestError("the edit is empty; give at least one of experiments, holdouts and individuals")
    body = _SlotBody(
        rules.id_list("experiments", experiments),
        rules.id_list("holdouts", holdouts),
        rules.individual_list("individuals", individuals),
    )
    return Request("PATCH", f"{ROOT}/{segment}/slots/{number}", _nothing, Effect.SAME, _encode(body))


def with_key(group: NewGroup) -> NewGroup:
    """The group itself if it has a key, else a copy with a fresh one: 96 random bits, so that it names one create."""
    if isinstance(group, NewGroup) and group.key is UNSET:  # pyright: ignore[reportUnnecessaryIsInstance]  # users err
        return msgspec.structs.replace(group, key=f"mutex-{secrets.token_hex(12)}")
    return group


def create_group(group: NewGroup) -> Request[CreatedGroup]:
    """``POST /api/1/mutexes``; the group must have its key already."""
    group = rules.new_group(group)
    if group.key is UNSET:
        raise InvalidRequestError("key is not given; a create needs one, to be found again by")
    return Request("POST", ROOT, functools.partial(_read_created, key=group.key), Effect.CREATE, _encode(group))


def _read_created(body: bytes, key: str) -> CreatedGroup:
    group_id, url = answers.read_created(body)
    return CreatedGroup(id=group_id, url=url, key=key)
