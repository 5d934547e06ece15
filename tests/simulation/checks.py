"""What must hold after every run, checked against the service's own record of what it committed."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from limits_support import most_in_a_second

from aiomutex import (
    DailyBudgetExhaustedError,
    DeadlineExceededError,
    LimiterUnavailableError,
    MutexError,
    RateLimitedError,
    VerificationError,
)
from aiomutex.bulk.undo import CHANGED_SINCE

from .fleet import writes_at_once, writes_too_late
from .plans import PLAN_INVARIANTS
from .service import holds
from .world import InputBroke

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aiomutex import SlotOutcome

    from .network import Sent
    from .scenario import Edit
    from .service import Commit
    from .world import CallRecord, World

__all__ = ["INVARIANTS", "Violation", "violations"]

_STEADY: Final = 0.02
"""Seconds by which latency may vary without more requests arriving in a second than were sent in 1.02 seconds."""
_LOOK_AHEAD: Final = 12_000 + 64 + 64


class Violation(NamedTuple):
    """An invariant that does not hold."""

    invariant: str
    detail: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.detail}"


def _place(edit: Edit) -> tuple[int, int]:
    return edit.group, edit.slot


def _edit_of(record: CallRecord, outcome: SlotOutcome) -> Edit:
    # An endless input repeats its edits.
    return record.call.edits[outcome.position % len(record.call.edits)]


def _runs(world: World) -> list[CallRecord]:
    return [record for record in world.records if record.call.kind == "run"]


def _chain(world: World, record: CallRecord) -> list[CallRecord]:
    """A run, or an apply, and those before it with the same journal."""
    if record.call.journal is None:
        return [record]
    runs = [
        each
        for each in world.records
        if each.call.kind in ("run", "apply")
        and each.call.journal == record.call.journal
        and each.started <= record.started
    ]
    return [each for each in runs if each is not record] + ([record] if record.call.kind == "run" else [])


def _requests(world: World, record: CallRecord, edit: Edit) -> list[Sent]:
    path = f"/api/1/mutexes/{edit.group}/slots/{edit.slot}"
    return [
        sent
        for sent in world.network.sent
        if sent.call == record.name and sent.method == "PATCH" and sent.path == path
        and json.loads(sent.body) == edit.lists
    ]  # fmt: skip


def _commits(world: World, record: CallRecord, edit: Edit) -> list[Commit]:
    return [
        commit
        for commit in world.service.commits
        if commit.author == record.name and commit.place == _place(edit) and commit.lists == edit.lists
    ]


def _is_late(world: World, record: CallRecord) -> bool:
    """Whether requests of a run may arrive late, and overwrite its later edits."""
    return any(fault.kind == "late" for fault in world.scenario.phases[record.phase].faults)


def _is_unique(record: CallRecord, edit: Edit) -> bool:
    return sum(each == edit for each in record.call.edits) == 1 and not record.call.is_endless


def applied_was_held(world: World) -> Iterator[str]:
    """An edit reported as applied was held by the service at some moment after the run began."""
    for record in _runs(world):
        since = min(each.started for each in _chain(world, record))
        for at, outcome in record.outcomes:
            if outcome.status != "applied":
                continue
            edit = _edit_of(record, outcome)
            if not any(holds(each.content, edit.lists) for each in world.service.versions(_place(edit), since, at)):
                yield f"{record.name} reported edit {outcome.position} {edit} as applied, and it was never held"


def failed_was_not_written(world: World) -> Iterator[str]:
    """An edit reported as failed was never committed, unless somebody else wrote the slot or a read-back shows it."""
    for record in _runs(world):
        for _, outcome in record.outcomes:
            edit = _edit_of(record, outcome)
            if outcome.status != "failed" or isinstance(outcome.error, VerificationError):
                continue
            others = (commit.place == _place(edit) and commit.author != record.name for commit in world.service.commits)
            if _is_unique(record, edit) and _commits(world, record, edit) and not any(others):
                yield f"{record.name} reported edit {outcome.position} as failed ({outcome.error!r}), and wrote it"


def skipped_was_not_written(world: World) -> Iterator[str]:
    """An edit that was skipped was not committed by its run."""
    for record in _runs(world):
        for _, outcome in record.outcomes:
            edit = _edit_of(record, outcome)
            if outcome.status == "skipped" and _is_unique(record, edit) and _commits(world, record, edit):
                yield f"{record.name} reported edit {outcome.position} as skipped ({outcome.note}), and wrote it"


def one_outcome_each(world: World) -> Iterator[str]:
    """Each edit of a run has one outcome; a run that was interrupted has at most one of each."""
    for record in _runs(world):
        counts = Counter(outcome.position for _, outcome in record.outcomes)
        reported = record.result.outcomes if record.is_whole and record.result is not None else None
        if reported is not None and sorted(each.position for each in reported) != list(range(len(reported))):
            yield f"{record.name}: the report has outcomes {sorted(each.position for each in reported)}"
        if reported is not None and record.call.source == "list" and len(reported) != len(record.call.edits):
            yield f"{record.name}: the report has {len(reported)} outcomes of {len(record.call.edits)} edits"
        for position, count in counts.items():
            if count > 1:
                yield f"{record.name}: edit {position} has {count} outcomes"


def edits_are_in_order(world: World) -> Iterator[str]:
    """The edits of a slot are committed in the order given. Requests that arrive late, after others, do not count."""
    for record in _runs(world):
        numbers: dict[tuple[int, int], list[int]] = defaultdict(list)
        given_up = {sent.number: sent.over for sent in world.network.sent}
        for commit in world.service.commits:
            over = given_up.get(commit.request)
            if commit.author != record.name or (over is not None and over < commit.at):
                continue
            for position, edit in enumerate(record.call.edits):
                if _place(edit) == commit.place and edit.lists == commit.lists and _is_unique(record, edit):
                    numbers[commit.place].append(position)
        for place, positions in numbers.items():
            if positions != sorted(positions):
                yield f"{record.name}: slot {place} got its edits in the order {positions}"


def one_writer_of_a_group(world: World) -> Iterator[str]:
    """A session never has two writes of one group in flight. Nor has a fleet, which sends nothing for a lost job."""
    if world.scenario.options.workers:
        for first, second in writes_at_once(world.network.sent, world.scenario.options.claim_timeout):
            yield f"requests {first.number} ({first.call}) and {second.number} ({second.call}) at once"
        for first, second in writes_too_late(world.network.sent):
            yield f"request {second.number} ({second.call}) was sent after {first.number} ({first.call})"
        return
    writes = [sent for sent in world.network.sent if sent.method == "PATCH"]
    clients = {record.name: (record.phase, record.client) for record in world.records}
    for index, first in enumerate(writes):
        for second in writes[index + 1 :]:
            if clients[second.call] != clients[first.call] or (first.over is not None and second.at >= first.over):
                continue
            if first.path.split("/")[4] == second.path.split("/")[4]:
                yield f"requests {first.number} ({first.call}) and {second.number} ({second.call}) at once"


def within_the_limits(world: World) -> Iterator[str]:
    """At most so many requests in any second, and on any UTC day, of all sessions together.

    A limiter in memory starts anew with its process. One in a file forgets at most what a power failure took from it.
    """
    service = world.scenario.service
    is_kept = world.scenario.options.limiter in ("machine", "redis")
    by_process: dict[int, list[float]] = defaultdict(list)
    for sent in world.network.sent:
        by_process[0 if is_kept else sent.process].append(sent.at)
    for process, times in by_process.items():
        if (most := most_in_a_second(times)) > service.per_second:
            yield f"process {process} sent {most} requests in a second"
    if service.latency[1] - service.latency[0] <= _STEADY:
        unsteady = {fault.request for phase in world.scenario.phases for fault in phase.faults if fault.delay}
        arrived = [sent.arrived for sent in world.network.sent if sent.arrived is not None]
        if not unsteady and (most := most_in_a_second(arrived)) > service.per_second and len(by_process) == 1:
            yield f"{most} requests arrived in a second"
    for day, count in Counter(sent.wall // 86_400 for sent in world.network.sent).items():
        in_file = world.scenario.options.limiter == "machine"
        lost_power = in_file and any(event.kind == "power" for phase in world.scenario.phases for event in phase.events)
        if count > service.per_day and not lost_power:
            yield f"{count} requests on day {day:.0f}"


def interactive_calls_go_first(world: World) -> Iterator[str]:
    """A read waits for other reads and for one window, not for the edits of any session that shares its limits."""
    service, options = world.scenario.service, world.scenario.options
    if service.per_day < 1_000 or options.max_connections < 8 or options.limiter == "redis":
        return  # workers that share a budget in Redis know nothing of each other's priorities
    window, permits = 1.02, max(1, service.per_second * 97 // 100)
    for number, phase in enumerate(world.scenario.phases):
        events = [event for each in world.scenario.phases[: number + 1] for event in each.events]
        if phase.faults or any(event.kind != "colleague" for event in events):
            continue
        records = [record for record in world.records if record.phase == number]
        names = {record.name for record in records if record.call.kind not in ("run", "undo", "apply")}
        requests = [sent for sent in world.network.sent if sent.call in names]
        for record in records:
            first = next((sent.at for sent in requests if sent.call == record.name), None)
            if record.call.kind != "read" or first is None:
                continue
            ahead = sum(record.started <= sent.at < first for sent in requests)
            # Bulk work gets every eighth permit.
            most = window + (ahead * 8 / 7 + 3) * window / permits + service.latency[1] + 0.1
            if first - record.started > most:
                yield f"{record.name} waited {first - record.started:.2f} s for a permit, more than {most:.2f} s"


def created_once(world: World) -> Iterator[str]:
    """A create makes one group, and says whether it did."""
    for record in world.records:
        if record.call.kind != "create" or record.ended is None:
            continue
        made = [group for group in world.service.groups.values() if group.author == record.name]
        if len(made) > 1:
            yield f"{record.name} created {len(made)} groups"
        elif record.is_whole:
            found = world.service.groups.get(int(record.result.id))
            members = None if found is None else found.slots[1][0].content["experiments"]
            if found is None or members != record.call.members:
                yield f"{record.name} was reported as created: group {record.result.id} has members {members}"
        elif isinstance(record.error, MutexError) and made and not record.error.maybe_applied:
            yield f"{record.name} created group {made[0].id} and raised {record.error!r}"


def undo_restores(world: World) -> Iterator[str]:
    """An undo restores each slot that the run wrote, or says why not."""
    for record in world.records:
        if record.call.kind != "undo" or not record.is_whole:
            continue
        chain = _chain(world, record)
        began = min((each.started for each in chain), default=record.started)
        names = {each.name for each in chain}
        outcomes = {(int(each.edit.group_id), each.edit.slot_index): (at, each) for at, each in record.outcomes}
        written: dict[tuple[int, int], Commit] = {}
        for commit in world.service.commits:
            if commit.author in names:
                written.setdefault(commit.place, commit)
        for place, first in written.items():
            if place not in outcomes:
                yield f"{record.name} does not mention slot {place}, which {first.author} wrote"
                continue
            at, outcome = outcomes[place]
            others = [
                commit for commit in world.service.commits
                if commit.place == place and commit.author not in names | {record.name} and commit.at >= began
            ]  # fmt: skip
            # An undo knows by the wall clock whether reads are old, and whether requests of the run may still arrive.
            is_clock_right = not any(event.kind == "clock" for phase in world.scenario.phases for event in phase.events)
            if outcome.status == "skipped" and outcome.note == CHANGED_SINCE and not others and is_clock_right:
                yield f"{record.name} says that slot {place} was changed since, and nobody did"
            if outcome.status != "applied":
                continue
            given = {name for commit in world.service.commits if commit.author in names and commit.place == place
                     for name in commit.lists}  # fmt: skip
            before = [
                {name: version.content[name] for name in given}
                for version in world.service.versions(place, began, first.at)
                if version.commit is None or version.commit.author not in names
            ]
            during = [version.content for version in world.service.versions(place, record.started, at)]
            if not any(holds(content, lists) for content in during for lists in before):
                yield f"{record.name} reported slot {place} as restored to one of {before}, and it held {during}"
            elif (
                is_clock_right
                and not [commit for commit in others if commit.at >= record.started]
                and not any(holds(world.service.content(place), lists) for lists in before)
            ):
                yield f"{record.name} restored slot {place}, and in the end it holds {world.service.content(place)}"


def resume_does_not_repeat(world: World) -> Iterator[str]:
    """A resumed run sends nothing of what an earlier run reported as applied."""
    for record in _runs(world):
        if record.call.journal is None:
            continue
        for earlier in _chain(world, record)[:-1]:
            if earlier.power_failed or earlier.call.edits != record.call.edits:
                continue
            attempts = {each.position: each.attempts for _, each in earlier.outcomes if each.status == "applied"}
            applied = set(attempts)
            for position in applied:
                edit = record.call.edits[position]
                # An edit that failed is sent again before the later ones of its slot, and these again after it.
                before = {n for n, each in enumerate(record.call.edits[:position]) if _place(each) == _place(edit)}
                if before <= applied and _is_unique(record, edit) and _requests(world, record, edit):
                    yield f"{record.name} sent edit {position} again, which {earlier.name} had applied"


def nothing_is_left(world: World) -> Iterator[str]:
    """Calls leave no task, request, waiter, deadline or connection behind."""
    for each in world.leftovers:
        yield f"phase {each.phase}: {each.what}"


def everything_ends(world: World) -> Iterator[str]:
    """No call hangs."""
    for name in world.hung:
        yield f"{name} never ended"


def errors_are_typed(world: World) -> Iterator[str]:
    """A call raises errors of the library, its own cancellation, or what its input raised."""
    for record in world.records:
        error = record.error
        if error is None or isinstance(error, MutexError):
            continue
        if isinstance(error, asyncio.CancelledError) and record.call.cancel is not None:
            continue
        if not (isinstance(error, InputBroke) and record.call.source == "raise"):
            yield f"{record.name} raised {error!r}"


def memory_is_bounded(world: World) -> Iterator[str]:
    """A run does not pull more edits than its look-ahead."""
    for record in world.records:
        if record.most_pending > _LOOK_AHEAD:
            yield f"{record.name} had {record.most_pending} edits pending"


def bulk_waits(world: World) -> Iterator[str]:
    """No edit fails because its run waited for permits. A run that is stopped waits no longer than the deadline."""
    for record in _runs(world):
        stopping = (DailyBudgetExhaustedError, LimiterUnavailableError)
        if any(isinstance(each.error, stopping) for _, each in record.outcomes):
            continue
        if record.call.stop_after is not None:
            continue
        for _, outcome in record.outcomes:
            error = outcome.error
            if outcome.status != "failed":
                continue
            unsent = isinstance(error, DeadlineExceededError) and not error.attempts
            early = isinstance(error, RateLimitedError) and error.attempts < world.scenario.options.max_attempts
            if unsent or early:
                yield f"{record.name}: edit {outcome.position} failed with {error!r}"


def read_back_is_fair(world: World) -> Iterator[str]:
    """A slot that nobody else wrote does not fail its read-back, unless requests of the run arrived late."""
    if world.scenario.service.lag:
        return
    for record in _runs(world):
        if any(_is_late(world, each) for each in _chain(world, record)):
            continue
        names = {each.name for each in _chain(world, record)}
        for at, outcome in record.outcomes:
            edit = _edit_of(record, outcome)
            if isinstance(outcome.error, VerificationError) and all(
                commit.author in names for commit in world.service.commits
                if commit.place == _place(edit) and record.started <= commit.at <= at
            ):  # fmt: skip
                yield f"{record.name}: edit {outcome.position} failed with {outcome.error!r}, and nobody else wrote"


def single_calls_are_true(world: World) -> Iterator[str]:
    """A change or an edit of one slot that returns was in effect, and one that was not applied wrote nothing."""
    for record in world.records:
        call = record.call
        if call.kind not in ("change", "edit") or record.ended is None:
            continue
        versions = world.service.versions((call.group, call.slot), record.started, record.ended)
        contents = [version.content["experiments"] for version in versions]
        if record.is_whole and not any(
            set(call.add) <= set(items) and not set(call.remove) & set(items) for items in contents
        ):
            yield f"{record.name} returned, and the slot held {contents}"
        if isinstance(record.error, MutexError) and not record.error.maybe_applied:
            for commit in world.service.commits:
                if commit.author == record.name:
                    yield f"{record.name} raised {record.error!r}, and wrote {commit.lists}"


def last_edit_stands(world: World) -> Iterator[str]:
    """In the end, a slot whose edits were all applied holds the last one, unless somebody wrote it since."""
    for record in _runs(world):
        if record.call.is_endless or (_is_late(world, record) and not record.call.verify):
            continue
        statuses = {outcome.position: outcome.status for _, outcome in record.outcomes}
        desired: dict[tuple[int, int], dict[str, int]] = defaultdict(dict)
        untouched: set[tuple[int, int]] = {_place(edit) for edit in record.call.edits}
        for position, edit in enumerate(record.call.edits):
            if statuses.get(position) != "applied":
                untouched.discard(_place(edit))
            for name in edit.lists:
                desired[_place(edit)][name] = position
        # A run that is resumed reports what an earlier one has written, and somebody may have written between them.
        same = [each.started for each in _runs(world) if each.call.journal == record.call.journal is not None]
        started = min([record.started, *same])
        for place in untouched:
            others = [commit for commit in world.service.commits
                      if commit.place == place and commit.author != record.name
                      and commit.at >= started]  # fmt: skip
            lists = {name: record.call.edits[n].lists[name] for name, n in desired[place].items()}
            if not others and not holds(world.service.content(place), lists):
                yield f"{record.name}: slot {place} holds {world.service.content(place)} in the end, not {lists}"


INVARIANTS: Final[tuple[Callable[[World], Iterator[str]], ...]] = (
    everything_ends,
    errors_are_typed,
    nothing_is_left,
    within_the_limits,
    interactive_calls_go_first,
    one_outcome_each,
    applied_was_held,
    failed_was_not_written,
    skipped_was_not_written,
    edits_are_in_order,
    one_writer_of_a_group,
    created_once,
    undo_restores,
    resume_does_not_repeat,
    memory_is_bounded,
    bulk_waits,
    read_back_is_fair,
    single_calls_are_true,
    last_edit_stands,
    *PLAN_INVARIANTS,
)
"""Functions that yield a sentence for each case in which their promise was broken."""


def violations(world: World) -> list[Violation]:
    """Everything that was broken in a run."""
    return [Violation(check.__name__, detail) for check in INVARIANTS for detail in check(world)]
