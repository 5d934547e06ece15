"""The shared ledger in Redis: one question at a time, errors in our own words, and the server's clock on ours.

Knows the wire and nothing of waiters. The rules themselves are in ``lease.lua``, which runs inside Redis, so that no
two workers ever see the same state.
"""

from __future__ import annotations

import asyncio
import math
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from aiomutex.errors import ConfigurationError, LimiterUnavailableError

try:
    import redis.asyncio as redis
    from redis import exceptions
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
except ImportError as error:
    raise ImportError("the limiter shared through Redis needs redis-py: pip install 'aiomutex[redis]'") from error

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Lease", "LeaseRequest", "SharedBudget"]

_OLDEST_VERSION = 6
_MICROSECONDS = 1e6
_DRIFT = 2e-4
"""Seconds per second that two clocks may drift apart."""
_SCRIPT = resources.files("aiomutex.limits").joinpath("lease.lua").read_text("utf-8")


class LeaseRequest(msgspec.Struct, kw_only=True):
    """What a worker tells and wants; the fields that ``lease.lua`` reads. Times are in microseconds."""

    permits: int
    window: int
    horizon: int
    grace: int
    """How long workers that went on alone may need to hear that Redis is back."""
    patience: int
    per_day: int
    want: int
    doubt: bool
    """The last question failed, so that permits may have been given that no log shows."""
    day: int
    used: int
    apart: int
    """Time between two questions of hungry workers."""
    longest: int
    """The longest time that one of them may have to wait for its turn to ask."""
    spent: int
    """Permits used without Redis since the last answer."""
    news: str = ""
    permit: int = 0
    delay: int = 0
    failed: int = 0
    suspected: bool = False
    asked: int = 0
    lowered: int = 0
    lead: int = 0
    oldest: int = _OLDEST_VERSION


class Lease(msgspec.Struct, kw_only=True):
    """What the ledger answers; times other than ``now`` are in microseconds from then."""

    now: str
    wait: int
    """When to ask again."""
    free: int
    """When the next send time will be."""
    day: int
    used: int
    permits: int
    taken: int
    paused: bool
    probe: bool
    remaining: float
    failed: int
    since: float
    suspected: bool
    asked: float
    instants: list[float] = []
    """Send times in seconds of the event loop's clock."""


class SharedBudget:
    """The conversation with one Redis server about one budget.

    Args:
        url_or_client: A Redis URL, or a ``redis.asyncio`` client, which is never closed here.
        name: The budget's name: all who use it share the budget.
        timeout: Seconds that a conversation may take, connecting included.

    Raises:
        ConfigurationError: The URL cannot be read.
    """

    def __init__(self, url_or_client: object, name: str, timeout: float) -> None:
        self._given = url_or_client
        self._timeout = timeout
        tag = f"{{aiomutex:{name}}}"
        self._keys = [f"{tag}:log", f"{tag}:facts"]
        self._client: Any = None
        self._script: Any = None
        self._lead = 0.0
        # The server's clock less ours lies between these two.
        self._low, self._high, self._measured = -math.inf, math.inf, 0.0
        self.reset()

    def reset(self) -> None:
        """Begin anew on another event loop: connections belong to the loop that made them."""
        self._client = self._connect()
        self._script = self._client.register_script(_SCRIPT)
        self._low, self._high = -math.inf, math.inf

    def _connect(self) -> Any:
        if not isinstance(self._given, str):
            if not hasattr(self._given, "register_script"):
                raise ConfigurationError(
                    f"url_or_client must be a Redis URL or a redis.asyncio client, not a {type(self._given).__name__}"
                )
            return self._given
        from_url: Any = getattr(redis.Redis, "from_url")  # noqa: B009 -- its keyword arguments have no types
        try:
            return from_url(
                self._given,
                # Redis' own retries would hide a restart from us; what follows a failure is the limiter's decision.
                retry=Retry(NoBackoff(), 0),
                socket_timeout=self._timeout,
                socket_connect_timeout=self._timeout,
                protocol=2,
            )
        except ValueError:
            # The text of the URL may hold the password: neither it nor redis-py's words about it are repeated.
            scheme = urlsplit(self._given).scheme if "://" in self._given else "none"
            raise ConfigurationError(
                "url_or_client is not a Redis URL like redis://host:6379/0, rediss:// or unix:// "
                f"(its scheme: {scheme})"
            ) from None

    @property
    def place(self) -> str:
        """Where the server is, without credentials."""
        known: dict[str, Any] = getattr(getattr(self._client, "connection_pool", None), "connection_kwargs", {})
        if "path" in known:
            return str(known["path"])
        return f"{known.get('host', 'localhost')}:{known.get('port', 6379)}"

    @property
    def behind(self) -> float:
        """Seconds to add to the loop's clock to get the server's; 0 before the first answer."""
        return (self._low + self._high) / 2 if math.isfinite(self._low + self._high) else 0.0

    def earliest(self, moment: float) -> float:
        """The server's time at a ``moment`` of the loop's clock, as early as it may have been."""
        return moment + (self._low if math.isfinite(self._low) else 0.0)

    @property
    def lead(self) -> float:
        """Seconds that an answer may take to arrive: no send time lies nearer."""
        return self._lead

    async def lease(self, question: LeaseRequest, clock: Callable[[], float]) -> tuple[Lease, bool]:
        """Hold one conversation.

        Returns:
            The answer, and whether the server's clock still runs as before. When it does not, the send times are
            worth nothing.

        Raises:
            LimiterUnavailableError: No answer within the timeout, or one that does not help.
            ConfigurationError: The server refuses the user or password, or is too old.
        """
        question.lead = round(self._lead * _MICROSECONDS)
        try:
            async with asyncio.timeout(self._timeout):
                if not math.isfinite(self._low):
                    # Connect first: what that takes would blur the first comparison of the clocks.
                    await self._client.script_load(_SCRIPT)
                sent = clock()
                answer = await self._script(keys=self._keys, args=[msgspec.json.encode(question)])
        except (OSError, exceptions.RedisError) as error:
            raise self._explain(error) from error
        got = clock()
        try:
            lease = msgspec.json.decode(answer[0], type=Lease)
            moments = [_moment(lease.now, offset) for offset in (0, *answer[1:])]
        except (ValueError, TypeError, LookupError) as error:
            raise LimiterUnavailableError(
                f"Redis at {self.place} answered what no ledger says: {type(error).__name__}"
            ) from None
        # Time a conversation took, forgotten slowly: a server that was slow once may be so again.
        self._lead = max(got - sent, 0.8 * self._lead)
        steady = self._measure(moments[0], sent, got)
        behind = self.behind
        lease.instants = [moment - behind for moment in moments[1:]]
        return lease, steady

    def _measure(self, now: float, sent: float, got: float) -> bool:
        """Narrow down the difference of the clocks; False when the server's clock has jumped."""
        drift = (got - self._measured) * _DRIFT
        low, high = max(self._low - drift, now - got), min(self._high + drift, now - sent)
        steady = low <= high
        self._low, self._high = (low, high) if steady else (now - got, now - sent)
        self._measured = got
        return steady

    def _explain(self, error: Exception) -> LimiterUnavailableError | ConfigurationError:
        # Of the server's own words only those of its error replies are repeated; they never hold a password.
        where = f"Redis at {self.place}"
        text = str(error)
        # redis-py raises what it makes of WRONGPASS and NOAUTH as a kind of ConnectionError.
        if isinstance(error, (exceptions.AuthenticationError, exceptions.AuthorizationError)) or text.startswith(
            ("NOAUTH", "WRONGPASS")
        ):
            return ConfigurationError(f"{where} refuses the user or password it was given")
        if isinstance(error, exceptions.NoPermissionError):
            return ConfigurationError(f"{where} does not let this user run the limiter's script: {text}")
        if "OLDVERSION" in text or "Write commands not allowed after non deterministic" in text:
            return ConfigurationError(f"{where} is too old: Redis {_OLDEST_VERSION} or Valkey is needed")
        if isinstance(error, exceptions.ReadOnlyError) or "READONLY" in text:
            return LimiterUnavailableError(f"{where} is a read-only replica: name the primary")
        if isinstance(error, (TimeoutError, exceptions.TimeoutError)):
            return LimiterUnavailableError(f"{where} gave no answer within {self._timeout:g} s")
        if isinstance(error, exceptions.ResponseError):
            return LimiterUnavailableError(f"{where} answered: {text}")
        return LimiterUnavailableError(f"{where} cannot be reached")

    async def aclose(self) -> None:
        """Close the connections, if they are ours."""
        if isinstance(self._given, str):
            await self._client.aclose()


def _moment(now: str, offset: int) -> float:
    moment = (float(now) + offset) / _MICROSECONDS
    if not math.isfinite(moment):
        raise ValueError("a time that never comes")
    return moment
