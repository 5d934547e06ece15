"""What room groups have for new experiments."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from command_line import Aiomutex

    from aiomutex.testing import MutexEmulator


def experiment(state: str) -> Callable[[web.BaseRequest], Awaitable[web.Response]]:
    async def page(_: web.BaseRequest) -> web.Response:
        return web.json_response({"state": state})

    return page


def test_capacity_ranks_groups_by_what_a_new_experiment_can_have(service: MutexEmulator, aiomutex: Aiomutex) -> None:
    slots: list[tuple[float, list[int]]] = [(33.3, [1]), (33.3, []), (20, [2, 3]), (10, [2, 4])]
    service.add_group(
        "7", key="roomy", slots=[{"percentage": share, "experiments": members} for share, members in slots]
    )
    service.add_group("8", key="free", slots=[100], deleted=True)
    for number, state in enumerate(["running", "completed", "rolled-out", "planning"], 1):
        service.pages[f"/api/1/experiments/{number}"] = experiment(state)
    words = ("traffic", "capacity", "--group", "roomy", "--group", "group-1", "--json")
    roomy, full = json.loads(aiomutex(*words).stdout)
    assert (full["group"], full["largest"], full["largestSlots"]) == ("group-1", 0, [])
    assert roomy == {
        "group": "roomy", "largest": 33.3, "largestSlots": [2], "empty": 33.3, "emptySlots": [2], "unallocated": 3.4,
    }  # fmt: skip
    assert not [request for request in service.requests if "/experiments" in request.path]
    roomy, _ = json.loads(aiomutex(*words, "--states").stdout)
    assert (roomy["largest"], roomy["largestSlots"]) == (63.3, [2, 3, 4])
    assert (roomy["empty"], roomy["finished"], roomy["finishedSlots"]) == (33.3, 20, [3])


def test_capacity_is_a_table_of_all_live_groups(service: MutexEmulator, aiomutex: Aiomutex) -> None:
    service.add_group("7", key="free", slots=[100])
    service.add_group("8", key="archived", slots=[100], deleted=True)
    title, first, *rest = aiomutex("traffic", "capacity").stdout.splitlines()
    assert title.split() == ["GROUP", "LARGEST", "EMPTY", "UNALLOCATED"]
    assert first.split() == ["free", "100", "%", "100", "%", "0", "%"]
    assert [line.split()[0] for line in rest] == [f"group-{number}" for number in range(1, 6)]
