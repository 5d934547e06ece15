"""The day's count in a file, for the processes of one machine.

The file holds a line with the date and the count, and one of the day counted before. It is read and rewritten under a
lock, in place, and permits are taken from it in blocks, so that a process that is killed loses the rest of its block
and nothing else.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import contextmanager
from datetime import date, timedelta
from itertools import pairwise
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
_DAYS = 2
_MODE = 0o600

Counts = list[tuple[int, int]]
"""Days and the requests counted on them: the latest day first, then the one before it, if there was any."""


class DayFile:
    """A count that outlives processes and is shared by them.

    A clock that is set back by a day goes on with the later day's count, so it gives no budget back, and neither does
    putting it right again. One that is further behind is refused.

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
            counts = self._read(file, day)
            count = _on(day, counts)
            if count < used:
                self._add(file, counts, used - count)
            return max(count, used)

    def take(self, day: int, limit: int) -> tuple[int, int]:
        """Set a block of permits aside.

        Returns:
            The count before it, and the permits in the block: fewer near the limit, none at it.
        """
        with self._locked() as file:
            counts = self._read(file, day)
            count = _on(day, counts)
            size = max(0, min(BLOCK, limit - count))
            if size:
                self._add(file, counts, size)
            return count, size

    def give_back(self, day: int, permits: int) -> None:
        """Return permits that were set aside on ``day`` and not used."""
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

    def _read(self, file: int, day: int) -> Counts:
        """The counts as of ``day``, the latest first: of ``day``, or of the day after it if the clock was set back."""
        text = os.pread(file, _DAYS * _SIZE + 1, 0)
        counts = _counts(text)
        if counts is None:
            raise ConfigurationError(
                f"day_file {self.path} does not hold a day's count but {text[:40]!r}; "
                "name another file, or delete this one to start counting at 0"
            )
        if not counts or counts[0][0] < day:
            return [(day, 0), *counts[:1]]
        ahead = counts[0][0] - day
        if ahead > 1:
            raise ConfigurationError(
                f"day_file {self.path} is dated {_date(day + ahead)}, {ahead} days ahead of this machine's clock; "
                "set the clock right, or delete the file to start counting at 0"
            )
        return counts

    def _add(self, file: int, counts: Counts, permits: int) -> None:
        (day, count), *before = counts
        lines = (f"requests on {_date(day)}: {count:012}\n" for day, count in ((day, count + permits), *before))
        # One write, in place and never shorter than the last: there is no moment at which the file holds half a count,
        # and no rename that would part the lock from the file.
        os.pwrite(file, "".join(lines).encode(), 0)


def _counts(text: bytes) -> Counts | None:
    """What a file of no line, one or two says; ``None`` if it is no such file."""
    lines = text.splitlines(keepends=True)
    read = [_LINE.fullmatch(line) for line in lines]
    try:
        counts = [((date.fromisoformat(line[1].decode()) - _EPOCH).days, int(line[2])) for line in read if line]
    except ValueError:  # a day that no month has
        return None
    in_order = all(before < day for (day, _), (before, _) in pairwise(counts))
    return counts if None not in read and in_order and len(counts) <= _DAYS else None


def _on(day: int, counts: Counts) -> int:
    """The count for a clock that shows ``day``. Set back to the day before, it may be right: both days count there."""
    return counts[0][1] + sum(count for before, count in counts[1:] if before == day)


def _date(day: int) -> date:
    return _EPOCH + timedelta(days=day)
