"""A few edits of few slots, and a fault for each request in turn: whatever goes wrong, all that is told is true."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import pytest
from bulk_support import after, assert_holds, assert_true, held
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support import ONCE, idle, session_for

from aiomutex import RetryPolicy, SlotEdit
from aiomutex.bulk import undo
from aiomutex.emulator import Dialect, Fault
from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from aiomutex import BulkReport, MutexSession

FAULTS: Final[dict[str, Fault | None]] = {
    "none": None,
    "lost before": Fault(kind="reset-before"),
    "lost after": Fault(kind="reset-after"),
    "cut off": Fault(kind="truncate"),
    "refused": Fault(kind="status", status=400),
    "failed": Fault(kind="status", status=503),
    "failed and done": Fault(kind="status", status=503, after_commit=True),
}
PLACES: Final = [("1", 1), ("1", 2), ("2", 1)]
LISTS: Final = [("experiments",), ("holdouts",), ("experiments", "holdouts")]
POLICIES: Final = {"once": ONCE, "twice": RetryPolicy(max_attempts=2, base=0.0001, cap=0.0001)}

shapes = st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(LISTS)), min_size=1, max_size=4)
troubles = st.lists(st.sampled_from(list(FAULTS)), max_size=10)
policies = st.sampled_from(list(POLICIES))


class World:
    """A service for many runs, each of which meets faults of its own, one request after the other."""

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
        """Be as at first; the path of a journal that is not there yet."""
        self.emulator.restore(self._seeded)
        self.emulator.clear_history()
        return next(self._journals)

    def do(
        self, call: Callable[[MutexSession], Awaitable[BulkReport]], trouble: Sequence[str] = (), policy: str = "once"
    ) -> BulkReport:
        coming = iter(trouble)

        def next_fault(_method: str, _path: str) -> Fault | None:
            return FAULTS[next(coming, "none")]

        inside: Any = self.emulator.faults
        inside.next_fault = next_fault

        async def main() -> BulkReport:
            async with session_for(self.emulator.url, retry=POLICIES[policy]) as session:
                report = await call(session)
                assert idle(session)
                return report

        return self._runner.run(main())


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        yield world
        world.close()


@pytest.fixture(scope="module")
def forgetful() -> Iterator[World]:
    """A service that drops a slot's cohorts with each write."""
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), dialect=Dialect(cohorts_on_edit="dropped"))
        yield world
        world.close()


def edits_of(shape: Sequence[tuple[tuple[str, int], Sequence[str]]]) -> list[SlotEdit]:
    """Edits that write a number of their own, so that what landed can be told."""
    return [
        msgspec.structs.replace(SlotEdit(group, slot), **{field: [number] for field in lists})
        for number, ((group, slot), lists) in enumerate(shape, start=1_000)
    ]


def all_is_true(world: World, shape: Any, trouble: Sequence[str], policy: str, *, verify: bool) -> None:
    edits = edits_of(shape)
    world.begin()
    report = world.do(lambda session: session.edit_slots(edits, verify=verify), trouble, policy)
    assert sorted(each.position for each in report.outcomes) == list(range(len(edits)))
    assert_true(world.emulator, report.outcomes)


def undo_takes_all_back(world: World, shape: Any, trouble: Sequence[str], policy: str, *, verify: bool) -> None:
    edits, journal = edits_of(shape), world.begin()
    before = held(world.emulator, PLACES)
    world.do(lambda session: session.edit_slots(edits, verify=verify, journal=journal), trouble, policy)
    report = world.do(lambda session: undo(session, journal)) if journal.exists() else None
    assert report is None or len(report.applied) == len(report.outcomes)
    assert held(world.emulator, PLACES) == before


def a_run_goes_on_to_its_end(world: World, shape: Any, trouble: Sequence[str], policy: str, *, verify: bool) -> None:
    edits, journal = edits_of(shape), world.begin()
    world.do(lambda session: session.edit_slots(edits, verify=verify, journal=journal), trouble, policy)
    report = world.do(lambda session: session.edit_slots(edits, verify=verify, journal=journal))
    assert report.failed == report.unknown == []
    assert_holds(world.emulator, after(edits))


ENDS: Final = {each.__name__: each for each in (all_is_true, undo_takes_all_back, a_run_goes_on_to_its_end)}
QUICK: Final = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
# An edit whose fate nobody knows, and another of the same slot or list after it.
ONE_SLOT: Final = [(PLACES[0], LISTS[0])] * 2
OTHER_LIST: Final = [(PLACES[0], LISTS[0]), (PLACES[0], LISTS[1])]
UNKNOWN: Final = ["none", "lost after", "failed"]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("verify", [False, True], ids=["plain", "verified"])
@example(shape=ONE_SLOT, trouble=[*UNKNOWN, "refused"], policy="once")
@example(shape=ONE_SLOT, trouble=[*UNKNOWN, "lost before", "failed"], policy="once")
@example(shape=ONE_SLOT, trouble=["none", "none", "lost after"], policy="once")
@example(shape=OTHER_LIST, trouble=UNKNOWN, policy="once")
@example(shape=ONE_SLOT + ONE_SLOT[:1], trouble=["none", *UNKNOWN, "lost before"], policy="once")
@given(shape=shapes, trouble=troubles, policy=policies)
@QUICK
def test_whatever_goes_wrong_when(
    world: World, verify: bool, end: str, shape: Any, trouble: Sequence[str], policy: str
) -> None:
    ENDS[end](world, shape, trouble, policy, verify=verify)


@pytest.mark.deep
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("verify", [False, True], ids=["plain", "verified"])
@given(shape=shapes, trouble=troubles, policy=policies)
@settings(QUICK, max_examples=1_000)
def test_whatever_goes_wrong_when_thousands_of_times(
    world: World, verify: bool, end: str, shape: Any, trouble: Sequence[str], policy: str
) -> None:
    ENDS[end](world, shape, trouble, policy, verify=verify)


@example(shape=ONE_SLOT[:1], trouble=["none", "lost after"], policy="once")
@example(shape=[(PLACES[0], LISTS[0]), (PLACES[1], LISTS[0])], trouble=["none", "none", "lost after"], policy="once")
@given(shape=shapes, trouble=troubles, policy=policies)
@QUICK
def test_a_write_that_cost_a_slot_its_cohorts_is_never_told_applied(
    forgetful: World, shape: Any, trouble: Sequence[str], policy: str
) -> None:
    edits = edits_of(shape)
    forgetful.begin()
    report = forgetful.do(lambda session: session.edit_slots(edits, verify=True), trouble, policy)
    assert report.applied == []
