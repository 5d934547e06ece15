"""The outcome of each edit, and of a run as a whole."""

from __future__ import annotations

import csv
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from aiomutex._util.files import open_private
from aiomutex._util.wording import counted
from aiomutex.errors import MutexError
from aiomutex.models import SLOT_LISTS, SlotChange, SlotEdit

if TYPE_CHECKING:
    import os

Status = Literal["applied", "unchanged", "failed", "skipped", "unknown"]


class SlotOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one edit."""

    edit: SlotEdit | SlotChange
    """The edit, as it was when the run pulled it. Its lists are copies."""
    status: Status
    """``applied``: the service confirmed it. ``unchanged``: it was not sent, because its slot holds it.
    ``failed``: it is known not to be in effect. ``skipped``: it was not sent,
    because it is applied according to the journal, or because the run stopped. ``unknown``: it was sent, and whether it
    was applied is unknown."""
    position: int
    """Its position in the input, counted from 0."""
    error: MutexError | None = None
    """Why it failed, or why its outcome is unknown."""
    attempts: int = 0
    """The number of requests started for it."""
    note: str = ""
    """Why it was skipped, why there is no error although its outcome is unknown, or what else changed in its slot."""

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as values that JSON can hold. Lists that the edit does not give are left out."""
        plain: dict[str, Any] = msgspec.to_builtins(self, enc_hook=MutexError.to_dict)
        edit: dict[str, Any] = plain.pop("edit")
        return edit | plain


class BulkReport(msgspec.Struct, frozen=True, kw_only=True):
    """The outcomes of a run, in the order in which they became known."""

    outcomes: list[SlotOutcome]
    stopped_by: MutexError | None = None
    """What ended the run before its input did, such as a rejected API key or too many failures; ``None`` if nothing."""

    @property
    def applied(self) -> list[SlotOutcome]:
        """Edits the service confirmed."""
        return self._of("applied")

    @property
    def unchanged(self) -> list[SlotOutcome]:
        """Edits that were not sent, because their slot holds them."""
        return self._of("unchanged")

    @property
    def failed(self) -> list[SlotOutcome]:
        """Edits known not to be in effect."""
        return self._of("failed")

    @property
    def skipped(self) -> list[SlotOutcome]:
        """Edits that were not sent."""
        return self._of("skipped")

    @property
    def unknown(self) -> list[SlotOutcome]:
        """Edits that were sent, and of which it is unknown whether they were applied."""
        return self._of("unknown")

    def _of(self, status: Status) -> list[SlotOutcome]:
        return [outcome for outcome in self.outcomes if outcome.status == status]

    def write_jsonl(self, path: str | os.PathLike[str]) -> None:
        """Write a line of JSON for each outcome to a file for its owner only: ``to_dict`` of the outcome.

        Example:
            >>> BulkReport(outcomes=[]).write_jsonl("outcomes.jsonl")
        """
        with open_private(path) as file:
            file.writelines(msgspec.json.encode(outcome.to_dict()).decode() + "\n" for outcome in self.outcomes)

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a row for each outcome to a file for its owner only. Lists are JSON, and errors their messages.

        Example:
            >>> BulkReport(outcomes=[]).write_csv("outcomes.csv")
        """
        rows = [outcome.to_dict() | {"error": str(outcome.error or "")} for outcome in self.outcomes]
        lists = dict.fromkeys([*SLOT_LISTS, *(name for row in rows for name in row if isinstance(row[name], list))])
        with open_private(path) as file:
            names = ["position", "group_id", "slot_index", *lists, "status", "attempts", "error", "note"]
            writer = csv.DictWriter(file, names, lineterminator="\n")
            writer.writeheader()
            for row in rows:
                encoded = {name: msgspec.json.encode(row[name]).decode() for name in lists if name in row}
                writer.writerow(row | encoded)

    def raise_for_failures(self) -> None:
        """Do nothing if no edit failed and nothing stopped the run.

        Raises:
            ExceptionGroup: The errors of all failed or unknown edits, each with a note that names the edit, and what
                stopped the run.
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
        order: tuple[Status, ...] = ("applied", "unchanged", "failed", "unknown", "skipped")
        parts = [f"{counts[status]:,} {status}" for status in order if counts[status] or status == "applied"]
        ending = f"; stopped: {self.stopped_by}" if self.stopped_by is not None else ""
        return f"{counted(len(self.outcomes), 'edit')}: {', '.join(parts)}{ending}"
