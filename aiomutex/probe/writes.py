"""The calls that write: to one group, created for it under a key of its own and archived at the end, come what may."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from aiomutex._api import requests
from aiomutex._api.requests import Effect, Request
from aiomutex._util.tasks import run_to_completion, run_workers
from aiomutex.errors import APIError, MutexError, OutcomeUnknownError
from aiomutex.models import UNSET, NewGroup, NewSlot
from aiomutex.probe.findings import canonical_kind, next_cursor_of, object_of, succeeded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiomutex._api.responses import Response
    from aiomutex.models import CreatedGroup
    from aiomutex.probe.findings import Findings
    from aiomutex.probe.reads import Asker

__all__ = ["MAX_WRITES", "ask_writes"]

MAX_WRITES: Final = 20
_NAME: Final = "aiomutex probe (archived when it is done)"
_MAX_PAGES: Final = 5
_PATH: Final = requests.ROOT


async def ask_writes(asker: Asker, findings: Findings, project_id: str | int) -> None:
    """Write to a scratch group in ``project_id`` and note what the answers tell.

    Raises:
        InvalidRequestError: ``project_id`` breaks a rule. Nothing was sent.
        OutcomeUnknownError: The scratch group could not be archived; ``key`` tells which one it is.
    """
    slots = [NewSlot(percentage=50), NewSlot(percentage=50)]
    key = f"aiomutex-probe-{secrets.token_hex(8)}"
    create = requests.create_group(NewGroup(project_id=project_id, name=_NAME, key=key, slots=slots))
    made: list[str] = []
    try:
        await _create(asker, findings, create, made)
        await _edit(asker, findings, made[0])
    except BaseException as error:
        refused = isinstance(error, APIError) and 400 <= error.status <= 499  # noqa: PLR2004  # HTTP's
        if made or not refused:
            await run_to_completion(_archive(asker, key, made))
        raise
    await run_to_completion(_archive(asker, key, made))
    await _look_for_archived(asker, findings, made[0])


async def _create(asker: Asker, findings: Findings, create: Request[CreatedGroup], made: list[str]) -> None:
    answer = await asker.ask("create", create)
    made.append(_created_id(findings, create, answer))
    again = await asker.ask("create again", create)
    if succeeded(again):
        findings.note("taken_key", "accepted")
        made.append(_created_id(findings, create, again))
    elif again.status in (400, 409):
        findings.tell("taken_key", again.status)


def _created_id(findings: Findings, create: Request[CreatedGroup], answer: Response) -> str:
    created = requests.decode_response(create, answer)
    findings.tell("created_id", canonical_kind((object_of(answer) or {}).get("id")))
    return created.id


async def _edit(asker: Asker, findings: Findings, group_id: str) -> None:
    edited: list[bool] = []
    for individuals in (["probe-a", "probe-b"], ["probe-b"]):
        answer = await asker.ask("edit slot", _slot_edit(group_id, 1, individuals))
        edited.append(succeeded(answer))
        if succeeded(answer):
            findings.tell("patch_body", _form_of_success(answer))
    held = (await _held(asker, group_id)).get(1, [])
    if all(edited) and "probe-b" in held:
        findings.tell("slot_patch", "merge" if "probe-a" in held else "replace")

    side_by_side = (_slot_edit(group_id, 1, ["probe-c"]), _slot_edit(group_id, 2, ["probe-d"]))
    both: list[Response] = []

    async def write(edit: Request[None]) -> None:
        both.append(await asker.ask("edit slots side by side", edit))

    await run_workers(write, side_by_side, len(side_by_side))
    if all(map(succeeded, both)):
        slots = await _held(asker, group_id)
        if not ("probe-c" in slots.get(1, ()) and "probe-d" in slots.get(2, ())):
            findings.tell("slot_writes", "racy")

    for knob, call, body, right in (
        ("empty_edit", "edit nothing", b"{}", "accepted"),
        ("unknown_fields", "edit an unknown field", b'{"description":null,"aiomutexProbe":true}', "ignored"),
    ):
        answer = await asker.ask(call, Request("PATCH", f"{_PATH}/{group_id}", bytes, Effect.IDEMPOTENT, body))
        refused = answer.status in (400, 422)
        findings.tell(knob, right if succeeded(answer) else "refused" if refused else None)


async def _archive(asker: Asker, key: str, made: Sequence[str]) -> None:
    """Archive what was made, with all the patience a session has; what was made without an answer is looked up."""
    try:
        left = list(made)
        if not left and (found := await asker.session.find_group(key)) is not None:
            left.append(found.id)
        for group_id in left:
            await asker.session.archive_group(group_id)
    except MutexError as error:
        raise OutcomeUnknownError(
            f"the scratch group with key {key!r} could not be archived: {error}. Archive it by hand", key=key
        ) from error


async def _look_for_archived(asker: Asker, findings: Findings, group_id: str) -> None:
    details = await asker.ask("the archived group", requests.get_group(group_id))
    if (object_of(details) or {}).get("deleted") is True:
        # Only if the list does not contradict: that may hide what the details flag.
        findings.tell("archived", "flagged")
    cursor: str | int | None = None
    for _ in range(_MAX_PAGES):
        answer = await asker.ask("list with the archived group", requests.list_page(1000, cursor))
        for group in findings.page(answer):
            if str(group.get("id")) == group_id:
                findings.tell("archived", "flagged" if group.get("deleted") is True else "listed")
                return
        cursor = next_cursor_of(object_of(answer) or {})
        if cursor is None:
            findings.tell("archived", "hidden" if succeeded(answer) else None)
            return


async def _held(asker: Asker, group_id: str) -> dict[int, list[str]]:
    """The individuals on each slot."""
    request = requests.get_group(group_id)
    group = requests.decode_response(request, await asker.ask("the scratch group", request))
    return {slot.index: slot.individuals for slot in group.slots}


def _slot_edit(group_id: str, slot: int, individuals: list[str]) -> Request[None]:
    # Individuals are texts that belong to nobody; an experiment would have to exist, and might be running.
    return requests.edit_slot(group_id, slot, UNSET, UNSET, individuals)


def _form_of_success(answer: Response) -> str:
    if not answer.body.strip():
        return "empty"
    return "ok" if object_of(answer) is None else "json"
