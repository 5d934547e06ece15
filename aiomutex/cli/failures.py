"""The file that ``slots bulk --failures`` leaves behind: what failed in a run, as JSON Lines that a later run reads."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["FailuresFile", "is_one_file"]


def is_one_file(failures: str, other: str | int) -> bool:
    """Whether failures would be written over another file, by whatever links; a number is an open file's descriptor."""
    try:
        mine, its = os.stat(failures), os.stat(other)  # noqa: PTH116  # a Path has no descriptors
    except OSError:  # one of them is yet to be made
        return isinstance(other, str) and os.path.realpath(failures) == os.path.realpath(other)
    # A terminal may well be both what is read and what is written.
    return os.path.samestat(mine, its) and stat.S_ISREG(mine.st_mode)


class FailuresFile:
    """An open file of failures.

    What it held before goes when the first failure comes, or when a run has ended without one: a run that is refused
    takes nothing away. Each line is handed to the operating system at once, so that a crash loses none.

    Raises:
        OSError: It cannot be written to.
    """

    def __init__(self, path: str) -> None:
        # To append takes nothing away, and shows at the start of a long run whether the file can be written at all.
        self._file = Path(path).open("a", buffering=1, encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
        self._stale = stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)

    def write(self, line: str) -> None:
        """Add a line."""
        self.drop_earlier()
        self._file.write(line + "\n")

    def drop_earlier(self) -> None:
        """Take away what an earlier run left, if that is still there."""
        if self._stale:
            self._stale = False
            self._file.truncate(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
