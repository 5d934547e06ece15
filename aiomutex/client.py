"""The life of a session: its settings, its connections and limiter, its views, its end.

Which calls there are is the business of ``session``; how one is made, that of ``sender``.
"""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import aiohttp
import msgspec
from msgspec import UNSET, UnsetType

from aiomutex.bulk.changes import GroupLocks
from aiomutex.endpoint import check_api_key, service_url
from aiomutex.errors import ConfigurationError
from aiomutex.limits import LocalRateLimiter, Priority
from aiomutex.retry import RetryPolicy
from aiomutex.secret import Secret
from aiomutex.sender import Options, Sent, send
from aiomutex.transport import Transport

if TYPE_CHECKING:
    from types import TracebackType

    from aiomutex.limits import RateLimiter
    from aiomutex.protocol import Request

__all__ = ["Client"]

T = TypeVar("T")

_OF_A_LIMITER: Final = ("acquire", "throttled", "answered", "state")


class Client:
    """What a session is before it has endpoints. ``MutexSession`` describes the arguments."""

    def __init__(
        self,
        api_key: str | None = None,
        *,
        region: str | None = None,
        base_url: str | None = None,
        rate_limiter: RateLimiter | None = None,
        retry: RetryPolicy | None = None,
        attempt_timeout: float = 30.0,
        deadline: float = 120.0,
        max_connections: int = 64,
        http: aiohttp.ClientSession | None = None,
    ) -> None:
        # A traceback that prints locals shows this frame, whatever else is wrong with the arguments.
        api_key = Secret.of(os.environ.get("AMPLITUDE_MANAGEMENT_API_KEY") if api_key is None else api_key)
        key = check_api_key(api_key)
        url, self._place = service_url(region, base_url)
        if type(max_connections) is not int or max_connections < 1:
            raise ConfigurationError(f"max_connections is {max_connections!r}; it must be a whole number from 1")
        self._options = Options(
            attempt_timeout=attempt_timeout, deadline=deadline, retry=RetryPolicy() if retry is None else retry
        )
        self._locks = GroupLocks()
        limiter = LocalRateLimiter() if rate_limiter is None else _checked_limiter(rate_limiter)
        if http is not None and not isinstance(http, aiohttp.ClientSession):  # pyright: ignore[reportUnnecessaryIsInstance]  # users err
            raise ConfigurationError(f"http is {_kind(http)}; it must be an aiohttp.ClientSession")
        self._transport = Transport(url, key, limiter, max_connections=max_connections, http=http)

    async def __aenter__(self) -> Self:
        self._transport.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections; calls under way and further ones fail, closing again does nothing.

        The views of the session close with it. A borrowed ``http`` session stays open.
        """
        await self._transport.aclose()

    def __repr__(self) -> str:
        if "_transport" not in vars(self):
            # What a traceback that prints locals shows where the constructor refuses its arguments.
            return "<MutexSession not set up>"
        state = self.rate_limiter.state()
        return (
            f"<MutexSession {self._place} · {self._transport.state} · {self._transport.in_flight} in flight · "
            f"{state.used} of {state.per_window} permits used · {state.used_today:,} today>"
        )

    @property
    def rate_limiter(self) -> RateLimiter:
        """The limiter every request of this session asks; give it to another session to share the budget."""
        return self._transport.limiter

    @property
    def max_connections(self) -> int:
        """Connections kept at the most."""
        return self._transport.max_connections

    def with_options(
        self,
        *,
        attempt_timeout: float | UnsetType = UNSET,
        deadline: float | UnsetType = UNSET,
        retry: RetryPolicy | UnsetType = UNSET,
        priority: Priority | UnsetType = UNSET,
    ) -> Self:
        """A light view over the same connections and limiter, for one call or a group of calls.

        It opens and closes with the session it was made from.

        Args:
            attempt_timeout: Seconds for one attempt.
            deadline: Seconds for a call as a whole.
            retry: How often and when calls are sent again.
            priority: Who goes first when requests wait for permits.

        Raises:
            ConfigurationError: A value is out of its range.

        Example:
            >>> from aiomutex import MutexSession
            >>> patient = MutexSession("key").with_options(deadline=600.0)
        """
        given: dict[str, Any] = {
            name: value
            for name, value in (
                ("attempt_timeout", attempt_timeout),
                ("deadline", deadline),
                ("retry", retry),
                ("priority", priority),
            )
            if value is not UNSET
        }
        view = copy.copy(self)
        view._options = Options(**msgspec.structs.asdict(self._options) | given)  # noqa: SLF001  # of our own kind
        return view

    async def _send(self, request: Request[T], ends_at: float | None = None) -> T:
        return (await send(self._transport, request, self._options, ends_at)).value

    async def _send_counted(self, request: Request[Any], ends_at: float | None = None) -> Sent[Any]:
        return await send(self._transport, request, self._options, ends_at)


def _checked_limiter(limiter: RateLimiter) -> RateLimiter:
    # Not isinstance: a limiter that wraps another one may look its methods up when they are called.
    if not isinstance(limiter, type) and all(callable(getattr(limiter, name, None)) for name in _OF_A_LIMITER):
        return limiter
    raise ConfigurationError(f"rate_limiter is {_kind(limiter)}; it must be a limiter, such as LocalRateLimiter()")


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"of kind {type(value).__name__}"
