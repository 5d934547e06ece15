"""Callers may change what they passed: the lists of a call or an edit are copied before the call waits."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from bulk_support import LISTS, assert_holds, held
from support import until

from aiomutex import UNSET, MutexSession, NewGroup, NewSlot, SlotEdit
from aiomutex.bulk.options import freeze
from aiomutex.plan import Desired, DesiredGroup, DesiredSlot, plan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from bulk_support import Editor

    from aiomutex.testing import MutexEmulator


def edits_with_one_list(count: int) -> Iterator[SlotEdit]:
    items: list[int] = []
    for n in range(count):
        items[:] = [n]
        yield SlotEdit(1 + n % 20, 1 + n // 20 % 3, experiments=items)


async def asynchronously(edits: Iterator[SlotEdit]) -> AsyncIterator[SlotEdit]:
    for edit in edits:
        yield edit


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_generator_may_reuse_one_list_for_all_its_edits(
    emulator: MutexEmulator, editor: Editor, is_async: bool
) -> None:
    source = edits_with_one_list(60)
    report = await editor.edit_slots(asynchronously(source) if is_async else source)
    assert len(report.applied) == 60
    assert all(list(outcome.edit.experiments) == [outcome.position] for outcome in report.outcomes)  # type: ignore[union-attr,arg-type]
    assert_holds(emulator, {(str(1 + n % 20), 1 + n // 20): {"experiments": [n]} for n in range(60)})


@pytest.mark.parametrize(
    ("items", "copied"),
    [([1], [1]), ((1,), (1,)), ({1, 2}, frozenset({1, 2})), (range(2), [0, 1]), (UNSET, UNSET), (b"1", b"1"), (5, 5)],
    ids=str,
)
def test_a_frozen_edit_shares_no_mutable_list(items: Any, copied: object) -> None:
    edit = SlotEdit(1, 1, experiments=items, holdouts=items, individuals=items)
    frozen = freeze(edit)
    for name in LISTS:
        assert getattr(frozen, name) == copied
        assert type(getattr(frozen, name)) is type(copied)
        assert getattr(frozen, name) is not items or not isinstance(items, list | set)


# ------------------------------------------------------------------ every public call


def spoil(value: Any) -> None:
    """Change every list and dict in ``value``, at any depth."""
    if isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            spoil(getattr(value, field))
        return
    if not isinstance(value, list | tuple | dict):
        return
    items: Any = value  # pyright: ignore[reportUnknownVariableType]  # of any items
    for each in list(items.values() if isinstance(value, dict) else items)[:3]:
        spoil(each)
    if isinstance(value, dict):
        items.clear()
    elif isinstance(value, list):
        items[:] = ["999"] if items and isinstance(items[0], str) else [999, 999]


def many_edits() -> list[SlotEdit]:
    """More edits than a run pulls at once."""
    return [SlotEdit(1 + n % 20, 1, experiments=[n], individuals=["a"]) for n in range(1_100)]


async def stream(session: MutexSession, edits: Any) -> object:
    async with session.stream_slot_edits(edits) as outcomes:
        return [outcome async for outcome in outcomes]


async def create(session: MutexSession, group: NewGroup) -> object:
    return await session.create_group(group)


def new_group() -> NewGroup:
    slots = [NewSlot(percentage=40, experiments=[1], individuals=["a"]), NewSlot(percentage=60, holdouts=[2])]
    return NewGroup(project_id=1, name="New", key="new", bucketing_salt="salt", slots=slots)


CALLS: dict[str, tuple[Callable[[MutexSession, Any], Awaitable[object]], Callable[[], Any]]] = {
    "edit_slots": (MutexSession.edit_slots, many_edits),
    "edit_slots of a tuple": (MutexSession.edit_slots, lambda: tuple(many_edits())),
    "stream_slot_edits": (stream, many_edits),
    "create_group": (create, new_group),
    "edit_slot": (lambda session, items: session.edit_slot(1, 1, experiments=items), lambda: [7, 8]),
    "change_slot": (lambda session, items: session.change_slot(1, 1, add_individuals=items), lambda: ["ada", "bob"]),
    "request": (
        lambda session, json: session.request("PATCH", "/api/1/mutexes/1/slots/1", json=json, idempotent=True),
        lambda: {"experiments": [7, 8]},
    ),
}
NO_LISTS = {"on_outcome"}


def test_the_table_has_every_method_that_takes_something_mutable() -> None:
    mutable = ("Sequence", "Iterable", "list", "dict", "object", "NewGroup", "Any")
    takers = {
        name
        for name, method in inspect.getmembers(MutexSession, inspect.isfunction)
        if not name.startswith("_")
        and any(
            any(word in str(parameter.annotation) for word in mutable)
            for parameter in inspect.signature(method).parameters.values()
            if parameter.name not in NO_LISTS
        )
    }
    assert takers - set(CALLS) == set()


def facts(emulator: MutexEmulator, result: Any) -> object:
    if isinstance(getattr(result, "outcomes", result), list):
        outcomes: Any = getattr(result, "outcomes", result)
        result = sorted((outcome.position, outcome.status, outcome.edit) for outcome in outcomes)
    slots = {group: len(emulator.groups[group].slots) for group in emulator.groups}
    return repr(getattr(result, "body", result)), held(
        emulator, [(group, n + 1) for group, count in slots.items() for n in range(count)]
    )


@pytest.mark.parametrize("loses_response", [False, True])
@pytest.mark.parametrize("name", CALLS)
async def test_arguments_may_change_during_and_after_a_call(
    emulator: MutexEmulator, session: MutexSession, name: str, loses_response: bool
) -> None:
    call, arguments = CALLS[name]
    inside: Any = session
    results: list[object] = []
    emulator.latency = 0.01
    before = emulator.snapshot()
    for spoils in (False, True):
        emulator.restore(before)
        if loses_response:
            emulator.fail_next(kind="reset-after", method="POST" if name == "create_group" else "PATCH")
        argument = arguments()
        task = asyncio.ensure_future(call(session, argument))
        await until(lambda: inside._transport.in_flight or task.done())  # noqa: B023  # used in this iteration
        if spoils:
            spoil(argument)
        result = await task
        if spoils:
            spoil(argument)
        results.append(facts(emulator, result))
    assert results[0] == results[1]


async def test_a_plan_stays_as_it_is_when_its_arguments_change(session: MutexSession) -> None:
    new_list: Any = list  # typed as tuples, but lists work, too
    edited = DesiredSlot(percentage=34, experiments=new_list([5, 6]))
    slots = new_list([edited, DesiredSlot(percentage=33), DesiredSlot(percentage=33)])
    other = new_list([DesiredSlot(percentage=100, holdouts=new_list([3]))])
    groups = new_list(
        [
            DesiredGroup(project_id="1", key="group-1", slots=slots),
            DesiredGroup(project_id="1", key="b", name="B", slots=other),
        ]
    )
    live = await session.list_groups().collect()
    desired = Desired(groups=groups)
    made = plan(desired, live)
    before = repr(made)
    spoil(desired)
    spoil(live)
    assert repr(made) == before
