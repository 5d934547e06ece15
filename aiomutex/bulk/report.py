"""What became of each edit, and of a run as a whole."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import msgspec

from aiomutex.errors import MutexError
from aiomutex.models import SlotEdit

__all__ = ["BulkReport", "SlotOutcome", "Status"]

Status = Literal["applied", "failed", "skipped", "unknown"]


class SlotOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one edit."""

    edit: SlotEdit
    """The edit, as it was given."""
    status: Status
    """``applied``: the service confirmed it. ``failed``: it is known not to hold. ``skipped``: it was not sent, because
    a journal shows it done or the run stopped. ``unknown``: it was sent, and no answer told its fate."""
    position: int
    """Its place in the input, from 0."""
    error: MutexError | None = None
    """Why it failed, or why its fate is unknown."""
    attempts: int = 0
    """Requests started for it."""
    note: str = ""
    """Why it was skipped."""


class BulkReport(msgspec.Struct, frozen=True, kw_only=True):
    """A run's outcomes, in the order in which they came."""

    outcomes: list[SlotOutcome]
    stopped_by: MutexError | None = None
    """What ended the run before its input did: a wrong key, the day's budget, too many failures; else ``None``."""

    @property
    def applied(self) -> list[SlotOutcome]:
        """Edits the service confirmed."""
        return self._of("applied")

    @property
    def failed(self) -> list[SlotOutcome]:
        """Edits known not to hold."""
        return self._of("failed")

    @property
    def skipped(self) -> list[SlotOutcome]:
        """Edits that were not sent."""
        return self._of("skipped")

    @property
    def unknown(self) -> list[SlotOutcome]:
        """Edits that were sent and whose fate no answer told."""
        return self._of("unknown")

    def _of(self, status: Status) -> list[SlotOutcome]:
        return [outcome for outcome in self.outcomes if outcome.status == status]

    def raise_for_failures(self) -> None:
        """Do nothing if every edit was applied, or skipped because it was done already.

        Raises:
            ExceptionGroup: With the error of each failed or unknown edit, each carrying a note that names the edit, and
                with what stopped the run.
        """
        errors: list[MutexError] = []
        for outcome in self.outcomes:
            if outcome.error is not None:
                note = f"edit {outcome.position}: group {outcome.edit.group_id}, slot {outcome.edit.slot_index}"
                if note not in getattr(outcome.error, "__notes__", ()):
                    outcome.error.add_note(note)
                errors.append(outcome.error)
        if self.stopped_by is not None and self.stopped_by not in errors:
            errors.append(self.stopped_by)
        if errors:
            raise ExceptionGroup(str(self), errors)

    def __str__(self) -> str:
        counts = Counter(outcome.status for outcome in self.outcomes)
        order: tuple[Status, ...] = ("applied", "failed", "unknown", "skipped")
        parts = [f"{counts[status]:,} {status}" for status in order if counts[status] or status == "applied"]
        ending = f"; stopped: {self.stopped_by}" if self.stopped_by is not None else ""
        edits = "edit" if len(self.outcomes) == 1 else "edits"
        return f"{len(self.outcomes):,} {edits}: {', '.join(parts)}{ending}"
