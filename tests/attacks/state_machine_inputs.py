"""Inputs of the state machine: valid arguments, invalid calls, and faults."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from hypothesis import strategies as st

from aiomutex import NewGroup, NewSlot, SlotEdit

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from aiomutex import MutexSession

LISTS: Final = ("experiments", "holdouts", "individuals")
FAULTS: Final[tuple[dict[str, Any], ...]] = (
    {"kind": "reset-before"},
    {"kind": "reset-after"},
    {"kind": "truncate"},
    {"kind": "garbage"},
    {"status": 500},
    {"status": 503, "after_commit": True},
    {"status": 429, "retry_after": 0, "n": 1},
)

numbers = st.lists(st.integers(0, 5), max_size=3, unique=True)
people = st.lists(st.sampled_from(["ada", "eve@example.com", "007", "Jürgen 🎈"]), max_size=2, unique=True)
given_lists = st.fixed_dictionaries(
    {}, optional={"experiments": numbers, "holdouts": numbers, "individuals": people}
).filter(bool)
changes = st.fixed_dictionaries(
    {},
    optional={f"{verb}_{name}": people if name == "individuals" else numbers for verb in ("add", "remove")
              for name in LISTS},
).filter(bool)  # fmt: skip
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(str.strip)
shapes = st.sampled_from([[100], [40, 60], [1, 98, 1], [5] * 20])
places = st.integers(0, 10**6)
troubles = st.none() | st.none() | st.tuples(st.integers(1, 2), st.sampled_from(FAULTS))

# Each call is invalid in one way, and must send nothing.
INVALID_CALLS: Final[tuple[Callable[[MutexSession, str], Coroutine[Any, Any, object]], ...]] = (
    lambda session, _: session.get_group("a/b"),
    lambda session, _: session.find_group(""),
    lambda session, _: session.list_page(limit=0),
    lambda session, _: session.archive_group(".."),
    lambda session, id_: session.edit_group(id_),
    lambda session, id_: session.edit_group(id_, name=" "),
    lambda session, id_: session.edit_slot(id_, 1),
    lambda session, id_: session.edit_slot(id_, 0, experiments=[1]),
    lambda session, id_: session.edit_slot(id_, 1, experiments=[-1]),
    lambda session, id_: session.edit_slot(id_, 1, individuals=[""]),
    lambda session, id_: session.change_slot(id_, 1, add_experiments=[1], remove_experiments=[1]),
    lambda session, id_: session.move_experiment(id_, 1, 2, 2),
    lambda session, id_: session.edit_slots([SlotEdit(id_, 1, experiments=[1]), SlotEdit(id_, 21, holdouts=[1])]),
    lambda session, _: session.create_group(NewGroup(project_id=1, name="n", slots=[NewSlot(percentage=99)])),
)
