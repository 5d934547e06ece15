"""What travels between a caller and the workers of a fleet: edits one way, what became of them the other way.

Plain JSON. Errors travel by name and fields and come out as what they were; nothing is pickled, because whoever can
write to the queue could then run code. The API key is in none of it.
"""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from aiomutex import errors
from aiomutex.bulk.options import OnBudget
from aiomutex.bulk.report import BulkReport, SlotOutcome, Status
from aiomutex.errors import MutexError
from aiomutex.models import SlotEdit

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Job", "PackedError", "Place", "answer_of", "outcomes_of", "packed_error", "unpacked_error"]


Place = tuple[int, SlotEdit]
"""An edit and its position in the input."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A few groups' edits, and how to go about them."""

    edits: list[SlotEdit]
    verify: bool = False
    stop_after: int | None = None
    on_budget: OnBudget = "stop"
    reserve: int = 0


class PackedError(msgspec.Struct, frozen=True):
    """An error by its name and fields."""

    kind: str
    args: list[Any]
    fields: dict[str, Any]
    earlier: list[PackedError]


class _Told(msgspec.Struct, frozen=True, array_like=True):
    position: int
    status: Status
    attempts: int
    note: str
    error: PackedError | None


class _Answer(msgspec.Struct, frozen=True):
    told: list[_Told]
    stopped_by: PackedError | None


_answers = msgspec.json.Decoder(_Answer)


def answer_of(report: BulkReport) -> str:
    """A worker's report as text."""
    told = [
        _Told(each.position, each.status, each.attempts, each.note, packed_error(each.error))
        for each in report.outcomes
    ]
    return msgspec.json.encode(_Answer(told, packed_error(report.stopped_by))).decode()


def outcomes_of(text: str, places: Sequence[Place]) -> tuple[list[SlotOutcome], MutexError | None]:
    """The outcomes in a worker's answer, at the places their edits have with the caller; and what stopped the job.

    Raises:
        msgspec.MsgspecError: The text is no answer, or not one to this job.
    """
    answer = _answers.decode(text)
    if sorted(each.position for each in answer.told) != list(range(len(places))):
        raise msgspec.ValidationError("it does not tell of each edit of the job once")
    outcomes = [
        SlotOutcome(
            edit=places[each.position][1],
            status=each.status,
            position=places[each.position][0],
            error=unpacked_error(each.error),
            attempts=each.attempts,
            note=each.note,
        )
        for each in answer.told
    ]
    return outcomes, unpacked_error(answer.stopped_by)


def packed_error(error: MutexError | None) -> PackedError | None:
    """An error by its name and fields."""
    if error is None:
        return None
    fields = {name: value for name, value in vars(error).items() if name != "earlier"}
    earlier = [packed for each in error.earlier if (packed := packed_error(each)) is not None]
    return PackedError(type(error).__name__, list(error.args), fields, earlier)


def unpacked_error(packed: PackedError | None) -> MutexError | None:
    """The error that was packed; a plain ``MutexError`` if this version of the library does not know its kind."""
    if packed is None:
        return None
    kind = getattr(errors, packed.kind, None) if packed.kind in errors.__all__ else None
    if isinstance(kind, type) and issubclass(kind, MutexError):
        error: MutexError = kind.__new__(kind, *packed.args)
        error.__dict__.update(packed.fields)
        error.earlier = tuple(each for each in map(unpacked_error, packed.earlier) if each is not None)
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            if "resets_at" in packed.fields:
                error.__dict__["resets_at"] = datetime.fromisoformat(packed.fields["resets_at"])
            str(error)  # which another version's fields may not be enough for
            return error
    return MutexError(f"{packed.kind}: {' '.join(map(str, packed.args))}")
