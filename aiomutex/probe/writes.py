"""The requests that write: to one scratch group with a key of its own, which is archived at the end in any case."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from aiomutex._util.tasks import run_to_completion, run_workers
from aiomutex.errors import APIError, MutexError, OutcomeUnknownError, UnexpectedResponseError
from aiomutex.probe.findings import id_type, next_cursor_of, object_of, objects, succeeded
from aiomutex.probe.reads import ROOT, listing_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiomutex.probe.findings import ResponseOrError
    from aiomutex.probe.reads import Prober

MAX_WRITES: Final = 20
_NAME: Final = "aiomutex probe (archived when it is done)"
_MAX_PAGES: Final = 5


async def probe_writes(prober: Prober, project_id: str | int) -> None:
    """Write to a scratch group in the project ``project_id``, and add what the responses show."""
    key = f"aiomutex-probe-{secrets.token_hex(8)}"
    group = {"projectId": project_id, "name": _NAME, "key": key, "slots": [{"percentage": 50}, {"percentage": 50}]}
    created: list[str] = []
    rejected = False
    try:
        await _create(prober, group, created)
        await _edit(prober, created[0])
    except APIError as error:
        rejected = not created and 400 <= error.status <= 499  # noqa: PLR2004  # HTTP's
        raise
    finally:
        if not rejected:
            await run_to_completion(_archive(prober, key, created))
    await _find_archived(prober, created[0])


async def _create(prober: Prober, group: dict[str, Any], created: list[str]) -> None:
    created.append(_created_id(prober, await prober.send("create", "POST", ROOT, group)))
    again = await prober.send("create again", "POST", ROOT, group)
    if succeeded(again):
        prober.findings.notes["taken_key"] = "accepted"
        created.append(_created_id(prober, again))
    elif again.status in (400, 409):
        prober.findings.add("taken_key", again.status)


def _created_id(prober: Prober, response: ResponseOrError) -> str:
    if isinstance(response, APIError):
        raise response
    group_id = object_of(response).get("id")
    if not isinstance(group_id, str | int) or group_id == "":
        raise UnexpectedResponseError(
            "the body has no ID of the created group", status=response.status, method="POST", path=ROOT
        )
    prober.findings.add("created_id", id_type(group_id))
    return str(group_id)


async def _edit(prober: Prober, group_id: str) -> None:
    edited: list[bool] = []
    for individual_ids in (["probe-a", "probe-b"], ["probe-b"]):
        response = await _edit_slot(prober, "edit slot", _path(group_id), 1, individual_ids)
        edited.append(succeeded(response))
        if succeeded(response):
            body = "json" if object_of(response) else "ok" if response.body.strip() else "empty"
            prober.findings.add("patch_body", body)
    individuals = await _individuals(prober, group_id)
    for slot, numbers in ((1, "from 1"), (2, "from 0")):
        if "probe-b" in (held := individuals.get(slot, [])):
            prober.findings.add("slot_numbers", numbers)
            if all(edited):
                prober.findings.add("slot_patch", "merge" if "probe-a" in held else "replace")

    responses: list[ResponseOrError] = []

    async def write(path: str) -> None:
        slot = 1 if path == _path(group_id) else 2
        responses.append(await _edit_slot(prober, "edit slots concurrently", path, slot, [f"probe-c{slot}"]))

    # A session makes one write at a time to a path's group. Escaped, the ID is the same group under another path.
    escaped = "".join(f"%{byte:02X}" for byte in group_id.encode())
    await run_workers(write, (_path(group_id), f"{ROOT}/{escaped}"), 2)
    if all(map(succeeded, responses)):
        individuals = await _individuals(prober, group_id)
        if any(f"probe-c{slot}" not in individuals.get(slot, [f"probe-c{slot}"]) for slot in (1, 2)):
            prober.findings.add("slot_writes", "racy")

    unknown_field = {"description": None, "aiomutexProbe": True}
    response = await prober.send("edit nothing", "PATCH", _path(group_id), {})
    prober.findings.add_verdict("empty_edit", "accepted", response)
    response = await prober.send("edit an unknown field", "PATCH", _path(group_id), unknown_field)
    prober.findings.add_verdict("unknown_fields", "ignored", response)


async def _archive(prober: Prober, key: str, created: Sequence[str]) -> None:
    """Archive the scratch groups with the session's own retries; if a create got no response, look its key up."""
    try:
        group_ids = list(created)
        if not group_ids and (found := await prober.session.find_group(key)) is not None:
            group_ids.append(found.id)
        for group_id in group_ids:
            await prober.session.archive_group(group_id)
    except MutexError as error:
        raise OutcomeUnknownError(
            f"the scratch group with key {key!r} could not be archived: {error}. Archive it by hand", key=key
        ) from error


async def _find_archived(prober: Prober, group_id: str) -> None:
    details = await prober.send("the archived group", "GET", _path(group_id))
    if object_of(details).get("deleted") is True:
        # The listing may contradict this: it may hide a group whose details have the flag.
        prober.findings.add("archived", "flagged")
    cursor: str | int | None = None
    for _ in range(_MAX_PAGES):
        response = await prober.send("list with the archived group", "GET", listing_path(1000, cursor))
        for group in prober.findings.add_page(response):
            if str(group.get("id")) == group_id:
                prober.findings.add("archived", "flagged" if group.get("deleted") is True else "listed")
                return
        cursor = next_cursor_of(response)
        if cursor is None:
            prober.findings.add("archived", "hidden" if succeeded(response) else None)
            return
        cursor = quote(str(cursor), safe="")


async def _individuals(prober: Prober, group_id: str) -> dict[int, list[str]]:
    response = await prober.send("the scratch group", "GET", _path(group_id))
    if isinstance(response, APIError):
        raise response
    slots = objects(object_of(response).get("slots"))
    return {slot.get("index", place): slot.get("individuals") or [] for place, slot in enumerate(slots, start=1)}


async def _edit_slot(prober: Prober, call: str, path: str, slot: int, individual_ids: list[str]) -> ResponseOrError:
    # Individuals are strings that no user has. An experiment would have to exist, and might be running.
    return await prober.send(call, "PATCH", f"{path}/slots/{slot}", {"individuals": individual_ids})


def _path(group_id: str) -> str:
    return f"{ROOT}/{quote(group_id, safe='')}"
