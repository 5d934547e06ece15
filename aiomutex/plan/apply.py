"""Applies a plan: unarchives groups, creates groups, edits names and descriptions, edits slots, archives groups.

Every write can be repeated safely, so an interrupted apply is run again. A group that fails does not stop the others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from aiomutex._util.tasks import run_workers
from aiomutex._util.wording import counted
from aiomutex.errors import MutexError
from aiomutex.plan.changes import GroupPlan, Plan, current_groups, edit_rounds, is_like
from aiomutex.plan.desired import Identity, group_name
from aiomutex.plan.saved import StalePlanError, remaining

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Sequence

    from aiomutex.bulk.options import AnyEdit
    from aiomutex.bulk.report import SlotOutcome
    from aiomutex.session import MutexSession

StepKind = Literal["create", "unarchive", "edit", "slot", "archive"]
StepStatus = Literal["applied", "failed", "skipped", "unknown"]


class PlanBlockedError(MutexError):
    """A plan cannot be applied as it is. Nothing was sent.

    Attributes:
        reasons: Why, one line each.
        forceable: Whether ``force`` applies it anyway: true for thresholds, false for errors.
    """

    def __init__(self, reasons: Sequence[str], *, forceable: bool) -> None:
        hint = " (pass force=True to apply it anyway)" if forceable else ""
        super().__init__(f"the plan is blocked{hint}: {'; '.join(reasons)}")
        self.reasons = tuple(reasons)
        self.forceable = forceable


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One write of an apply, and its outcome."""

    kind: StepKind
    group: str
    """The group's name in messages."""
    slot_index: int | None = None
    status: StepStatus = "applied"
    error: MutexError | None = None
    note: str = ""
    """Why the step was skipped."""

    def __str__(self) -> str:
        slot = f", slot {self.slot_index}" if self.slot_index is not None else ""
        detail = f": {self.error or self.note}" if self.error or self.note else ""
        return f"{self.kind} {self.group}{slot}: {self.status}{detail}"


class ApplyReport(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of an apply."""

    steps: list[Step]

    @property
    def failed(self) -> list[Step]:
        """Steps that failed, or whose outcome is unknown."""
        return [step for step in self.steps if step.status in ("failed", "unknown")]

    @property
    def skipped(self) -> list[Step]:
        """Steps that were not sent."""
        return [step for step in self.steps if step.status == "skipped"]

    @property
    def complete(self) -> bool:
        """Whether every step was applied."""
        return all(step.status == "applied" for step in self.steps)

    def raise_for_failures(self) -> None:
        """Raise the errors of failed steps; do nothing if there are none.

        Raises:
            ExceptionGroup: With the error of each failed step.
        """
        if errors := [step.error for step in self.steps if step.error is not None]:
            raise ExceptionGroup(f"{len(errors)} of {counted(len(self.steps), 'step')} failed", errors)


async def apply(
    session: MutexSession,
    plan: Plan,
    *,
    force: bool = False,
    journal: str | os.PathLike[str] | None = None,
    verify: bool = True,
    on_step: Callable[[Step], object] | None = None,
) -> ApplyReport:
    """Apply a plan.

    The groups are listed first. If one of them was changed by someone else since the plan was made, nothing is written.
    What an earlier apply of the same plan has done is not repeated. Each group is read again shortly before it is
    written (at most 60 s before a slot is). If somebody has changed meanwhile what a step would overwrite, the step
    writes nothing and fails with a ``StaleSlotError``, or with a ``StalePlanError`` if it is not about a slot.

    Args:
        session: An open session.
        plan: The plan, from ``plan`` or ``load_plan``.
        force: Apply although a threshold is exceeded. Errors of the plan cannot be forced.
        journal: A file that records what each slot held before, for ``aiomutex.bulk.undo``. To resume an interrupted
            apply, pass the same file with the same plan, or with a new plan for the rest: an undo then covers all runs.
            After a plan is complete, the next one needs a new file.
        verify: Read each group again after its slots are written.
        on_step: Called with each step once its outcome is known. It must not block.

    Returns:
        A report with a step for each write; empty if there was nothing to do.

    Raises:
        PlanBlockedError: The plan has errors, or exceeds a threshold. Nothing was sent.
        StalePlanError: A group has changed since the plan was made. Nothing was written.
        JournalError: The journal belongs to an apply that is complete or was undone, or to a bulk run, or is not a
            journal. Nothing was written.

    Example:
        >>> from aiomutex.plan import parse_desired, plan
        >>> desired = parse_desired("groups: [{projectId: 1, key: group-1, name: Checkout}]")
        >>> changes = plan(desired, await session.list_groups().collect())
        >>> report = await apply(session, changes)
        >>> print(*report.steps)
        edit group-1 (project 1): applied
    """
    if plan.errors:
        raise PlanBlockedError(plan.errors, forceable=False)
    if plan.exceeded_thresholds and not force:
        raise PlanBlockedError(plan.exceeded_thresholds, forceable=True)
    # Two at a time, because with more, pages past the end would cost as much as the rest of a small apply.
    live = await session.list_groups().collect(concurrency=2)
    if not (todo := remaining(plan, live).changes):
        return ApplyReport(steps=[])
    _mark(journal)
    run = _Run(session, on_step, {identity: group.id for identity, group in current_groups(live).items()})
    archived = [change for change in todo if change.action == "unarchive"]
    await run.write_all("unarchive", archived, lambda change: session.unarchive_group(change.group_id or ""))
    await run.write_all("create", [change for change in todo if change.new is not None], run.create)
    await run.write_all("edit", [change for change in todo if change.fields], run.edit)
    await run.edit_slots(todo, journal, verify=verify)
    # Archives come last, so that experiments join their new groups before they lose the old one.
    await run.write_all("archive", [change for change in todo if change.action == "archive"], run.archive)
    report = ApplyReport(steps=run.steps)
    if report.complete:
        _mark(journal, complete=True)
    return report


def _mark(path: str | os.PathLike[str] | None, *, complete: bool = False) -> None:
    """Record in the journal, if there is one, that a run of the apply begins or that the apply is complete."""
    if path is not None:
        from aiomutex.bulk.journal import Journal  # noqa: PLC0415  # imports SQLite only if a journal is used

        with Journal(path) as journal:
            journal.end_apply() if complete else journal.begin_apply()


@dataclass
class _Run:
    session: MutexSession
    on_step: Callable[[Step], object] | None
    ids: dict[Identity, str]
    steps: list[Step] = field(default_factory=list[Step])
    stopped: str = ""
    """Why no more steps are sent at all."""
    blocked: dict[str | Identity | None, str] = field(default_factory=dict[str | Identity | None, str])
    """By group ID, why no more steps are sent for the group; by identity, why for the one that it replaces."""

    def record(self, step: Step) -> None:
        self.steps.append(step)
        if self.on_step is not None:
            self.on_step(step)

    async def write_all(
        self, kind: StepKind, changes: list[GroupPlan], write: Callable[[GroupPlan], Awaitable[object]]
    ) -> None:
        """Make one write for each change, a few at a time, and record the outcomes."""
        from aiomutex.bulk.options import FATAL  # noqa: PLC0415  # imports what only a run needs

        async def write_one(change: GroupPlan) -> None:
            if note := self.stopped or self.blocked.get(change.group_id) or self.blocked.get(change.awaited):
                self.record(Step(kind=kind, group=change.name, status="skipped", note=note))
                return
            try:
                await write(change)
            except MutexError as error:
                status: StepStatus = "unknown" if error.maybe_applied else "failed"
                self.record(Step(kind=kind, group=change.name, status=status, error=error))
                if kind == "unarchive":
                    self.blocked[change.group_id] = "not sent: the group may still be archived"
                self.blocked[change.identity] = f"not sent: {change.name} is not ready to replace it"
                if isinstance(error, FATAL):
                    self.stopped = f"not sent: {error}"
            else:
                self.record(Step(kind=kind, group=change.name))

        await run_workers(write_one, changes, concurrency=8)

    async def archive(self, change: GroupPlan) -> None:
        live = await self.session.get_group(change.group_id or "")
        remaining(Plan(groups=[change]), [live])  # raises if somebody changed the group: archiving cannot be undone
        if (new := change.successor) is not None and change.awaited is not None:
            found = await self.session.get_group(self.ids[change.awaited])
            if not is_like(found, new):
                raise StalePlanError([f"{group_name(new.project_id, new.key)} differs"])
        await self.session.archive_group(live.id)

    async def create(self, change: GroupPlan) -> None:
        if change.new is not None:
            self.ids[change.identity] = (await self.session.create_group(change.new)).id

    async def edit(self, change: GroupPlan) -> None:
        live = await self.session.get_group(change.group_id or "")
        if any(getattr(live, each.field) not in (each.before, each.after) for each in change.fields):
            raise StalePlanError([f"{change.name} differs"])
        fields: dict[str, Any] = {each.field: each.after for each in change.fields}
        await self.session.edit_group(live.id, **fields)

    async def edit_slots(self, todo: list[GroupPlan], journal: str | os.PathLike[str] | None, *, verify: bool) -> None:
        """Send the slot edits in rounds. If an edit fails, its group gets no more edits in later rounds."""
        names = {change.group_id: change.name for change in todo}

        def record(edit: AnyEdit, status: StepStatus, *, error: MutexError | None = None, note: str = "") -> None:
            group, slot_index = names[str(edit.group_id)], edit.slot_index
            self.record(Step(kind="slot", group=group, slot_index=slot_index, status=status, error=error, note=note))

        def record_outcome(outcome: SlotOutcome) -> None:
            status = "applied" if outcome.status == "unchanged" else outcome.status
            if status != "applied":
                # A later edit may remove a member that this one was to add to another slot.
                self.blocked[str(outcome.edit.group_id)] = "not sent: an earlier edit of the group failed"
            record(outcome.edit, status, error=outcome.error, note=outcome.note)

        for edits in edit_rounds(todo):
            ready: list[AnyEdit] = []
            for edit in edits:
                if note := self.stopped or self.blocked.get(str(edit.group_id)):
                    record(edit, "skipped", note=note)
                else:
                    ready.append(edit)
            if not ready:
                continue
            _mark(journal)
            recorded = len(self.steps)
            report = await self.session.edit_slots(ready, journal=journal, verify=verify, on_outcome=record_outcome)
            # A run that stops early does not call on_outcome for the edits it skips; the report lists them last.
            for outcome in report.outcomes[len(self.steps) - recorded :]:
                record_outcome(outcome)
            if report.stopped_by is not None:
                self.stopped = f"not sent: {report.stopped_by}"
