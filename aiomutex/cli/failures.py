"""The file of ``slots bulk --failures``: the failed edits of a run, as JSON Lines that can be run again."""

from __future__ import annotations

import os
import stat
from pathlib import Path

__all__ = ["FailuresFile", "is_same_file"]


def is_same_file(path: str, other: str | int) -> bool:
    """Whether both are the same regular file, through links too. ``other`` may be a file descriptor."""
    try:
        status, other_status = os.stat(path), os.stat(other)  # noqa: PTH116  # Path has no stat for descriptors
    except OSError:  # one of them does not exist yet
        return isinstance(other, str) and os.path.realpath(path) == os.path.realpath(other)
    # A terminal may be input and output at once.
    return os.path.samestat(status, other_status) and stat.S_ISREG(status.st_mode)


class FailuresFile:
    """An open file of failed edits.

    The failures of an earlier run are kept until this run has one of its own or ends without any, so that a run that
    does not start loses nothing. Each line is flushed at once, so that a crash loses none.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, path: str) -> None:
        # Opening for append keeps the content, and fails before a long run if the file cannot be written.
        self._file = Path(path).open("a", buffering=1, encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
        self._has_previous = stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)

    def write(self, line: str) -> None:
        """Add a line."""
        self.discard_previous()
        self._file.write(line + "\n")

    def discard_previous(self) -> None:
        """Remove the failures of an earlier run, unless that was done already."""
        if self._has_previous:
            self._has_previous = False
            self._file.truncate(0)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
