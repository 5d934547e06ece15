"""The requests of a probe: those that only read, and those that write to a scratch group with a key of its own.

The scratch group is archived at the end in any case.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from aiomutex._util.tasks import results_of, run_to_completion
from aiomutex.errors import APIError, InvalidRequestError, MutexError, OutcomeUnknownError, UnexpectedResponseError
from aiomutex.models import UNSET
from aiomutex.probe.findings import Findings, id_type, next_cursor_of, object_of, objects, succeeded
from aiomutex.retry import RetryPolicy

if TYPE_CHECKING:
    from aiomutex.probe.findings import ResponseOrError
    from aiomutex.session import MutexSession

MAX_READS: Final = 10
MAX_WRITES: Final = 20
ROOT: Final = "/api/1/mutexes"
_MAX_ATTEMPTS: Final = 4
_MAX_PAGES: Final = 5
_PAGE_SIZE: Final = 1000
_OFFSET_BEYOND_THE_END: Final = 900_000_000
_NAME: Final = "aiomutex probe (archived when it is done)"


class Prober:
    """Sends at most ``allowed`` single requests through a session, its limiter included, and adds to ``findings``."""

    def __init__(self, session: MutexSession) -> None:
        self.session = session
        self.findings = Findings()
        self.allowed = MAX_READS
        self.sent = 0
        # The probe counts its requests and looks at each response, so it repeats them itself.
        self._single = session.with_options(retry=RetryPolicy(max_attempts=1))

    async def send(self, call: str, method: str, path: str, json: object = UNSET) -> ResponseOrError:
        """Send a request, again only after a 429, and add what the response shows under the name ``call``."""
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            if self.sent >= self.allowed:
                raise InvalidRequestError(f"the probe has sent its maximum of {self.allowed} requests")
            self.sent += 1
            response: ResponseOrError
            try:
                response = await self._single.request(method, path, json=json)
            except APIError as error:
                response = error
            self.findings.add_response(call, response)
            if response.status != 429 or attempt == _MAX_ATTEMPTS:  # noqa: PLR2004  # too many requests
                return response
        raise AssertionError("unreachable")


async def probe_reads(prober: Prober) -> None:
    """Determine what reading requests can show."""
    findings = prober.findings
    response = await prober.send("list", "GET", listing_path(1))
    if isinstance(response, APIError):
        raise response
    first = findings.add_page(response)
    if not object_of(response):
        raise UnexpectedResponseError(
            "the body is not a page of groups", status=response.status, method="GET", path=listing_path(1)
        )
    response = await prober.send("list 1000", "GET", listing_path(_PAGE_SIZE))
    groups = findings.add_page(response)
    if succeeded(response):
        findings.notes["groups"] = "none" if not groups else "one" if len(groups) == 1 else "several"
    if next_cursor_of(response) is not None:
        path = listing_path(_PAGE_SIZE, _OFFSET_BEYOND_THE_END)
        findings.add_page(await prober.send("list beyond the end", "GET", path))
    elif 0 < len(groups) < _PAGE_SIZE:
        await _probe_full_last_page(prober, len(groups))
    response = await prober.send("list 1001", "GET", listing_path(_PAGE_SIZE + 1))
    findings.add_page(response)
    findings.add_verdict("over_limit", "capped", response)
    # Only an ID that is the same in a path needs no escaping, and cannot lead to another endpoint.
    group_id = str(first[0].get("id", "")) if first else ""
    if re.fullmatch("[A-Za-z0-9_-]{1,100}", group_id):
        response = await prober.send("one group", "GET", f"{ROOT}/{group_id}")
        if succeeded(response):
            findings.add_group(object_of(response))
    await prober.send("an absent group", "GET", f"{ROOT}/0")


async def _probe_full_last_page(prober: Prober, groups: int) -> None:
    # Hidden groups at the end look like a full page that does not say it is the last, and mean the same to clients.
    response = await prober.send("list exactly all", "GET", listing_path(groups))
    if len(prober.findings.add_page(response)) != groups:
        return
    if (cursor := next_cursor_of(response)) is None:
        prober.findings.add("end_of_list", "known")
    elif isinstance(cursor, int) or cursor.isdecimal():
        rest = await prober.send("list after all", "GET", listing_path(groups, int(cursor)))
        if succeeded(rest) and not prober.findings.add_page(rest) and next_cursor_of(rest) is None:
            prober.findings.add("end_of_list", "probed")


def listing_path(limit: int, cursor: str | int | None = None) -> str:
    """Path and query of a page of the listing."""
    return f"{ROOT}?limit={limit}" if cursor is None else f"{ROOT}?limit={limit}&cursor={cursor}"


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
    for call in ("create", "create again"):
        response = await prober.send(call, "POST", ROOT, group)
        if created and not succeeded(response):
            prober.findings.add("taken_key", response.status if response.status in (400, 409) else None)
            return
        if isinstance(response, APIError):
            raise response
        group_id = object_of(response).get("id")
        if not isinstance(group_id, str | int) or group_id == "":
            raise UnexpectedResponseError(
                "the body has no ID of the created group", status=response.status, method="POST", path=ROOT
            )
        prober.findings.add("created_id", id_type(group_id))
        if created:
            prober.findings.notes["taken_key"] = "accepted"
        created.append(str(group_id))


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

    async def write(target: tuple[int, str]) -> ResponseOrError:
        slot, path = target
        return await _edit_slot(prober, "edit slots concurrently", path, slot, [f"probe-c{slot}"])

    # A session makes one write at a time to a path's group. Escaped, the ID is the same group under another path.
    escaped = "".join(f"%{byte:02X}" for byte in group_id.encode())
    responses = await results_of(write, [(1, _path(group_id)), (2, f"{ROOT}/{escaped}")], 2)
    if all(map(succeeded, responses.values())):
        individuals = await _individuals(prober, group_id)
        if any(f"probe-c{slot}" not in individuals.get(slot, [f"probe-c{slot}"]) for slot in (1, 2)):
            prober.findings.add("slot_writes", "racy")

    unknown_field = {"description": None, "aiomutexProbe": True}
    response = await prober.send("edit nothing", "PATCH", _path(group_id), {})
    prober.findings.add_verdict("empty_edit", "accepted", response)
    response = await prober.send("edit an unknown field", "PATCH", _path(group_id), unknown_field)
    prober.findings.add_verdict("unknown_fields", "ignored", response)


async def _archive(prober: Prober, key: str, created: list[str]) -> None:
    """Archive the scratch groups with the session's own retries; if a create got no response, look its key up."""
    try:
        if not created and (found := await prober.session.find_group(key)) is not None:
            created.append(found.id)
        for group_id in created:
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
        if (cursor := next_cursor_of(response)) is None:
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
