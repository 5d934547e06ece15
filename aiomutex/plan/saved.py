"""Saves plans to files, and finds what remains to be done of a plan after an interrupted apply.

A plan is applied only if each group still has its fingerprint, or some of the plan's changes and no others.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec.structs import replace

from aiomutex._util.files import open_private
from aiomutex._util.wording import counted
from aiomutex.errors import MutexError
from aiomutex.models import MutexGroup, find_slot
from aiomutex.plan.changes import ABSENT, GroupPlan, ListChange, Plan, apply_to, current_groups, fingerprint, is_like
from aiomutex.plan.desired import identity_of, unique
from aiomutex.plan.diff import with_affected
from aiomutex.plan.formats import DesiredFileError, Problem, read_file

if TYPE_CHECKING:
    from collections.abc import Iterable


class _SavedPlan(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The content of the file: a version, which also distinguishes it from a desired state in JSON, and the plan."""

    aiomutex_plan: Literal[1] = 1
    plan: Plan


class StalePlanError(MutexError):
    """Groups have changed since the plan was made. Nothing was written. Make a new plan.

    Attributes:
        groups: The groups that changed, each with what is different.
    """

    def __init__(self, groups: list[str]) -> None:
        changed = f"{counted(len(groups), 'group')} changed since the plan was made, so nothing was written"
        super().__init__(f"{changed}; make a new plan: {'; '.join(groups)}")
        self.groups = groups


def save_plan(plan: Plan, path: str | Path) -> None:
    """Save a plan to a file, for ``load_plan``. Equal plans make equal files. A new file is for its owner only.

    Raises:
        OSError: The file cannot be written.
    """
    data = msgspec.json.encode(_SavedPlan(plan=plan))
    with open_private(path) as file:
        file.write(msgspec.json.format(data, indent=1).decode() + "\n")


def is_saved_plan(path: str | Path) -> bool:
    """Whether a file is a saved plan rather than a desired state."""
    if not Path(path).is_file():
        return False  # reading from a pipe would wait for its writer
    with Path(path).open("rb") as file:
        return b'"aiomutexPlan"' in file.read(64)


def load_plan(path: str | Path) -> Plan:
    """Read a saved plan.

    Raises:
        DesiredFileError: The file is not a saved plan, or has another version.
        OSError: The file cannot be read.
    """
    data = read_file(Path(path))
    try:
        return msgspec.json.decode(data, type=_SavedPlan).plan
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DesiredFileError(str(path), [Problem(0, f"not a saved plan: {error}; make a new plan")]) from None


def remaining(plan: Plan, live: Iterable[MutexGroup]) -> Plan:
    """Return what remains to be done of a plan, given the groups as they are now.

    Raises:
        StalePlanError: A group has changes that are not the plan's.
    """
    by_identity = current_groups(groups := list(live))
    by_id = {group.id: group for group in groups}
    left: list[GroupPlan] = []
    stale: list[str] = []
    for change in plan.groups:
        creates = change.action == "create"
        actual = by_identity.get(change.identity) if creates else by_id.get(change.group_id or "")
        rest = change if change.action == "none" else _remaining_change(change, actual)
        if change.awaited and change.awaited not in by_identity and (actual is None or actual.deleted):
            rest = None  # without its successor, nothing holds the users of the archived group
        if rest is None:
            stale.append(f"{change.name} {'is gone' if actual is None else 'exists already' if creates else 'differs'}")
        else:
            left.append(rest)
    if stale:
        raise StalePlanError(stale)
    return replace(plan, groups=left)


def _remaining_change(change: GroupPlan, live: MutexGroup | None) -> GroupPlan | None:
    if change.new is not None:
        if live is None:
            return with_affected(change, None)
        return replace(change, action="none", new=None) if is_like(live, change.new) else None
    if live is None:
        # The listing may hide archived groups, so a group that is gone may be the one that an earlier apply archived.
        is_archived = change.action == "archive" and change.fingerprint != ABSENT
        return replace(change, action="none", old=None) if is_archived else None
    if identity_of(live.project_id, live.key) != change.identity:
        return None
    # The file's word for what the group was like is not trusted: with the changes reverted, the fingerprint must match.
    if fingerprint(apply_to(change, live, revert=True)) != change.fingerprint or not _is_in_progress(change, live):
        return None
    fields = [each for each in change.fields if getattr(live, each.field) != each.after]
    now = [(each, unique(_list_of(live, each) or ())) for each in change.lists]
    lists = [replace(each, before=[*actual]) for each, actual in now if set(actual) != set(each.after)]
    action = "update" if change.action == "unarchive" and not live.deleted else change.action
    if (action == "archive" and live.deleted) or (action == "update" and not fields and not lists):
        action = "none"
    rest = replace(change, action=action, fields=fields, lists=lists, fingerprint=fingerprint(live))
    return with_affected(rest, live)


def _list_of(live: MutexGroup, change: ListChange) -> list[Any] | None:
    return getattr(find_slot(live, change.slot_index), change.field, None)


def _is_in_progress(change: GroupPlan, live: MutexGroup) -> bool:
    """Whether everything to be changed is as before, as planned, or as an edit in between leaves it."""
    if any(getattr(live, each.field) not in (each.before, each.after) for each in change.fields):
        return False
    added = {(each.field, member) for each in change.lists for member in each.added}
    for each in change.lists:
        actual, before, after = _list_of(live, each), set(each.before), set(each.after)
        # In between, a slot may hold its new members and those old ones that another slot is yet to gain.
        moving = {member for member in each.removed if (each.field, member) in added}
        if actual is None or not (set(actual) == before or after <= set(actual) <= after | moving):
            return False
    return True
