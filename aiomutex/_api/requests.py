"""The request of each endpoint as a value: method, path, body, how to decode the response, and its effect.

Pure functions without a socket or a clock. A request that breaks a rule of the service is never built.
"""

from __future__ import annotations

import enum
import functools
import re
import secrets
from collections.abc import Sequence  # msgspec reads the annotations of _SlotBody
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar, cast
from urllib.parse import quote

import msgspec
from msgspec import UNSET, UnsetType

from aiomutex._api import responses, validation
from aiomutex._util.checks import check_integer, describe
from aiomutex.errors import InvalidRequestError
from aiomutex.models import CreatedGroup, GroupPage, MutexGroup, NewGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from aiomutex._api.responses import Response

T = TypeVar("T")

ROOT = "/api/1/mutexes"
# A body that begins with a tag, or that has a tag of a page and does not begin like JSON; without the zeros of UTF-16.
_PAGE: Final = re.compile(rb'(?is)[\s\xef\xbb\xbf\xfe\xff]*+(?:<|[^"{\[].*<(?:!doctype|html|head|body|\?xml))')


def _plain(value: object) -> object:
    """Convert what validation accepts and msgspec cannot encode: subclasses of ``str``, and other sequences."""
    if isinstance(value, str):
        return str.__str__(value)
    return list(cast("Iterable[object]", value))


_encode = msgspec.json.Encoder(enc_hook=_plain).encode


class Effect(enum.Enum):
    """What a request does to the service, which decides whether it may be sent again after a lost response."""

    SAFE = "a read"
    IDEMPOTENT = "a write that may be sent again: twice has the same effect as once"
    NON_IDEMPOTENT = "a write that must not happen twice"


class Request(NamedTuple, Generic[T]):
    """One request to the service, ready to be sent."""

    method: str
    path: str  # path and query, percent-encoded
    decode: Callable[[bytes], T] | None
    """Decodes the body of a success, or raises ``msgspec.MsgspecError``. ``None``: the ``Response`` is the value."""
    effect: Effect = Effect.SAFE
    body: bytes | None = None
    group: str | None = None
    """The group that it writes. A session makes one attempt at a time for each, as the service may lose a write."""
    operation: str = "request"  # the method of the session that builds it, for traces


def decode_response(request: Request[T], response: Response) -> T:
    """Decode the value that a response carries, or raise ``APIError`` or ``UnexpectedResponseError``."""
    if not 200 <= response.status <= 299:  # noqa: PLR2004  # HTTP's
        raise responses.error_from_response(response)
    if request.decode is None:
        return cast("T", response)
    try:
        return request.decode(response.body)
    except responses.UNREADABLE as error:
        problem = error
    raise response.unexpected(problem)


def _check_not_html(body: bytes) -> None:
    """Check the undocumented body of the response to a PATCH: a page comes from a gateway, not from the service."""
    if ord("<") in body and _PAGE.match(body.replace(b"\0", b"")):
        raise msgspec.ValidationError("Expected no HTML page")


def list_page(limit: int, cursor: str | int | None) -> Request[GroupPage]:
    """``GET /api/1/mutexes``."""
    query = f"limit={check_integer('limit', limit, least=1, most=validation.MAX_PAGE_SIZE)}"
    start = validation.page_cursor(cursor)
    if start is not None:
        query += f"&cursor={quote(start, safe='')}"
    decode = functools.partial(responses.read_page, cursor=start)
    return Request("GET", f"{ROOT}?{query}", decode, operation="list_page")


def get_group(group_id: str | int) -> Request[MutexGroup]:
    """``GET /api/1/mutexes/{id}``."""
    path = f"{ROOT}/{validation.group_segment(group_id)}"
    return Request("GET", path, responses.read_group, operation="get_group")


def edit_group(group_id: str | int, *, name: str | UnsetType, description: str | UnsetType | None) -> Request[None]:
    """``PATCH /api/1/mutexes/{id}`` with a name, a description or both."""
    segment = validation.group_segment(group_id)
    fields: dict[str, str | None] = {}
    if name is not UNSET:
        fields["name"] = validation.nonempty_string("name", name)
    if description is not UNSET:
        fields["description"] = validation.string_or_null("description", description)
    if not fields:
        raise InvalidRequestError("the edit is empty; pass name, description or both")
    path = f"{ROOT}/{segment}"
    return Request("PATCH", path, _check_not_html, Effect.IDEMPOTENT, _encode(fields), segment, "edit_group")


def archive_group(group_id: str | int, *, archive: bool) -> Request[None]:
    """``PATCH /api/1/mutexes/{id}`` with ``archive`` alone: the service ignores other fields beside it."""
    body = b'{"archive":true}' if archive else b'{"archive":false}'
    segment = validation.group_segment(group_id)
    operation = "archive_group" if archive else "unarchive_group"
    return Request("PATCH", f"{ROOT}/{segment}", _check_not_html, Effect.IDEMPOTENT, body, segment, operation)


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
    """``PATCH /api/1/mutexes/{id}/slots/{slotIndex}`` with each given list in full."""
    segment = validation.group_segment(group_id)
    number = validation.slot_number(slot_index)
    if experiments is UNSET and holdouts is UNSET and individuals is UNSET:
        raise InvalidRequestError("the edit is empty; pass at least one of experiments, holdouts and individuals")
    body = _SlotBody(
        validation.id_list("experiments", experiments),
        validation.id_list("holdouts", holdouts),
        validation.individual_list("individuals", individuals),
    )
    path = f"{ROOT}/{segment}/slots/{number}"
    return Request("PATCH", path, _check_not_html, Effect.IDEMPOTENT, _encode(body), segment, "edit_slot")


def with_key(group: NewGroup) -> NewGroup:
    """Return the group if it has a key, else a copy with a new one: 96 random bits, so that it names one create."""
    if isinstance(group, NewGroup) and group.key is UNSET:  # pyright: ignore[reportUnnecessaryIsInstance]  # users err
        return msgspec.structs.replace(group, key=f"mutex-{secrets.token_hex(12)}")
    return group


def create_group(group: NewGroup) -> Request[CreatedGroup]:
    """``POST /api/1/mutexes``; the group must have its key already."""
    group = validation.new_group(group)
    if group.key is UNSET:
        raise InvalidRequestError("key is missing; without it, a group whose response was lost cannot be found")
    decode = functools.partial(responses.read_created, key=group.key)
    return Request("POST", ROOT, decode, Effect.NON_IDEMPOTENT, _encode(group), operation="create_group")


_METHOD: Final = re.compile(r"[A-Z]{1,20}")
_PATH: Final = re.compile(r"/[!-~]*")
_GROUP_PATH: Final = re.compile(rf"{ROOT}/([^/?]+)")
_SAFE_METHODS: Final = ("GET", "HEAD", "OPTIONS")


def any_request(method: object, path: object, json: object, idempotent: object) -> Request[Response]:
    """A request to an endpoint that this library does not model."""
    if not isinstance(method, str) or not _METHOD.fullmatch(method):
        raise InvalidRequestError(f"method must be an HTTP method in capital letters, not {describe(method)}")
    if not isinstance(path, str) or not _PATH.fullmatch(path) or path.startswith("//") or "#" in path:
        expected = "percent-encoded and begin with one '/', such as '/api/1/experiments?limit=10'"
        raise InvalidRequestError(f"path must be {expected}, not {describe(path)}")
    if idempotent is not None and not isinstance(idempotent, bool):
        raise InvalidRequestError(f"idempotent must be True, False or None, not {describe(idempotent)}")
    try:
        body = None if json is UNSET else _encode(json)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidRequestError(f"json cannot be encoded: {error}") from None
    if idempotent is None:
        idempotent = method in (*_SAFE_METHODS, "PUT", "DELETE")
    effect = Effect.IDEMPOTENT if idempotent else Effect.NON_IDEMPOTENT
    if idempotent and method in _SAFE_METHODS:
        effect = Effect.SAFE
    group = None if effect is Effect.SAFE else _GROUP_PATH.match(path)
    return Request(method, path, None, effect, body, group and group[1])
