"""The five endpoints, with the examples of the documentation first."""

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


async def test_the_documented_group_is_returned_byte_for_byte(start: Start) -> None:
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


async def test_the_documented_create_creates_the_group(start: Start) -> None:
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


async def test_the_documented_slot_edit_changes_only_the_lists_in_its_body(api: Api) -> None:
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


async def test_archive_true_ignores_all_other_fields_even_invalid_ones(api: Api) -> None:
    assert (await api.edit("2", {"archive": True, "name": 5, "description": "new"})).status == 200
    group = api.emulator.groups["2"]
    assert (group.deleted, group.name, group.description) == (True, "Group 2", "Generated group 2")


async def test_archive_false_unarchives_the_group_and_edits_it(api: Api) -> None:
    await api.edit("2", {"archive": True})
    await api.edit("2", {"archive": False, "name": "back"})
    assert (api.emulator.groups["2"].deleted, api.emulator.groups["2"].name) == (False, "back")


async def test_an_experiment_can_be_in_several_slots(api: Api) -> None:
    assert (await api.create(new(slots=[{"percentage": 50, "experiments": [1]}] * 2))).status == 200
    assert (await api.edit_slot("1", 2, {"experiments": [101]})).status == 200


async def test_a_create_without_a_key_gets_a_unique_key(api: Api) -> None:
    ids = [(await api.create(new(name="Same Name"))).json["id"] for _ in range(3)]
    keys = {api.emulator.groups[group_id].key for group_id in ids}
    assert len(keys) == 3
    assert "same-name" in keys


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("group-3", 'key must be unique; group 3 has the key "group-3"'),
        ("mine", 'key must be unique; group 4 has the key "mine"'),
        ("flag", 'key must be unique across flags, experiments, holdouts and groups; "flag" is in use'),
    ],
)
async def test_a_key_in_use_is_rejected(start: Start, key: str, message: str) -> None:
    api = await start(groups=3, taken_keys={"flag"})
    api.emulator.add_group(key="mine", deleted=True)
    reply = await api.create(new(key=key))
    assert (reply.status, reply.json["message"]) == (400, message)
    assert len(api.emulator.groups) == 4


async def test_a_locally_evaluated_experiment_can_only_join_local_groups(start: Start) -> None:
    api = await start(local_experiments=[5])
    assert (
        await api.create(new(evaluationMode="local", slots=[{"percentage": 100, "experiments": [5]}]))
    ).status == 200
    reply = await api.create(new(slots=[{"percentage": 100, "experiments": [5]}]))
    assert (reply.status, "evaluated locally" in reply.text) == (400, True)
    api.emulator.add_group("77", slots=[100])
    assert (await api.edit_slot("77", 1, {"experiments": [5]})).status == 400


INVALID_CREATES: list[tuple[dict[str, Any], str]] = [
    ({"projectId": None}, "projectId must be the ID of a project, not null"),
    ({"projectId": True}, "projectId must be the ID of a project, not true"),
    ({"projectId": 1.5}, "projectId must be the ID of a project, not 1.5"),
    ({"name": ""}, 'name must be a non-empty string, not ""'),
    ({"name": 5}, "name must be a non-empty string, not 5"),
    ({"key": ""}, 'key must be a non-empty string, not ""'),
    ({"key": None}, "key must be a non-empty string, not null"),
    ({"description": 5}, "description must be a string or null, not 5"),
    ({"evaluationMode": "hybrid"}, 'evaluationMode must be "local" or "remote", not "hybrid"'),
    ({"bucketingKey": 1}, "bucketingKey must be a non-empty string, not 1"),
    ({"bucketingSalt": ""}, 'bucketingSalt must be a non-empty string, not ""'),
    ({"slots": []}, "slots must have 1 to 20 entries, not 0"),
    ({"slots": slots(*[5] * 21)}, "slots must have 1 to 20 entries, not 21"),
    ({"slots": {}}, "slots must be a list of 1 to 20 slots, not {}"),
    ({"slots": [5]}, "slots[0] must be a JSON object, not 5"),
    ({"slots": [{}]}, "slots[0].percentage is missing; it must be an integer from 1 to 100"),
    ({"slots": slots(0, 100)}, "slots[0].percentage must be an integer from 1 to 100, not 0"),
    ({"slots": slots(101)}, "slots[0].percentage must be an integer from 1 to 100, not 101"),
    ({"slots": slots(100.0)}, "slots[0].percentage must be an integer from 1 to 100, not 100.0"),
    ({"slots": slots(True, 99)}, "slots[0].percentage must be an integer from 1 to 100, not true"),
    ({"slots": slots(40, 59)}, "the percentages of slots must add up to 100, not 99 (40 + 59)"),
    ({"slots": slots(40, 61)}, "the percentages of slots must add up to 100, not 101 (40 + 61)"),
    ({"slots": [{"percentage": 100, "experiments": ["1"]}]}, 'slots[0].experiments[0] must be an integer ID, not "1"'),
    (
        {"slots": [{"percentage": 100, "individuals": [1]}]},
        "slots[0].individuals[0] must be a non-empty string, a user or device ID, not 1",
    ),
]


@pytest.mark.parametrize(("changes", "message"), INVALID_CREATES)
async def test_an_invalid_create_is_rejected(api: Api, changes: dict[str, Any], message: str) -> None:
    reply = await api.create(new(**changes))
    assert reply.status == 400
    assert reply.json["message"].startswith(message)
    assert len(api.emulator.groups) == 3
    assert not api.emulator.commits


@pytest.mark.parametrize("field", ["projectId", "name", "slots"])
async def test_a_create_without_a_required_field_is_rejected_with_its_name(api: Api, field: str) -> None:
    body = new()
    del body[field]
    reply = await api.create(body)
    assert (reply.status, reply.json["message"].split(";")[0]) == (400, f"{field} is missing")


INVALID_SLOT_EDITS: list[tuple[Any, str]] = [
    ({"experiments": ["1"]}, 'experiments[0] must be an integer ID, not "1"'),
    ({"experiments": [1, True]}, "experiments[1] must be an integer ID, not true"),
    ({"experiments": [1.0]}, "experiments[0] must be an integer ID, not 1.0"),
    ({"experiments": [-1]}, "experiments[0] must be an integer ID, not -1"),
    ({"experiments": 1}, "experiments must be a list, not 1"),
    ({"experiments": None}, "experiments must be a list, not null"),
    ({"holdouts": ["1"]}, 'holdouts[0] must be an integer ID, not "1"'),
    ({"individuals": [1]}, "individuals[0] must be a non-empty string, a user or device ID, not 1"),
    ({"individuals": [""]}, 'individuals[0] must be a non-empty string, a user or device ID, not ""'),
    ({"individuals": "x"}, 'individuals must be a list, not "x"'),
    ([], "the body must be a JSON object, not []"),
]


@pytest.mark.parametrize(("body", "message"), INVALID_SLOT_EDITS)
async def test_an_invalid_slot_edit_is_rejected(api: Api, body: Any, message: str) -> None:
    reply = await api.edit_slot("1", 1, body)
    assert reply.status == 400
    assert reply.json["message"].startswith(message)
    assert api.emulator.groups["1"].slots[0].experiments == [101]
    assert not api.emulator.commits


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"name": None}, "name must be a non-empty string, not null"),
        ({"name": " "}, 'name must be a non-empty string, not " "'),
        ({"description": []}, "description must be a string or null, not []"),
        ({"archive": "true"}, 'archive must be true or false, not "true"'),
    ],
)
async def test_an_invalid_group_edit_is_rejected(api: Api, body: Any, message: str) -> None:
    reply = await api.edit("1", body)
    assert reply.status == 400
    assert reply.json["message"].startswith(message)
    assert not api.emulator.commits


async def test_a_message_shortens_a_long_value(api: Api) -> None:
    reply = await api.edit("1", {"archive": "x" * 1000})
    assert len(reply.json["message"]) < 150


@pytest.mark.parametrize(
    ("data", "content_type", "message"),
    [
        (b"{", "application/json", "the body is not JSON"),
        (b"", "application/json", "the body is not JSON"),
        (b"[" * 5000, "application/json", "the body is not JSON"),
        (b'{"name":"\xff"}', "application/json", "the body is not JSON"),
        (b"{}", "text/plain", "Content-Type must be application/json, not 'text/plain'"),
    ],
)
async def test_a_body_that_is_not_json_is_rejected(api: Api, data: bytes, content_type: str, message: str) -> None:
    reply = await api.send("PATCH", f"{PATH}/1", data=data, headers={"Content-Type": content_type})
    assert reply.status == 400
    assert reply.json["message"].startswith(message)


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        (f"{PATH}/99", 404, "group 99 does not exist"),
        (f"{PATH}/99/slots/1", 404, "group 99 does not exist"),
        (f"{PATH}/1/slots/0", 404, "slot 0 does not exist; group 1 has slots 1 to 3"),
        (f"{PATH}/1/slots/4", 404, "slot 4 does not exist"),
        (f"{PATH}/1/slots/one", 400, "slotIndex must be an integer counted from 1, not 'one'"),
        (f"{PATH}/1/slots/1.0", 400, "slotIndex must be an integer counted from 1, not '1.0'"),
        (f"{PATH}/1/slots", 404, f"{PATH}/1/slots does not exist"),
        (f"{PATH}/", 404, "group  does not exist"),
        ("/api/1/flags", 404, "/api/1/flags does not exist"),
    ],
)
async def test_the_message_names_what_does_not_exist(api: Api, path: str, status: int, message: str) -> None:
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
async def test_a_wrong_method_is_rejected_with_the_allowed_ones(api: Api, method: str, path: str, allowed: str) -> None:
    reply = await api.send(method, path)
    assert (reply.status, reply.headers["Allow"]) == (405, allowed)


async def test_a_body_of_more_than_1_mib_is_rejected(api: Api) -> None:
    reply = await api.send("PATCH", f"{PATH}/1", data=BytesIO(b" " * (1 << 20) + b"{}"))
    assert (reply.status, reply.json["message"]) == (413, "the body must not be larger than 1 MiB")


async def test_an_id_may_be_any_string(api: Api) -> None:
    api.emulator.add_group("grün/1", slots=[100])
    assert (await api.get("gr%C3%BCn%2F1")).json["id"] == "grün/1"
    assert [group["id"] for group in (await api.list()).json["mutexes"]] == [1, 2, 3, "grün/1"]


async def test_only_a_valid_key_is_accepted(start: Start) -> None:
    api = await start(key="right", forbidden_keys=["other-project"])
    assert (await api.send("GET", PATH, key="right")).status == 200
    assert (await api.send("GET", PATH, key="wrong")).status == 401
    assert (await api.send("GET", PATH, key=None)).status == 401
    assert (await api.send("GET", PATH, key="")).status == 401
    assert (await api.send("GET", PATH, key="other-project")).status == 403
    assert (await api.send("GET", PATH, key=None, headers={"Authorization": "Api-Key right"})).status == 401
    assert api.emulator.limits.accepted == 1


async def test_no_response_contains_a_key(start: Start) -> None:
    api = await start(key="right")
    reply = await api.send("GET", PATH, key="wr0ng")
    assert "wr0ng" not in reply.text
    assert "right" not in reply.text
