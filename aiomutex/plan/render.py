"""Renders plans as text and JSON. The text has no colours; the command line adds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec import UNSET, to_builtins

from aiomutex._util.wording import counted
from aiomutex.models import SLOT_LISTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aiomutex.models import NewGroup
    from aiomutex.plan.changes import Action, GroupPlan, Plan
    from aiomutex.plan.experiments import AffectedExperiment

__all__ = ["Line", "Mark", "lines", "plan_json", "render", "summary"]

Mark = Literal["+", "-", "~", "!", "?", " "]
"""The subject of a line: something added, removed or changed, an error, a note, or none of these."""
Line = tuple[Mark, str]

_MARKS: Final[dict[Action, Mark]] = {"create": "+", "update": "~", "archive": "-", "unarchive": "+", "none": " "}
_MAX_MEMBERS: Final = 12


def render(plan: Plan) -> str:
    """Render a plan as text, with a line of counts at the end.

    Example:
        >>> from aiomutex.plan import parse_desired, plan
        >>> text = "groups: [{projectId: 1, key: a, name: A, slots: [{percentage: 100, experiments: [7]}]}]"
        >>> print(render(plan(parse_desired(text), [])))
        + a (project 1): create
            slot 1: 100 %, experiments 7
        1 to create, 0 to update, 0 to archive; 0 members added, 0 removed
    """
    return "\n".join([*(text for _, text in lines(plan)), summary(plan)])


def lines(plan: Plan) -> list[Line]:
    """Render a plan as lines, each with its mark."""
    return [line for group in plan.groups for line in _group(group)] + [
        ("!", f"! {each}") for each in plan.exceeded_thresholds
    ]


def summary(plan: Plan) -> str:
    """Render the counts of a plan in one line."""
    if plan.empty:
        return "no changes"
    counts = plan.counts
    parts = f"{counts.creates:,} to create, {counts.updates:,} to update, {counts.archives:,} to archive"
    if counts.unarchives:
        parts += f", {counts.unarchives:,} to unarchive"
    parts += f"; {counted(counts.added, 'member')} added, {counts.removed:,} removed"
    return parts + (f"; {counted(counts.errors, 'error')}" if counts.errors else "")


def plan_json(plan: Plan, *, running: Sequence[AffectedExperiment] = ()) -> dict[str, Any]:
    """Render a plan, and what ``check_running`` found, as plain values."""
    return {
        "groups": [to_builtins(group) for group in plan.groups],
        "counts": to_builtins(plan.counts),
        "errors": plan.errors,
        "exceededThresholds": plan.exceeded_thresholds,
        "running": [to_builtins(finding) for finding in running],
        "empty": plan.empty,
    }


def _group(group: GroupPlan) -> Iterator[Line]:
    mark = _MARKS[group.action] if not group.errors else "!"
    title: str = "blocked" if group.errors else "no change" if group.action == "none" else group.action
    if group.action == "archive":
        title += f" ({counted(group.members, 'member leaves its slot', 'members leave their slots')} permanently)"
    yield mark, f"{mark} {group.name}: {title}".lstrip()
    for error in group.errors:
        yield "!", f"    ! {error}"
    if group.new is not None:
        yield from _new(group.new)
    for field in group.fields:
        before, after = ("none" if each is None else repr(each) for each in (field.before, field.after))
        yield "~", f"    {field.field}: {before} → {after}"
    for change in group.lists:
        where = f"slot {change.slot_index} {change.field}"
        if change.added:
            yield "+", f"    {where}: + {_members(change.added)}"
        if change.removed:
            yield "-", f"    {where}: - {_members(change.removed)}"
    for note in group.notes:
        yield "?", f"    ? {note}"


def _new(new: NewGroup) -> Iterator[Line]:
    for index, slot in enumerate(new.slots, 1):
        lists = [f"{name} {_members(members)}" for name in SLOT_LISTS if (members := getattr(slot, name)) is not UNSET]
        parts = [f"{slot.percentage} %", *lists]
        yield "+", f"    slot {index}: {', '.join(parts)}"


def _members(members: Sequence[int | str]) -> str:
    shown = ", ".join(map(str, members[:_MAX_MEMBERS]))
    more = len(members) - _MAX_MEMBERS
    return f"{shown} and {more:,} more" if more > 0 else shown
