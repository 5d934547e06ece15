"""Responses of the service, and what they mean: a value, decoded tolerantly, or one typed error.

Pure: status, headers and bytes in, value or exception out. Nothing here knows a socket or the API key.
"""

from __future__ import annotations

import email.utils
import itertools
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, TypeGuard, cast

import msgspec

from aiomutex import errors
from aiomutex._api.redaction import Redactor
from aiomutex.models import CreatedGroup, GroupPage, MutexGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_BODY_SHOWN: Final = 4096
_BODY_READ: Final = 64 * 2**10
_DETAIL_SHOWN: Final = 300
_BY_STATUS: Final[dict[int, type[errors.APIError]]] = {
    400: errors.BadRequestError,
    401: errors.AuthenticationError,
    403: errors.PermissionDeniedError,
    404: errors.NotFoundError,
    409: errors.ConflictError,
    429: errors.RateLimitedError,
}
# The service documents no header for it; these names are in common use.
_REQUEST_ID_HEADERS: Final = ("x-request-id", "request-id", "x-amzn-requestid", "x-correlation-id", "x-amz-cf-id")
_MESSAGE_FIELDS: Final = ("message", "error", "errorMessage", "detail", "title", "reason")

_NO_KEY: Final = Redactor("")
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)
"""What decoding a body may raise."""


class Response:
    """One complete HTTP response, as ``MutexSession.request`` returns it.

    It has a ``status``, ``headers`` with case-insensitive names, the whole ``body``, the ``method`` and the ``path``
    (with the query, without the host) of the request, and the number of ``attempts`` that the call made.
    """

    # Not a tuple or struct: tools that print a traceback's local variables would print the fields of those, and the
    # service may repeat the API key in one.
    __slots__ = ("attempts", "body", "headers", "method", "path", "redact", "status")

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        *,
        method: str = "",
        path: str = "",
        redact: Redactor = _NO_KEY,
    ) -> None:
        self.status, self.headers, self.body = status, headers, body
        self.method, self.path, self.redact = method, path, redact
        self.attempts = 1

    def __repr__(self) -> str:
        # Headers and body may repeat the API key, and tracebacks print reprs.
        return f"<Response {self.status} · {len(self.body):,} bytes>"

    def json(self) -> Any:
        """Decode the body as JSON.

        Raises:
            UnexpectedResponseError: The body is not JSON.
        """
        try:
            return msgspec.json.decode(self.body)
        except UNREADABLE as error:
            problem = error
        raise self.unexpected(problem)

    def unexpected(self, problem: Exception) -> errors.UnexpectedResponseError:
        """The error for a success whose body cannot be decoded."""
        content_type = self.header("Content-Type", "no content type")[:100]
        reason = "nested too deeply" if isinstance(problem, RecursionError) else str(problem)
        detail = f"{len(self.body):,} bytes ({content_type}) that do not read as documented: {reason}"
        return errors.UnexpectedResponseError(detail, **self.facts())

    def facts(self) -> dict[str, Any]:
        """What the errors of a response show, with the API key removed."""
        facts: dict[str, Any] = {name: getattr(self, name) for name in ("status", "method", "path", "request_id")}
        headers = {_printable(self.redact(name)).lower(): self.header(name) for name in self.headers}
        return facts | {"body": self.text, "headers": headers}

    @property
    def text(self) -> str:
        """The beginning of the body, with the API key removed."""
        # A body of this length was cut, here or while it was read, so it may end within the key.
        is_cut = len(self.body) >= _BODY_READ
        return self.redact(self.body[:_BODY_READ].decode("utf-8", "replace"), cut=is_cut)[:_BODY_SHOWN]

    @property
    def request_id(self) -> str | None:
        """The ID that the service gave the request, if one of the usual headers holds it."""
        for name in _REQUEST_ID_HEADERS:
            if name in self.headers and (value := self.header(name)):
                return value[:200]
        return None

    def header(self, name: str, default: str = "") -> str:
        """The value of a header, with the API key removed."""
        return _printable(self.redact(self.headers.get(name, default)))


def retry_after_of(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds to wait by ``Retry-After``, which holds seconds or an HTTP date; ``None`` if it is absent or neither."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", value):
        return float(value)
    if (when := _parse_date(value)) is None:
        return None
    # From the response's own date: this machine's clock may differ from the service's by more than the wait.
    since = _parse_date(headers.get("Date", "")) or now or datetime.now(UTC)
    return max(0.0, (when - since).total_seconds())


def _parse_date(value: str) -> datetime | None:
    try:
        when = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when


def error_from_response(response: Response) -> errors.APIError:
    """The error for a response with a status outside 200 to 299."""
    status = response.status
    kind = _BY_STATUS.get(status) or (errors.ServerError if 500 <= status <= 599 else errors.APIError)  # noqa: PLR2004  # HTTP's
    if 300 <= status <= 399:  # noqa: PLR2004  # HTTP's
        target = response.header("Location", "nowhere")
        detail = f"redirects are not followed (this one leads to {target[:200]!r})"
    else:
        detail = _detail(response)
    return kind(detail, retry_after=retry_after_of(response.headers), **response.facts())


def _detail(response: Response) -> str:
    """The message in the body of an error response. Its form is not documented, so each common one is tried."""
    stripped = response.text.strip()
    if not stripped:
        return "an empty body"
    if stripped[0] == "<":
        title = re.search(r"<(title|h1)[^>]*>([^<]{1,200})", stripped, re.IGNORECASE)
        return f"an HTML page{f', {title[2].strip()!r}' if title else ''}"
    try:
        message = _message(msgspec.json.decode(response.body))
    except UNREADABLE:
        message = None
    clean = " ".join(response.redact(message or stripped).split())
    return f'"{_printable(clean[:_DETAIL_SHOWN])}{"…" if len(clean) > _DETAIL_SHOWN else ""}"'


def _message(decoded: object) -> str | None:
    if isinstance(decoded, str):
        return decoded
    if _is_object(decoded):
        for field in _MESSAGE_FIELDS:
            if message := _message(decoded.get(field)):
                return message
    return None


def _printable(text: str) -> str:
    """Replace control characters, which a terminal would act on, and lone surrogates."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


class _WirePage(msgspec.Struct, gc=False):
    mutexes: list[MutexGroup]
    next_cursor: str | int | None = msgspec.field(name="nextCursor", default=None)


class _WireCreated(msgspec.Struct, gc=False):
    id: str | int
    url: str | None = None


_page = msgspec.json.Decoder(_WirePage)
_group = msgspec.json.Decoder(MutexGroup)
_created = msgspec.json.Decoder(_WireCreated)


def read_group(body: bytes) -> MutexGroup:
    """Decode a group, from its documented form or a similar one, or raise ``msgspec.MsgspecError``."""
    try:
        return _group.decode(body)
    except msgspec.ValidationError:
        return msgspec.convert(_normalized_group(msgspec.json.decode(body)), MutexGroup, strict=False)


def read_page(body: bytes, cursor: str | None) -> GroupPage:
    """Decode a page of the listing. A next cursor that is null, absent or empty marks the last page."""
    try:
        wire = _page.decode(body)
    except msgspec.ValidationError:
        wire = msgspec.convert(_normalized_page(msgspec.json.decode(body)), _WirePage, strict=False)
    following = "" if wire.next_cursor is None else str(wire.next_cursor)
    if following.isspace():
        raise msgspec.ValidationError("Expected a cursor, got white space - at `$.nextCursor`")
    return GroupPage(groups=wire.mutexes, next_cursor=following or None, cursor=cursor)


def read_created(body: bytes, key: str) -> CreatedGroup:
    """Decode the ID and the URL of the group with this key, which was just created."""
    wire = _created.decode(body)
    if wire.id == "":
        raise msgspec.ValidationError("Expected an ID, got an empty string - at `$.id`")
    return CreatedGroup(id=str(wire.id), url=wire.url, key=key)


# The rest runs only for responses that differ from the documented form. It changes types, never meanings; msgspec
# itself converts numbers that are strings or floats.


def _normalized_page(page: object) -> object:
    if not _is_object(page) or "mutexes" not in page:
        return page
    groups: Any = [] if page["mutexes"] is None else _each(_normalized_group, page["mutexes"])
    return page | {"mutexes": groups}


def _normalized_group(group: object) -> object:
    if not _is_object(group):
        return group
    indexes = itertools.count(1)
    slots = _each(lambda slot: _normalized_slot(slot, next(indexes)), group.get("slots"))
    return _without_nulls(group | {"slots": slots})


def _normalized_slot(slot: object, index: int) -> object:
    if not _is_object(slot):
        return slot
    individuals = _each(lambda item: str(item) if type(item) is int else item, slot.get("individuals"))
    return {"index": index} | _without_nulls(slot | {"individuals": individuals})


def _each(convert: Callable[[object], object], value: object) -> object:
    return [convert(item) for item in cast("list[object]", value)] if isinstance(value, list) else value


def _is_object(decoded: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(decoded, dict)


def _without_nulls(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
