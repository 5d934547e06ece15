"""A plan as people and programs read it. Plain text: colours are the command line's affair."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from msgspec import UNSET, to_builtins

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from aiomutex.models import NewGroup
    from aiomutex.plan.diff import Action, GroupPlan, ListChange, Plan
    from aiomutex.plan.running_experiments import TouchedExperiment
    from aiomutex.traffic import Comparison

__all__ = ["Line", "Mark", "lines", "move_lines", "plan_json", "render", "summary"]

Mark = Literal["+", "-", "~", "!", "?", " "]
"""What a line is about: added, removed, changed, an error, a note, or none of them."""
Line = tuple[Mark, str]

_MARKS: Final[dict[Action, Mark]] = {"create": "+", "update": "~", "archive": "-", "unarchive": "+", "none": " "}
_MEMBERS_SHOWN: Final = 12


def render(plan: Plan) -> str:
    """A plan as text, one screen for the common case, with counts at the end.

    Example:
        >>> from aiomutex.plan import parse_desired, plan
        >>> text = "groups: [{projectId: 1, key: a, name: A, slots: [{percentage: 100, experiments: [7]}]}]"
        >>> print(render(plan(parse_desired(text), [])))
        + a (project 1): create
            slot 1: 100 %, experiments 7
        1 to create, 0 to update, 0 to archive; 0 members join slots, 0 leave
    """
    return "\n".join([*(text for _, text in lines(plan)), summary(plan)])


def lines(plan: Plan) -> list[Line]:
    """The lines of a plan, each with what it is about."""
    return [line for group in plan.groups for line in _group(group)] + [("!", f"! {each}") for each in plan.excesses]


def summary(plan: Plan) -> str:
    """The counts of a plan in one line."""
    if plan.empty:
        return "nothing to do"
    counts = plan.counts
    parts = f"{counts.creates:,} to create, {counts.updates:,} to update, {counts.archives:,} to archive"
    if counts.unarchives:
        parts += f", {counts.unarchives:,} to take out of the archive"
    parts += f"; {counts.added:,} members join slots, {counts.removed:,} leave"
    return parts + (f"; {counts.errors:,} errors" if counts.errors else "")


def plan_json(plan: Plan, *, running: Sequence[TouchedExperiment] = ()) -> dict[str, Any]:
    """A plan as plain values, for ``--json``: the changes, the counts, and what blocks it."""
    return {
        "groups": [to_builtins(group) for group in plan.groups],
        "counts": to_builtins(plan.counts),
        "errors": plan.errors,
        "excesses": plan.excesses,
        "running": [to_builtins(finding) for finding in running],
        "empty": plan.empty,
    }


def _group(group: GroupPlan) -> Iterator[Line]:
    mark = _MARKS[group.action] if not group.errors else "!"
    title = {"none": "no change", "unarchive": "take out of the archive"}.get(group.action, group.action)
    if group.errors:
        title = "cannot be done"
    if group.action == "archive":
        title += f" ({group.members:,} members leave, for good)"
    yield mark, f"{mark} {group.name}: {title}".lstrip()
    for error in group.errors:
        yield "!", f"    ! {error}"
    if group.new is not None:
        yield from _new(group.new)
    for field in group.fields:
        yield "~", f"    {field.field}: {_text(field.before)} → {_text(field.after)}"
    for change in group.lists:
        yield from _list(change)
    for note in group.notes:
        yield "?", f"    ? {note}"


def _new(new: NewGroup) -> Iterator[Line]:
    for index, slot in enumerate(new.slots, 1):
        parts = [f"{slot.percentage} %"]
        for name in ("experiments", "holdouts", "individuals"):
            members = getattr(slot, name)
            if members is not UNSET:
                parts.append(f"{name} {_members(members)}")
        yield "+", f"    slot {index}: {', '.join(parts)}"


def _list(change: ListChange) -> Iterator[Line]:
    where = f"slot {change.slot_index} {change.field}"
    if change.added:
        yield "+", f"    {where}: + {_members(change.added)}"
    if change.removed:
        yield "-", f"    {where}: - {_members(change.removed)}"


def _text(value: str | None) -> str:
    return "none" if value is None else repr(value)


def _members(members: Sequence[int | str]) -> str:
    shown = ", ".join(map(str, members[:_MEMBERS_SHOWN]))
    more = len(members) - _MEMBERS_SHOWN
    return f"{shown} and {more:,} more" if more > 0 else shown


def move_lines(moves: Comparison) -> list[str]:
    """Who moves when a plan is applied: one line in all, one for each experiment."""
    return [
        f"{moves.share:.1%} of {moves.users:,} users would move",
        *(
            f"    experiment {move.experiment}: {move.before:,} → {move.after:,} users "
            f"(+{move.gained:,} −{move.lost:,})"  # noqa: RUF001  # a minus sign
            for move in moves.experiments
        ),
    ]
