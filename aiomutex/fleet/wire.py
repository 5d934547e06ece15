"""What a caller and the workers of a fleet exchange: jobs of edits one way, reports of outcomes the other way.

All of it is JSON. Errors travel by class name and fields and are rebuilt on arrival. Nothing is pickled, because anyone
who can write to the queue could then run code. The API key is not part of it.
"""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec
from msgspec import UNSET

from aiomutex import errors
from aiomutex.bulk.options import AnyEdit, OnBudget
from aiomutex.bulk.report import BulkReport, SlotOutcome, Status
from aiomutex.bulk.slot_lists import SlotLists
from aiomutex.errors import MutexError
from aiomutex.models import SlotChange, SlotEdit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiomutex.bulk.group_queues import Item

__all__ = ["Job", "JobEdit", "PackedError", "Place", "decode_outcomes", "encode_report", "pack_error", "unpack_error"]

_EDIT_FIELDS: Final = frozenset(SlotEdit.__struct_fields__)

Place = tuple[int, AnyEdit]
"""An edit and its position in the input."""


class JobEdit(msgspec.Struct, frozen=True, array_like=True):
    """An edit with its lists as the service gets them, so that every edit valid on one machine can be queued."""

    group_id: str
    slot_index: int
    body: msgspec.Raw

    @classmethod
    def of_item(cls, item: Item) -> Self:
        """The edit of an item."""
        edit = item.edit
        is_plain = item.request is not None and isinstance(edit, SlotEdit) and edit.expected is UNSET
        body = item.request.body if item.request is not None and is_plain else msgspec.json.encode(edit)
        return cls(item.group_id, edit.slot_index, msgspec.Raw(body or b""))

    def to_edit(self) -> AnyEdit:
        """The edit for the worker's own run, or a ``MsgspecError`` if the body is not one of an edit."""
        fields = msgspec.json.decode(self.body, type=dict[str, Any])
        fields |= {"group_id": self.group_id, "slot_index": self.slot_index}
        expected = tuple(SlotLists(*each) for each in fields.pop("expected", ()))
        is_edit = fields.keys() <= _EDIT_FIELDS
        edit: AnyEdit = msgspec.convert(fields, SlotEdit) if is_edit else msgspec.convert(fields, SlotChange)
        return msgspec.structs.replace(edit, expected=expected) if expected else edit


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Edits of a few groups, and the options of their run."""

    edits: list[JobEdit]
    verify: bool = False
    stop_after: int | None = None
    on_budget: OnBudget = "stop"
    reserve: int = 0


class PackedError(msgspec.Struct, frozen=True):
    """An error as its class name, arguments and fields."""

    type: str
    args: list[Any]
    fields: dict[str, Any]
    earlier: list[PackedError]


class _Outcome(msgspec.Struct, frozen=True, array_like=True):
    position: int
    status: Status
    attempts: int
    note: str
    error: PackedError | None


class _Report(msgspec.Struct, frozen=True):
    outcomes: list[_Outcome]
    stopped_by: PackedError | None


_reports = msgspec.json.Decoder(_Report)


def encode_report(report: BulkReport) -> str:
    """Encode the report of a job as JSON."""
    outcomes = [
        _Outcome(each.position, each.status, each.attempts, each.note, pack_error(each.error))
        for each in report.outcomes
    ]
    return msgspec.json.encode(_Report(outcomes, pack_error(report.stopped_by))).decode()


def decode_outcomes(text: str, places: Sequence[Place]) -> tuple[list[SlotOutcome], MutexError | None]:
    """Decode a job's report: its outcomes with the caller's edits and positions, and the error that stopped the job.

    Args:
        text: The report, as ``encode_report`` returned it.
        places: The job's edits and their positions in the caller's input.

    Raises:
        msgspec.MsgspecError: The text is not a report, or not one of this job.
    """
    report = _reports.decode(text)
    if sorted(each.position for each in report.outcomes) != list(range(len(places))):
        raise msgspec.ValidationError("the report does not have one outcome for each edit of the job")
    outcomes = [
        SlotOutcome(
            edit=places[each.position][1],
            status=each.status,
            position=places[each.position][0],
            error=unpack_error(each.error),
            attempts=each.attempts,
            note=each.note,
        )
        for each in report.outcomes
    ]
    return outcomes, unpack_error(report.stopped_by)


def pack_error(error: MutexError | None) -> PackedError | None:
    """Take an error apart, with the errors of earlier attempts."""
    if error is None:
        return None
    fields = {name: value for name, value in vars(error).items() if name != "earlier"}
    earlier = [packed for each in error.earlier if (packed := pack_error(each)) is not None]
    return PackedError(type(error).__name__, list(error.args), fields, earlier)


def unpack_error(packed: PackedError | None) -> MutexError | None:
    """Rebuild an error. One that this version of the library cannot rebuild becomes a plain ``MutexError``."""
    if packed is None:
        return None
    error_type = getattr(errors, packed.type, None)
    if isinstance(error_type, type) and issubclass(error_type, MutexError):
        error: MutexError = error_type.__new__(error_type, *packed.args)
        error.__dict__.update(packed.fields)
        error.earlier = tuple(each for each in map(unpack_error, packed.earlier) if each is not None)
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            if "resets_at" in packed.fields:
                error.__dict__["resets_at"] = datetime.fromisoformat(packed.fields["resets_at"])
            str(error)  # raises if another version's fields do not suffice for the message
            return error
    return MutexError(f"{packed.type}: {' '.join(map(str, packed.args))}")
