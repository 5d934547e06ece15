"""The count of the day in a file, for the processes of one machine.

The file has one line with the date and the count, and one for the previous day. It is rewritten in place under a lock.
Permits are taken from it in blocks, so a process that is killed loses the rest of its block and nothing else.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import contextmanager
from datetime import date, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

from aiomutex._util.checks import describe
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
_LOCK_TIMEOUT = 0.25
"""Seconds. A holder needs the lock for microseconds; one that was stopped may never release it."""
_EPOCH = date(1970, 1, 1)
_LINE = re.compile(rb"requests on (\d{4}-\d\d-\d\d): ([0-9]{12})\n")
_SIZE = len("requests on 1970-01-01: 000000000000\n")
_DAYS = 2
_MODE = 0o600

Counts = list[tuple[int, int]]
"""Days and their requests: the latest day, then the previous one, if there is one."""


class DayFile:
    """A count that processes share, and that outlives them.

    A clock that is set back by a day continues with the later day's count, so it does not reset the budget, and neither
    does setting it forward again. A clock that is further behind is an error.

    Args:
        path: The file. It is created with the first count; its directory must exist.

    Raises:
        ConfigurationError: The file cannot be opened, has other content, or this platform has no file locks.
        LimiterUnavailableError: The file cannot be locked in time, read or written, for example because the disk is
            full. Nothing is counted then, so nothing may be sent.
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
            raise ConfigurationError(f"day_file must be the path of a file, not {describe(path)}")

    def raise_to(self, day: int, used: int) -> int:
        """Raise the count of ``day`` to at least ``used`` and return it."""
        with self._locked() as file:
            counts = self._read(file, day)
            count = _on(day, counts)
            if count < used:
                self._add(file, counts, used - count)
            return max(count, used)

    def take(self, day: int, limit: int) -> tuple[int, int]:
        """Reserve a block of permits.

        Returns:
            The count before the block, and its size: smaller near the limit, zero at the limit.
        """
        with self._locked() as file:
            counts = self._read(file, day)
            count = _on(day, counts)
            size = max(0, min(BLOCK, limit - count))
            if size:
                self._add(file, counts, size)
            return count, size

    def give_back(self, day: int, permits: int) -> None:
        """Return permits that were reserved on ``day`` and not used."""
        with self._locked() as file:
            counts = self._read(file, day)
            dated, count = counts[0]
            if dated == day:
                self._add(file, counts, -min(count, permits))

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
                os.close(file)  # also releases the lock
        except OSError as error:
            raise LimiterUnavailableError(
                f"day_file {self.path} cannot be read or written: {error.strerror}"
            ) from error

    def _lock(self, file: int) -> None:
        assert fcntl is not None  # noqa: S101 -- __init__ has checked it; this is for the type checkers
        give_up = time.monotonic() + _LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > give_up:
                    raise LimiterUnavailableError(
                        f"another process has locked day_file {self.path} for {_LOCK_TIMEOUT} s"
                    ) from error
                # This blocks the event loop, as the read and the write do: usually for 20 µs.
                time.sleep(0.0005)
            except OSError as error:
                raise ConfigurationError(f"day_file {self.path} cannot be locked: {error.strerror}") from error
            else:
                return

    def _read(self, file: int, day: int) -> Counts:
        """The counts, the latest first: that of ``day``, or of the day after it if the clock was set back."""
        text = os.pread(file, _DAYS * _SIZE + 1, 0)
        counts = _counts(text)
        if counts is None:
            raise ConfigurationError(
                f"day_file {self.path} must contain the count of a day, not {text[:40]!r}; "
                "use another file, or delete this one to start at 0"
            )
        if not counts or counts[0][0] < day:
            return [(day, 0), *counts[:1]]
        ahead = counts[0][0] - day
        if ahead > 1:
            raise ConfigurationError(
                f"day_file {self.path} is dated {_date(day + ahead)}, {ahead} days ahead of this machine's clock; "
                "correct the clock, or delete the file to start at 0"
            )
        return counts

    def _add(self, file: int, counts: Counts, permits: int) -> None:
        (day, count), *before = counts
        lines = (f"requests on {_date(day)}: {count:012}\n" for day, count in ((day, count + permits), *before))
        # One write, in place and never shorter than the last: the file never contains half a count, and no rename
        # separates the lock from the file.
        os.pwrite(file, "".join(lines).encode(), 0)


def _counts(text: bytes) -> Counts | None:
    """The counts in a file of up to two lines; ``None`` if it has other content."""
    lines = text.splitlines(keepends=True)
    read = [_LINE.fullmatch(line) for line in lines]
    try:
        counts = [((date.fromisoformat(line[1].decode()) - _EPOCH).days, int(line[2])) for line in read if line]
    except ValueError:  # no such date
        return None
    in_order = all(before < day for (day, _), (before, _) in pairwise(counts))
    return counts if None not in read and in_order and len(counts) <= _DAYS else None


def _on(day: int, counts: Counts) -> int:
    """The count for a clock that shows ``day``. If it was set back to the previous day, both days count."""
    return counts[0][1] + sum(count for before, count in counts[1:] if before == day)


def _date(day: int) -> date:
    return _EPOCH + timedelta(days=day)
