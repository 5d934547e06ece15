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
from aiomutex.emulator.state import Group, GroupStore, generated_group

if TYPE_CHECKING:
    from aiomutex.emulator.app import PageHandler
    from aiomutex.emulator.controls import Controls

MAX_GROUPS: Final = 100
"""The most groups in one response."""
MAX_SEARCHED: Final = 20_000
"""The most groups that a search looks through, so that it does not delay the requests under test."""

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
        query = request.query
        search = query.get("q", "").strip()
        start, limit = _integer(query.get("start"), 0), min(_integer(query.get("limit"), 25), MAX_GROUPS)
        body = msgspec.json.encode({**_counts(emulator), **_groups(emulator.groups, search, start, limit)})
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
    limits, clock, dialect = emulator.limits, emulator.clock, asdict(emulator.dialect)
    now = clock.now()
    return {
        "now": clock.utc().strftime("%Y-%m-%dT%H:%M:%SZ"),
        "rate": limits.rate(now),
        **{name: getattr(limits, name) for name in ("per_second", "per_day", "enforced", "accepted", "rejected")},
        "used_today": limits.used_today(now),
        "resets_in": round(clock.until_midnight()),
        "busiest_second": limits.busiest_second(),
        "storm": now < emulator.faults.storm_until,
        "dialect": dialect,
        "dialect_changes": {name: value for name, value in dialect.items() if value != _DEFAULT_DIALECT[name]},
        "requests": [
            {"seconds_ago": round(max(0.0, now - request.at), 1), "target": request.target[:200]}
            | {"method": request.method, "status": request.status}
            for request in list(emulator.requests)[-8:][::-1]
        ],
    }


def _groups(store: GroupStore, search: str, start: int, limit: int) -> dict[str, Any]:
    if search:
        searched, _ = store.page(0, MAX_SEARCHED)
        ids = [group_id for group_id in searched if _matches(store.peek(group_id), search.casefold())]
        matching = len(ids)
        ids = ids[start : start + limit]
    else:
        ids, matching = store.page(start, limit)
    return {
        "groups_total": len(store),
        "groups_matching": matching,
        "start": start,
        "search_truncated": bool(search) and len(store) > MAX_SEARCHED,
        "groups": [_to_json(group, store.generated_slots) for group in map(store.peek, ids) if group is not None],
    }


def _matches(found: Group | int | None, text: str) -> bool:
    # The key and name of a generated group follow from its number. Generating the group would be slow.
    fields = (found.id, found.key, found.name) if isinstance(found, Group) else (f"group-{found}", f"group {found}")
    return any(text in field.casefold() for field in fields)


def _to_json(group: Group | int, slots: int) -> dict[str, Any]:
    if isinstance(group, int):
        # The store does not keep it: browsing must not use memory.
        group = generated_group(group, slots)
    return {
        **{name: getattr(group, name) for name in ("id", "key", "name", "deleted")},
        "mode": group.evaluation_mode,
        "slots": [
            {name: getattr(slot, name) for name in ("index", "percentage", "experiments", "holdouts")}
            | {"individuals": len(slot.individuals), "cohorts": len(slot.cohorts)}
            for slot in group.slots
        ],
    }
