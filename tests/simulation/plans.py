"""Plans in the simulation: the desired state of a call, and what must hold after it was applied."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from aiomutex import VerificationError
from aiomutex.plan import Desired, DesiredGroup, DesiredSlot, Plan, PlanBlockedError, StalePlanError, plan

from .service import COLLEAGUE, holds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiomutex import MutexGroup
    from aiomutex.plan import GroupPlan, Step

    from .scenario import Call, Lists
    from .service import Group
    from .world import CallRecord, World

__all__ = ["PLAN_INVARIANTS", "make_plan"]


def make_plan(call: Call, live: list[MutexGroup]) -> Plan:
    """The plan that leads to what a call describes: slots with the lists of its edits, a new group, an archived one."""
    lists: dict[str, dict[int, Lists]] = defaultdict(lambda: defaultdict(dict))
    for edit in call.edits:
        lists[str(edit.group)][edit.slot].update(edit.lists)
    groups = [
        DesiredGroup(
            project_id=group.project_id,
            key=group.key,
            archived=group.id == str(call.archived),
            slots=tuple(_slot(slot.percentage, lists[group.id][slot.index]) for slot in group.slots),
        )
        for group in live
        if group.id in lists or group.id == str(call.archived)
    ]
    if call.key is not None:
        slots = (_slot(50, {"experiments": call.members}), _slot(50, {}))
        groups.append(DesiredGroup(project_id="1", key=call.key, name="New", slots=slots))
    return plan(Desired(groups=tuple(groups)), live)


def _slot(percentage: float, lists: Lists) -> DesiredSlot:
    members: Any = {name: tuple(items) for name, items in lists.items()}
    return DesiredSlot(percentage=percentage, **members)


def _applies(world: World) -> Iterator[CallRecord]:
    for record in world.records:
        if record.call.kind == "apply" and record.plan is not None:
            yield record


def _authors(world: World, record: CallRecord) -> set[str]:
    """A call and the earlier ones that applied the same plan."""
    return {
        each.name for each in _applies(world) if each.call.plan == record.call.plan and each.started <= record.started
    }


def _desired(change: GroupPlan) -> dict[tuple[int, int], Lists]:
    lists: dict[tuple[int, int], Lists] = defaultdict(dict)
    for each in change.lists:
        lists[int(change.group_id or 0), each.slot_index][each.field] = each.after
    return lists


def _found(world: World, change: GroupPlan) -> Group | None:
    return next((group for group in world.service.groups.values() if group.key == change.key), None)


def _others_wrote(world: World, since: float) -> bool:
    return any(commit.author == COLLEAGUE and commit.at >= since for commit in world.service.commits)


def steps_are_true(world: World) -> Iterator[str]:
    """A step reported as applied is in effect, and one that failed or was skipped wrote nothing."""
    for record in _applies(world):
        assert record.plan is not None
        for change in record.plan.changes:
            steps = [(at, step) for at, step in record.steps if step.group == change.name]
            for (group, slot), lists in _desired(change).items():
                mine = [(at, step) for at, step in steps if step.slot_index == slot]
                since = min(each.started for each in _applies(world) if each.name in _authors(world, record))
                if mine and all(step.status == "applied" for _, step in mine):
                    held = [each.content for each in world.service.versions((group, slot), since, mine[-1][0])]
                    holding = holds if record.result is not None else _holds_at_least  # members may be on the move
                    # Without a read, nothing shows that somebody has changed another list just before.
                    parts = [lists] if record.call.verify else [{name: items} for name, items in lists.items()]
                    if not all(any(holding(content, part) for content in held) for part in parts):
                        yield f"{record.name} applied {lists} to {group}, {slot}, which never held it: {held}"
                if mine and all(_wrote_nothing(step) for _, step in mine) and _written(world, record, (group, slot)):
                    yield f"{record.name} reported no write to {group}, {slot}, and wrote it: {mine}"
            found = _found(world, change)
            for _, step in steps:
                if step.kind == "create":
                    is_made = found is not None and found.slots[1][0].content["experiments"] == record.call.members
                    if step.status == "applied" and not is_made:
                        yield f"{record.name} reported {change.name} as created, and it was not"
                    if _wrote_nothing(step) and found is not None and found.author == record.name:
                        yield f"{record.name} created {change.name} and reported {step.error!r}"
                elif step.kind == "archive" and found is not None:
                    if step.status == "applied" and not found.is_archived:
                        yield f"{record.name} reported {change.name} as archived, and it was not"
                    if _wrote_nothing(step) and found.archived_by == record.name:
                        yield f"{record.name} archived {change.name} and reported {step.error!r}"


def _wrote_nothing(step: Step) -> bool:
    error = step.error
    is_certain = error is not None and not error.maybe_applied and not isinstance(error, VerificationError)
    return step.status == "skipped" or (step.status == "failed" and is_certain)


def _holds_at_least(content: Lists, lists: Lists) -> bool:
    return all(set(items) <= set(content[name]) for name, items in lists.items())


def _written(world: World, record: CallRecord, place: tuple[int, int]) -> bool:
    return any(commit.author == record.name and commit.place == place for commit in world.service.commits)


def a_stale_plan_writes_nothing(world: World) -> Iterator[str]:
    """A plan that is refused has written nothing, and no plan is refused for its own changes."""
    for record in _applies(world):
        writes = [sent for sent in world.network.sent if sent.call == record.name and sent.method != "GET"]
        if isinstance(record.error, StalePlanError | PlanBlockedError) and writes:
            yield f"{record.name} raised {record.error!r}, and sent request {writes[0].number}"
        if world.scenario.service.lag or _is_disturbed(world):
            continue
        stale = [step for _, step in record.steps if type(step.error).__name__ in ("StalePlanError", "StaleSlotError")]
        if isinstance(record.error, StalePlanError | PlanBlockedError) or stale:
            yield f"{record.name} is stale, and nobody else wrote: {record.error!r} {stale}"


def _is_disturbed(world: World) -> bool:
    return any(
        event.kind in ("colleague", "create") for phase in world.scenario.phases for event in phase.events
    ) or any(call.kind not in ("apply", "read", "list") for phase in world.scenario.phases for call in phase.calls)


def nothing_seen_is_overwritten(world: World) -> Iterator[str]:
    """A plan never overwrites what somebody else wrote after the plan's reading, once a later reading has shown it."""
    if world.scenario.service.lag:
        return
    for record in _applies(world):
        assert record.plan is not None
        names = _authors(world, record)
        before: dict[tuple[int, int, str], Any] = {
            (int(change.group_id or 0), each.slot_index, each.field): each.before
            for change in record.plan.changes
            for each in change.lists
        }
        requests = {sent.number: sent for sent in world.network.sent}
        readings = [sent for sent in world.network.sent if sent.call == record.name and sent.method == "GET"]
        for commit in world.service.commits:
            if commit.author != record.name:
                continue
            earlier = [
                each for each in world.service.commits
                if each.place == commit.place and each.at < commit.at and each.lists.keys() & commit.lists.keys()
            ]  # fmt: skip
            if not earlier or earlier[-1].author in names:
                continue
            if all(before.get((*commit.place, name)) == items for name, items in earlier[-1].lists.items()):
                continue  # the plan is made for it
            changed, sent = earlier[-1].at, requests[commit.request].at
            for reading in readings:
                if not (reading.is_answered and reading.over is not None and reading.over < sent):
                    continue
                if (reading.arrived or 0.0) > changed and _shows(reading.path, commit.place[0]):
                    yield (
                        f"{record.name} overwrote {earlier[-1].lists} of {commit.place} in request {commit.request},"
                        f" though request {reading.number} had shown it"
                    )


def _shows(path: str, group: int) -> bool:
    path, _, query = path.partition("?")
    if not query:
        return path.endswith(f"/{group}")
    given = dict(pair.split("=") for pair in query.split("&"))
    return int(given.get("cursor", 0)) < group <= int(given.get("cursor", 0)) + int(given["limit"])


def a_complete_plan_is_in_effect(world: World) -> Iterator[str]:
    """An apply that returns has a step for each change, and one without failures leaves everything as planned."""
    for record in _applies(world):
        if record.result is None or record.plan is None:
            continue
        if record.result.steps != [step for _, step in record.steps]:
            yield f"{record.name} returned other steps than it reported"
        if not record.result.complete or _others_wrote(world, record.planned_at) or world.scenario.service.lag:
            continue
        later = [each for each in world.records if each.started > record.started and each.call.kind != "apply"]
        if later or any(fault.kind == "late" for phase in world.scenario.phases for fault in phase.faults):
            continue
        for change in record.plan.changes:
            for place, lists in _desired(change).items():
                if not holds(world.service.content(place), lists):
                    yield f"{record.name} is complete, and {place} holds {world.service.content(place)}, not {lists}"
            if (found := _found(world, change)) is None or found.is_archived != (change.action == "archive"):
                yield f"{record.name} is complete, and {change.name} is not as planned"


PLAN_INVARIANTS = (
    steps_are_true,
    a_stale_plan_writes_nothing,
    nothing_seen_is_overwritten,
    a_complete_plan_is_in_effect,
)
"""What must hold after plans were applied."""
