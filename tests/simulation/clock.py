"""Virtual time: one clock for the event loop, the wall clock and everything of aiomutex that looks at either."""

from __future__ import annotations

import contextlib
import random
import sys
import time
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Any, Final, Self
from unittest import mock

import aiohttp.connector
from virtual_time import VirtualTimeLoop

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator

__all__ = ["MIDNIGHT", "OrderedSet", "SimulationLoop", "simulated_time"]

MIDNIGHT: Final = 20_600 * 86_400.0
"""The start of a UTC day, in seconds since 1970."""
_DISK: Final = 0.004
"""Seconds that a function takes which the library runs in a thread, such as a sync of a file."""


class OrderedSet(dict[Any, None]):
    """A set with an order. In a plain one, deadlines that expire together would do so in another order each time."""

    def add(self, item: Any) -> None:
        self[item] = None

    def discard(self, item: Any) -> None:
        self.pop(item, None)

    remove = dict[Any, None].__delitem__


class SimulationLoop(VirtualTimeLoop):
    """An event loop on virtual time, with a wall clock that can be set.

    Attributes:
        wall_offset: Added to the loop's clock for the true wall clock.
        error: Seconds by which the wall clock that the client sees is wrong.
        boot_offset: Added to the loop's clock for the monotonic one, which starts anew at each boot of the machine.
    """

    wall_offset = 0.0
    error = 0.0
    boot_offset = 0.0

    def __init__(self) -> None:
        super().__init__()
        self._working: dict[Callable[[], None], Any] = {}
        """What executors still have to do, with each one's executor."""
        self._executors: set[Any] = set()

    def true_wall(self) -> float:
        """The right time, in seconds since 1970."""
        return self.time() + self.wall_offset

    def client_wall(self) -> float:
        """The time that the client's machine shows."""
        return self.true_wall() + self.error

    def monotonic(self) -> float:
        """The time since the machine was started."""
        return self.time() + self.boot_offset

    def run_in_executor(  # type: ignore[override]  # a future that is awaited here all the same
        self, executor: Any, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run ``func`` in the loop after a while, as a thread has no part in virtual time."""
        future: asyncio.Future[Any] = self.create_future()

        def work() -> None:
            if self._working.pop(work, None) is None:
                return  # done when the executor was shut down
            try:
                result = func(*args)
            except BaseException as error:  # noqa: BLE001  # as an executor does
                if not future.cancelled():
                    future.set_exception(error)
            else:
                if not future.cancelled():
                    future.set_result(result)

        self._working[work] = executor
        self.call_later(_DISK, work)
        if executor is not None and executor not in self._executors:
            self._executors.add(executor)
            shut_down: Callable[..., None] = executor.shutdown

            def finish(*args: Any, **options: Any) -> None:
                for each in [each for each, owner in self._working.items() if owner is executor]:
                    each()
                shut_down(*args, **options)

            executor.shutdown = finish
        return future


@contextlib.contextmanager
def simulated_time(loop: SimulationLoop, seed: int) -> Generator[None]:
    """Let the client see the loop's clock wherever it asks for the time, and the seed's numbers as random ones."""

    class Datetime(datetime):
        def __new__(cls, *fields: Any) -> datetime:  # type: ignore[misc]  # msgspec encodes no subclasses
            return datetime(*fields)  # noqa: DTZ001  # with a zone only if it has one

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(loop.client_wall(), tz)

    saved = random.getstate()
    drawn = random.Random(seed)
    with contextlib.ExitStack() as patches:
        for target, value in ((time, loop.client_wall), (aiohttp.connector, None)):
            if value is not None:
                patches.enter_context(mock.patch.object(target, "time", value))
            patches.enter_context(mock.patch.object(target, "monotonic", loop.monotonic))
        for name, module in list(sys.modules.items()):
            if name.startswith("aiomutex") and getattr(module, "datetime", None) is datetime:
                patches.enter_context(mock.patch.object(module, "datetime", Datetime))
        patches.enter_context(mock.patch("secrets.token_hex", lambda n=16: drawn.randbytes(n).hex()))
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(saved)
