"""The emulator's own pages: its web page, the status that the page polls, and the OpenAPI document.

They need no key, count against no limit and change nothing.
"""

from __future__ import annotations

import functools
import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from aiomutex.emulator.dialect import Dialect
from aiomutex.emulator.state import Group, GroupStore, generated_group, json_id

if TYPE_CHECKING:
    from aiomutex.emulator.app import PageHandler
    from aiomutex.emulator.controls import Controls

MAX_SEARCHED: Final = 20_000
"""The most groups that a search looks through, so that it does not delay the requests under test."""
_MAX_GROUPS: Final = 100
_MAX_REQUESTS: Final = 12
_MAX_FOUND: Final = 3  # individuals of a slot that match a search

_SECURITY: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; connect-src 'self'; img-src data:; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""The page can send requests to this server only, whatever a group's name contains; pages elsewhere cannot embed it."""

_DEFAULT_DIALECT: Final = asdict(Dialect())


def pages_of(emulator: Controls) -> dict[str, PageHandler]:
    """Return the handlers of all pages by path."""

    async def status(request: web.BaseRequest) -> web.StreamResponse:
        start, limit = _integer(request.query.get("start"), 0), _integer(request.query.get("limit"), 25)
        groups = _groups(emulator.groups, request.query.get("q", "").strip(), start, min(limit, _MAX_GROUPS))
        body = msgspec.json.encode({**_counts(emulator), **groups})
        return web.Response(body=body, content_type="application/json", headers=_SECURITY)

    return {
        "/": _file("page.html", "text/html"),
        "/status.json": status,
        "/openapi.json": _file("openapi.json", "application/json"),
        "/openapi.yaml": _file("openapi.json", "application/yaml"),  # JSON is YAML too
    }


def _file(name: str, content_type: str) -> PageHandler:
    content = functools.cache(Path(__file__).with_name(name).read_bytes)

    async def handler(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=content(), content_type=content_type, charset="utf-8", headers=_SECURITY)

    return handler


def _integer(text: str | None, default: int) -> int:
    return int(text) if text is not None and re.fullmatch("[0-9]{1,15}", text) else default


def _counts(emulator: Controls) -> dict[str, Any]:
    limits, now, dialect = emulator.limits, emulator.clock.now(), asdict(emulator.dialect)
    return {
        "now": emulator.clock.utc().strftime("%Y-%m-%dT%H:%M:%SZ"),
        "rate": limits.rate(now),
        **{name: getattr(limits, name) for name in ("per_second", "per_day", "enforced", "accepted", "rejected")},
        "used_today": emulator.used_today,
        "resets_in": round(emulator.clock.until_midnight()),
        "busiest_second": limits.busiest_second(),
        "storm": now < emulator.faults.storm_until,
        "dialect": dialect,
        "dialect_changes": {name: value for name, value in dialect.items() if value != _DEFAULT_DIALECT[name]},
        "requests": [
            {"target": request.target[:200]}
            | {name: getattr(request, name) for name in ("at", "method", "status", "seconds")}
            for request in list(emulator.requests)[-_MAX_REQUESTS:][::-1]
        ],
    }


def _groups(store: GroupStore, search: str, start: int, limit: int) -> dict[str, Any]:
    text, slots = search.casefold(), store.generated_slots
    ids, matching = store.page(0, MAX_SEARCHED) if search else store.page(start, limit)
    if search:
        ids = [group_id for group_id in ids if _matches(store.peek(group_id), text, slots)]
        ids, matching = ids[start : start + limit], len(ids)
    # The store does not keep a group that is generated here: browsing must not use memory.
    found = (store.peek(group_id) for group_id in ids)
    groups = [generated_group(group, slots) if isinstance(group, int) else group for group in found]
    return {
        "groups_total": len(store),
        "groups_matching": matching,
        "start": start,
        "search_truncated": bool(search) and len(store) > MAX_SEARCHED,
        "groups": [_to_json(group, text) for group in groups if group is not None],
    }


def _matches(found: Group | int | None, text: str, slots: int) -> bool:
    if isinstance(found, Group):
        # Any part of a key or a user's ID finds it. Experiments have numbers, whose parts mean nothing.
        texts, number = [found.id, found.key, found.name], json_id(text)
        for slot in found.slots:
            texts += slot.individuals
        in_slot = any(number in slot.experiments or number in slot.holdouts for slot in found.slots)
        return in_slot or text in "\n".join(texts).casefold()
    # The key, name and experiments of a generated group follow from its number. Generating the group would be slow.
    in_slot = text[:-2] == str(found) and text[-2:] in {f"{index:02}" for index in range(1, slots + 1)}
    return in_slot or text in f"group-{found}" or text in f"group {found}"


def _to_json(group: Group, text: str) -> dict[str, Any]:
    return {
        **{name: getattr(group, name) for name in ("id", "key", "name", "deleted")},
        "mode": group.evaluation_mode,
        "slots": [
            {name: getattr(slot, name) for name in ("index", "percentage", "experiments", "holdouts")}
            | {"individuals": len(slot.individuals), "cohorts": len(slot.cohorts)}
            | {"found": [user for user in slot.individuals if text and text in user.casefold()][:_MAX_FOUND]}
            for slot in group.slots
        ],
    }
