"""Invalid arguments: nothing is sent, and the message names the field."""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT, http, session_for
from yarl import URL

from aiomutex import UNSET, InvalidRequestError, MutexSession, NewGroup, NewSlot, SlotEdit
from aiomutex._api import validation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from support import RawServer

    from aiomutex.testing import MutexEmulator

    Call = Callable[[Any], Awaitable[object]]

# Python raises ValueError when such a number is converted to a string.
TOO_LONG = 10**5000

BAD_IDS: list[Any] = [
    "",
    " ",
    "a/b",
    "/",
    "a?b",
    "a#b",
    ".",
    "..",
    "../slots",
    "%2e%2e",
    "..%2f7",
    "7%2f..",
    "a\\b",
    "a\nb",
    "7\n",
    "a\rb",
    "a\x00b",
    "a\tb",
    "a b",
    "ä",
    "\N{FULLWIDTH DIGIT SEVEN}",
    "a" * 129,
    "7;x",
    "@",
    ":",
    -1,
    7.0,
    True,
    None,
    b"7",
    ["7"],
    ("7",),
    {"id": 7},
    UNSET,
    TOO_LONG,
]
BAD_SLOTS: list[Any] = [0, 21, -1, True, False, 1.0, "1", None, [1], UNSET, TOO_LONG]
BAD_LIMITS: list[Any] = [0, 1001, -1, True, 10.0, "10", None, TOO_LONG]
# Bad lists of IDs, each with the position that the message must name.
BAD_ID_LISTS: list[tuple[Any, str]] = [
    (["123"], "[0]"),
    ([1, True], "[1]"),
    ([1, 2, -3], "[2]"),
    ([1.0], "[0]"),
    ([None], "[0]"),
    ([2**63], "[0]"),
    ([TOO_LONG], "[0]"),
    ([[1]], "[0]"),
    ("123", ""),
    (b"123", ""),
    (bytearray(b"1"), ""),
    (123, ""),
    (None, ""),
    ({"a": 1}, ""),
    (iter([1]), ""),
]
BAD_STRING_LISTS: list[tuple[Any, str]] = [
    ([1], "[0]"),
    (["a", ""], "[1]"),
    (["a", "b", " \t"], "[2]"),
    ([None], "[0]"),
    ([b"a"], "[0]"),
    (["\ud800"], "[0]"),
    ("abc", ""),
    (1, ""),
    (None, ""),
]
BAD_STRINGS: list[Any] = ["", " ", "\n", None, 5, b"name", ["name"], "\udfff"]
BAD_DESCRIPTIONS: list[Any] = [5, b"d", ["d"], "\ud800"]
BAD_CURSORS: list[Any] = ["", " ", True, 1.0, b"5", "\ud800", TOO_LONG, -1]
BAD_CONCURRENCIES: list[Any] = [0, -1, True, 1.5, None, "8"]
BAD_MODES: list[Any] = ["hybrid", "", "Local", None, 1, []]
BAD_PROJECTS: list[Any] = [
    *(-1, True, 1.0, None, [1], 2**63, "\ud800", TOO_LONG),
    *("", " ", "-1", "+1", "01", "1.0", " 1", "1 ", "a b", "\u0661"),
]
BAD_PERCENTAGES: list[Any] = [0, 101, 33.3, 40.0, -1, True, "40", None, TOO_LONG]
BAD_SLOT_LISTS: list[tuple[str, Any, str]] = [
    ("sum 99", [NewSlot(percentage=40), NewSlot(percentage=59)], "must add up to 100, not to 99"),
    ("sum 101", [NewSlot(percentage=40), NewSlot(percentage=61)], "must add up to 100, not to 101"),
    ("no slots", [], "must hold 1 to 20 slots, not 0"),
    ("21 slots", [NewSlot(percentage=5)] * 21, "must hold 1 to 20 slots, not 21"),
    ("None as slots", None, "slots must be a list"),
    ("a string as slots", "ab", "slots must be a list"),
    ("one slot as slots", NewSlot(percentage=100), "slots must be a list"),
    ("an iterator of slots", iter([NewSlot(percentage=100)]), "slots must be a list"),
    ("a set of slots", {NewSlot(percentage=100)}, "slots must be a list"),
    ("a dict as a slot", [{"percentage": 100}], "slots[0] must be a NewSlot"),
]
BAD_KEYS: list[Any] = ["", " ", "a b", "a\nb", "a\tb", "a\x7f", None, 5, "\ud800"]


def group(**other: Any) -> NewGroup:
    fields: dict[str, Any] = {"project_id": 1, "name": "Example", "slots": [NewSlot(percentage=100)]}
    return NewGroup(**fields | other)


def call(method: str, *args: Any, **more: Any) -> Call:
    return lambda session: getattr(session, method)(*args, **more)


def collects(concurrency: Any = 8, **more: Any) -> Call:
    async def collect(session: MutexSession) -> object:
        return await session.list_groups(**more).collect(concurrency=concurrency)

    return collect


def shares(*percentages: Any) -> list[NewSlot]:
    return [NewSlot(percentage=percentage) for percentage in percentages]


def shown(value: object) -> str:
    return "too long" if value is TOO_LONG else f"{value!r:.20}"


BadCall = tuple[str, "Call", str]
"""A description, the call, and what its message must contain."""


def bad_ids() -> Iterator[BadCall]:
    for bad in BAD_IDS:
        yield f"get id {shown(bad)}", call("get_group", bad), "group_id"
        yield f"edit id {shown(bad)}", call("edit_group", bad, name="n"), "group_id"
        yield f"archive id {shown(bad)}", call("archive_group", bad), "group_id"
        yield f"unarchive id {shown(bad)}", call("unarchive_group", bad), "group_id"
        yield f"slot id {shown(bad)}", call("edit_slot", bad, 1, experiments=[]), "group_id"
        yield f"edits id {shown(bad)}", call("edit_slots", [SlotEdit(bad, 1, experiments=[])]), "edits[0]: group_id"


def bad_listings() -> Iterator[BadCall]:
    for bad in BAD_LIMITS:
        yield f"limit {shown(bad)}", call("list_page", limit=bad), "limit"
        yield f"page_size {shown(bad)}", collects(page_size=bad), "page_size"
    for bad in BAD_CURSORS:
        yield f"cursor {shown(bad)}", call("list_page", cursor=bad), "cursor"
        yield f"pager cursor {shown(bad)}", collects(cursor=bad), "cursor"
    for bad in BAD_CONCURRENCIES:
        yield f"collect {bad!r}", collects(bad), "concurrency"
    for bad in BAD_STRINGS:
        yield f"find {bad!r}", call("find_group", bad), "key"


def bad_edits() -> Iterator[BadCall]:
    yield "empty slot edit", call("edit_slot", "7", 1), "edit is empty"
    yield "empty group edit", call("edit_group", "7"), "edit is empty"
    for bad in BAD_SLOTS:
        yield f"slot {shown(bad)}", call("edit_slot", "7", bad, experiments=[]), "slot_index"
    for bad in BAD_STRINGS:
        yield f"edit name {bad!r}", call("edit_group", "7", name=bad), "name"
    for bad in BAD_DESCRIPTIONS:
        yield f"description {bad!r}", call("edit_group", "7", description=bad), "description"
    edits = [SlotEdit("7", 1, experiments=[1]), SlotEdit("7", 0, experiments=[1])]
    yield "second edit of a collection", call("edit_slots", edits), "edits[1]: slot_index"


def bad_lists() -> Iterator[BadCall]:
    """Invalid lists of a slot, in an edit and in a create."""
    tables = {"experiments": BAD_ID_LISTS, "holdouts": BAD_ID_LISTS, "individuals": BAD_STRING_LISTS}
    for field, table in tables.items():
        for bad, place in table:
            wrong: dict[str, Any] = {field: bad}
            slots = [NewSlot(percentage=40), NewSlot(percentage=60, **wrong)]
            name = f"{field}{place} {type(bad).__name__}"
            yield f"slot {name}", call("edit_slot", "7", 1, **wrong), field + place
            yield f"create {name}", call("create_group", group(slots=slots)), f"slots[1].{field}{place}"


def bad_creates() -> Iterator[BadCall]:
    fields: dict[str, list[Any]] = {
        "name": BAD_STRINGS,
        "description": BAD_DESCRIPTIONS,
        "key": BAD_KEYS,
        "bucketing_key": BAD_KEYS,
        "bucketing_salt": BAD_KEYS,
        "evaluation_mode": BAD_MODES,
        "project_id": BAD_PROJECTS,
    }
    for field, values in fields.items():
        for bad in values:
            yield f"create {field} {shown(bad)}", call("create_group", group(**{field: bad})), field
    for bad in BAD_PERCENTAGES:
        slots = shares(bad, 60)
        yield f"percentage {shown(bad)}", call("create_group", group(slots=slots)), "slots[0].percentage"
    for name, wrong, message in BAD_SLOT_LISTS:
        yield f"create {name}", call("create_group", group(slots=wrong)), message
    yield "create a dict", call("create_group", {"name": "x"}), "group must be a NewGroup"
    yield "create None", call("create_group", None), "group must be a NewGroup"


async def test_an_invalid_argument_is_never_sent_and_its_message_names_the_field(
    emulator: MutexEmulator, session: MutexSession
) -> None:
    # One test for the whole table, because starting a server takes longer than all of these calls.
    wrong: list[str] = []
    for what, make, field in chain(bad_ids(), bad_listings(), bad_edits(), bad_lists(), bad_creates()):
        try:
            await make(session)
        except InvalidRequestError as error:
            if field not in str(error) or len(str(error)) > 400:
                wrong.append(f"{what}: message {error}")
            if error.attempts or error.maybe_applied:
                wrong.append(f"{what}: claims that something was sent")
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the finding
            wrong.append(f"{what}: raised {error!r:.200}")
        else:
            wrong.append(f"{what}: was accepted")
    assert wrong == []
    assert not emulator.requests


async def test_the_largest_and_smallest_valid_values_are_sent(emulator: MutexEmulator, session: MutexSession) -> None:
    await session.list_page(limit=1)
    await session.list_page(limit=1000)
    emulator.add_group("a.b_c~d-e", slots=[5] * 20)
    await session.edit_slot("a.b_c~d-e", 20, experiments=[0, 2**53], holdouts=(), individuals=["ä \N{PARTY POPPER}"])
    assert emulator.groups["a.b_c~d-e"].slots[19].individuals == ["ä \N{PARTY POPPER}"]
    await session.create_group(group(slots=shares(*[5] * 20)))
    await session.create_group(group(slots=shares(1, 99), description="", project_id="p"))
    await session.create_group(group(project_id=0, key="of-project-0"))
    await session.create_group(group(slots=tuple(shares(100)), description=None))
    assert [request.status for request in emulator.requests] == [200] * 7


async def test_an_experiment_may_be_in_several_slots(emulator: MutexEmulator, session: MutexSession) -> None:
    slots = [NewSlot(percentage=50, experiments=[1, 1]), NewSlot(percentage=50, experiments=[1])]
    created = await session.create_group(group(slots=slots))
    assert emulator.groups[created.id].slots[1].experiments == [1]


async def test_every_accepted_id_stays_one_path_segment(raw: RawServer) -> None:
    raw.answer(http())
    accepted: list[str] = []
    async with session_for(raw.url) as session:
        for char in map(chr, range(1, 300)):
            for text in (char, f"a{char}", f"{char}a", f"{char}{char}", f"a{char}{char}/.."):
                try:
                    await session.archive_group(text)
                except InvalidRequestError:
                    continue
                accepted.append(text)
    assert [request.path for request in raw.requests] == [f"{ROOT}/{text}" for text in accepted]
    assert all(URL("http://h").join(URL(request.path)).path == request.path for request in raw.requests)
    assert len(accepted) > 200


@given(st.text() | st.integers() | st.from_regex(r"[a-z0-9.%/?#~_-]{1,10}", fullmatch=True))
def test_a_segment_is_one_unreserved_segment_or_an_error(group_id: str | int) -> None:
    try:
        segment = validation.group_segment(group_id)
    except InvalidRequestError as error:
        assert "group_id" in str(error)  # noqa: PT017  # both outcomes are fine
        return
    assert segment == str(group_id)
    assert URL(f"http://h/a/{segment}", encoded=True).parts == ("/", "a", segment)
    assert URL("http://h/a/b").join(URL(f"./{segment}")).path == f"/a/{segment}"


@given(st.lists(st.integers(1, 100), min_size=1, max_size=20))
def test_only_percentages_that_add_up_to_100_are_accepted(percentages: list[int]) -> None:
    try:
        validation.new_group(group(slots=shares(*percentages)))
    except InvalidRequestError as error:
        assert sum(percentages) != 100
        assert f"not to {sum(percentages)} " in str(error)  # noqa: PT017  # both outcomes are fine
    else:
        assert sum(percentages) == 100


def test_a_message_shows_a_long_value_shortened() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        validation.nonempty_string("name", ["x" * 10_000])
    assert len(str(caught.value)) < 200
    assert "(list)" in str(caught.value)


def test_a_valid_group_is_returned_unchanged() -> None:
    good = group(slots=shares(40, 60), evaluation_mode="local", key="k", description=None)
    assert validation.new_group(good) is good
    assert msgspec.json.decode(msgspec.json.encode(good))["slots"] == [{"percentage": 40}, {"percentage": 60}]


async def test_a_list_changed_while_the_call_waits_does_not_change_what_is_sent(raw: RawServer) -> None:
    raw.answer(http())
    experiments = [1, 2]
    async with session_for(raw.url) as session:
        call = asyncio.ensure_future(session.edit_slot("7", 1, experiments=experiments))
        await asyncio.sleep(0)
        experiments.append(-1)
        await call
    assert raw.requests[0].body == b'{"experiments":[1,2]}'
