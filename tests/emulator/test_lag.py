"""Reads that lag show the state of some seconds ago, by the emulator's clock."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from aiomutex.emulator import Dialect

from .helpers import PATH

if TYPE_CHECKING:
    from aiomutex.emulator import Clock

    from .conftest import Start
    from .helpers import Api

NEW = {"projectId": 1, "name": "n", "slots": [{"percentage": 100}]}


async def frozen(start: Start, dialect: Dialect, **options: Any) -> tuple[Api, Clock]:
    api = await start(dialect=dialect, limits=False, **options)
    api.emulator.clock.freeze()
    return api, api.emulator.clock


async def listed(api: Api) -> dict[int, Any]:
    return {group["id"]: group for group in (await api.list()).json["mutexes"]}


async def test_a_change_is_seen_after_the_lag(start: Start) -> None:
    api, clock = await frozen(start, Dialect(read_lag=2.0, list_lag=5), groups=2)
    details, listing = await api.get("1"), await api.list()
    assert (await api.edit_slot("1", 1, {"experiments": [7]})).status == 200
    assert (await api.get("1")).body == details.body
    clock.advance(1.9)
    assert (await api.get("1")).body == details.body
    clock.advance(0.2)
    assert (await api.get("1")).json["slots"][0]["experiments"] == [7]
    assert (await api.list()).body == listing.body
    clock.advance(3)
    assert (await listed(api))[1]["slots"][0]["experiments"] == [7]
    assert api.emulator.groups["1"].slots[0].experiments == [7]


async def test_each_read_shows_one_moment(start: Start) -> None:
    api, clock = await frozen(start, Dialect(read_lag=10), groups=1)
    for number in range(5):
        await api.edit_slot("1", 1, {"experiments": [number]})
        await api.edit("1", {"name": f"name {number}"})
        clock.advance(4)
    seen: list[Any] = []
    for _ in range(5):
        group = (await api.get("1")).json
        seen.append((group["name"], group["slots"][0]["experiments"]))
        clock.advance(4)
    assert seen == [(f"name {number}", [number]) for number in (2, 3, 4, 4, 4)]


async def test_a_created_group_appears_after_the_lag(start: Start) -> None:
    api, clock = await frozen(start, Dialect(read_lag=1, list_lag=2), groups=2)
    created = (await api.create(NEW)).json["id"]
    await api.edit(created, {"name": "edited since"})
    assert (await api.get(created)).status == 404
    assert (await api.list(limit=2)).json["nextCursor"] is None
    assert (await api.create({**NEW, "key": api.emulator.groups[created].key})).status == 400, "writes never lag"
    clock.advance(1)
    assert (await api.get(created)).json["name"] == "edited since"
    assert list(await listed(api)) == [1, 2]
    clock.advance(1)
    assert list(await listed(api)) == [1, 2, 3]


@pytest.mark.parametrize("offsets", ["listed", "all"])
async def test_an_archived_group_disappears_after_the_lag(start: Start, offsets: Any) -> None:
    api, clock = await frozen(start, Dialect(archived="hidden", offsets=offsets, list_lag=2), groups=3)
    for archive, before, after in ((True, [1, 2, 3], [1, 3]), (False, [1, 3], [1, 2, 3])):
        await api.edit("2", {"archive": archive})
        assert list(await listed(api)) == before
        clock.advance(2)
        assert list(await listed(api)) == after


async def test_without_a_lag_nothing_is_remembered(start: Start) -> None:
    api, _ = await frozen(start, Dialect(read_lag=2), groups=1)
    await api.edit("1", {"name": "a"})
    for dialect in (Dialect(read_lag=2), Dialect(read_lag=2, project_ids="string"), Dialect(read_lag=2, list_lag=2)):
        api.emulator.dialect = dialect
        assert (await api.get("1")).json["name"] == "Group 1"
    api.emulator.dialect = Dialect()
    assert (await api.get("1")).json["name"] == "a"
    api.emulator.dialect = Dialect(read_lag=2, list_lag=2)
    assert (await api.get("1")).json["name"] == "a"
    await api.edit("1", {"name": "b"})
    api.emulator.restore(api.emulator.snapshot())
    assert (await api.get("1")).json["name"] == "b"


async def test_direct_changes_are_seen_at_once(start: Start) -> None:
    api, _ = await frozen(start, Dialect(read_lag=2, list_lag=2))
    api.emulator.add_group("7")
    api.emulator.groups["7"].name = "direct"
    assert (await api.get("7")).json["name"] == (await listed(api))[7]["name"] == "direct"


@pytest.mark.parametrize("seed", range(20))
async def test_random_reads_equal_the_state_of_that_moment(start: Start, seed: int) -> None:
    rng = Random(seed)
    archived, writes = rng.choice(["flagged", "listed", "hidden"]), rng.choice(["atomic", "racy"])
    dialect: Any = {"archived": archived, "offsets": rng.choice(["listed", "all"]), "slot_writes": writes}
    read_lag, list_lag = rng.choice([0.5, 3]), rng.choice([0.5, 3])
    api, clock = await frozen(start, Dialect(**dialect, read_lag=read_lag, list_lag=list_lag), groups=4)
    present, _ = await frozen(start, Dialect(**dialect))
    history = [(clock.now(), api.emulator.snapshot())]
    for _ in range(60):
        group_id = str(rng.randint(1, len(api.emulator.groups)))
        if (choice := rng.random()) < 0.5:
            await api.edit_slot(group_id, rng.randint(1, 3), {"experiments": [rng.randint(1, 9)]})
        elif choice < 0.8:
            await api.edit(group_id, {"archive": rng.random() < 0.5})
        else:
            await api.create(NEW)
        history.append((clock.now(), api.emulator.snapshot()))
        clock.advance(rng.choice([0, 0.1, 0.4, 1.7]))
        for lag, path in ((read_lag, f"{PATH}/{group_id}"), (list_lag, f"{PATH}?limit=3")):
            past = [state for at, state in history if at <= clock.now() - lag]
            present.emulator.restore((past or [history[0][1]])[-1])
            assert (await api.send("GET", path)).body == (await present.send("GET", path)).body
