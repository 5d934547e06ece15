"""The file of ``slots bulk --failures``: the failed edits of a run, as JSON Lines that can be run again."""

from __future__ import annotations

import os
import stat

from aiomutex._util.files import open_private

__all__ = ["FailuresFile"]


class FailuresFile:
    """An open file of failed edits.

    The failures of an earlier run are kept until this run has one of its own or ends without any, so that a run that
    does not start loses nothing. Each line is flushed at once, so that a crash loses none.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, path: str) -> None:
        # Opening for append keeps the content, and fails before a long run if the file cannot be written.
        self._file = open_private(path, "a")
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
