"""The Redis server of a fleet: FakeRedis, which runs the real scripts, behind connections that break.

Each connection belongs to the process that made it: nothing gets through for a process that is dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from contextvars import Context
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

from fakeredis.aioredis import FakeAsyncRedisConnection, FakeWriter
from redis.exceptions import ConnectionError as RedisConnectionError

from .clock import OrderedSet
from .network import Process, current_process

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from fakeredis import FakeServer

    from .clock import SimulationLoop

__all__ = ["URL", "RedisModel", "redis_clock"]

URL: Final = "unix:///simulated"
"""A socket's address, because redis-py looks up the class of such connections whenever it is given one."""
_DELAY: Final = 0.001
"""Seconds until a reply arrives."""
_REFUSAL: Final = 0.2
"""Seconds until a connection is refused. Whoever tries again at once does so after this."""


class RedisModel:
    """Connections to a server, which break when it is away."""

    def __init__(self, server: FakeServer, loop: SimulationLoop) -> None:
        self.server = server
        self.loop = loop
        self.open: dict[Any, None] = {}
        database: Any = server.dbs[0]
        database._change_callbacks = OrderedSet()  # which of several workers gets a job depends on their order
        self._away_until = 0.0
        self.process = Process(-1, {}, {}, {})
        """The server's own, in which its side of a blocking command goes on when the client is frozen."""

    @property
    def is_away(self) -> bool:
        """Whether no connection can be made now."""
        return self.loop.time() < self._away_until

    def leave(self, seconds: float) -> None:
        """Break all connections, and refuse new ones for a while. Nothing that was stored is lost."""
        self._away_until = max(self._away_until, self.loop.time() + seconds)
        for connection in list(self.open):
            connection.lose()

    def execute(self, writer: FakeWriter, data: Iterable[Any]) -> None:
        """Let the server execute commands."""
        context = Context()
        context.run(current_process.set, self.process)
        context.run(FakeWriter.writelines, writer, data)

    @contextlib.contextmanager
    def connected(self) -> Generator[None]:
        """Let connections to ``URL`` be made in memory."""
        model = self

        class Writer(FakeWriter):
            def __init__(self, connection: Connection) -> None:
                super().__init__(connection._sock)  # type: ignore[arg-type]  # it has just been made
                self._connection = connection

            def writelines(self, data: Iterable[Any]) -> None:
                self._connection.check()
                model.execute(self, data)

        class Connection(FakeAsyncRedisConnection):
            is_lost = False
            process: Process | None = None

            def __init__(self, path: str, **options: Any) -> None:
                super().__init__(server=model.server, **options)
                assert path

            def check(self) -> None:
                is_dead = self.process is not None and not self.process.is_alive
                if self.is_lost or is_dead:
                    raise RedisConnectionError("the connection is lost")

            def lose(self) -> None:
                self.is_lost = True
                if self._sock is not None:
                    self._sock.put_response(None)  # which ends the wait for a reply

            async def _connect(self) -> None:
                self.process, self.is_lost = current_process.get(), False
                await asyncio.sleep(_REFUSAL if model.is_away else _DELAY)
                self.is_lost = model.is_away
                self.check()
                await super()._connect()
                self._writer = Writer(self)
                model.open[self] = None

            async def disconnect(self, nowait: bool = False, **options: Any) -> None:  # type: ignore[override]
                model.open.pop(self, None)
                await super().disconnect(nowait, **options)

            async def _read_response(self, **options: Any) -> Any:
                await asyncio.sleep(_DELAY)
                response = await super()._read_response(**options)
                self.check()
                return response

        with mock.patch("redis.asyncio.connection.UnixDomainSocketConnection", Connection):
            yield


@contextlib.contextmanager
def redis_clock(loop: SimulationLoop) -> Generator[None]:
    """Let FakeRedis see the true wall clock."""
    # Rounded down, as by a Redis server: FakeRedis would round it up, and so begin a day a moment early.
    clock = SimpleNamespace(time=lambda: math.floor(loop.true_wall() * 1e6) / 1e6)
    with contextlib.ExitStack() as patches:
        for module in ("commands_mixins.server_mixin", "_helpers", "model._stream", "_socket._base"):
            patches.enter_context(mock.patch(f"fakeredis.{module}.time", clock))
        yield
