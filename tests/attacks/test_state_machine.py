"""Client and emulator agree with a model in memory after any sequence of calls, with and without faults."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from state_machine_inputs import INVALID_CALLS, LISTS, changes, given_lists, names, places, shapes, troubles
from support import idle, session_for

from aiomutex import (
    UNSET,
    BadRequestError,
    InvalidRequestError,
    NewGroup,
    NewSlot,
    NotFoundError,
    OutcomeUnknownError,
    SlotEdit,
)
from aiomutex.bulk import undo
from aiomutex.testing import MutexEmulator

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from aiomutex import MutexSession


def same(one: list[Any], other: list[Any]) -> bool:
    return set(one) == set(other)


class Service(RuleBasedStateMachine):
    """The model is ``groups``: dictionaries by group ID that each rule changes as documented."""

    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.groups: dict[str, dict[str, Any]] = {}
        self.numbers = itertools.count()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.emulator = MutexEmulator(groups=0, limits=False)
        self.runner.run(self.emulator.__aenter__())
        self.session = session_for(self.emulator.url)
        self.runner.run(self.session.__aenter__())

    def teardown(self) -> None:
        self.runner.run(self.session.aclose())
        self.runner.run(self.emulator.__aexit__(None, None, None))
        self.runner.close()
        self.folder.cleanup()

    def do(self, work: Coroutine[Any, Any, Any], trouble: tuple[int, dict[str, Any]] | None = None) -> Any:
        """Run a call, with faults for its first requests."""
        if trouble is not None:
            faults: dict[str, Any] = {"n": trouble[0]} | trouble[1]
            self.emulator.fail_next(**faults)
        try:
            return self.runner.run(work)
        finally:
            self.emulator.faults.clear()

    def group(self, place: int) -> tuple[str, dict[str, Any]]:
        return list(self.groups.items())[place % len(self.groups)]

    def slot(self, place: int) -> tuple[str, int, dict[str, list[Any]]]:
        id_, group = self.group(place)
        index = place // 7 % len(group["slots"])
        return id_, index + 1, group["slots"][index]

    # ------------------------------------------------------------------------------------------ one call

    @rule(name=names, shape=shapes, lists=given_lists, description=st.none() | names, trouble=troubles)
    def create(self, name: str, shape: list[int], lists: dict[str, Any], description: str | None, trouble: Any) -> None:
        key = f"key-{next(self.numbers)}"
        slots = [NewSlot(percentage=shape[0], **lists), *(NewSlot(percentage=share) for share in shape[1:])]
        new = NewGroup(project_id=1, name=f"{name} {key}", key=key, description=description, slots=slots)
        created = self.do(self.session.create_group(new), trouble)
        assert (created.id, created.key) == (str(len(self.groups) + 1), key)
        empty: list[dict[str, list[Any]]] = [{name: [] for name in LISTS} for _ in shape]
        self.groups[created.id] = {"key": key, "name": new.name, "description": description, "archived": False,
                                "shape": shape, "slots": [empty[0] | lists, *empty[1:]]}  # fmt: skip

    @precondition(lambda self: self.groups)
    @rule(place=places, trouble=troubles)
    def create_with_a_duplicate_key(self, place: int, trouble: Any) -> None:
        key = self.group(place)[1]["key"]
        new = NewGroup(project_id=1, name="another", key=key, slots=[NewSlot(percentage=100)])
        with pytest.raises((BadRequestError, OutcomeUnknownError)):
            self.do(self.session.create_group(new), trouble)

    @precondition(lambda self: self.groups)
    @rule(place=places, trouble=troubles)
    def get_and_find(self, place: int, trouble: Any) -> None:
        id_, group = self.group(place)
        assert self.do(self.session.get_group(id_), trouble).id == id_
        assert self.do(self.session.find_group(group["key"]), trouble).id == id_
        assert self.do(self.session.find_group("missing"), trouble) is None

    @rule(trouble=troubles)
    def call_a_missing_group(self, trouble: Any) -> None:
        missing = str(len(self.groups) + 1)
        if trouble is not None and trouble[1].get("kind") == "garbage":
            trouble = None  # that would be a success
        for work in (
            self.session.get_group(missing),
            self.session.edit_group(missing, name="n"),
            self.session.edit_slot(missing, 1, experiments=[1]),
        ):
            with pytest.raises(NotFoundError):
                self.do(work, trouble)

    @precondition(lambda self: self.groups)
    @rule(
        place=places,
        edit=st.fixed_dictionaries({}, optional={"name": names, "description": st.none() | names}).filter(bool),
        trouble=troubles,
    )
    def edit_group(self, place: int, edit: dict[str, Any], trouble: Any) -> None:
        id_, group = self.group(place)
        unset = dict.fromkeys(("name", "description"), UNSET)
        self.do(self.session.edit_group(id_, **unset | edit), trouble)
        group.update(edit)

    @precondition(lambda self: self.groups)
    @rule(place=places, archived=st.booleans(), trouble=troubles)
    def archive(self, place: int, archived: bool, trouble: Any) -> None:
        id_, group = self.group(place)
        self.do(self.session.archive_group(id_) if archived else self.session.unarchive_group(id_), trouble)
        group["archived"] = archived

    @precondition(lambda self: self.groups)
    @rule(place=places, lists=given_lists, trouble=troubles)
    def edit_slot(self, place: int, lists: dict[str, Any], trouble: Any) -> None:
        id_, index, slot = self.slot(place)
        self.do(self.session.edit_slot(id_, index, **dict.fromkeys(LISTS, UNSET) | lists), trouble)
        slot.update(lists)

    @precondition(lambda self: self.groups)
    @rule(place=places, change=changes, trouble=troubles)
    def change_slot(self, place: int, change: dict[str, Any], trouble: Any) -> None:
        id_, index, slot = self.slot(place)
        work = self.session.change_slot(id_, index, **change)
        if any(set(change.get(f"add_{name}", ())) & set(change.get(f"remove_{name}", ())) for name in LISTS):
            with pytest.raises(InvalidRequestError):
                self.do(work, trouble)
            return
        result = self.do(work, trouble)
        for name in LISTS:
            kept = [item for item in slot[name] if item not in change.get(f"remove_{name}", ())]
            slot[name] = kept + [item for item in change.get(f"add_{name}", ()) if item not in kept]
            assert getattr(result, name) == slot[name]

    @precondition(lambda self: self.groups)
    @rule(place=places, to=st.integers(0, 19), experiment=st.integers(0, 5), trouble=troubles)
    def move_experiment(self, place: int, to: int, experiment: int, trouble: Any) -> None:
        id_, index, source = self.slot(place)
        slots = self.groups[id_]["slots"]
        target = slots[to % len(slots)]
        work = self.session.move_experiment(id_, experiment, index, to % len(slots) + 1)
        if target is source or experiment not in source["experiments"] + target["experiments"]:
            with pytest.raises(InvalidRequestError):
                self.do(work, trouble)
            return
        self.do(work, trouble)
        source["experiments"] = [item for item in source["experiments"] if item != experiment]
        target["experiments"] += [experiment] * (experiment not in target["experiments"])

    @precondition(lambda self: self.groups)
    @rule(place=places, call=st.sampled_from(INVALID_CALLS))
    def make_an_invalid_call(self, place: int, call: Callable[[MutexSession, str], Any]) -> None:
        before = len(self.emulator.requests)
        with pytest.raises(InvalidRequestError):
            self.do(call(self.session, self.group(place)[0]))
        assert len(self.emulator.requests) == before

    # ------------------------------------------------------------------------------------------ many calls

    @rule(size=st.integers(1, 4), trouble=troubles)
    def read_pages(self, size: int, trouble: Any) -> None:
        async def by_hand() -> list[str]:
            page = await self.session.list_page(limit=size)
            ids = [group.id for group in page.groups]
            while page.next_cursor is not None:
                page = await self.session.list_page(limit=size, cursor=page.next_cursor)
                ids += [group.id for group in page.groups]
            return ids

        async def by_iterating() -> list[str]:
            return [group.id async for group in self.session.list_groups(page_size=size)]

        async def concurrently() -> list[str]:
            return [group.id for group in await self.session.list_groups(page_size=size).collect(concurrency=3)]

        for way in (by_hand, by_iterating, concurrently):
            assert self.do(way(), trouble) == list(self.groups)

    @precondition(lambda self: self.groups)
    @rule(
        target=runs,
        inputs=st.lists(st.tuples(places, given_lists), min_size=1, max_size=6),
        journaled=st.booleans(),
        verify=st.booleans(),
        trouble=troubles,
    )
    def edit_slots(self, inputs: list[Any], journaled: bool, verify: bool, trouble: Any) -> tuple[str, dict[Any, Any]]:
        edits: list[SlotEdit] = []
        kept: dict[tuple[str, int], tuple[dict[str, Any], dict[str, Any]]] = {}
        for place, lists in inputs:
            id_, index, slot = self.slot(place)
            edits.append(SlotEdit(id_, index, **lists))
            kept.setdefault((id_, index), (dict(slot), {}))[1].update(lists)
            slot.update(lists)
        journal = str(Path(self.folder.name) / f"{next(self.numbers)}.db") if journaled else None
        report = self.do(self.session.edit_slots(edits, journal=journal, verify=verify, concurrency=3), trouble)
        assert len(report.applied) == len(edits)
        return journal or "", kept

    @rule(run=consumes(runs), trouble=troubles)
    def undo(self, run: tuple[str, dict[tuple[str, int], Any]], trouble: Any) -> None:
        journal, kept = run
        if not journal:
            return
        report = self.do(undo(self.session, journal), trouble)
        statuses = {(str(each.edit.group_id), each.edit.slot_index): each.status for each in report.outcomes}
        assert statuses.keys() == kept.keys()
        for (id_, index), (before, written) in kept.items():
            slot = self.groups[id_]["slots"][index - 1]
            earlier = {name: before[name] for name in written}
            if all(same(slot[name], earlier[name]) for name in written):
                assert statuses[id_, index] == "applied"
            elif all(same(slot[name], written[name]) for name in written):
                assert statuses[id_, index] == "applied"
                slot.update(earlier)
            else:
                assert statuses[id_, index] == "skipped"

    # ------------------------------------------------------------------------------------------ always

    @invariant()
    def the_emulator_agrees_with_the_model(self) -> None:
        held = self.emulator.groups
        assert {id_: _as_model(held[id_], bool(held[id_].deleted)) for id_ in held} == self.groups

    @invariant()
    def the_client_agrees_with_the_model(self) -> None:
        read = self.do(self.session.list_groups().collect())
        assert {group.id: _as_model(group, bool(group.deleted)) for group in read} == self.groups

    @invariant()
    def nothing_is_in_use_or_waiting(self) -> None:
        assert idle(self.session)
        assert self.session.rate_limiter.state().waiting == 0


def _as_model(group: Any, archived: bool) -> dict[str, Any]:
    assert [slot.index for slot in group.slots] == list(range(1, len(group.slots) + 1))
    return {
        "key": group.key, "name": group.name, "description": group.description, "archived": archived,
        "shape": [slot.percentage for slot in group.slots],
        "slots": [{name: getattr(slot, name) for name in LISTS} for slot in group.slots],
    }  # fmt: skip


CALM: Final = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


def test_client_emulator_and_model_agree() -> None:
    run_machine(Service, settings=settings(CALM, max_examples=5, stateful_step_count=20))


@pytest.mark.deep
def test_client_emulator_and_model_agree_for_thousands_of_steps() -> None:
    run_machine(Service, settings=settings(CALM, max_examples=30, stateful_step_count=50))
