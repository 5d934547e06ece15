"""The day's count in a file, for the processes of one machine.

The file holds one line with the date and the count. It is read and rewritten under a lock, in place, and permits are
taken from it in blocks, so that a process that is killed loses the rest of its block and nothing else.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import contextmanager
from datetime import date, timedelta
from typing import TYPE_CHECKING

from aiomutex.errors import ConfigurationError, LimiterUnavailableError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # typeshed knows the module as present or absent, not as either

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = ["BLOCK", "DayFile"]

BLOCK = 50
"""Permits that a process takes from the file at once."""
_PATIENCE = 0.25
"""Seconds to try for the lock. Its holder needs microseconds; one that was stopped may never let go."""
_EPOCH = date(1970, 1, 1)
_LINE = re.compile(rb"requests on (\d{4}-\d\d-\d\d): ([0-9]{12})\n")
_SIZE = len("requests on 1970-01-01: 000000000000\n")
_MODE = 0o600


class DayFile:
    """A count that outlives processes and is shared by them.

    Args:
        path: The file; made with the first count if it is absent. Its directory must exist.

    Raises:
        ConfigurationError: The file cannot be opened, does not read as a count, or this platform has no file locks.
        LimiterUnavailableError: It cannot be locked in time, or not be read or written: a full disk, a quota, a network
            file system that is gone. Nothing is counted then, so nothing may be sent.
    """

    __slots__ = ("path",)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if fcntl is None:
            raise ConfigurationError("day_file needs POSIX file locks (fcntl), which this platform does not have")
        try:
            self.path = os.fsdecode(path)
            is_name = self.path != "" and b"\0" not in os.fsencode(path)
        except (TypeError, UnicodeError):
            is_name = False
        if not is_name:
            raise ConfigurationError(f"day_file is {path!r}; it must be the path of a file")

    def raise_to(self, day: int, used: int) -> int:
        """Count at least ``used`` requests on ``day``; return the count."""
        with self._locked() as file:
            dated, count = self._read(file, day)
            if count < used:
                count = used
                self._write(file, dated, count)
            return count

    def take(self, day: int, limit: int) -> tuple[int, int]:
        """Set a block of permits aside.

        Returns:
            The count before it, and the permits in the block: fewer near the limit, none at it.
        """
        with self._locked() as file:
            dated, count = self._read(file, day)
            size = max(0, min(BLOCK, limit - count))
            if size:
                self._write(file, dated, count + size)
            return count, size

    def give_back(self, day: int, permits: int) -> None:
        """Return permits that were set aside on ``day`` and not used."""
        with self._locked() as file:
            dated, count = self._read(file, day)
            if dated == day:
                self._write(file, dated, max(0, count - permits))

    @contextmanager
    def _locked(self) -> Generator[int, None, None]:
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _MODE)
        except OSError as error:
            raise ConfigurationError(f"day_file {self.path} cannot be opened: {error.strerror}") from error
        try:
            try:
                self._lock(file)
                yield file
            finally:
                os.close(file)  # and with it goes the lock
        except OSError as error:
            raise LimiterUnavailableError(
                f"day_file {self.path} cannot be read or written: {error.strerror}"
            ) from error

    def _lock(self, file: int) -> None:
        assert fcntl is not None  # noqa: S101 -- __init__ has refused; this tells the type checkers
        give_up = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > give_up:
                    raise LimiterUnavailableError(
                        f"day_file {self.path} has been locked by another process for {_PATIENCE} s"
                    ) from error
                # The event loop stands still meanwhile, as it does for the read and the write: 20 µs as a rule.
                time.sleep(0.0005)
            except OSError as error:
                raise ConfigurationError(f"day_file {self.path} cannot be locked: {error.strerror}") from error
            else:
                return

    def _read(self, file: int, day: int) -> tuple[int, int]:
        """The day the count belongs to, and the count. A clock that was set back does not give the budget back."""
        text = os.pread(file, _SIZE + 1, 0)
        if not text:
            return day, 0
        line = _LINE.fullmatch(text)
        try:
            dated = (date.fromisoformat(line[1].decode()) - _EPOCH).days if line else None
        except ValueError:
            dated = None
        if line is None or dated is None:
            raise ConfigurationError(
                f"day_file {self.path} does not hold a day's count but {text[:40]!r}; "
                "name another file, or delete this one to start counting at 0"
            )
        if dated > day + 1:
            raise ConfigurationError(
                f"day_file {self.path} is dated {line[1].decode()}, {dated - day} days ahead of this machine's clock; "
                "set the clock right, or delete the file to start counting at 0"
            )
        return (day, 0) if dated < day else (dated, int(line[2]))

    def _write(self, file: int, day: int, count: int) -> None:
        # One write of one length, in place: there is no moment at which the file holds half a count, and no rename
        # that would part the lock from the file.
        os.pwrite(file, f"requests on {_EPOCH + timedelta(days=day)}: {count:012}\n".encode(), 0)
