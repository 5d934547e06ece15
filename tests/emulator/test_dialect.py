"""Each knob of a dialect changes what it says."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import aiomutex.emulator
from aiomutex.emulator import Dialect

from .helpers import PATH

if TYPE_CHECKING:
    from .conftest import Start
    from .helpers import Api

NEW = {"projectId": 1, "name": "n", "slots": [{"percentage": 100}]}


def test_the_first_value_of_a_knob_is_the_default() -> None:
    default = Dialect()
    assert {name: values[0] for name, values in Dialect.knobs().items()} == {
        name: getattr(default, name) for name in Dialect.knobs()
    }
    assert all(len(values) > 1 for values in Dialect.knobs().values())


def test_a_dialect_can_be_written_as_json_and_read() -> None:
    dialect = Dialect(ids="string", taken_key=409, daily_hint=True, read_lag=1.5)
    assert Dialect.from_json(dialect.to_json()) == dialect
    assert Dialect.from_json('{"dialect": {"ids": "string"}, "observed": {}}') == Dialect(ids="string")
    assert Dialect.from_json(b"{}") == Dialect()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"idz": "string"}', "a dialect has no knob 'idz'; its knobs are archived, "),
        ('{"ids": "roman"}', "ids must be 'number' or 'string', not 'roman' (str)"),
        ('{"daily_hint": 1}', "daily_hint must be False or True, not 1 (int)"),
        ('{"taken_key": true}', "taken_key must be 400 or 409, not True (bool)"),
        ('{"ids": ["number"]}', "ids must be 'number' or 'string', not ['number'] (list)"),
        ('{"read_lag": -1}', "read_lag must be 0 or more seconds, not -1 (int)"),
        ('{"list_lag": true}', "list_lag must be 0 or more seconds, not True (bool)"),
        ('{"list_lag": "1s"}', "list_lag must be 0 or more seconds, not '1s' (str)"),
        ("[]", "a dialect must be a JSON object: Expected `object`, got `array`"),
        ("{", "a dialect must be a JSON object: "),
    ],
)
def test_the_message_about_an_invalid_dialect_names_the_knob_and_its_values(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        Dialect.from_json(text)
    assert str(caught.value).startswith(message)


def test_a_lag_must_be_finite() -> None:
    with pytest.raises(ValueError, match=r"read_lag must be 0 or more seconds, not inf \(float\)"):
        Dialect(read_lag=float("inf"))


async def test_the_dialect_can_change_while_the_emulator_runs(api: Api) -> None:
    api.emulator.dialect = Dialect(ids="string")
    assert (await api.get("1")).json["id"] == "1"
    api.emulator.dialect = Dialect(ids="number")
    assert (await api.get("1")).json["id"] == 1


async def test_ids(start: Start) -> None:
    api = await start(groups=1, dialect=Dialect(ids="string"))
    api.emulator.add_group(slots=[100])
    assert [group["id"] for group in (await api.list()).json["mutexes"]] == ["1", "2"]
    assert (await api.get("2")).json["id"] == "2"


async def test_created_id(start: Start) -> None:
    api = await start(dialect=Dialect(created_id="number"))
    assert (await api.create(NEW)).json["id"] == 1


async def test_project_ids(start: Start) -> None:
    api = await start(groups=1, dialect=Dialect(project_ids="string"))
    assert (await api.get("1")).json["projectId"] == "1"


@pytest.mark.parametrize(
    ("value", "end"),
    [("null", {"nextCursor": None}), ("absent", {}), ("empty", {"nextCursor": ""})],
)
async def test_last_cursor(start: Start, value: Any, end: dict[str, Any]) -> None:
    api = await start(dialect=Dialect(last_cursor=value))
    assert (await api.list()).json == {"mutexes": [], **end}


async def test_cursors(start: Start) -> None:
    api = await start(groups=2, dialect=Dialect(cursors="string"))
    assert (await api.list(limit=1)).json["nextCursor"] == "1"


async def test_end_of_list(start: Start) -> None:
    api = await start(groups=2, dialect=Dialect(end_of_list="probed"))
    assert (await api.list(limit=2)).json["nextCursor"] == 2
    assert (await api.list(limit=2, cursor=2)).json == {"mutexes": [], "nextCursor": None}
    assert (await api.list(limit=3)).json["nextCursor"] is None


async def test_over_limit(start: Start) -> None:
    api = await start(dialect=Dialect(over_limit="rejected"))
    assert (await api.list(limit=1000)).status == 200
    reply = await api.list(limit=1001)
    assert (reply.status, reply.json["message"]) == (400, "limit must be an integer from 1 to 1000, not 1001")


@pytest.mark.parametrize(
    ("value", "listed", "flagged"), [("flagged", [1, 2], True), ("listed", [1, 2], None), ("hidden", [1], None)]
)
async def test_archived(start: Start, value: Any, listed: list[int], flagged: object) -> None:
    api = await start(groups=2, dialect=Dialect(archived=value, offsets="listed"))
    await api.edit("2", {"archive": True})
    groups = (await api.list()).json["mutexes"]
    assert [group["id"] for group in groups] == listed
    assert "deleted" not in groups[0]
    assert (await api.get("2")).json.get("deleted") is flagged


async def test_cohorts(start: Start) -> None:
    api = await start(groups=1, dialect=Dialect(cohorts="absent"))
    api.emulator.add_group(slots=[{"percentage": 100, "cohorts": ["c"]}])
    for group in (await api.list()).json["mutexes"]:
        assert all("cohorts" not in slot for slot in group["slots"])


@pytest.mark.parametrize(("value", "after"), [("kept", ["c"]), ("dropped", [])])
async def test_cohorts_on_edit(start: Start, value: Any, after: list[str]) -> None:
    api = await start(dialect=Dialect(cohorts_on_edit=value))
    api.emulator.add_group("1", slots=[{"percentage": 100, "cohorts": ["c"]}])
    await api.edit_slot("1", 1, {"experiments": [1]})
    assert (await api.get("1")).json["slots"][0]["cohorts"] == after


async def test_patch_body(start: Start) -> None:
    api = await start(groups=1)
    for value in ("ok", "empty", "json"):
        api.emulator.dialect = Dialect(patch_body=value)
        for reply in (await api.edit("1", {"name": "x"}), await api.edit_slot("1", 1, {"experiments": [1]})):
            assert reply.status == 200
            expected = {"ok": b"OK", "empty": b"", "json": (await api.get("1")).body}[value]
            if value != "json":
                assert reply.body == expected
            else:
                assert reply.json["name"] == "x"


@pytest.mark.parametrize(("value", "after"), [("replace", [2, 3]), ("merge", [1, 2, 3])])
async def test_slot_patch(start: Start, value: Any, after: list[int]) -> None:
    api = await start(dialect=Dialect(slot_patch=value))
    group = api.emulator.add_group(
        "1", slots=[{"percentage": 100, "experiments": [1, 2], "holdouts": [1, 2], "individuals": ["1", "2"]}]
    )
    strings = [str(number) for number in after]
    await api.edit_slot("1", 1, {"experiments": [2, 3], "holdouts": [2, 3], "individuals": ["2", "3"]})
    slot = group.slots[0]
    assert (slot.experiments, slot.holdouts, slot.individuals) == (after, after, strings)


@pytest.mark.parametrize(("value", "first"), [("from 1", 1), ("from 0", 0)])
async def test_slot_numbers(start: Start, value: Any, first: int) -> None:
    api = await start(groups=1, dialect=Dialect(slot_numbers=value))
    statuses = [(await api.edit_slot("1", number, {"experiments": [number]})).status for number in range(4)]
    assert statuses == [200 if first <= number < first + 3 else 404 for number in range(4)]
    slots = api.emulator.groups["1"].slots
    assert [slot.experiments for slot in slots] == [[number] for number in range(first, first + 3)]
    assert api.emulator.writes == {("1", index): 1 for index in (1, 2, 3)}
    assert f"slots {first} to {first + 2}" in (await api.edit_slot("1", 9, {"experiments": [1]})).json["message"]


@pytest.mark.parametrize(("value", "lost"), [("atomic", 0), ("racy", 1)])
async def test_slot_writes(start: Start, value: Any, lost: int) -> None:
    api = await start(groups=1, dialect=Dialect(slot_writes=value))
    held, number = list[list[int]](), 0
    for number in range(20):  # on a busy machine, one may end before the other begins
        edits = [api.edit_slot("1", index, {"experiments": [number]}) for index in (1, 2)]
        assert [reply.status for reply in await asyncio.gather(*edits)] == [200, 200]
        held = [slot.experiments for slot in api.emulator.groups["1"].slots[:2]]
        if held != [[number], [number]]:
            break
    assert 2 - held.count([number]) == lost
    for index in (1, 2):
        await api.edit_slot("1", index, {"experiments": [8]})
    assert [slot.experiments for slot in api.emulator.groups["1"].slots[:2]] == [[8], [8]]


async def test_a_racing_edit_is_made_if_the_client_disconnects(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiomutex.emulator.app.RACE_WINDOW", 0.15)
    api = await start(groups=1, dialect=Dialect(slot_writes="racy"))
    await api.leave("PATCH", f"{PATH}/1/slots/1", json={"experiments": [7]})
    assert api.emulator.groups["1"].slots[0].experiments == [7]


@pytest.mark.parametrize(("value", "status"), [("accepted", 200), ("rejected", 400)])
async def test_empty_edit(start: Start, value: Any, status: int) -> None:
    api = await start(groups=1, dialect=Dialect(empty_edit=value))
    assert (await api.edit("1", {})).status == status
    assert (await api.edit_slot("1", 1, {})).status == status


@pytest.mark.parametrize(("value", "status"), [("ignored", 200), ("rejected", 400)])
async def test_unknown_fields(start: Start, value: Any, status: int) -> None:
    api = await start(groups=1, dialect=Dialect(unknown_fields=value))
    assert (await api.edit("1", {"name": "n", "nam": "x"})).status == status
    assert (await api.edit_slot("1", 1, {"experiment": [1]})).status == status
    assert (await api.create({**NEW, "x": 1})).status == status
    assert (await api.create({**NEW, "slots": [{"percentage": 100, "x": 1}]})).status == status
    assert (await api.list(x=1)).status == status


async def test_create_lists(start: Start) -> None:
    api = await start(dialect=Dialect(create_lists="loose"))
    slot = {"percentage": 100, "experiments": ["12", 13], "individuals": [5, "x"]}
    assert (await api.create({**NEW, "slots": [slot]})).status == 200
    created = api.emulator.groups["1"].slots[0]
    assert (created.experiments, created.individuals) == ([12, 13], ["5", "x"])
    assert (await api.create({**NEW, "slots": [{"percentage": 100, "experiments": ["x"]}]})).status == 400
    assert (await api.edit_slot("1", 1, {"experiments": ["12"]})).status == 400


async def test_create_name(start: Start) -> None:
    api = await start(dialect=Dialect(create_name="optional"))
    assert (await api.create({"projectId": 1, "slots": [{"percentage": 100}]})).status == 200
    assert api.emulator.groups["1"].name


@pytest.mark.parametrize(("value", "expected"), [("everywhere", 400), ("project", 200)])
async def test_key_scope(start: Start, value: Any, expected: int) -> None:
    api = await start(groups=3, taken_keys={"flag"}, dialect=Dialect(key_scope=value))
    for project in (7, 8):
        api.emulator.add_group(key="mine", project_id=project)  # direct changes may always
    for key in ("group-3", "mine"):
        assert (await api.create({**NEW, "key": key, "projectId": 9})).status == expected
        assert (await api.create({**NEW, "key": key, "projectId": 9})).status == 400
    assert (await api.create({**NEW, "key": "flag", "projectId": 9})).status == 400
    del api.emulator.groups["3"]
    assert [(await api.create({**NEW, "key": "group-3"})).status for _ in range(2)] == [200, 400]


async def test_taken_key(start: Start) -> None:
    api = await start(groups=1, dialect=Dialect(taken_key=409))
    assert (await api.create({**NEW, "key": "group-1"})).status == 409


@pytest.mark.parametrize(("value", "third"), [("sliding", 429), ("fixed", 200)])
async def test_window(start: Start, value: Any, third: int) -> None:
    api = await start(groups=1, per_second=2, dialect=Dialect(window=value))
    clock = api.emulator.clock
    clock.freeze()
    clock.move_to((clock.utc() + timedelta(seconds=1)).replace(microsecond=900_000))
    statuses = [(await api.list()).status for _ in range(3)]
    clock.advance(0.2)
    assert (statuses, (await api.list()).status) == ([200, 200, 429], third)


@pytest.mark.parametrize(("value", "status"), [("free", 200), ("counted", 429)])
async def test_rejections(start: Start, value: Any, status: int) -> None:
    api = await start(per_second=2, dialect=Dialect(rejections=value))
    api.emulator.clock.freeze()
    for _ in range(2):
        await api.list()
    api.emulator.clock.advance(0.6)
    for _ in range(2):
        assert (await api.list()).status == 429
    api.emulator.clock.advance(0.6)
    assert (await api.list()).status == status


@pytest.mark.parametrize("value", ["none", "seconds", "date"])
async def test_retry_after(start: Start, value: Any) -> None:
    api = await start(per_second=1, dialect=Dialect(retry_after=value))
    clock = api.emulator.clock
    clock.freeze()
    await api.list()
    header = (await api.list()).headers.get("Retry-After")
    if value == "date":
        assert header is not None
        assert timedelta(seconds=1) <= parsedate_to_datetime(header) - clock.utc() <= timedelta(seconds=2)
    else:
        assert header == (None if value == "none" else "1")


@pytest.mark.parametrize(
    ("hint", "retry_after", "message"),
    [
        (False, "1", "too many requests"),
        (True, "10800", "daily limit exceeded: 5 of 5 requests used until midnight UTC"),
    ],
)
async def test_daily_hint(start: Start, hint: bool, retry_after: str, message: str) -> None:
    api = await start(per_day=5, dialect=Dialect(daily_hint=hint, retry_after="seconds"))
    api.emulator.clock.freeze()
    api.emulator.clock.move_to(datetime(2040, 1, 1, 21, tzinfo=UTC))
    api.emulator.used_today = 5
    reply = await api.list()
    assert (reply.status, reply.headers["Retry-After"], reply.json["message"]) == (429, retry_after, message)


@pytest.mark.parametrize(
    ("value", "body", "content_type"),
    [
        ("object", b'{"status":404,"message":"group <9> does not exist"}', "application/json"),
        ("string", b'"group <9> does not exist"', "application/json"),
        ("text", b"group <9> does not exist", "text/plain"),
        (
            "html",
            b"<html><head><title>404</title></head><body><h1>group &lt;9&gt; does not exist</h1></body></html>",
            "text/html",
        ),
        ("empty", b"", "text/plain"),
    ],
)
async def test_error_body(start: Start, value: Any, body: bytes, content_type: str) -> None:
    api = await start(dialect=Dialect(error_body=value))
    reply = await api.get("<9>")
    assert (reply.status, reply.body) == (404, body)
    assert reply.headers["Content-Type"].startswith(content_type)


async def test_request_ids(start: Start) -> None:
    api = await start(dialect=Dialect(request_ids="present"))
    ids = {(await api.send("GET", path)).headers["X-Request-Id"] for path in (PATH, PATH, "/nowhere")}
    assert len(ids) == 3


def test_every_knob_has_a_test() -> None:
    assert [name for name in Dialect.knobs() if f"test_{name}" not in globals()] == ["offsets"], (
        "test_pages.py tests it"
    )


def test_the_readme_describes_every_knob() -> None:
    readme = (Path(aiomutex.emulator.__file__).parent / "README.md").read_text()
    assumptions = readme.partition("## What is assumed about the service")[2]
    choices = {name: ", ".join(f"`{value}`" for value in values) for name, values in Dialect.knobs().items()}
    for name, values in {**choices, "read_lag": "seconds", "list_lag": "seconds"}.items():
        assert f"\n| `{name}` | {values} | " in readme
        assert f"`{name}`" in assumptions
