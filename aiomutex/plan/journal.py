"""The journal of an apply: what each slot held before, over as many runs as the apply takes.

A run of edits goes on when it is given the same edits again. An apply looks at the groups each time and has only the
rest to do, so its journal keeps what the slots held and forgets the edits of the run before.
"""

from __future__ import annotations

from typing import Final

from aiomutex.bulk.journal import Journal
from aiomutex.errors import JournalError

__all__ = ["ApplyJournal"]

_BEGUN: Final = 1
_DONE: Final = 2


class ApplyJournal(Journal):
    """An open journal, between the runs of edits that an apply makes."""

    def begin_apply(self) -> None:
        """Get ready for a run, the first of an apply or a later one.

        Raises:
            JournalError: It is of an apply that is done or was undone, or of a run of edits.
        """
        self.check_not_undone()
        state = self._number("SELECT value FROM facts WHERE name = 'apply'")
        if state == _DONE:
            raise JournalError(
                f"journal {self.path} is of an apply that is done; give a new one, so that each can be undone by itself"
            )
        if state is None and not (self._max_position is None and self._total is None):
            raise JournalError(f"journal {self.path} is of a run of edits, not of an apply; give a new one")
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES ('apply', ?)", (_BEGUN,))
            db.execute("DELETE FROM facts WHERE name = 'total'")
            db.execute("DELETE FROM edits")
            # What a slot holds matters from its first write on; until then it is for others to change.
            db.execute("DELETE FROM slots WHERE after IS NULL AND open IS NULL")

    def end_apply(self) -> None:
        """Note that the apply is done: all of its plan holds."""
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO facts VALUES ('apply', ?)", (_DONE,))
