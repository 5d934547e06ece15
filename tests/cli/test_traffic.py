"""What room groups have for new experiments, and why a user is in a slot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

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


def placed(service: MutexEmulator) -> None:
    first: list[dict[str, Any]] = [
        {"percentage": 40, "experiments": [1, 2]},
        {"percentage": 50, "experiments": [5, 6], "individuals": ["ada"]},
        {"percentage": 10},
    ]
    service.add_group("7", key="first", bucketing_key="device_id", bucketing_salt="abcd", slots=first)
    second = [{"percentage": 50, "experiments": [2, 3]}, {"percentage": 50, "experiments": [4]}]
    service.add_group("8", key="second", bucketing_key="device_id", bucketing_salt="efgh", slots=second)


FIRST = ("slot 1 has 0 to 17,179,869", "slot 2 has 17,179,870 to 38,654,705", "slot 3 has 38,654,706 to 42,949,672")
SECOND = ("slot 1 has 0 to 21,474,836", "slot 2 has 21,474,837 to 42,949,672")
CHOSEN = ("--group", "first", "--group", "second")


def test_explain_leads_step_by_step_to_a_slot(service: MutexEmulator, aiomutex: Aiomutex) -> None:
    placed(service)
    assert aiomutex("traffic", "explain", "u1", *CHOSEN).stdout.splitlines() == [
        "first (by device_id): slot 1, experiment 1, experiment 2",
        "  1. No slot lists the user as an individual.",
        "  2. The bucket value is murmur3_x86_32('abcd/u1') // 100 = 3,304,320.",
        f"  3. Of 0 to 42,949,672, {', '.join(FIRST)}; no slot has the rest, if any.",
        "  4. Experiments 1, 2 share the slot, so all of them are visible.",
        "second (by device_id): slot 1, experiment 2, experiment 3",
        "  1. No slot lists the user as an individual.",
        "  2. The bucket value is murmur3_x86_32('efgh/u1') // 100 = 14,285,409.",
        f"  3. Of 0 to 42,949,672, {', '.join(SECOND)}; no slot has the rest, if any.",
        "  4. Experiments 2, 3 share the slot, so all of them are visible.",
        "Groups do not exclude each other, so the user can be seen in experiments 1, 2 (first), 2, 3 (second).",
    ]


def test_explain_names_the_group_that_hides_an_experiment(service: MutexEmulator, aiomutex: Aiomutex) -> None:
    placed(service)
    users = [f"u{number}" for number in range(40)]
    rows = [json.loads(aiomutex("traffic", "explain", user, "--json", "--group", "first").stdout)[0] for user in users]
    hides = "Experiment 2 is not visible: in second the user is in none of its slots."
    hidden = [hides in row["steps"] for row in rows if row["slot"] == 1]
    assert hidden == [2 not in row["visible"] for row in rows if row["slot"] == 1]
    assert set(hidden) == {True, False}


def test_explain_puts_individuals_first_and_empty_values_nowhere(service: MutexEmulator, aiomutex: Aiomutex) -> None:
    placed(service)
    for words in (["ada"], ["u1", "--id", "ada"]):
        (row,) = json.loads(aiomutex("traffic", "explain", *words, "--group", "first", "--json").stdout)
        assert row["slot"] == 2
        assert row["steps"][0] == "The slot lists ada as an individual, so the bucket value does not matter."
    (row,) = json.loads(aiomutex("traffic", "explain", "", "--group", "first", "--json").stdout)
    assert (row["slot"], row["steps"][-1]) == (None, "An empty value is in no slot.")
