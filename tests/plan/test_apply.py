from __future__ import annotations

import asyncio
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from support import ONCE, until

from aiomutex import AuthenticationError, JournalError, MutexSession, NotFoundError, SlotEdit, StaleSlotError
from aiomutex.bulk import undo
from aiomutex.emulator import Dialect, MutexEmulator
from aiomutex.plan import (
    PlanBlockedError,
    StalePlanError,
    Step,
    apply,
    check_running,
    parse_desired,
    plan,
    read_experiments,
    remaining,
)
from aiomutex.plan.changes import edit_rounds
from aiomutex.plan.experiments import state_of

from .strategies import moves, moving, states

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from aiohttp import web

    from aiomutex import MutexGroup
    from aiomutex.plan import Desired, Plan

pytestmark = pytest.mark.usefixtures("nothing_immutable_written")

DESIRED = parse_desired(
    "groups:\n"
    "- {projectId: 1, key: checkout, name: Till, description: new, slots: [{percentage: 40, experiments: [5]}, "
    "{percentage: 60, experiments: [1, 2]}]}\n"
    "- {projectId: 1, key: new, name: New, evaluationMode: local, bucketingKey: device_id, "
    "slots: [{percentage: 100, individuals: [ada]}]}\n"
    "- {projectId: 1, key: old, archived: true}\n"
    "- {projectId: 1, key: sleeping, archived: false}\n"
)


def fill(emulator: MutexEmulator) -> None:
    slots = [{"percentage": 40, "experiments": [1]}, {"percentage": 60, "experiments": [2]}]
    emulator.add_group("7", slots=slots, name="Checkout", key="checkout", project_id="1")
    emulator.add_group("8", slots=[100], name="Old", key="old", project_id="1")
    emulator.add_group("9", slots=[100], name="Sleeping", key="sleeping", project_id="1", deleted=True)


def only_slots(first: str, second: str) -> Desired:
    slots = f"[{{percentage: 40, experiments: {first}}}, {{percentage: 60, experiments: {second}}}]"
    return parse_desired(f"groups: [{{projectId: 1, key: checkout, slots: {slots}}}]")


async def planned(session: MutexSession, desired: Desired = DESIRED) -> Plan:
    return plan(desired, await session.list_groups().collect())


async def test_every_kind_of_change_is_applied(emulator: MutexEmulator, session: MutexSession) -> None:
    fill(emulator)
    steps: list[str] = []
    report = await apply(session, await planned(session), on_step=lambda step: steps.append(str(step)))
    assert report.complete
    report.raise_for_failures()
    assert sorted(steps) == [
        "archive old (project 1): applied",
        "create new (project 1): applied",
        "edit checkout (project 1): applied",
        "slot checkout (project 1), slot 1: applied",
        "slot checkout (project 1), slot 2: applied",
        "unarchive sleeping (project 1): applied",
    ]
    assert (await planned(session)).empty
    assert emulator.groups["7"].slots[0].experiments == [5]
    assert emulator.groups["8"].deleted
    assert (await apply(session, await planned(session))).steps == []


async def test_an_experiment_joins_its_new_slot_before_it_leaves_the_old_one(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    fill(emulator)
    slots = "[{percentage: 40, experiments: []}, {percentage: 60, experiments: [1, 2]}]"
    moved = f"groups: [{{projectId: 1, key: checkout, slots: {slots}}}]"
    await apply(session, await planned(session, parse_desired(moved)))
    assert [commit.slot_index for commit in emulator.commits] == [2, 1]


@given(state=states())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_after_any_plan_is_applied_no_changes_remain(
    emulator: MutexEmulator, session: MutexSession, state: tuple[list[MutexGroup], Desired]
) -> None:
    live, desired = state
    emulator.groups.clear()
    for group in live:
        emulator.add_group(
            group.id,
            slots=[
                {"percentage": s.percentage, "experiments": s.experiments, "holdouts": s.holdouts}
                | {"individuals": s.individuals, "cohorts": s.cohorts}
                for s in group.slots
            ],
            name=group.name,
            key=group.key,
            project_id=group.project_id,
            description=group.description,
            evaluation_mode=group.evaluation_mode,
            bucketing_key=group.bucketing_key,
            bucketing_salt=group.bucketing_salt,
            deleted=bool(group.deleted),
        )
    changes = await planned(session, desired)
    if changes.errors:
        with pytest.raises(PlanBlockedError):
            await apply(session, changes)
        return
    report = await apply(session, changes)
    report.raise_for_failures()
    assert (await planned(session, desired)).empty


async def test_a_blocked_plan_sends_nothing(emulator: MutexEmulator, session: MutexSession) -> None:
    fill(emulator)
    blocked = await planned(session, parse_desired("groups: [{projectId: 1, key: checkout, bucketingSalt: other}]"))
    emulator.requests.clear()
    with pytest.raises(PlanBlockedError, match="bucketingSalt") as caught:
        await apply(session, blocked, force=True)
    assert not caught.value.forceable
    assert not emulator.requests


async def test_a_threshold_needs_force(emulator: MutexEmulator, session: MutexSession) -> None:
    fill(emulator)
    slots = "[{percentage: 40, experiments: []}, {percentage: 60}]"
    text = f"thresholds: {{removals: 0.4}}\ngroups: [{{projectId: 1, key: checkout, slots: {slots}}}]"
    changes = await planned(session, parse_desired(text))
    with pytest.raises(PlanBlockedError, match=r"\(pass force=True to apply it anyway\): 1 of 2") as caught:
        await apply(session, changes)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.reasons, copy.forceable) == (caught.value.reasons, True)
    assert (await apply(session, changes, force=True)).complete


async def test_a_group_changed_since_the_plan_is_rejected_before_anything_is_written(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    fill(emulator)
    changes = await planned(session)
    emulator.groups["7"].slots[1].holdouts = [9]
    with pytest.raises(StalePlanError, match=r"checkout \(project 1\) differs"):
        await apply(session, changes)
    assert not emulator.commits


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("journal", [None, "apply.db"])
async def test_a_slot_changed_between_the_listing_and_its_write_is_left_alone(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path, verify: bool, journal: str | None
) -> None:
    fill(emulator)
    emulator.groups["7"].slots[0].holdouts = [4]

    def change_slot_1(step: Step) -> None:
        if step.kind == "edit":
            emulator.groups["7"].slots[0].experiments = [1, 9]
            emulator.groups["7"].slots[1].holdouts = [6]

    path = tmp_path / journal if journal else None
    report = await apply(session, await planned(session), verify=verify, journal=path, on_step=change_slot_1)
    (failed,) = report.failed
    assert (failed.kind, failed.slot_index) == ("slot", 1)
    assert isinstance(failed.error, StaleSlotError)
    assert (failed.error.group_id, failed.error.slot_index) == ("7", 1)
    assert (failed.error.expected, failed.error.actual) == ({"experiments": [1]}, {"experiments": [1, 9]})
    assert emulator.groups["7"].slots[0].experiments == [1, 9]
    # A colleague's change of a list that the plan does not write is kept, and is no reason to stop.
    assert (emulator.groups["7"].slots[1].experiments, emulator.groups["7"].slots[1].holdouts) == ([1, 2], [6])


def use_again(emulator: MutexEmulator) -> None:
    emulator.groups["8"].slots[0].experiments = [9]


def rename(emulator: MutexEmulator) -> None:
    emulator.groups["7"].name = emulator.groups["8"].name = "Theirs"


@pytest.mark.parametrize(("change", "kinds"), [(use_again, ["archive"]), (rename, ["archive", "edit"])])
async def test_a_group_changed_between_the_listing_and_its_write_is_left_alone(
    emulator: MutexEmulator, session: MutexSession, change: Callable[[MutexEmulator], None], kinds: list[str]
) -> None:
    fill(emulator)
    report = await apply(
        session, await planned(session), on_step=lambda step: change(emulator) if step.kind == "unarchive" else None
    )
    assert sorted(step.kind for step in report.failed) == kinds
    assert all(isinstance(step.error, StalePlanError) for step in report.failed)
    assert emulator.groups["7"].name == ("Theirs" if "edit" in kinds else "Till")
    assert not emulator.groups["8"].deleted


@given(move=moves, slot=st.integers(0, 4), rounds=st.integers(0, 4), verify=st.booleans())
@example(move=([[7], [8]], [[8], [7]]), slot=0, rounds=2, verify=False)
@example(move=([[7], [8]], [[8], [7]]), slot=0, rounds=4, verify=True)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_what_a_colleague_adds_between_two_rounds_is_never_lost(
    emulator: MutexEmulator, session: MutexSession, move: Any, slot: int, rounds: int, verify: bool
) -> None:
    (live,), desired = moving(*move)
    emulator.groups.clear()
    slots = [{"percentage": each.percentage, "experiments": each.experiments} for each in live.slots]
    emulator.add_group("7", slots=slots, name="Old", key=live.key, project_id="1")
    changes = await planned(session, replace(desired, groups=(replace(desired.groups[0], name="New"),)))
    # The edit of the name comes first, so the colleague may change the slot before any round, or after the last.
    edits = edit_rounds(changes.changes)
    steps = 1 + sum(map(len, edits[:rounds]))
    theirs = emulator.groups["7"].slots[slot % len(slots)]

    def on_step(_: Step) -> None:
        nonlocal steps
        steps -= 1
        if steps == 0:
            theirs.experiments = [*theirs.experiments, 999]

    report = await apply(session, changes, verify=verify, on_step=on_step)
    assert 999 in theirs.experiments
    assert all(isinstance(step.error, StaleSlotError) for step in report.failed)
    assert report.complete or rounds < len(edits)


async def test_a_slot_that_holds_its_new_content_already_is_not_stale(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    fill(emulator)

    def change_slot_1(step: Step) -> None:
        if step.kind == "edit":
            emulator.groups["7"].slots[0].experiments = [5]

    assert (await apply(session, await planned(session), on_step=change_slot_1)).complete


async def test_an_apply_with_failures_can_be_run_again(emulator: MutexEmulator, session: MutexSession) -> None:
    fill(emulator)
    changes = await planned(session)
    emulator.fail_next(1, status=400, method="PATCH", path="*/7/slots/1")
    emulator.fail_next(1, status=404, method="PATCH", path="*/mutexes/8")
    report = await apply(session, changes)
    assert sorted(str(step.kind) for step in report.failed) == ["archive", "slot"]
    assert not report.complete
    with pytest.raises(ExceptionGroup, match="2 of 6 steps failed") as caught:
        report.raise_for_failures()
    assert caught.value.subgroup(NotFoundError) is not None
    left = remaining(changes, await session.list_groups().collect())
    assert (left.counts.archives, left.counts.creates, len(left.groups[0].lists)) == (1, 0, 1)
    again = await apply(session, changes)
    assert sorted(str(step.kind) for step in again.steps) == ["archive", "slot"]
    assert (await planned(session)).empty
    assert emulator.writes["7", 2] == 1


async def test_a_member_stays_in_its_old_slot_if_the_edit_of_the_new_one_fails(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    fill(emulator)
    changes = await planned(session, only_slots("[5]", "[1, 404]"))
    emulator.fail_next(1, status=400, method="PATCH", path="*/7/slots/2")
    report = await apply(session, changes)
    assert [(step.slot_index, step.status) for step in report.steps] == [(2, "failed"), (1, "skipped")]
    assert report.skipped[0].note == "not sent: an earlier edit of the group failed"
    assert [slot.experiments for slot in emulator.groups["7"].slots] == [[1], [2]]


async def test_a_key_rejected_during_slot_edits_stops_the_other_edits_and_the_archives(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    fill(emulator)
    for number in range(10, 1200):
        emulator.add_group(str(number), slots=[100], key=f"g{number}", project_id="1")
    others = "".join(
        f"\n- {{projectId: 1, key: g{number}, slots: [{{percentage: 100, experiments: [1]}}]}}"
        for number in range(10, 1200)
    )
    changes = await planned(
        session,
        parse_desired(f"groups:\n- {{projectId: 1, key: old, archived: true}}{others}"),
    )
    emulator.fail_next(1200, status=401, method="PATCH")
    report = await apply(session, changes, verify=False)
    assert len(report.steps) == 1191
    assert {step.status for step in report.steps} == {"failed", "skipped"}
    assert report.steps[-1].kind == "archive"
    assert "answered 401" in report.steps[-1].note
    assert not emulator.commits


@pytest.mark.parametrize(
    ("fault", "status"), [({"n": 1, "status": 403}, "failed"), ({"n": 9, "kind": "reset-before"}, "unknown")]
)
async def test_a_group_that_stays_archived_is_not_edited(
    emulator: MutexEmulator, session: MutexSession, fault: dict[str, Any], status: str
) -> None:
    fill(emulator)
    slots = "[{percentage: 100, experiments: [5]}]"
    desired = parse_desired(
        f"groups: [{{projectId: 1, key: sleeping, name: Awake, archived: false, slots: {slots}}}, "
        f"{{projectId: 1, key: old, name: New, slots: {slots}}}]"
    )
    changes = await planned(session, desired)
    emulator.fail_next(method="PATCH", path="*/mutexes/9", **fault)
    report = await apply(session.with_options(retry=ONCE), changes)
    sleeping = [(step.kind, step.status) for step in report.steps if step.group.startswith("sleeping")]
    assert sleeping == [("unarchive", status), ("edit", "skipped"), ("slot", "skipped")]
    assert {step.note for step in report.skipped} == {"not sent: the group may still be archived"}
    assert {commit.group_id for commit in emulator.commits} == {"8"}
    emulator.faults.clear()
    assert (await apply(session, changes)).complete
    assert (await planned(session, desired)).empty


async def test_a_rejected_key_stops_the_rest(emulator: MutexEmulator, session: MutexSession) -> None:
    fill(emulator)
    changes = await planned(session)
    emulator.fail_next(100, status=401, method="P*")
    emulator.fail_next(100, status=401, method="PATCH")
    report = await apply(session, changes)
    assert [step.status for step in report.steps].count("failed") <= 2
    assert len(report.skipped) >= 3
    assert "not sent: " in report.skipped[0].note


@pytest.mark.parametrize("saved", [True, False], ids=["same plan", "new plan"])
@pytest.mark.parametrize("end", ["failed", "cancelled"])
async def test_an_interrupted_apply_resumes_with_its_journal_and_all_of_it_can_be_undone(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path, end: str, saved: bool
) -> None:
    fill(emulator)
    changes, journal = await planned(session), tmp_path / "apply.db"
    if end == "failed":
        emulator.fail_next(1, status=400, method="PATCH", path="*/7/slots/1")
        assert not (await apply(session, changes, journal=journal)).complete
    else:
        emulator.fail_next(1, kind="stall", method="PATCH", path="*/7/slots/1")
        task = asyncio.create_task(apply(session, changes, journal=journal))
        await until(lambda: any(request.path.endswith("/7/slots/1") for request in emulator.requests))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert [slot.experiments for slot in emulator.groups["7"].slots] == [[1], [1, 2]]
    again = await apply(session, changes if saved else await planned(session), journal=journal)
    assert again.complete
    assert sorted(step.kind for step in again.steps) == (["slot"] if end == "failed" else ["archive", "slot"])
    assert [slot.experiments for slot in emulator.groups["7"].slots] == [[5], [1, 2]]
    assert (await planned(session)).empty
    (await undo(session, journal)).raise_for_failures()
    assert [slot.experiments for slot in emulator.groups["7"].slots] == [[1], [2]]


async def test_a_journal_keeps_the_earliest_content_of_written_slots_only(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    fill(emulator)
    journal = tmp_path / "apply.db"
    emulator.fail_next(1, status=400, method="PATCH", path="*/7/slots/2")
    await apply(session, await planned(session, only_slots("[5]", "[404]")), journal=journal)
    # The file is corrected, and someone else changes the slot that was not written yet.
    emulator.groups["7"].slots[1].experiments = [2, 9]
    assert (await apply(session, await planned(session, only_slots("[6]", "[4]")), journal=journal)).complete
    (await undo(session, journal)).raise_for_failures()
    assert [slot.experiments for slot in emulator.groups["7"].slots] == [[1], [2, 9]]


async def test_a_journal_of_something_else_is_rejected_before_anything_is_written(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    fill(emulator)
    assert (await apply(session, await planned(session), journal=tmp_path / "done.db")).complete
    next_plan = await planned(session, only_slots("[8]", "[9]"))
    edits = [SlotEdit(7, 1, experiments=[5]), SlotEdit(7, 2, experiments=[1, 2])]
    await session.edit_slots(edits, journal=tmp_path / "edits.db")
    await apply(session, await planned(session, only_slots("[3]", "[1, 2]")), journal=tmp_path / "undone.db")
    await undo(session, tmp_path / "undone.db")
    emulator.clear_history()
    for name, message in (("done", "a completed apply; use a new"), ("edits", "a bulk run, not"), ("undone", "undone")):
        with pytest.raises(JournalError, match=message):
            await apply(session, next_plan, journal=tmp_path / f"{name}.db")
    assert not emulator.writes
    # The rejected journals are unchanged.
    assert len((await session.edit_slots(edits, journal=tmp_path / "edits.db")).skipped) == 2
    await undo(session, tmp_path / "done.db")
    assert [slot.experiments for slot in emulator.groups["7"].slots] == [[1], [2]]


async def test_a_plan_without_changes_needs_no_journal(
    emulator: MutexEmulator, session: MutexSession, tmp_path: Path
) -> None:
    fill(emulator)
    changes, journal = await planned(session), tmp_path / "apply.db"
    await apply(session, changes, journal=journal)
    assert (await apply(session, changes, journal=journal)).steps == []
    assert (await apply(session, await planned(session), journal=tmp_path / "other.db")).complete
    assert not (tmp_path / "other.db").exists()


async def test_verification_detects_a_service_that_merges_lists(emulator: MutexEmulator, session: MutexSession) -> None:
    fill(emulator)
    emulator.dialect = Dialect(slot_patch="merge")
    report = await apply(session, await planned(session))
    assert [(step.kind, step.slot_index) for step in report.failed] == [("slot", 1)]


async def test_running_experiments_are_reported_with_the_groups_that_affect_them(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    from aiohttp import web  # noqa: PLC0415  # as the emulator's pages want it

    fill(emulator)
    emulator.groups["8"].slots[0].experiments = [6, 8, 9]
    bodies = {
        "1": '{"state": "running"}',
        "5": '{"state": "planning", "evaluationMode": "local"}',
        "6": "{}",
        "8": "[]",
        "9": "not JSON",
    }

    def page(body: str) -> Callable[[web.BaseRequest], Awaitable[web.Response]]:
        async def handler(_: web.BaseRequest) -> web.Response:
            return web.Response(text=body, content_type="application/json")

        return handler

    for number, body in bodies.items():
        emulator.pages[f"/api/1/experiments/{number}"] = page(body)
    changes = await planned(session)
    findings = check_running(changes, await read_experiments(session, changes.experiments))
    assert [str(each) for each in findings] == [
        "experiment 1 is running; affected by checkout (project 1)",
        "experiment 6 may be running (state None); affected by old (project 1)",
        "experiment 8 may be running (state None); affected by old (project 1)",
        "experiment 9 may be running (state None); affected by old (project 1)",
    ]


async def test_an_unknown_experiment_counts_as_running_and_a_rejected_key_ends_the_check(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    fill(emulator)
    changes = await planned(session)
    findings = check_running(changes, await read_experiments(session, changes.experiments))
    assert [(each.experiment, each.state, each.reason) for each in findings] == [
        (1, "unknown", "does not exist, as far as the service says"),
        (5, "unknown", "does not exist, as far as the service says"),
    ]
    emulator.fail_next(1, status=403, path="*/experiments/1")
    findings = check_running(changes, await read_experiments(session, changes.experiments))
    assert findings[0].reason.startswith("could not be read (GET /api/1/experiments/1 answered 403")
    emulator.fail_next(2, status=401, path="*/experiments/*")
    with pytest.raises(AuthenticationError):
        check_running(changes, await read_experiments(session, changes.experiments))


@pytest.mark.parametrize(
    ("described", "state"),
    [
        ({"state": "running"}, "running"),
        ({"state": "RUNNING", "enabled": False}, "running"),
        ({"state": "Decision Made"}, "stopped"),
        ({"state": "rolled_out"}, "stopped"),
        ({"state": "running", "deleted": True}, "stopped"),
        ({"state": "whatever"}, "unknown"),
        ({"state": 3, "enabled": True}, "unknown"),
        ({"enabled": False}, "stopped"),
        ({}, "unknown"),
    ],
)
def test_an_experiment_that_is_not_clearly_stopped_counts_as_running(described: dict[str, object], state: str) -> None:
    assert state_of(described)[0] == state
