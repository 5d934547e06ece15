"""The budget that workers share in Redis: one exchange at a time, and the server's clock translated into ours.

Knows the protocol, but no waiters. The rules are in ``lease.lua``, which Redis runs atomically, so that no two workers
act on the same state.
"""

from __future__ import annotations

import asyncio
import math
import sys
from importlib import resources
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import msgspec

from aiomutex._util.checks import check_seconds, describe, type_name
from aiomutex.errors import ConfigurationError, LimiterUnavailableError
from aiomutex.limits.messages import OLDEST_VERSION, Lease

try:
    import redis.asyncio
    from redis import exceptions
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
except ImportError as error:
    raise ImportError("RedisRateLimiter requires redis-py: pip install 'aiomutex[redis]'") from error

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiomutex.limits.messages import LeaseRequest

_DRIFT = 2e-4  # seconds per second by which two clocks may drift apart
_SCRIPT = resources.files("aiomutex.limits").joinpath("lease.lua").read_text("utf-8")


class RedisBudget:
    """The budget called ``name`` on one Redis server. A client that is passed in is never closed here."""

    def __init__(self, url_or_client: object, name: object, timeout: float) -> None:
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"name must be a non-empty string, not {describe(name)}")
        check_seconds("timeout", timeout, least=sys.float_info.min, most=60)
        self._url_or_client = url_or_client
        self._timeout = timeout
        self._keys = [f"{{aiomutex:{name}}}:log", f"{{aiomutex:{name}}}:state"]
        self.latency = 0.0  # seconds that an exchange may take: no send time is granted sooner
        self._measured_at = 0.0
        self._has_jumped = False
        self.reset()

    def reset(self) -> None:
        """Start over on another event loop: connections belong to the loop that opened them."""
        self._client = self._connect()
        self._script = self._client.register_script(_SCRIPT)
        # The server's clock minus ours lies between these two.
        self._low, self._high = -math.inf, math.inf

    def _connect(self) -> Any:
        if not isinstance(self._url_or_client, str):
            is_sync = isinstance(self._url_or_client, (redis.Redis, redis.RedisCluster))
            if is_sync or not hasattr(self._url_or_client, "register_script"):
                raise ConfigurationError(
                    "url_or_client must be a Redis URL or a redis.asyncio client, not "
                    f"{'the synchronous ' if is_sync else ''}{type_name(self._url_or_client)}"
                )
            return self._url_or_client
        try:
            return cast("Any", redis.asyncio.Redis).from_url(  # its keyword arguments have no types
                self._url_or_client,
                # Retries of redis-py would hide a restart of the server. The limiter decides what follows a failure.
                retry=Retry(NoBackoff(), 0),
                socket_timeout=self._timeout,
                socket_connect_timeout=self._timeout,
                protocol=2,
            )
        except ValueError:
            # The URL may contain the password, so the message repeats neither the URL nor redis-py's own message.
            scheme = repr(urlsplit(self._url_or_client).scheme) if "://" in self._url_or_client else "no"
            raise ConfigurationError(
                "url_or_client must be a Redis URL that starts with redis://, rediss:// or unix://, "
                f"not a string with {scheme} scheme"
            ) from None

    @property
    def address(self) -> str:
        """Where the server is, without credentials."""
        known: dict[str, Any] = getattr(getattr(self._client, "connection_pool", None), "connection_kwargs", {})
        if "path" in known:
            return str(known["path"])
        return f"{known.get('host', 'localhost')}:{known.get('port', 6379)}"

    @property
    def clock_offset(self) -> float:
        """Seconds to add to the loop's clock to get the server's; 0 before the first exchange."""
        return (self._low + self._high) / 2 if math.isfinite(self._low + self._high) else 0.0

    def earliest_server_time(self, loop_time: float) -> float:
        """The earliest time that the server's clock may have shown at ``loop_time``."""
        return loop_time + (self._low if math.isfinite(self._low) else 0.0)

    async def lease(self, request: LeaseRequest, clock: Callable[[], float]) -> Lease:
        """Run one exchange. If the server's clock has jumped, the send times are void, so the lease has none."""
        request.latency = self.latency
        request.uncertain = request.uncertain or self._has_jumped
        try:
            async with asyncio.timeout(self._timeout):
                if not math.isfinite(self._low):
                    # Connect first: the time it takes would blur the first comparison of the clocks.
                    await self._client.script_load(_SCRIPT)
                sent = clock()
                response = await self._script(keys=self._keys, args=[msgspec.json.encode(request)])
        except (OSError, exceptions.RedisError) as error:
            raise self._error_from(error) from error
        received = clock()
        try:
            lease = msgspec.json.decode(response[0], type=Lease)
            server_now, *server_times = [(float(lease.now) + offset) / 1e6 for offset in (0, *response[1:])]
            if not math.isfinite(sum(server_times, server_now)):
                raise ValueError("not a finite time")  # noqa: TRY301  # as the line above may
        except (ValueError, TypeError, LookupError) as error:
            message = f"Redis at {self.address} sent an invalid response: {type(error).__name__}"
            raise LimiterUnavailableError(message) from None
        # A server that was slow once may be slow again, so the estimate falls slowly.
        self.latency = max(received - sent, 0.8 * self.latency)
        self._compare_clocks(server_now, sent, received)
        offset = self.clock_offset
        lease.send_times = [] if self._has_jumped else [time - offset for time in server_times]
        return lease

    def _compare_clocks(self, server_now: float, sent: float, received: float) -> None:
        """Narrow down the offset of the server's clock, or start over if that clock has jumped."""
        drift = (received - self._measured_at) * _DRIFT
        low, high = max(self._low - drift, server_now - received), min(self._high + drift, server_now - sent)
        self._has_jumped = low > high
        self._low, self._high = (server_now - received, server_now - sent) if self._has_jumped else (low, high)
        self._measured_at = received

    def _error_from(self, error: Exception) -> LimiterUnavailableError | ConfigurationError:
        # Only the server's error replies are quoted, because they never contain a password.
        server = f"Redis at {self.address}"
        text = str(error)
        rejections = (exceptions.AuthenticationError, exceptions.AuthorizationError)
        # redis-py raises some forms of WRONGPASS and NOAUTH as a ConnectionError.
        if isinstance(error, rejections) or text.startswith(("NOAUTH", "WRONGPASS")):
            return ConfigurationError(f"{server} rejected the user or password")
        if isinstance(error, exceptions.NoPermissionError):
            return ConfigurationError(f"{server} does not allow this user to run the limiter's script: {text}")
        if "OLDVERSION" in text or "Write commands not allowed after non deterministic" in text:
            return ConfigurationError(f"{server} is too old: Redis {OLDEST_VERSION} or later, or Valkey, is required")
        if isinstance(error, exceptions.ReadOnlyError) or "READONLY" in text:
            return LimiterUnavailableError(f"{server} is a read-only replica; connect to the primary")
        if isinstance(error, (TimeoutError, exceptions.TimeoutError)):
            return LimiterUnavailableError(f"{server} did not respond within {self._timeout:g} s")
        if isinstance(error, exceptions.ResponseError):
            return LimiterUnavailableError(f"{server} responded with an error: {text}")
        return LimiterUnavailableError(f"{server} cannot be reached")

    async def aclose(self) -> None:
        """Close the connections that were opened here."""
        if isinstance(self._url_or_client, str):
            await self._client.aclose()
