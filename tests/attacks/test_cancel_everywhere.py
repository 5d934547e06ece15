"""Each public coroutine is interrupted wherever it waits, in each way: nothing may be left behind."""

from __future__ import annotations

import asyncio
import gc
import inspect
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import pytest
from bulk_support import after, assert_holds, assert_true, edits_for, held
from cancelling import cancel, cancel_repeatedly, deadline, deadline_then_cancel, scope, timeout
from stopping import PLAIN, Scene, Subject, attack

from aiomutex import ConnectionFailedError, MutexSession, NewGroup, NewSlot, OutcomeUnknownError, Priority, SlotEdit
from aiomutex._util.tasks import collapse_exception_group
from aiomutex.bulk import preview, undo
from aiomutex.plan import Desired, apply, check_running, parse_desired, plan, read_experiments
from aiomutex.probe import probe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from cancelling import Way

EDITS = edits_for(6, groups=3)
WHOLE = after(EDITS)
NEW = NewGroup(project_id=1, name="New", key="new", slots=[NewSlot(percentage=100)])
RUN = (*PLAIN, "room", "run.next_outcome", "run._work")
DESIRED: Desired = parse_desired(
    "groups:\n"
    "- {projectId: 1, key: group-1, name: Checkout, slots: [{percentage: 34, experiments: [5]}, {percentage: 33}, "
    "{percentage: 33}]}\n"
    "- {projectId: 1, key: group-2, archived: true}\n"
    "- {projectId: 1, key: new, name: New, slots: [{percentage: 100, individuals: [ada]}]}\n"
)


@pytest.fixture(scope="module", autouse=True)
def _collect_garbage() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    yield
    gc.collect()


# ---------------------------------------------------------------------------------------------- the calls


async def groups(it: Scene) -> None:
    assert len([group async for group in it.session.list_groups(page_size=3)]) == 4


async def pages(it: Scene) -> None:
    assert len([page async for page in it.session.list_groups(page_size=3).pages()]) == 2


async def created_at_most_once(it: Scene) -> None:
    assert sum(group.key == "new" for group in it.emulator.groups.values()) <= 1


async def experiment_kept(it: Scene) -> None:
    slots = it.emulator.groups["1"].slots
    assert 1 in slots[0].experiments + slots[1].experiments, "the experiment is in no slot"


async def prepare_slot(it: Scene) -> None:
    it.emulator.groups["1"].slots[0].experiments[:] = [1]


async def run(it: Scene, *, journal: bool = False, verify: bool = False) -> None:
    report = await it.session.edit_slots(
        EDITS, journal=it.path if journal else None, verify=verify, concurrency=3, on_outcome=it.reported.append
    )
    assert len(report.outcomes) == len(EDITS)


async def stream(it: Scene) -> None:
    async def edits() -> AsyncIterator[SlotEdit]:
        for edit in EDITS:
            await asyncio.sleep(0)
            yield edit

    it.kept["input"] = edits()
    async with it.session.stream_slot_edits(it.kept["input"], concurrency=3, on_outcome=it.reported.append) as outcomes:
        async for _ in outcomes:
            pass


async def outcomes_are_true(it: Scene) -> None:
    assert_true(it.emulator, it.reported)


async def streamed(it: Scene) -> None:
    assert await anext(it.kept["input"], None) is None, "the input was not closed"
    await outcomes_are_true(it)


async def resumed(it: Scene) -> None:
    await outcomes_are_true(it)
    report = await it.session.edit_slots(EDITS, journal=it.path, verify=True)
    assert report.failed == []
    assert all(outcome.status == "applied" or "already applied" in outcome.note for outcome in report.outcomes)
    assert_holds(it.emulator, WHOLE)


async def finish_a_run(it: Scene) -> None:
    it.kept["earlier"] = held(it.emulator, WHOLE)
    await it.session.edit_slots(EDITS, journal=it.path)
    assert_holds(it.emulator, WHOLE)


async def undone(it: Scene) -> None:
    report = await undo(it.session, it.path)
    assert report.failed == []
    assert_holds(it.emulator, it.kept["earlier"])


async def planned(it: Scene) -> None:
    it.kept["plan"] = plan(DESIRED, await it.session.list_groups().collect())


async def applied(it: Scene) -> None:
    await apply(it.session, it.kept["plan"], journal=it.path)


async def applied_again(it: Scene) -> None:
    assert (await apply(it.session, it.kept["plan"], journal=it.path)).complete
    assert plan(DESIRED, await it.session.list_groups().collect()).changes == []


async def checked(it: Scene) -> None:
    check_running(it.kept["plan"], await read_experiments(it.session, it.kept["plan"].experiments))


async def probed(it: Scene) -> None:
    it.kept["archived"] = True
    try:
        await probe(it.session, write_scratch=1)
    except OutcomeUnknownError:
        it.kept["archived"] = False
        raise


async def no_scratch(it: Scene) -> None:
    left = [group for group in it.emulator.groups.values() if "probe" in group.key and not group.deleted]
    assert not left or not it.kept["archived"]


async def open_and_drain(it: Scene) -> None:
    own = MutexSession("a-key-of-some-length", base_url=it.relay.url, rate_limiter=it.session.rate_limiter)
    await own.open()
    try:
        await own.get_group(1)
    finally:
        await own.aclose(drain=1.0)


async def open_and_close(it: Scene) -> None:
    async with MutexSession("a-key-of-some-length", base_url=it.relay.url, rate_limiter=it.session.rate_limiter) as own:
        await own.get_group(1)


async def reconnected(it: Scene) -> None:
    it.relay.hang_up = 1
    await it.session.get_group(1)


async def bulk_calls(it: Scene) -> None:
    bulk = it.session.with_options(priority=Priority.BULK)
    with collapse_exception_group():
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(bulk.get_group, 1)


async def bulk_call_works(it: Scene) -> None:
    await it.session.with_options(priority=Priority.BULK).get_group(1)


CALLS = [
    Subject("get_group", lambda it: it.session.get_group(1)),
    Subject("request", lambda it: it.session.request("GET", "/api/1/mutexes/1")),
    Subject("list_page", lambda it: it.session.list_page()),
    Subject("edit_group", lambda it: it.session.edit_group(1, name="other")),
    Subject("archive_group", lambda it: it.session.archive_group(1)),
    Subject("unarchive_group", lambda it: it.session.unarchive_group(1)),
    Subject("edit_slot", lambda it: it.session.edit_slot(1, 1, experiments=[5])),
    Subject("list_groups", groups),
    Subject("pages", pages),
    Subject("find_group", lambda it: it.session.find_group("group-4")),
    Subject("collect", lambda it: it.session.list_groups(page_size=1).collect(concurrency=3), outlives=True),
    Subject(
        "create_group",
        lambda it: it.session.create_group(NEW),
        after=created_at_most_once,
        errors=(OutcomeUnknownError,),
    ),
    Subject(
        "create_group whose response is lost",
        lambda it: it.session.create_group(NEW),
        fault={"kind": "reset-after"},
        after=created_at_most_once,
        errors=(OutcomeUnknownError,),
    ),
    Subject("change_slot", lambda it: it.session.change_slot(1, 1, add_experiments=[5])),
    Subject(
        "move_experiment", lambda it: it.session.move_experiment(1, 1, 1, 2), before=prepare_slot, after=experiment_kept
    ),
    Subject("a connection lost during the wait", reconnected, errors=(ConnectionFailedError,), wasteful=True),
    Subject("a session's lifetime", open_and_close),
    Subject("open and aclose(drain)", open_and_drain),
    Subject("preview", lambda it: preview(it.session, EDITS), outlives=True),
]
RUNS = [
    Subject("edit_slots", run, RUN, after=outcomes_are_true, outlives=True),
    Subject("edit_slots(journal)", lambda it: run(it, journal=True), (*RUN, "journal"), after=resumed, outlives=True),
    Subject("edit_slots(verify)", lambda it: run(it, verify=True), RUN, after=outcomes_are_true, outlives=True),
    Subject("stream_slot_edits", stream, (*RUN, "run._feed"), after=streamed, outlives=True),
    Subject(
        "undo",
        lambda it: undo(it.session, it.path, concurrency=2),
        (*PLAIN, "journal"),
        before=finish_a_run,
        after=undone,
        outlives=True,
    ),
    Subject("apply", applied, (*PLAIN, "journal"), before=planned, after=applied_again, outlives=True),
    Subject("check_running", checked, before=planned),
    Subject("bulk calls", bulk_calls, (*PLAIN, "room"), after=bulk_call_works, outlives=True),
    Subject("probe", probed, PLAIN[:-1], fault=None, after=no_scratch, errors=(OutcomeUnknownError,)),
]


def name_of(it: Subject | Way) -> str:
    return it.name if isinstance(it, Subject) else it.__name__


WAYS = (cancel, cancel_repeatedly, scope, timeout, deadline)
GET, *ALIKE = CALLS[:7]
FEW = [
    *((subject, cancel) for subject in CALLS),
    *((GET, way) for way in (*WAYS[1:], deadline_then_cancel)),
    *zip(
        RUNS,
        [scope, cancel, timeout, cancel_repeatedly, deadline, cancel, scope, timeout, cancel_repeatedly],
        strict=True,
    ),
]
ALL = [
    *(
        (subject, way)
        for subject in CALLS
        for way in (cancel, scope, timeout, deadline, deadline_then_cancel)
        if subject not in ALIKE
    ),
    *((subject, way) for subject in ALIKE for way in (cancel, deadline)),
    *((subject, way) for subject in RUNS for way in WAYS),
]


@pytest.mark.parametrize(("subject", "way"), FEW, ids=name_of)
def test_nothing_is_left_behind_in_any_stage(tmp_path: Path, subject: Subject, way: Way) -> None:
    late = (False, True) if subject in CALLS else (RUNS.index(subject) % 2 == 1,)
    attack(tmp_path, subject, way, late=late)


@pytest.mark.deep
@pytest.mark.parametrize(("subject", "way"), ALL, ids=name_of)
def test_nothing_is_left_behind_at_any_point(tmp_path: Path, subject: Subject, way: Way) -> None:
    # A bulk run has about a hundred points: each way takes a part of them.
    numbers = range(1, 100) if subject in CALLS else range(1 + WAYS.index(way), 100, len(WAYS))
    print(subject.name, way.__name__, dict(attack(tmp_path, subject, way, numbers)))


# ---------------------------------------------------------------------------------------------- completeness

PUBLIC = (
    *("aiomutex", "aiomutex.bulk", "aiomutex.fleet", "aiomutex.limits", "aiomutex.limits.redis", "aiomutex.plan"),
    "aiomutex.limits.machine",
    *("aiomutex.probe", "aiomutex.traffic", "aiomutex.testing", "aiomutex.emulator"),
)


def public_coroutines() -> Iterator[str]:
    for module in map(import_module, PUBLIC):
        for name in module.__all__:
            thing = getattr(module, name)
            members = inspect.getmembers(thing) if inspect.isclass(thing) else [(name, thing)]
            for member, value in members:
                is_async = inspect.iscoroutinefunction(value) or inspect.isasyncgenfunction(value)
                if is_async and not member.startswith("_"):
                    yield member


def test_each_public_coroutine_is_interrupted_in_some_test() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_cancel_*.py"))
    names = set(public_coroutines())
    assert {"get_group", "undo", "acquire", "collect"} < names
    # ``serve`` runs until it is interrupted; the emulator's tests cover it.
    assert {name for name in names if f"{name}(" not in tests} == {"serve"}
