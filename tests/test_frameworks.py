"""Structs as bodies and responses of FastAPI and Litestar, under uvicorn."""

# Frameworks read the annotations of handlers when the handlers are defined.

import subprocess
import sys
from typing import Annotated, Any

import aiohttp
import pytest
from asgi import serving
from fastapi import Body, FastAPI
from litestar import Litestar, get, post
from litestar.params import JSONBody
from pydantic import TypeAdapter, ValidationError

from aiomutex import CreatedGroup, GroupPage, MutexGroup, NewGroup, NewSlot, Slot, SlotEdit

GROUP = MutexGroup(id="7", key="k", slots=[Slot(index=1, percentage=100, variant_key="slot-1", experiments=[5])])
JSON = {
    "id": "7",
    "projectId": "",
    "name": "",
    "key": "k",
    "description": None,
    "evaluationMode": "",
    "bucketingKey": "",
    "bucketingSalt": "",
    "slots": [
        {
            "name": "",
            "index": 1,
            "variantKey": "slot-1",
            "percentage": 100,
            "experiments": [5],
            "holdouts": [],
            "individuals": [],
            "cohorts": [],
        }
    ],
    "deleted": None,
}
NEW = {"projectId": 1, "name": "n", "slots": [{"percentage": 100, "experiments": [5]}], "evaluationMode": "remote"}
received: list[Any] = []


def with_fastapi() -> Any:
    app = FastAPI()

    async def show() -> MutexGroup:
        return GROUP

    async def edit(edit: Annotated[SlotEdit, Body()]) -> None:
        received.append(edit)

    async def create(group: Annotated[NewGroup, Body()]) -> NewGroup:
        received.append(group)
        return group

    async def page() -> GroupPage:
        return GroupPage(groups=[GROUP], next_cursor="7")

    app.get("/group")(show)
    app.get("/page")(page)
    app.post("/edit", status_code=201)(edit)
    app.post("/create", status_code=201)(create)
    return app


def with_litestar() -> Any:
    async def show() -> MutexGroup:
        return GROUP

    async def edit(data: JSONBody[SlotEdit]) -> None:
        received.append(data)

    async def create(data: JSONBody[NewGroup]) -> NewGroup:
        received.append(data)
        return data

    async def page() -> GroupPage:
        return GroupPage(groups=[GROUP], next_cursor="7")

    handlers = [get("/group")(show), get("/page")(page), post("/edit")(edit), post("/create")(create)]
    return Litestar(handlers)


@pytest.mark.parametrize("make", [with_fastapi, with_litestar])
async def test_structs_are_bodies_and_responses(make: Any) -> None:
    received.clear()
    async with serving(make()) as url, aiohttp.ClientSession(url) as http:
        assert await (await http.get("/group")).json() == JSON
        page = await (await http.get("/page")).json()
        assert (page["nextCursor"], page["mutexes"]) == ("7", [JSON])
        await http.post("/edit", json={"group_id": 7, "slot_index": 1, "holdouts": [3]})
        assert await (await http.post("/create", json=NEW)).json() == NEW
        wrong = await http.post("/edit", json={"group_id": 7, "slot_index": "one"})
        assert wrong.status in (400, 422)
        assert "slot_index" in await wrong.text()
    slots = [NewSlot(percentage=100, experiments=[5])]
    assert received == [
        SlotEdit("7", 1, holdouts=[3]),
        NewGroup(project_id=1, name="n", slots=slots, evaluation_mode="remote"),
    ]


async def test_the_openapi_document_of_fastapi_has_fields_and_descriptions() -> None:
    async with serving(with_fastapi()) as url, aiohttp.ClientSession(url) as http:
        schemas = (await (await http.get("/openapi.json")).json())["components"]["schemas"]
    group, slot, edit = schemas["MutexGroup"], schemas["Slot"], schemas["SlotEdit"]
    assert set(group["properties"]) == set(JSON)
    assert group["required"] == ["id", "slots"]
    assert group["description"].startswith("A mutex group: users split into slots")
    assert group["properties"]["slots"]["items"] == {"$ref": "#/components/schemas/Slot"}
    assert slot["properties"]["variantKey"]["description"] == "The key of its variant, such as ``slot-1``."
    assert edit["properties"]["slot_index"]["description"] == "From 1."
    assert edit["required"] == ["group_id", "slot_index"]
    assert ">>>" not in edit["description"]


def test_pydantic_passes_structs_through_and_rejects_what_is_wrong() -> None:
    adapter = TypeAdapter(MutexGroup)
    assert adapter.validate_python(GROUP) is GROUP
    assert adapter.validate_json(adapter.dump_json(GROUP)) == GROUP
    with pytest.raises(ValidationError, match=r"slots\.0\.percentage"):
        adapter.validate_python({"id": "7", "slots": [{"index": 1}]})


def test_pydantic_is_imported_only_when_it_asks() -> None:
    program = "import sys, aiomutex; aiomutex.MutexSession, aiomutex.MutexGroup; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_struct_hashes_unless_it_has_lists() -> None:
    assert len({CreatedGroup(id="1", url=None, key="k"), CreatedGroup(id="1", url=None, key="k")}) == 1
    with pytest.raises(TypeError, match="list"):
        hash(GROUP)
