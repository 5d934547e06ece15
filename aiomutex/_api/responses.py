"""What an answer of the service means: a value read tolerantly, or one typed error.

Pure: status, headers and bytes in, value or exception out. Nothing here knows a socket, and nothing here ever
sees the API key.
"""

from __future__ import annotations

import email.utils
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from aiomutex._api.redaction import redactor
from aiomutex.errors import (
    APIError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitedError,
    ServerError,
    UnexpectedResponseError,
)
from aiomutex.models import GroupPage, MutexGroup

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aiomutex._api.redaction import Redact

__all__ = ["UNREADABLE", "Response", "error_from_response", "read_created", "read_group", "read_page", "retry_after_of"]

_BODY_SHOWN: Final = 4096
_LOOKED_AT: Final = 64 * 2**10
_DETAIL_SHOWN: Final = 300
_BY_STATUS: Final[dict[int, type[APIError]]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    429: RateLimitedError,
}
# The service documents none; these are the names in common use.
_REQUEST_ID_HEADERS: Final = ("x-request-id", "request-id", "x-amzn-requestid", "x-correlation-id", "x-amz-cf-id")
_MESSAGE_FIELDS: Final = ("message", "error", "errorMessage", "detail", "title", "reason")


_NO_KEY: Final = redactor("")
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)
"""What decoding a body may raise."""


class Response:
    """One complete HTTP response, as ``MutexSession.request`` returns it.

    Attributes:
        status: The status code.
        headers: The headers; names are case-insensitive.
        body: The whole body.
        method: HTTP method of the request.
        path: Path and query of the request, without the host.
        attempts: Requests started for the call.
    """

    # Not a tuple or struct: tools that show a traceback's locals look into those, and the service may repeat the key.
    __slots__ = ("attempts", "body", "headers", "method", "path", "redact", "status")

    def __init__(
        self,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
        *,
        method: str = "",
        path: str = "",
        redact: Redact = _NO_KEY,
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.method = method
        self.path = path
        self.attempts = 1
        self.redact = redact

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

    def unexpected(self, problem: Exception) -> UnexpectedResponseError:
        """The error for a success whose body cannot be decoded."""
        content_type = self.header("Content-Type", "no content type")[:100]
        detail = "nested too deeply" if isinstance(problem, RecursionError) else str(problem)
        return UnexpectedResponseError(
            f"{len(self.body):,} bytes ({content_type}) that do not read as documented: {detail}",
            status=self.status,
            method=self.method,
            path=self.path,
            request_id=self.request_id,
            body=self.text,
            headers=self.shown_headers(),
        )

    @property
    def text(self) -> str:
        """The beginning of the body, as an error may show it."""
        # What is as long has been cut, here or by who read it, and may end within a key.
        is_cut = len(self.body) >= _LOOKED_AT
        return self.redact(self.body[:_LOOKED_AT].decode("utf-8", "replace"), cut=is_cut)[:_BODY_SHOWN]

    @property
    def request_id(self) -> str | None:
        """The service's name for the request, if one of the usual headers tells it."""
        for name in _REQUEST_ID_HEADERS:
            if value := self.header(name):
                return value[:200]
        return None

    def header(self, name: str, default: str = "") -> str:
        """A header, as an error may show it."""
        return _printable(self.redact(self.headers.get(name, default)))

    def shown_headers(self) -> dict[str, str]:
        """The headers by lower-case name, as an error may show them."""
        return {_printable(self.redact(name)).lower(): self.header(name) for name in self.headers}


def retry_after_of(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds to wait that a ``Retry-After`` header asks for, written as seconds or as an HTTP date; else ``None``.

    A date counts from the answer's own ``Date``, as this machine's clock may differ from the service's by more than
    the wait; from ``now`` if there is none. One in the past is 0.0. What cannot be read counts as absent.
    """
    value = headers.get("Retry-After", "").strip()
    if not value:
        return None
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", value):
        return float(value)
    when = _moment(value)
    if when is None:
        return None
    since = _moment(headers.get("Date", "")) or now or datetime.now(UTC)
    return max(0.0, (when - since).total_seconds())


def _moment(value: str) -> datetime | None:
    """The moment that an HTTP date tells."""
    try:
        when = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when


def error_from_response(response: Response) -> APIError:
    """The error that an response outside 200 to 299 stands for."""
    status = response.status
    kind = _BY_STATUS.get(status) or (ServerError if 500 <= status <= 599 else APIError)  # noqa: PLR2004  # HTTP's
    if 300 <= status <= 399:  # noqa: PLR2004  # HTTP's
        target = response.header("Location", "nowhere")
        detail = f"redirects are refused (it points to {target[:200]!r})"
    else:
        detail = _detail(response)
    return kind(
        detail,
        status=status,
        method=response.method,
        path=response.path,
        request_id=response.request_id,
        body=response.text,
        retry_after=retry_after_of(response.headers),
        headers=response.shown_headers(),
    )


def _detail(response: Response) -> str:
    """What the body of a refusal says to people; the service documents no form, so each likely one is tried."""
    stripped = response.text.strip()
    if not stripped:
        return "an empty body"
    if stripped[0] == "<":
        title = re.search(r"<(title|h1)[^>]*>([^<]{1,200})", stripped, re.IGNORECASE)
        return f"an HTML page{f', {title[2].strip()!r}' if title else ''}"
    try:
        told = _message(msgspec.json.decode(response.body))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        told = None
    return _quoted(response.redact(told or stripped))


def _message(told: object) -> str | None:
    if isinstance(told, str):
        return told
    if isinstance(told, dict):
        fields = cast("dict[str, object]", told)
        for field in _MESSAGE_FIELDS:
            found = fields.get(field)
            if isinstance(found, str) and found:
                return found
            if isinstance(found, dict) and (inner := _message(cast("object", found))):
                return inner
    return None


def _quoted(text: str) -> str:
    clean = " ".join(text.split())
    return f'"{_printable(clean[:_DETAIL_SHOWN])}{"…" if len(clean) > _DETAIL_SHOWN else ""}"'


def _printable(text: str) -> str:
    """The text without control characters, which terminals obey, also those in a log, and without half characters."""
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
    """A group, from its documented form or one near it.

    Raises:
        msgspec.MsgspecError: The body is no group: it is not JSON, or lacks an id or slots.
    """
    try:
        return _group.decode(body)
    except msgspec.ValidationError:
        return msgspec.convert(_mended_group(msgspec.json.decode(body)), MutexGroup)


def read_page(body: bytes, cursor: str | None) -> GroupPage:
    """A page of the listing; null, absent and empty next cursors all mean the end.

    Raises:
        msgspec.MsgspecError: The body is no page, one of its groups is no group, or its cursor is one that nobody can
            send.
    """
    try:
        wire = _page.decode(body)
    except msgspec.ValidationError:
        wire = msgspec.convert(_mended_page(msgspec.json.decode(body)), _WirePage)
    told = wire.next_cursor
    if isinstance(told, str) and told.isspace():
        raise msgspec.ValidationError("Expected a cursor, got white space - at `$.nextCursor`")
    return GroupPage(
        groups=wire.mutexes, next_cursor=str(told) if told is not None and told != "" else None, cursor=cursor
    )


def read_created(body: bytes) -> tuple[str, str | None]:
    """Id and URL of a group that was just created.

    Raises:
        msgspec.MsgspecError: The body tells no id.
    """
    wire = _created.decode(body)
    if wire.id == "":
        raise msgspec.ValidationError("Expected an id, got an empty text - at `$.id`")
    return str(wire.id), wire.url


# What follows runs only for answers that depart from the documented form. It changes kinds, never meanings.


def _mended_page(told: object) -> object:
    page = _as_object(told)
    if page is None or "mutexes" not in page:
        return told
    cursor = page.get("nextCursor")
    return {
        "mutexes": [] if page["mutexes"] is None else _each(_mended_group, page["mutexes"]),
        "nextCursor": int(cursor) if isinstance(cursor, float) and cursor.is_integer() else cursor,
    }


def _mended_group(told: object) -> object:
    group = _as_object(told)
    if group is None:
        return told
    group = _without_nulls(group)
    if isinstance(group.get("slots"), list):
        slots = cast("list[object]", group["slots"])
        group["slots"] = [_mended_slot(slot, place) for place, slot in enumerate(slots, 1)]
    return group


def _mended_slot(told: object, place: int) -> object:
    slot = _as_object(told)
    if slot is None:
        return told
    slot = {"index": place} | _without_nulls(slot)
    for field, mend in _SLOT_MENDS:
        if field in slot:
            slot[field] = mend(slot[field])
    return slot


def _numbers(value: object) -> object:
    return _each(_number, value)


def _texts(value: object) -> object:
    return _each(lambda item: str(item) if type(item) is int else item, value)


def _number(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


_SLOT_MENDS: Final[tuple[tuple[str, Callable[[object], object]], ...]] = (
    ("index", _number),
    ("percentage", _number),
    ("experiments", _numbers),
    ("holdouts", _numbers),
    ("individuals", _texts),
)


def _each(mend: Callable[[object], object], told: object) -> Any:
    return [mend(item) for item in cast("list[object]", told)] if isinstance(told, list) else told


def _as_object(told: object) -> dict[str, Any] | None:
    return cast("dict[str, Any]", told) if isinstance(told, dict) else None


def _without_nulls(told: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in told.items() if value is not None}
