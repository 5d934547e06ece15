"""The five endpoints as documented, the examples of the documentation first."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest

from .helpers import PATH

if TYPE_CHECKING:
    from .conftest import Start
    from .helpers import Api

CREATE = (
    '{"projectId":"<projectId>","name":"Example Mutex Group","key":"example-mutex","description":"An example mutex '
    'group","evaluationMode":"remote","slots":[{"percentage":40,"experiments":[123],"holdouts":[456]},'
    '{"percentage":60,"experiments":[789],"individuals":["x@amplitude.com"]}]}'
)
GROUP = (
    b'{"id":7,"projectId":1,"name":"mutex name","key":"mutex-key","description":null,"evaluationMode":"local",'
    b'"bucketingKey":"device_id","bucketingSalt":"abcd","slots":[{"name":"SLOT 1","index":1,"variantKey":"slot-1",'
    b'"percentage":95,"experiments":[123],"holdouts":[456],"individuals":[],"cohorts":[]},{"name":"SLOT 2","index":2,'
    b'"variantKey":"slot-2","percentage":5,"experiments":[],"holdouts":[],"individuals":[],"cohorts":[]}]}'
)


def slots(*percentages: Any) -> list[dict[str, Any]]:
    return [{"percentage": percentage} for percentage in percentages]


def new(**changes: Any) -> dict[str, Any]:
    return {"projectId": 1, "name": "n", "slots": slots(40, 60), **changes}


async def test_the_documented_group_is_shown_byte_for_byte(start: Start) -> None:
    api = await start()
    api.emulator.add_group(
        7,
        name="mutex name",
        key="mutex-key",
        evaluation_mode="local",
        bucketing_key="device_id",
        bucketing_salt="abcd",
        slots=[{"percentage": 95, "experiments": [123], "holdouts": [456]}, 5],
    )
    assert (await api.get("7")).body == GROUP
    assert (await api.list()).body == b'{"mutexes":[' + GROUP + b'],"nextCursor":null}'


async def test_the_documented_create_makes_the_group(start: Start) -> None:
    api = await start(groups=6)
    reply = await api.send("POST", PATH, data=CREATE, headers={"Content-Type": "application/json"})
    assert reply.json == {"id": "7", "url": f"{api.emulator.url}{PATH}/7"}
    group = api.emulator.groups["7"]
    assert (group.key, group.project_id, group.description) == (
        "example-mutex",
        "<projectId>",
        "An example mutex group",
    )
    assert (group.evaluation_mode, group.bucketing_key) == ("remote", "amplitude_id")
    assert group.bucketing_salt
    assert [slot.percentage for slot in group.slots] == [40, 60]
    assert [slot.name for slot in group.slots] == ["SLOT 1", "SLOT 2"]
    assert [slot.variant_key for slot in group.slots] == ["slot-1", "slot-2"]
    assert (group.slots[0].experiments, group.slots[0].holdouts) == ([123], [456])
    assert group.slots[1].individuals == ["x@amplitude.com"]


async def test_the_documented_slot_edit_changes_the_lists_it_names_and_no_other(api: Api) -> None:
    group = api.emulator.groups["2"]
    group.slots[0].holdouts = [9]
    before = api.emulator.snapshot().store["2"]
    reply = await api.edit_slot(
        "2",
        1,
        {"experiments": [123, 456], "individuals": ["x@amplitude.com", "y@amplitude.com", "abcde-12345"]},
    )
    assert (reply.status, reply.text) == (200, "OK")
    assert group.slots[0].experiments == [123, 456]
    assert group.slots[0].individuals == ["x@amplitude.com", "y@amplitude.com", "abcde-12345"]
    assert group.slots[0].holdouts == [9]
    assert group.slots[1:] == before.slots[1:]


async def test_the_documented_group_edit_changes_name_and_description(api: Api) -> None:
    assert (await api.edit("2", {"name": "updated name", "description": "updated description"})).status == 200
    group = api.emulator.groups["2"]
    assert (group.name, group.description) == ("updated name", "updated description")
    assert (await api.edit("2", {"description": None})).status == 200
    assert group.description is None


async def test_archive_true_ignores_every_other_argument_even_a_wrong_one(api: Api) -> None:
    assert (await api.edit("2", {"archive": True, "name": 5, "description": "new"})).status == 200
    group = api.emulator.groups["2"]
    assert (group.deleted, group.name, group.description) == (True, "Group 2", "Generated group 2")


async def test_archive_false_brings_the_group_back_and_edits_it(api: Api) -> None:
    await api.edit("2", {"archive": True})
    await api.edit("2", {"archive": False, "name": "back"})
    assert (api.emulator.groups["2"].deleted, api.emulator.groups["2"].name) == (False, "back")


async def test_an_experiment_may_sit_in_several_slots(api: Api) -> None:
    assert (await api.create(new(slots=[{"percentage": 50, "experiments": [1]}] * 2))).status == 200
    assert (await api.edit_slot("1", 2, {"experiments": [101]})).status == 200


async def test_a_create_without_key_gets_one_nobody_has(api: Api) -> None:
    ids = [(await api.create(new(name="Same Name"))).json["id"] for _ in range(3)]
    keys = {api.emulator.groups[group_id].key for group_id in ids}
    assert len(keys) == 3
    assert "same-name" in keys


@pytest.mark.parametrize("key", ["group-3", "mine", "flag"])
async def test_a_key_in_use_is_refused(start: Start, key: str) -> None:
    api = await start(groups=3, taken_keys={"flag"})
    api.emulator.add_group(key="mine", deleted=True)
    reply = await api.create(new(key=key))
    assert reply.status == 400
    assert reply.json["message"].startswith(f'key is "{key}", which ')
    assert len(api.emulator.groups) == 4


async def test_a_locally_evaluated_experiment_joins_only_local_groups(start: Start) -> None:
    api = await start(local_experiments=[5])
    assert (
        await api.create(new(evaluationMode="local", slots=[{"percentage": 100, "experiments": [5]}]))
    ).status == 200
    reply = await api.create(new(slots=[{"percentage": 100, "experiments": [5]}]))
    assert (reply.status, "evaluated locally" in reply.text) == (400, True)
    api.emulator.add_group("77", slots=[100])
    assert (await api.edit_slot("77", 1, {"experiments": [5]})).status == 400


BAD_CREATES: list[tuple[dict[str, Any], str]] = [
    ({"projectId": None}, "projectId is null; it must be the number of a project"),
    ({"projectId": True}, "projectId is true;"),
    ({"projectId": 1.5}, "projectId is 1.5;"),
    ({"name": ""}, 'name is ""; it must be a string that is not empty'),
    ({"name": 5}, "name is 5;"),
    ({"key": ""}, 'key is "";'),
    ({"key": None}, "key is null;"),
    ({"description": 5}, "description is 5; it must be a string or null"),
    ({"evaluationMode": "hybrid"}, 'evaluationMode is "hybrid"; it must be "local" or "remote"'),
    ({"bucketingKey": 1}, "bucketingKey is 1;"),
    ({"bucketingSalt": ""}, 'bucketingSalt is "";'),
    ({"slots": []}, "slots has 0 entries; a group has 1 to 20 slots"),
    ({"slots": slots(*[5] * 21)}, "slots has 21 entries; a group has 1 to 20 slots"),
    ({"slots": {}}, "slots is {}; it must be a list"),
    ({"slots": [5]}, "slots[0] is 5; it must be a JSON object"),
    ({"slots": [{}]}, "slots[0].percentage is missing; it must be a whole number from 1 to 100"),
    ({"slots": slots(0, 100)}, "slots[0].percentage is 0; it must be a whole number from 1 to 100"),
    ({"slots": slots(101)}, "slots[0].percentage is 101;"),
    ({"slots": slots(100.0)}, "slots[0].percentage is 100.0;"),
    ({"slots": slots(True, 99)}, "slots[0].percentage is true;"),
    ({"slots": slots(40, 59)}, "the percentages of slots add up to 99 (40 + 59); they must add up to 100"),
    ({"slots": slots(40, 61)}, "the percentages of slots add up to 101"),
    ({"slots": [{"percentage": 100, "experiments": ["1"]}]}, 'slots[0].experiments[0] is "1"; it must be a number'),
    ({"slots": [{"percentage": 100, "individuals": [1]}]}, "slots[0].individuals[0] is 1; it must be a string"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_CREATES)
async def test_a_create_that_breaks_a_rule_is_told_which(api: Api, changes: dict[str, Any], message: str) -> None:
    reply = await api.create(new(**changes))
    assert reply.status == 400
    assert reply.json["message"].startswith(message)
    assert len(api.emulator.groups) == 3
    assert not api.emulator.commits


@pytest.mark.parametrize("field", ["projectId", "name", "slots"])
async def test_a_create_without_a_required_field_is_told_which(api: Api, field: str) -> None:
    body = new()
    del body[field]
    reply = await api.create(body)
    assert (reply.status, reply.json["message"].split(";")[0]) == (400, f"{field} is missing")


BAD_SLOT_EDITS: list[tuple[Any, str]] = [
    ({"experiments": ["1"]}, 'experiments[0] is "1"; it must be a number (an id)'),
    ({"experiments": [1, True]}, "experiments[1] is true;"),
    ({"experiments": [1.0]}, "experiments[0] is 1.0;"),
    ({"experiments": [-1]}, "experiments[0] is -1;"),
    ({"experiments": 1}, "experiments is 1; it must be a list"),
    ({"experiments": None}, "experiments is null; it must be a list"),
    ({"holdouts": ["1"]}, 'holdouts[0] is "1";'),
    ({"individuals": [1]}, "individuals[0] is 1; it must be a string (a user or device id)"),
    ({"individuals": [""]}, 'individuals[0] is "";'),
    ({"individuals": "x"}, 'individuals is "x"; it must be a list'),
    ([], "the body is []; it must be a JSON object"),
]


@pytest.mark.parametrize(("body", "message"), BAD_SLOT_EDITS)
async def test_a_slot_edit_that_breaks_a_rule_is_told_which(api: Api, body: Any, message: str) -> None:
    reply = await api.edit_slot("1", 1, body)
    assert reply.status == 400
    assert reply.json["message"].startswith(message)
    assert api.emulator.groups["1"].slots[0].experiments == [101]
    assert not api.emulator.commits


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"name": None}, "name is null;"),
        ({"name": " "}, 'name is " ";'),
        ({"description": []}, "description is [];"),
        ({"archive": "true"}, 'archive is "true"; it must be true or false'),
    ],
)
async def test_a_group_edit_that_breaks_a_rule_is_told_which(api: Api, body: Any, message: str) -> None:
    reply = await api.edit("1", body)
    assert reply.status == 400
    assert reply.json["message"].startswith(message)
    assert not api.emulator.commits


async def test_a_long_wrong_value_is_shown_in_short(api: Api) -> None:
    reply = await api.edit("1", {"archive": "x" * 1000})
    assert len(reply.json["message"]) < 150


@pytest.mark.parametrize(
    ("data", "content_type", "message"),
    [
        (b"{", "application/json", "the body is not JSON"),
        (b"", "application/json", "the body is not JSON"),
        (b"[" * 5000, "application/json", "the body is not JSON"),
        (b'{"name":"\xff"}', "application/json", "the body is not JSON"),
        (b"{}", "text/plain", "Content-Type is 'text/plain'; it must be application/json"),
    ],
)
async def test_a_body_that_is_no_json_is_refused(api: Api, data: bytes, content_type: str, message: str) -> None:
    reply = await api.send("PATCH", f"{PATH}/1", data=data, headers={"Content-Type": content_type})
    assert reply.status == 400
    assert reply.json["message"].startswith(message)


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        (f"{PATH}/99", 404, "group 99 does not exist"),
        (f"{PATH}/99/slots/1", 404, "group 99 does not exist"),
        (f"{PATH}/1/slots/0", 404, "slot 0 does not exist; group 1 has 3 slots, counted from 1"),
        (f"{PATH}/1/slots/4", 404, "slot 4 does not exist"),
        (f"{PATH}/1/slots/one", 400, "slotIndex is 'one'; it must be a number"),
        (f"{PATH}/1/slots/1.0", 400, "slotIndex is '1.0'"),
        (f"{PATH}/1/slots", 404, f"{PATH}/1/slots is unknown"),
        (f"{PATH}/", 404, "group  does not exist"),
        ("/api/1/flags", 404, "/api/1/flags is unknown"),
    ],
)
async def test_what_does_not_exist_is_said_by_name(api: Api, path: str, status: int, message: str) -> None:
    reply = await api.send("PATCH", path, json={})
    assert reply.status == status
    assert reply.json["message"].startswith(message)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", PATH, "GET, POST"),
        ("PUT", f"{PATH}/1", "GET, PATCH"),
        ("GET", f"{PATH}/1/slots/1", "PATCH"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(api: Api, method: str, path: str, allowed: str) -> None:
    reply = await api.send(method, path)
    assert (reply.status, reply.headers["Allow"]) == (405, allowed)


async def test_a_body_above_a_mebibyte_is_too_large(api: Api) -> None:
    reply = await api.send("PATCH", f"{PATH}/1", data=BytesIO(b" " * (1 << 20) + b"{}"))
    assert (reply.status, reply.json["message"]) == (413, "the body is larger than 1 MiB")


async def test_ids_need_not_be_numbers(api: Api) -> None:
    api.emulator.add_group("grün/1", slots=[100])
    assert (await api.get("gr%C3%BCn%2F1")).json["id"] == "grün/1"
    assert [group["id"] for group in (await api.list()).json["mutexes"]] == [1, 2, 3, "grün/1"]


async def test_only_a_right_key_gets_in(start: Start) -> None:
    api = await start(key="right", forbidden_keys=["other-project"])
    assert (await api.send("GET", PATH, key="right")).status == 200
    assert (await api.send("GET", PATH, key="wrong")).status == 401
    assert (await api.send("GET", PATH, key=None)).status == 401
    assert (await api.send("GET", PATH, key="")).status == 401
    assert (await api.send("GET", PATH, key="other-project")).status == 403
    assert (await api.send("GET", PATH, key=None, headers={"Authorization": "Api-Key right"})).status == 401
    assert api.emulator.limits.accepted == 1


async def test_no_answer_repeats_a_key(start: Start) -> None:
    api = await start(key="right")
    reply = await api.send("GET", PATH, key="wr0ng")
    assert "wr0ng" not in reply.text
    assert "right" not in reply.text
