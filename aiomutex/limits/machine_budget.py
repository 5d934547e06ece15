"""The budget that the processes of one machine share in an SQLite file.

Knows the file and its lock; the rules are in ``schedule.py``. An exchange reads, changes and writes one row in one
transaction, so no two processes act on the same state, and a killed process leaves no half-written one.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from aiomutex._util.checks import check_integer, describe
from aiomutex._util.files import never_close
from aiomutex.errors import ConfigurationError, LimiterUnavailableError
from aiomutex.limits.schedule import BudgetState, exchange, forget_log

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiomutex.limits.lease import Lease, LeaseRequest

LOCK_TIMEOUT = 0.5
"""Seconds to wait for the file's lock. Its holder needs a tenth of a millisecond, but it may have been stopped."""
_LOCK_POLL = 0.002
_SECONDS_PER_DAY = 86_400
_CLOCK_TOLERANCE = 1.0
"""Seconds by which the two clocks may move against each other before the log counts as that of another boot."""
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
            self.path = Path(os.fsdecode(path)).absolute()  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
            is_valid = bool(path) and "\0" not in str(self.path)
        except (TypeError, ValueError):
            is_valid = False
        if not is_valid:
            raise ConfigurationError(f"path must be the path of a file, not {describe(path)}")
        self.address = str(self.path)
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self._file = (0, 0)
        self.clock_offset = 0.0
        """Seconds to add to the event loop's clock to get the wall clock."""
        self._monotonic_offset = 0.0

    def earliest_server_time(self, loop_time: float) -> float:
        """The earliest time that the monotonic clock may have shown at ``loop_time``."""
        return loop_time - self._monotonic_offset - 0.001  # some event loops count in milliseconds

    def reset(self) -> None:
        """Do nothing: the file serves any event loop, and each exchange notices another process."""

    async def lease(self, request: LeaseRequest, clock: Callable[[], float]) -> tuple[Lease, bool]:
        """Run one exchange. The send times are always valid."""
        give_up_at = time.monotonic() + LOCK_TIMEOUT
        while True:
            try:
                lease = self._exchange(request)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                    raise self._error_from(error) from error
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
            else:
                break
        loop_now, now = clock(), time.monotonic()
        self.clock_offset = time.time() - loop_now
        self._monotonic_offset = loop_now - now
        lease.send_times = [sent + self._monotonic_offset for sent in lease.send_times]
        return lease, True

    def _exchange(self, request: LeaseRequest) -> Lease:
        connection = self._open()
        with connection:  # commits, or rolls back after an error
            connection.execute("BEGIN IMMEDIATE")
            [text] = connection.execute("SELECT state FROM budget").fetchone() or [None]
            now, wall = time.monotonic(), time.time()
            row = _decode(text) if text else _Row(wall - now, BudgetState())
            if abs(row.clock - (wall - now)) > _CLOCK_TOLERANCE:
                forget_log(row.state)
            row.clock = wall - now
            today = self._check_day(row.state, wall)
            if self._used_today is not None:
                row.state.day, row.state.used = today, self._used_today
            lease = exchange(row.state, request, now, today)
            connection.execute("REPLACE INTO budget (id, state) VALUES (1, ?)", (_encode(row),))
        self._used_today = None
        return lease

    def _check_day(self, state: BudgetState, wall: float) -> int:
        """Today, if the file is not dated far after it, which would never get a new day's budget."""
        today = int(wall // _SECONDS_PER_DAY)
        if state.day > today + 1:
            raise ConfigurationError(
                f"{self.path} is dated {state.day - today} days ahead of this machine's clock; set the clock, or "
                "delete the file to start counting at 0"
            )
        return today

    def _open(self) -> sqlite3.Connection:
        """The connection, opened again after a fork, or after the file was deleted or replaced."""
        connection = self._connection
        if connection is not None:
            if self._pid == os.getpid() and self._file == self._identity():
                return connection
            self._connection = None
            if self._pid == os.getpid():
                connection.close()
            else:
                never_close(connection)
        if not self.path.exists():
            # SQLite would create it with the rights of the umask.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, _MODE))
        connection = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            _prepare(connection)
        except BaseException:
            connection.close()
            raise
        self._connection, self._pid, self._file = connection, os.getpid(), self._identity()
        return connection

    def _identity(self) -> tuple[int, int]:
        try:
            found = self.path.stat()
        except OSError:
            return 0, 0
        return found.st_dev, found.st_ino

    def _error_from(self, error: Any) -> ConfigurationError | LimiterUnavailableError:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
            return ConfigurationError(f"{self.path} cannot be opened for writing: {error}")
        return LimiterUnavailableError(f"{self.path} cannot be read or written: {error}")

    async def aclose(self) -> None:
        """Close the file."""
        connection, self._connection = self._connection, None
        if connection is not None and self._pid == os.getpid():
            connection.close()


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
