"""What a caller and the workers of a fleet exchange: jobs of requests one way, responses the other way.

All of it is JSON. Errors travel by class name and fields and are rebuilt on arrival. Nothing is pickled, because anyone
who can write to the queue could then run code. The API key is not part of it.
"""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

import msgspec
from msgspec import UNSET

from aiomutex import errors
from aiomutex._api import requests
from aiomutex._http.call import CallResult
from aiomutex.errors import InvalidRequestError, MutexError
from aiomutex.limits import LimiterState
from aiomutex.models import SLOT_LISTS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiomutex._api.requests import Request


class JobRequest(msgspec.Struct, frozen=True, array_like=True):
    """A request of a run, for a worker to send."""

    path: str
    body: msgspec.Raw

    def to_request(self) -> Request[Any]:
        """The request to send, checked. Whoever can write to the queue can make a worker send no others than these."""
        url = urlsplit(self.path.removeprefix(requests.ROOT))
        match url.path.split("/")[1:]:
            case []:
                query = dict(parse_qs(url.query))
                return requests.list_page(int(query["limit"][0]), query.get("cursor", [None])[0])
            case [group]:
                return requests.get_group(group)
            case [group, "slots", number]:
                lists = msgspec.json.decode(self.body, type=dict[str, list[Any]])
                return requests.edit_slot(group, int(number), *(lists.get(name, UNSET) for name in SLOT_LISTS))
            case _:
                raise InvalidRequestError(f"a run sends no request to {self.path}")


class PackedError(msgspec.Struct, frozen=True, array_like=True):
    """An error as its class name, arguments and fields, and the errors of earlier attempts."""

    type: str
    args: list[Any]
    fields: dict[str, Any]
    earlier: list[PackedError]


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What a worker got for a request: the body of a success to a read, or an error."""

    body: bytes
    attempts: int
    earlier: list[PackedError]
    error: PackedError | None = None

    @classmethod
    async def to(cls, request: Request[Any], send: Callable[[Request[Any]], Awaitable[CallResult[bytes]]]) -> Self:
        """Send a request, and keep what comes back."""
        decode: Any = request.decode

        def keep(body: bytes) -> bytes:
            decode(body)  # what cannot be decoded is an error, and is requested again
            return body if request.body is None else b""

        try:
            result = await send(request._replace(decode=keep))
        except MutexError as error:
            return cls(b"", error.attempts, [], pack_error(error))
        return cls(result.value, result.attempts, [pack_error(each) for each in result.earlier])

    def result(self, request: Request[Any]) -> CallResult[Any] | MutexError:
        """What a session would have returned or raised for the request, or a ``ValueError`` if this is neither."""
        if self.error is not None:
            return unpack_error(self.error)
        decode: Any = request.decode
        return CallResult(decode(self.body), self.attempts, tuple(map(unpack_error, self.earlier)))


class Result(msgspec.Struct, frozen=True):
    """The result of a job."""

    answers: list[Answer]
    limiter: LimiterState
    """What the worker's limiter knew afterwards."""


def pack_error(error: MutexError) -> PackedError:
    """Take an error apart."""
    fields = {name: value for name, value in vars(error).items() if name != "earlier"}
    return PackedError(type(error).__name__, list(error.args), fields, [pack_error(each) for each in error.earlier])


def unpack_error(packed: PackedError) -> MutexError:
    """Rebuild an error. One that this version of the library cannot rebuild becomes a plain ``MutexError``."""
    error_type = getattr(errors, packed.type, None)
    if isinstance(error_type, type) and issubclass(error_type, MutexError):
        error: MutexError = error_type.__new__(error_type, *packed.args)
        error.__dict__.update(packed.fields)
        error.earlier = tuple(map(unpack_error, packed.earlier))
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            if "resets_at" in packed.fields:
                error.__dict__["resets_at"] = datetime.fromisoformat(packed.fields["resets_at"])
            str(error)  # raises if another version's fields do not suffice for the message
            return error
    return MutexError(f"{packed.type}: {' '.join(map(str, packed.args))}")
