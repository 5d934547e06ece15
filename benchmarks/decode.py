"""Decoding a page of 1,000 groups, with this library and with others."""

# orjson and pydantic are in an extra, and the dictionaries are untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import msgspec
import orjson
import pydantic

from aiomutex._api import responses
from benchmarks.harness import Goal, Result, Row, Size, Table, alternate, check, median_ratio
from benchmarks.server import SLOTS, group_document

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["run"]

GROUPS = 1000


class BareSlot(msgspec.Struct, rename="camel"):
    name: str
    index: int
    variant_key: str
    percentage: int
    experiments: list[int]
    holdouts: list[int]
    individuals: list[str]
    cohorts: list[str]


class BareGroup(msgspec.Struct, rename="camel"):
    id: int
    project_id: int
    name: str
    key: str
    description: str | None
    evaluation_mode: str
    bucketing_key: str
    bucketing_salt: str
    slots: list[BareSlot]


class BarePage(msgspec.Struct, rename="camel"):
    mutexes: list[BareGroup]
    next_cursor: str | None


class ModelSlot(pydantic.BaseModel):
    name: str
    index: int
    variantKey: str  # noqa: N815  # as on the wire
    percentage: int
    experiments: list[int]
    holdouts: list[int]
    individuals: list[str]
    cohorts: list[str]


class ModelGroup(pydantic.BaseModel):
    id: int
    key: str
    name: str
    description: str | None
    slots: list[ModelSlot]


class ModelPage(pydantic.BaseModel):
    mutexes: list[ModelGroup]


def run(size: Size) -> Result:
    """Decode the same page with each library, in alternating rounds."""
    count = size.of(GROUPS, GROUPS, 20)
    page = b'{"mutexes":[%s],"nextCursor":"1000"}' % b",".join(map(group_document, range(count)))
    decoded = responses.read_page(page, None)
    check("groups on the page", [group.id for group in decoded.groups], [str(n) for n in range(count)])
    check("slots on the page", sum(len(group.slots) for group in decoded.groups), count * SLOTS)
    bare = msgspec.json.Decoder(BarePage)
    loads: Callable[[bytes], Any] = orjson.loads
    subjects: dict[str, Callable[[], object]] = {
        "aiomutex, typed": lambda: responses.read_page(page, None),
        "orjson.loads, dicts": lambda: loads(page),
        "json.loads, dicts": lambda: json.loads(page),
        "bare msgspec, typed": lambda: bare.decode(page),
        "pydantic, typed": lambda: ModelPage.model_validate_json(page),
    }

    def timed(work: Callable[[], object]) -> Callable[[], float]:
        def measure() -> float:
            start = time.process_time()
            for _ in range(times):
                work()
            return (time.process_time() - start) / times * 1e3

        return measure

    times = size.of(20, 5, 1)
    values = alternate({name: timed(work) for name, work in subjects.items()}, size.of(15, 5, 1))
    rows = {name: Row(name, times_) for name, times_ in values.items()}
    table = Table(f"Decoding a page of {count:,} groups", "ms", list(rows.values()), baseline="orjson.loads, dicts")
    ratio = median_ratio(rows["aiomutex, typed"], rows["orjson.loads, dicts"])
    goal = Goal("decode of a 1,000-group page beside orjson.loads", "≤ 0.75, typed", f"{ratio:.2f}", ratio <= 0.75)
    return Result([table], [goal])
