"""The emulator's own pages: their content, that they use no budget, and that they load nothing from other hosts."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import aiomutex.emulator
from aiomutex.emulator import Dialect, MutexEmulator

if TYPE_CHECKING:
    from .conftest import Start
    from .helpers import Api

HTML = (Path(aiomutex.emulator.__file__).parent / "page.html").read_text()


async def status(api: Api, **query: Any) -> dict[str, Any]:
    reply = await api.send("GET", "/status.json", key=None, params=query)
    assert reply.status == 200
    result: dict[str, Any] = reply.json
    return result


async def test_the_page_is_one_file_that_refers_to_no_other_host(api: Api) -> None:
    reply = await api.send("GET", "/", key=None)
    assert (reply.status, reply.text, reply.headers["Content-Type"]) == (200, HTML, "text/html; charset=utf-8")
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
    hosts = set(re.findall(r"(?:https?:)?//[\w.-]+", HTML))
    assert hosts <= {"http://www.w3.org"}, "the namespace of SVG"


def test_the_page_inserts_no_data_as_markup() -> None:
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|DOMParser", HTML)


async def test_the_status_has_the_limits_and_counts(start: Start) -> None:
    api = await start(groups=2, per_second=5, per_day=1000, used_today=100, dialect=Dialect(ids="string"))
    for _ in range(7):
        await api.get("1")
    result = await status(api)
    assert (result["rate"], result["busiest_second"], result["per_second"]) == (7, 7, 5)
    assert (result["accepted"], result["rejected"]) == (5, 2)
    assert (result["used_today"], result["per_day"], result["enforced"]) == (105, 1000, True)
    assert 0 < result["resets_in"] <= 86_400
    assert result["dialect_changes"] == {"ids": "string"}
    assert [(it["method"], it["target"], it["status"]) for it in result["requests"]] == [
        ("GET", "/api/1/mutexes/1", code) for code in (429, 429, 200, 200, 200, 200, 200)
    ]


async def test_the_pages_use_no_budget_and_need_no_key(start: Start) -> None:
    api = await start(groups=1, key="secret", per_second=1)
    for path in ("/", "/status.json") * 3:
        assert (await api.send("GET", path, key=None)).status == 200
    assert api.emulator.limits.accepted == api.emulator.limits.rejected == len(api.emulator.requests) == 0
    assert (await api.send("POST", "/", key="secret")).status == 404, "only GET requests reach a page"


async def test_the_status_does_not_contain_the_key(start: Start) -> None:
    api = await start(groups=1, key="secret-key", forbidden_keys=["other-secret"])
    await api.send("GET", "/api/1/mutexes", key="secret-key")
    reply = await api.send("GET", "/status.json", key=None)
    assert "secret" not in reply.text


async def test_the_status_has_one_page_of_groups(start: Start) -> None:
    api = await start(groups=1200)
    result = await status(api, start=25, limit=25)
    assert [group["id"] for group in result["groups"]] == [str(number) for number in range(26, 51)]
    assert (result["groups_total"], result["groups_matching"], result["start"]) == (1200, 1200, 25)
    assert len((await status(api, limit=10_000))["groups"]) == 100
    assert (await status(api, start=5000))["groups"] == []
    assert len((await status(api, start="-1", limit="x"))["groups"]) == 25


async def test_the_status_searches_groups_by_id_key_and_name(api: Api) -> None:
    api.emulator.add_group("77", name="Checkout Button", key="the-key", slots=[{"percentage": 60, "experiments": [5]}])
    for text in ("77", "BUTTON", "the-k", " checkout "):
        assert [group["id"] for group in (await status(api, q=text))["groups"]] == ["77"]
    assert [group["id"] for group in (await status(api, q="group-2"))["groups"]] == ["2"]
    result = await status(api, q="nothing of that name")
    assert (result["groups"], result["groups_matching"], result["groups_total"]) == ([], 0, 4)


async def test_the_status_searches_groups_by_experiment_and_individual(api: Api) -> None:
    slot = {"percentage": 60, "experiments": [98765, 5], "holdouts": [444], "individuals": ["Ann@example.com", "bob"]}
    api.emulator.add_group("77", slots=[40, slot])
    for text in ("98765", "444", "ann@EXAMPLE.com", "Ann@", "bob"):
        assert [group["id"] for group in (await status(api, q=text))["groups"]] == ["77"]
    assert (await status(api, q="ann"))["groups"][0]["slots"][1]["found"] == ["Ann@example.com"]
    assert (await status(api, q="9876"))["groups"] == [], "a part of an experiment's ID means nothing"
    # Generated groups are searched without generating them: group 2 has the experiments 201, 202 and 203.
    assert [group["id"] for group in (await status(api, q="203"))["groups"]] == ["2"]
    for text in ("204", "200", "20\u00b2"):
        assert (await status(api, q=text))["groups"] == []
    assert ", 1 in memory" in repr(api.emulator.groups)


async def test_the_status_has_the_time_and_duration_of_each_request(start: Start) -> None:
    api = await start(groups=1, latency="50ms")
    api.emulator.clock.freeze()
    await api.get("1")
    api.emulator.fail_next(kind="stall")
    stalled = asyncio.create_task(api.get("1"))
    while len(api.emulator.requests) < 2:  # noqa: ASYNC110  # the emulator sends no notifications
        await asyncio.sleep(0.01)
    waiting, answered = (await status(api))["requests"]
    assert (waiting["seconds"], waiting["status"], answered["status"]) == (None, None, 200)
    assert answered["at"] == api.emulator.clock.now()
    assert 0.05 <= answered["seconds"] < 1
    stalled.cancel()
    async with asyncio.timeout(20):
        while (await status(api))["requests"][0]["seconds"] is None:  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.01)


async def test_the_status_keeps_no_generated_group_in_memory(start: Start) -> None:
    api = await start(groups=500_000, limits=False)
    await status(api)
    result = await status(api, q="group-19999")
    assert [group["id"] for group in result["groups"]] == ["19999"]
    assert result["search_truncated"] is True
    assert (await status(api, q="group-20001"))["groups"] == [], "only the first 20,000 groups are searched"
    assert ", 0 in memory" in repr(api.emulator.groups)


@pytest.mark.parametrize("shown", ["deleted", "mode", "slots"])
async def test_the_status_has_the_fields_of_a_group(api: Api, shown: str) -> None:
    slot = {"percentage": 60, "experiments": [5], "holdouts": [6], "individuals": ["a", "b"], "cohorts": ["c"]}
    api.emulator.add_group("77", slots=[slot], deleted=True, evaluation_mode="local")
    expected = {"index": 1, "percentage": 60, "experiments": [5], "holdouts": [6], "individuals": 2, "cohorts": 1}
    expected["found"] = []
    result = (await status(api, q="77"))["groups"][0]
    assert result[shown] == {"deleted": True, "mode": "local", "slots": [expected]}[shown]


async def test_pages_can_be_removed(api: Api) -> None:
    api.emulator.pages.pop("/")
    assert (await api.send("GET", "/")).status == 404
    assert MutexEmulator().pages.keys() == {"/", "/status.json", "/openapi.json", "/openapi.yaml"}
