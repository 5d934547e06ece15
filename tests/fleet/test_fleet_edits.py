"""A fleet accepts the same edits as a session and writes the same; what a session rejects, it rejects too."""

from __future__ import annotations

import contextlib
import enum
import itertools
from array import array
from collections import ChainMap, Counter, OrderedDict, UserList, deque
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from bulk_support import LISTS, landed, session_for
from fleet_support import NAME, worker

from aiomutex import SlotEdit
from aiomutex.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from redis_server import RedisServer

    from aiomutex import BulkReport
    from aiomutex.testing import MutexEmulator

pytestmark = pytest.mark.redis


class Pair(NamedTuple):
    one: object
    other: object


class ListOfUsers(list[Any]):
    pass


class TupleOfUsers(tuple[Any, ...]):
    __slots__ = ()


class Backwards(Sequence[Any]):
    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def __getitem__(self, index: Any) -> Any:
        return self._items[::-1][index]

    def __len__(self) -> int:
        return len(self._items)


class OddSet(AbstractSet[Any]):
    def __init__(self, items: list[Any]) -> None:
        self._items = items

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


class Number(int):
    pass


class Name(str):
    __slots__ = ()


class Level(enum.IntEnum):
    LOW = 5


class User(enum.StrEnum):
    ADA = "ada"


KINDS: tuple[Callable[[list[Any]], Any], ...] = (
    list,
    tuple,
    set,
    frozenset,
    dict.fromkeys,
    OrderedDict.fromkeys,
    Counter,
    ListOfUsers,
    TupleOfUsers,
    Backwards,
    OddSet,
    UserList,
    deque,
    lambda items: Pair(items[0], items[-1]) if items else Pair(1, 2),
    lambda items: dict.fromkeys(items).keys(),
    lambda items: dict(enumerate(items)).values(),
    lambda items: dict(enumerate(items)).items(),
    lambda items: ChainMap(dict.fromkeys(items)).keys(),
    lambda items: range(len(items), 20),
    lambda items: array("q", [item for item in items if type(item) is int and item < 2**63]),
    lambda items: memoryview(bytes(len(items))),
    lambda items: bytes(len(items)),
    lambda items: bytearray(len(items)),
    lambda items: "".join(map(str, items)),
    iter,
    lambda items: None,
    len,
    lambda items: [items],
)
ITEMS: tuple[list[Any], ...] = (
    [],
    [3, 1, 2],
    [0, 2**63 - 1],
    [2**63],
    [-1],
    [True],
    [1.0],
    [None],
    [Number(4)],
    [Level.LOW],
    ["ada", "bob"],
    [Name("ada"), "ada"],
    [User.ADA],
    ['é\u2028\x00\\"', "😀"],
    ["\ud800"],
    [""],
    [b"ada"],
)


def every_edit() -> Iterator[tuple[SlotEdit, SlotEdit]]:
    """Each kind of list with each items in each field: an edit for the session and the same one for the fleet."""
    for number, (make, items, field) in enumerate(itertools.product(KINDS, ITEMS, LISTS)):
        with contextlib.suppress(TypeError, ValueError):  # some items cannot be in some kinds of list
            lists = {field: make(items)}
            yield SlotEdit(1 + number % 10, 1, **lists), SlotEdit(1 + number % 10, 2, **lists)


def facts(report: BulkReport) -> list[Any]:
    outcomes = sorted(report.outcomes, key=lambda outcome: outcome.position)
    return [(outcome.status, type(outcome.error), str(outcome.error)) for outcome in outcomes]


async def test_a_fleet_and_a_session_agree_on_every_kind_of_list(
    emulator: MutexEmulator, redis_server: RedisServer
) -> None:
    edits = list(every_edit())
    async with session_for(emulator.url) as session:
        local = await session.edit_slots(edit for edit, _ in edits)
    async with worker(emulator, redis_server.url), Fleet(redis_server.url, name=NAME) as fleet:
        remote = await fleet.edit_slots(edit for _, edit in edits)
    assert facts(remote) == facts(local)
    assert {outcome.status for outcome in local.outcomes} == {"applied", "failed"}
    written: dict[int, dict[str, list[Any]]] = {1: {}, 2: {}}
    for group, slot, body in landed(emulator):
        written[slot].setdefault(group, []).append(body)
    assert written[1] == written[2]
