"""Plans in files, and what is left of a plan once somebody else, or an interrupted apply, has written.

A saved plan carries the fingerprint of every group it touches. It is applied only to groups that are as they were, or
that stand between there and the plan's end: then the rest is done.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from aiomutex.errors import MutexError
from aiomutex.models import find_slot
from aiomutex.plan.diff import GroupPlan, ListChange, Plan, apply_to, concerning
from aiomutex.plan.document import DesiredFileError, Problem, read_file
from aiomutex.plan.fingerprint import ABSENT, fingerprint
from aiomutex.plan.members import unique

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiomutex.models import MutexGroup

__all__ = ["StalePlanError", "is_saved_plan", "load_plan", "remaining", "save_plan"]

_VERSION: Final = 1


class _SavedPlan(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The file: a version that tells it from a desired state in JSON, and the plan."""

    aiomutex_plan: int
    plan: Plan


class StalePlanError(MutexError):
    """Groups of a plan are no longer as they were when it was made; nothing was sent. Plan again.

    Attributes:
        groups: The groups that changed, with what is known.
    """

    def __init__(self, groups: list[str]) -> None:
        super().__init__(
            f"{len(groups)} group{'s' if len(groups) != 1 else ''} changed since the plan was made, so nothing was "
            f"written; make a new plan: {'; '.join(groups)}"
        )
        self.groups = groups

    def __reduce__(self) -> tuple[type[StalePlanError], tuple[list[str]]]:
        """Pickle by the argument, not by the message."""
        return StalePlanError, (self.groups,)


def save_plan(plan: Plan, path: str | Path) -> None:
    """Write a plan to a file, for :func:`load_plan`. The same plan makes the same bytes.

    Raises:
        OSError: The file cannot be written.
    """
    data = msgspec.json.encode(_SavedPlan(aiomutex_plan=_VERSION, plan=plan))
    Path(path).write_bytes(msgspec.json.format(data, indent=1) + b"\n")


def is_saved_plan(path: str | Path) -> bool:
    """Whether a file is a saved plan rather than a desired state."""
    if not Path(path).is_file():
        return False  # to look into a pipe would wait for its other end
    with Path(path).open("rb") as file:
        return b'"aiomutexPlan"' in file.read(64)


def load_plan(path: str | Path) -> Plan:
    """Read a saved plan.

    Raises:
        DesiredFileError: The file is no saved plan, or one of another version.
        OSError: The file cannot be read.
    """
    data = read_file(Path(path))
    try:
        saved = msgspec.json.decode(data, type=_SavedPlan)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DesiredFileError(str(path), [Problem(0, f"no saved plan: {error}")]) from None
    if saved.aiomutex_plan != _VERSION:
        problem = f"a plan of version {saved.aiomutex_plan}; this program reads version {_VERSION}. Make a new plan"
        raise DesiredFileError(str(path), [Problem(0, problem)])
    return saved.plan


def remaining(plan: Plan, live: Iterable[MutexGroup]) -> Plan:
    """What is left to do of a plan, now that the groups are as ``live`` says.

    Raises:
        StalePlanError: A group was changed by somebody else since.
    """
    by_id: dict[str, MutexGroup] = {}
    by_identity: dict[tuple[str, str], MutexGroup] = {}
    for group in live:
        by_id[group.id] = group
        if not group.deleted or (group.project_id, group.key) not in by_identity:
            by_identity[group.project_id, group.key] = group
    left: list[GroupPlan] = []
    stale: list[str] = []
    for step in plan.groups:
        identity = step.project_id, step.key
        is_ = by_identity.get(identity) if step.action == "create" else by_id.get(step.group_id or "")
        rest = step if step.action == "none" else _rest(step, is_)
        if rest is None:
            gone = "is gone" if is_ is None else "exists already" if step.action == "create" else "differs"
            stale.append(f"{step.name} {gone}")
        else:
            left.append(rest)
    if stale:
        raise StalePlanError(stale)
    return replace(plan, groups=left)


def _rest(step: GroupPlan, live: MutexGroup | None) -> GroupPlan | None:
    """What is left of one step; ``None`` if the group is neither as it was nor on the way to where it shall be."""
    if step.new is not None:
        if live is None:
            return concerning(step, None)
        return replace(step, action="none", new=None) if _is_created(step, live) else None
    if live is None:
        # Archived groups may be hidden from the listing, so a group that is gone may have been archived by us.
        return replace(step, action="none") if step.action == "archive" and step.fingerprint != ABSENT else None
    if (live.project_id, live.key) != (step.project_id, step.key):
        return None
    # The plan's word for how things were is not taken: put back to it, the group must be the one the plan was made for.
    if fingerprint(apply_to(step, live, back=True)) != step.fingerprint or not _is_on_the_way(step, live):
        return None
    fields = [each for each in step.fields if getattr(live, each.field) != each.after]
    lists = [
        replace(each, before=list(unique(is_)))
        for each in step.lists
        if set(is_ := _list_of(live, each) or ()) != set(each.after)
    ]
    action = step.action
    if action == "archive" and live.deleted:
        action = "none"
    elif action == "unarchive" and not live.deleted:
        action = "update"
    if action == "update" and not fields and not lists:
        action = "none"
    rest = replace(step, action=action, fields=fields, lists=lists, fingerprint=fingerprint(live))
    return concerning(rest, live)


def _list_of(live: MutexGroup, change: ListChange) -> list[Any] | None:
    """What a list holds now; ``None`` if the group has no such slot."""
    slot = find_slot(live, change.slot_index)
    return None if slot is None else getattr(slot, change.field)


def _is_on_the_way(step: GroupPlan, live: MutexGroup) -> bool:
    """Whether all that a step changes is as it was, as it shall be, or as an edit on the way there leaves it."""
    if any(getattr(live, each.field) not in (each.before, each.after) for each in step.fields):
        return False
    arriving = {(each.field, member) for each in step.lists for member in each.added}
    for each in step.lists:
        is_, before, after = _list_of(live, each), set(each.before), set(each.after)
        # A slot may hold its new members and old ones, too, until another slot has taken those.
        moving = {member for member in each.removed if (each.field, member) in arriving}
        if is_ is None or not (set(is_) == before or after <= set(is_) <= after | moving):
            return False
    return True


def _is_created(step: GroupPlan, live: MutexGroup) -> bool:
    """Whether a live group is the one a step wanted to create."""
    new = step.new
    if new is None or live.deleted or len(live.slots) != len(new.slots):
        return False
    wished: list[tuple[Any, object]] = [
        (new.name, live.name),
        (new.description, live.description),
        (new.evaluation_mode, live.evaluation_mode),
        (new.bucketing_key, live.bucketing_key),
        (new.bucketing_salt, live.bucketing_salt),
    ]
    for slot, is_ in zip(new.slots, sorted(live.slots, key=lambda slot: slot.index), strict=True):
        wished.append((slot.percentage, is_.percentage))
        for name in ("experiments", "holdouts", "individuals"):
            wanted = getattr(slot, name)
            wished.append((set(wanted or ()), set(getattr(is_, name))))
    return all(wanted is UNSET or wanted == shown for wanted, shown in wished)
