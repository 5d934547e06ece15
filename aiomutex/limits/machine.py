"""The limiter for several processes on one machine: they lease scheduled send times from a budget in an SQLite file.

The rules are in ``schedule.py``. An exchange reads, changes and writes one row in one transaction, so no two processes
act on the same state, and a killed process leaves no half-written one.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from aiomutex._util.checks import check_integer, describe
from aiomutex._util.files import never_close
from aiomutex.errors import ConfigurationError, LimiterUnavailableError
from aiomutex.limits.leasing import LeasingLimiter
from aiomutex.limits.schedule import BudgetState, exchange, without_times

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiomutex.limits.interface import Priority
    from aiomutex.limits.messages import Lease, LeaseRequest

__all__ = ["MachineRateLimiter"]

LOCK_TIMEOUT = 0.5  # seconds to wait for the file's lock, whose holder needs 0.1 ms but may have been stopped
_LOCK_POLL = 0.002
_SECONDS_PER_DAY = 86_400
_CLOCK_TOLERANCE = 1.0  # seconds the two clocks may move against each other; beyond that, it was another boot
_APPLICATION_ID = 0x61696F6D  # "aiom"
_MODE = 0o600


class _Row(msgspec.Struct):
    clock: float  # the wall clock minus the monotonic clock: another value after another boot
    state: BudgetState


_decode = msgspec.json.Decoder(_Row).decode
_encode = msgspec.json.Encoder().encode


class MachineBudget:
    """One budget in one file, which is created if absent; its directory must exist."""

    def __init__(self, path: object, used_today: int | None = None) -> None:
        if used_today is not None:
            check_integer("used_today", used_today, least=0, error=ConfigurationError)
        self._used_today = used_today
        try:
            text = os.fsdecode(path)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        except TypeError:
            text = ""
        if not text or "\0" in text:
            raise ConfigurationError(f"path must be the path of a file, not {describe(path)}")
        self.path = self.address = Path(text).absolute()
        self._connection: sqlite3.Connection | None = None
        self._opened_as = (0, 0, 0)  # the process and the file of the connection
        self.clock_offset = 0.0  # seconds to add to the event loop's clock to get the wall clock
        self._monotonic_offset = 0.0

    def earliest_server_time(self, loop_time: float) -> float:
        """The earliest time that the monotonic clock may have shown at ``loop_time``."""
        return loop_time - self._monotonic_offset - 0.001  # some event loops count in milliseconds

    async def lease(self, request: LeaseRequest, clock: Callable[[], float]) -> Lease:
        """Run one exchange."""
        give_up_at = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                lease = self._exchange(request)
                break
            except sqlite3.OperationalError as error:
                code = error.sqlite_errorcode & 0xFF  # without the details of extended codes
                if code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
                    raise ConfigurationError(f"{self.path} cannot be opened for writing: {error}") from error
                if code not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise LimiterUnavailableError(f"{self.path} cannot be read or written: {error}") from error
                if time.monotonic() > give_up_at:
                    message = f"{self.path} has been locked by another process for {LOCK_TIMEOUT:g} s"
                    raise LimiterUnavailableError(message) from error
                # Waiting inside SQLite would stop the event loop.
                await asyncio.sleep(_LOCK_POLL)
            except OSError as error:
                raise ConfigurationError(f"{self.path} cannot be opened: {error.strerror}") from error
            except (sqlite3.DatabaseError, msgspec.MsgspecError) as error:
                raise ConfigurationError(
                    f"{self.path} is not a budget file, or is damaged ({error}); pass another path, or delete it to "
                    "start counting at 0"
                ) from error
        loop_now, now = clock(), time.monotonic()
        self.clock_offset = time.time() - loop_now
        self._monotonic_offset = loop_now - now
        lease.send_times = [sent + self._monotonic_offset for sent in lease.send_times]
        return lease

    def _exchange(self, request: LeaseRequest) -> Lease:
        connection = self._open()
        with connection:  # commits, or rolls back after an error
            connection.execute("BEGIN IMMEDIATE")
            [text] = connection.execute("SELECT state FROM budget").fetchone() or [None]
            now, wall = time.monotonic(), time.time()
            row = _decode(text) if text else _Row(wall - now, BudgetState())
            if abs(row.clock - (wall - now)) > _CLOCK_TOLERANCE:
                row.state = without_times(row.state)
            row.clock = wall - now
            today = int(wall // _SECONDS_PER_DAY)
            if row.state.day > today + 1:  # which would never get a new day's budget
                raise ConfigurationError(
                    f"{self.path} is dated {row.state.day - today} days ahead of this machine's clock; set the clock, "
                    "or delete the file to start counting at 0"
                )
            if self._used_today is not None:
                row.state.day, row.state.used = today, self._used_today
            lease = exchange(row.state, request, now, today)
            connection.execute("REPLACE INTO budget (id, state) VALUES (1, ?)", (_encode(row),))
        self._used_today = None
        return lease

    def _open(self) -> sqlite3.Connection:
        """The connection, opened again after a fork, or after the file was deleted or replaced."""
        if self._connection is not None and self._opened_as == self._identity():
            return self._connection
        self._close()
        if not self.path.exists():
            # SQLite would create it with the rights of the umask.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, _MODE))
        connection = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection, self._opened_as = connection, self._identity()
        return connection

    def _identity(self) -> tuple[int, int, int]:
        try:
            found = self.path.stat()
        except OSError:
            return os.getpid(), 0, 0
        return os.getpid(), found.st_dev, found.st_ino

    async def aclose(self) -> None:
        """Close the file."""
        self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and self._opened_as[0] == os.getpid():
            connection.close()
        elif connection is not None:
            never_close(connection)


def _prepare(connection: sqlite3.Connection) -> None:
    # A process that is killed loses nothing in this mode. A power failure may lose the last seconds; waiting for the
    # disk instead would stop the event loop.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = OFF")
    [identity] = connection.execute("PRAGMA application_id").fetchone()
    if identity == _APPLICATION_ID:
        return
    connection.execute("BEGIN IMMEDIATE")
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master")]
    if tables not in ([], ["budget"]):
        raise sqlite3.DatabaseError("it is the database of another application")
    connection.execute("CREATE TABLE IF NOT EXISTS budget (id INTEGER PRIMARY KEY CHECK (id = 1), state BLOB)")
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    connection.execute("COMMIT")


class MachineRateLimiter(LeasingLimiter[MachineBudget]):
    """At most ``per_second`` requests in any second and ``per_day`` on a UTC day, for all processes that use ``path``.

    Pass the service's limits; the margin below them is that of ``LocalRateLimiter``. The file keeps the day's count
    between runs. After an idle window up to half a window's permits are granted at once; the others are evenly spaced.
    Interactive calls of any process go ahead of bulk work of any other, which gets at least every eighth permit.

    A new file, and the first use after a boot, wait one window, because nobody knows what was sent just before. The
    file must be on a local disk. A process that is killed or stopped loses the few permits it holds; if it is stopped
    while it holds the file's lock, others get ``LimiterUnavailableError`` after half a second.

    Args:
        path: The file; created if absent. Its directory must exist. Processes that use one API key share one file.
        per_second: Requests the service allows per second.
        per_day: Requests the service allows per UTC day.
        safe: Keep the wider margin, for networks whose delay varies by more than about 20 ms.
        used_today: Requests already sent today, if the file's count is wrong. The first permit replaces that count.

    Raises:
        ConfigurationError: An argument is invalid.

    Example:
        >>> from aiomutex.limits.machine import MachineRateLimiter
        >>> limiter = MachineRateLimiter("budget.db")
        >>> limiter
        <MachineRateLimiter 'budget.db' · 0 of 97 permits used in 1.02 s · 0 of 100,000 today · 0 waiting>
    """

    # Few: exchanges cost little here, and what bulk work does not hold is free for interactive calls of any process.
    _mean_lease = 1.0

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        per_second: int = 100,
        per_day: int = 100_000,
        safe: bool = False,
        used_today: int | None = None,
    ) -> None:
        super().__init__(per_second, per_day, safe=safe, budget=MachineBudget(path, used_today))
        self._label = f"{str(path)!r} · "

    def _on_join(self, priority: Priority, now: float) -> None:
        if not priority and len(self._waiters.interactive) == 1:
            # The next exchange may be far off, as that of bulk work among many processes.
            self._next_exchange = self._not_before
        super()._on_join(priority, now)
