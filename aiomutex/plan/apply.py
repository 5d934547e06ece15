"""Carrying a plan out: out of the archive, creates, texts, slots through the bulk engine, archives last.

Every step is safe to repeat, so an apply that broke off is simply run again. One failing group does not stop the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET

from aiomutex._util.tasks import run_workers
from aiomutex.errors import (
    AuthenticationError,
    ConfigurationError,
    DailyBudgetExhaustedError,
    LimiterUnavailableError,
    MutexError,
)
from aiomutex.plan.edit_order import edit_rounds
from aiomutex.plan.saved import remaining

if TYPE_CHECKING:
    import os
    from collections.abc import Awaitable, Callable, Sequence

    from aiomutex.bulk.report import SlotOutcome
    from aiomutex.models import SlotEdit
    from aiomutex.plan.diff import GroupPlan, Plan
    from aiomutex.plan.journal import ApplyJournal
    from aiomutex.session import MutexSession

__all__ = ["ApplyReport", "PlanBlockedError", "Step", "apply"]

StepKind = Literal["create", "unarchive", "edit", "slot", "archive"]
StepStatus = Literal["applied", "failed", "skipped", "unknown"]

_CONCURRENCY = 8
# These concern the whole run: to go on would fail every step there is.
_FATAL: TypeAlias = AuthenticationError | ConfigurationError | DailyBudgetExhaustedError | LimiterUnavailableError


class PlanBlockedError(MutexError):
    """A plan must not be applied as it is; nothing was sent.

    Attributes:
        reasons: Why, one line each.
        forceable: Whether ``force`` would let it through: thresholds yes, errors no.
    """

    def __init__(self, reasons: Sequence[str], *, forceable: bool) -> None:
        hint = " (force lets it through)" if forceable else ""
        super().__init__(f"the plan is blocked{hint}: {'; '.join(reasons)}")
        self.reasons = tuple(reasons)
        self.forceable = forceable


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One write of an apply, and what became of it."""

    kind: StepKind
    group: str
    """The group as messages show it."""
    slot_index: int | None = None
    status: StepStatus = "applied"
    error: MutexError | None = None
    note: str = ""

    def __str__(self) -> str:
        slot = f", slot {self.slot_index}" if self.slot_index is not None else ""
        tail = f": {self.error or self.note}" if self.error or self.note else ""
        return f"{self.kind} {self.group}{slot}: {self.status}{tail}"


class ApplyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a plan."""

    steps: list[Step]

    @property
    def failed(self) -> list[Step]:
        """Steps that failed, or whose fate is unknown."""
        return [step for step in self.steps if step.status in ("failed", "unknown")]

    @property
    def skipped(self) -> list[Step]:
        """Steps that were not sent."""
        return [step for step in self.steps if step.status == "skipped"]

    @property
    def complete(self) -> bool:
        """Whether all of the plan holds now."""
        return all(step.status == "applied" for step in self.steps)

    def raise_for_failures(self) -> None:
        """Do nothing if no step failed.

        Raises:
            ExceptionGroup: With the error of each failed step.
        """
        errors = [step.error for step in self.steps if step.error is not None]
        if errors:
            raise ExceptionGroup(f"{len(errors)} of {len(self.steps)} steps failed", errors)


def check_blocked(plan: Plan, *, force: bool) -> None:
    """Do nothing if a plan may be applied.

    Raises:
        PlanBlockedError: It has errors, or exceeds a threshold and ``force`` is not given.
    """
    if plan.errors:
        raise PlanBlockedError(plan.errors, forceable=False)
    if plan.excesses and not force:
        raise PlanBlockedError(plan.excesses, forceable=True)


async def apply(
    session: MutexSession,
    plan: Plan,
    *,
    force: bool = False,
    journal: str | os.PathLike[str] | None = None,
    verify: bool = True,
    on_step: Callable[[Step], object] | None = None,
) -> ApplyReport:
    """Carry a plan out.

    The groups are listed first: what somebody else changed since the plan was made is refused, what an earlier apply
    of the same plan has done already is not done again.

    Args:
        session: An open session.
        plan: From :func:`aiomutex.plan.plan` or :func:`aiomutex.plan.load_plan`.
        force: Apply although a threshold is exceeded. Errors cannot be forced.
        journal: A file that remembers what each slot held, for ``aiomutex.bulk.undo``. After an apply that broke off,
            apply again with the same file, the same plan or a new one of what is left: undone is what all runs wrote,
            up to the one that completes a plan. After that, the next apply needs a new file.
        verify: Read each group before and after its slots are written.
        on_step: Called with each step as its fate is known; it must not block.

    Raises:
        PlanBlockedError: The plan has errors or exceeds a threshold. Nothing was sent.
        StalePlanError: A group is not as it was when the plan was made. Nothing was written.
        JournalError: The journal is of an apply that is done or undone, or of a run of edits, or is no journal.
            Nothing was written.
    """
    check_blocked(plan, force=force)
    todo = remaining(plan, await session.list_groups().collect())
    if not todo.changes:
        return ApplyReport(steps=[])
    if journal is not None:
        with _journal(journal) as kept:
            kept.begin_apply()
    run = _Run(session, on_step)
    await run.each("unarchive", [step for step in todo.changes if step.action == "unarchive"], run.unarchive)
    await run.each("create", [step for step in todo.changes if step.new is not None], run.create)
    await run.each("edit", [step for step in todo.changes if step.fields], run.edit)
    await run.slots(todo.changes, journal, verify=verify)
    await run.each("archive", [step for step in todo.changes if step.action == "archive"], run.archive)
    report = ApplyReport(steps=run.steps)
    if journal is not None and report.complete:
        with _journal(journal) as kept:
            kept.end_apply()
    return report


def _journal(path: str | os.PathLike[str]) -> ApplyJournal:
    from aiomutex.plan.journal import ApplyJournal  # noqa: PLC0415  # SQLite is imported where it is used only

    return ApplyJournal(path)


class _Run:
    """One apply on its way."""

    def __init__(self, session: MutexSession, on_step: Callable[[Step], object] | None) -> None:
        self.session = session
        self.on_step = on_step
        self.steps: list[Step] = []
        self.stopped = ""
        self.held: dict[str | None, str] = {}
        """By a group's id, why nothing more is to be sent for it."""

    def tell(self, step: Step) -> None:
        self.steps.append(step)
        if self.on_step is not None:
            self.on_step(step)

    async def each(
        self, kind: StepKind, steps: list[GroupPlan], write: Callable[[GroupPlan], Awaitable[object]]
    ) -> None:
        """Write side by side, a few at a time; each write gets its outcome."""

        async def take(step: GroupPlan) -> None:
            if note := self.stopped or self.held.get(step.group_id):
                self.tell(Step(kind=kind, group=step.name, status="skipped", note=note))
                return
            try:
                await write(step)
            except MutexError as error:
                status: StepStatus = "unknown" if error.maybe_applied else "failed"
                self.tell(Step(kind=kind, group=step.name, status=status, error=error))
                if kind == "unarchive":
                    self.held[step.group_id] = "not sent: the group is not known to have left the archive"
                if isinstance(error, _FATAL):
                    self.stopped = f"not sent: {error}"
            else:
                self.tell(Step(kind=kind, group=step.name))

        await run_workers(take, steps, _CONCURRENCY)

    async def unarchive(self, step: GroupPlan) -> None:
        await self.session.unarchive_group(step.group_id or "")

    async def archive(self, step: GroupPlan) -> None:
        await self.session.archive_group(step.group_id or "")

    async def create(self, step: GroupPlan) -> None:
        if step.new is not None:
            await self.session.create_group(step.new)

    async def edit(self, step: GroupPlan) -> None:
        texts: dict[str, Any] = {change.field: change.after for change in step.fields}
        await self.session.edit_group(
            step.group_id or "", name=texts.get("name", UNSET), description=texts.get("description", UNSET)
        )

    async def slots(self, steps: Sequence[GroupPlan], journal: str | os.PathLike[str] | None, *, verify: bool) -> None:
        names = {step.group_id: step.name for step in steps}
        for edits in edit_rounds(steps):
            await self.round(names, edits, journal, verify=verify)

    async def round(
        self,
        names: dict[str | None, str],
        edits: list[SlotEdit],
        journal: str | os.PathLike[str] | None,
        *,
        verify: bool,
    ) -> None:
        """Send one round of slot edits; a group in which one of them fails is left alone from then on."""
        ready: list[SlotEdit] = []
        for edit in edits:
            if note := self.stopped or self.held.get(str(edit.group_id)):
                self.tell(_slot_step(names, edit, "skipped", note=note))
            else:
                ready.append(edit)
        if not ready:
            return
        if journal is not None:
            with _journal(journal) as kept:
                kept.begin_apply()

        def told(outcome: SlotOutcome) -> None:
            if outcome.status != "applied":
                self.held[str(outcome.edit.group_id)] = "not sent: an edit before it failed, and may have to come first"
            self.tell(_slot_step(names, outcome.edit, outcome.status, error=outcome.error, note=outcome.note))

        so_far = len(self.steps)
        report = await self.session.edit_slots(ready, journal=journal, verify=verify, on_outcome=told)
        # Those that a stopped run did not come to are in the report alone, after the others.
        for outcome in report.outcomes[len(self.steps) - so_far :]:
            told(outcome)
        if report.stopped_by is not None:
            self.stopped = f"not sent: {report.stopped_by}"


def _slot_step(
    names: dict[str | None, str],
    edit: SlotEdit,
    status: StepStatus,
    *,
    error: MutexError | None = None,
    note: str = "",
) -> Step:
    name = names[str(edit.group_id)]
    return Step(kind="slot", group=name, slot_index=edit.slot_index, status=status, error=error, note=note)
