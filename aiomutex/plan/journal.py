"""The journal of an apply: what each slot held before the first run of the apply.

A bulk run resumes when it gets the same edits again. A resumed apply has fewer edits, because it compares the groups
again. So its journal keeps what the slots held before, and forgets the edits of earlier runs.
"""

from __future__ import annotations

from typing import Final

from aiomutex.bulk.journal import Journal
from aiomutex.errors import JournalError

__all__ = ["ApplyJournal"]

_STARTED: Final = 1
_DONE: Final = 2


class ApplyJournal(Journal):
    """An open journal, between the bulk runs of an apply."""

    def begin_apply(self) -> None:
        """Prepare the journal for the first run of an apply, or for a later one.

        Raises:
            JournalError: The journal belongs to an apply that is complete or was undone, or to a bulk run.
        """
        self.check_not_undone()
        state = self._number("SELECT value FROM facts WHERE name = 'apply'")
        if state == _DONE:
            raise JournalError(
                f"journal {self.path} belongs to a completed apply; use a new file, so that each can be undone"
            )
        if state is None and not (self._max_position is None and self._total is None):
            raise JournalError(f"journal {self.path} belongs to a bulk run, not to an apply; use a new file")
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES ('apply', ?)", (_STARTED,))
            db.execute("DELETE FROM facts WHERE name = 'total'")
            db.execute("DELETE FROM edits")
            # Slots that were not written yet may be changed by others until they are, so their content is read again.
            db.execute("DELETE FROM slots WHERE after IS NULL AND open IS NULL")

    def end_apply(self) -> None:
        """Record that the apply is complete."""
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES ('apply', ?)", (_DONE,))
