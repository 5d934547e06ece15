"""A few edits with a fault for each request: the outcomes are true, and the run can be undone and resumed."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from bulk_support import after, assert_holds, assert_true, commit_inline, held
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import ONCE, idle, no_lag, session_for

from aiomutex import RetryPolicy, SlotEdit
from aiomutex.bulk import undo
from aiomutex.emulator import Dialect, Fault
from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from aiomutex import BulkReport, MutexSession

FAULTS: Final[dict[str, Fault | None]] = {
    "none": None,
    "request lost": Fault(kind="reset-before"),
    "response lost": Fault(kind="reset-after"),
    "response cut": Fault(kind="truncate"),
    "rejected": Fault(kind="status", status=400),
    "failed": Fault(kind="status", status=503),
    "failed but done": Fault(kind="status", status=503, after_commit=True),
}
PLACES: Final = [("1", 1), ("1", 2), ("2", 1)]
LISTS: Final = [("experiments",), ("holdouts",), ("experiments", "holdouts")]
POLICIES: Final = {"once": ONCE, "twice": RetryPolicy(max_attempts=2, base=0.0001, cap=0.0001)}

shapes = st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(LISTS)), min_size=1, max_size=4)
troubles = st.lists(st.sampled_from(list(FAULTS)), max_size=10)
policies = st.sampled_from(list(POLICIES))


class World:
    """One emulator for many runs. Each run has its own sequence of faults, one for each request."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self.emulator = MutexEmulator(groups=2, limits=False, **options)
        self._runner.run(self.emulator.__aenter__())
        for group, slot in PLACES:
            self.emulator.groups[group].slots[slot - 1].holdouts[:] = [7]
            self.emulator.groups[group].slots[slot - 1].cohorts[:] = ["loyal"]
        self._seeded = self.emulator.snapshot()
        self._journals = (folder / f"{number}.db" for number in itertools.count())

    def close(self) -> None:
        self._runner.run(self.emulator.__aexit__(None, None, None))
        self._runner.close()

    def begin(self) -> Path:
        """Reset the emulator, and return the path of a new journal."""
        self.emulator.restore(self._seeded)
        self.emulator.clear_history()
        return next(self._journals)

    def do(
        self, call: Callable[[MutexSession], Awaitable[BulkReport]], trouble: Sequence[str] = (), policy: str = "once"
    ) -> BulkReport:
        upcoming = iter(trouble)

        def next_fault(_method: str, _path: str) -> Fault | None:
            return FAULTS[next(upcoming, "none")]

        inside: Any = self.emulator.faults
        inside.next_fault = next_fault

        async def main() -> BulkReport:
            async with session_for(self.emulator.url, retry=POLICIES[policy]) as session:
                report = await call(session)
                assert idle(session)
                return report

        return self._runner.run(main())


MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where a journal that is synced before each write is quick."""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, pytest.MonkeyPatch.context() as patch:
        commit_inline(patch)
        no_lag(patch)
        world = World(Path(folder))
        yield world
        world.close()


@pytest.fixture(scope="module")
def forgetful() -> Iterator[World]:
    """An emulator that drops a slot's cohorts with each write."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, pytest.MonkeyPatch.context() as patch:
        commit_inline(patch)
        no_lag(patch)
        world = World(Path(folder), dialect=Dialect(cohorts_on_edit="dropped"))
        yield world
        world.close()


def edits_of(shape: Sequence[tuple[tuple[str, int], Sequence[str]]]) -> list[SlotEdit]:
    """Edits that each write a number of their own, so that the emulator's records identify them."""
    return [
        msgspec.structs.replace(SlotEdit(group, slot), **{field: [number] for field in lists})
        for number, ((group, slot), lists) in enumerate(shape, start=1_000)
    ]


def outcomes_are_true(world: World, shape: Any, trouble: Sequence[str], policy: str, *, verify: bool) -> None:
    edits = edits_of(shape)
    world.begin()
    report = world.do(lambda session: session.edit_slots(edits, verify=verify), trouble, policy)
    assert sorted(each.position for each in report.outcomes) == list(range(len(edits)))
    assert_true(world.emulator, report.outcomes)


def undo_restores_every_slot(world: World, shape: Any, trouble: Sequence[str], policy: str, *, verify: bool) -> None:
    edits, journal = edits_of(shape), world.begin()
    before = held(world.emulator, PLACES)
    world.do(lambda session: session.edit_slots(edits, verify=verify, journal=journal), trouble, policy)
    report = world.do(lambda session: undo(session, journal)) if journal.exists() else None
    assert report is None or len(report.applied) == len(report.outcomes)
    assert held(world.emulator, PLACES) == before


def a_run_can_be_resumed(world: World, shape: Any, trouble: Sequence[str], policy: str, *, verify: bool) -> None:
    edits, journal = edits_of(shape), world.begin()
    world.do(lambda session: session.edit_slots(edits, verify=verify, journal=journal), trouble, policy)
    report = world.do(lambda session: session.edit_slots(edits, verify=verify, journal=journal))
    assert report.failed == report.unknown == []
    assert_holds(world.emulator, after(edits))


ENDS: Final = {each.__name__: each for each in (outcomes_are_true, undo_restores_every_slot, a_run_can_be_resumed)}
QUICK: Final = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
# An edit with an unknown outcome, followed by one of the same slot, with the same list or another.
ONE_SLOT: Final = [(PLACES[0], LISTS[0])] * 2
OTHER_LIST: Final = [(PLACES[0], LISTS[0]), (PLACES[0], LISTS[1])]
UNKNOWN: Final = ["none", "response lost", "failed"]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("verify", [False, True], ids=["plain", "verified"])
@example(shape=ONE_SLOT, trouble=[*UNKNOWN, "rejected"], policy="once")
@example(shape=ONE_SLOT, trouble=[*UNKNOWN, "request lost", "failed"], policy="once")
@example(shape=ONE_SLOT, trouble=["none", "none", "response lost"], policy="once")
@example(shape=OTHER_LIST, trouble=UNKNOWN, policy="once")
@example(shape=ONE_SLOT + ONE_SLOT[:1], trouble=["none", *UNKNOWN, "request lost"], policy="once")
@given(shape=shapes, trouble=troubles, policy=policies)
@QUICK
def test_any_fault_sequence(
    world: World, verify: bool, end: str, shape: Any, trouble: Sequence[str], policy: str
) -> None:
    ENDS[end](world, shape, trouble, policy, verify=verify)


@pytest.mark.deep
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("verify", [False, True], ids=["plain", "verified"])
@given(shape=shapes, trouble=troubles, policy=policies)
@settings(QUICK, max_examples=500)
def test_thousands_of_fault_sequences(
    world: World, verify: bool, end: str, shape: Any, trouble: Sequence[str], policy: str
) -> None:
    ENDS[end](world, shape, trouble, policy, verify=verify)


@example(shape=ONE_SLOT[:1], trouble=["none", "response lost"], policy="once")
@example(shape=ONE_SLOT[:1] * 2, trouble=["none", "response lost"], policy="once")
@example(shape=[(PLACES[0], LISTS[0]), (PLACES[1], LISTS[0])], trouble=["none", "none", "response lost"], policy="once")
@given(shape=shapes, trouble=troubles, policy=policies)
@QUICK
def test_a_write_that_dropped_cohorts_is_never_reported_as_applied(
    forgetful: World, shape: Any, trouble: Sequence[str], policy: str
) -> None:
    edits = edits_of(shape)
    forgetful.begin()
    report = forgetful.do(lambda session: session.edit_slots(edits, verify=True), trouble, policy)
    # A later edit of the slot, after a read that showed the loss, drops nothing.
    first = {(edit.group_id, edit.slot_index): position for position, edit in reversed([*enumerate(edits)])}
    assert not {outcome.position for outcome in report.applied} & {*first.values()}
