"""What the emulator shows to people and tools: its page, its state for the page, and the contract it keeps.

None of it needs a key, counts against a limit or changes anything.
"""

from __future__ import annotations

import functools
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from aiohttp import web

from aiomutex.emulator.dialect import Dialect
from aiomutex.emulator.state import Group, generated_group

if TYPE_CHECKING:
    from aiomutex.emulator.app import Application, PageHandler

__all__ = ["pages_of"]

MAX_GROUPS: Final = 100
"""Groups in one answer at the most: a page of people's size, however many there are."""
MAX_SEARCHED: Final = 20_000
"""Groups a search looks through, so that it never holds up the requests that are under test."""

_SECURITY: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; connect-src 'self'; img-src data:; style-src 'unsafe-inline'; "
        "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""Nothing but this server is ever asked, whatever a group's name may hold."""


_DEFAULT: Final = asdict(Dialect())


def pages_of(app: Application) -> dict[str, PageHandler]:
    """Path to handler of everything that is shown."""

    async def status(request: web.BaseRequest) -> web.StreamResponse:
        query = request.query
        text = query.get("q", "").strip()
        start, limit = _number(query.get("start"), 0), min(_number(query.get("limit"), 25), MAX_GROUPS)
        body = msgspec.json.encode({**_counts(app), **_groups(app, text, start, limit)})
        return web.Response(body=body, content_type="application/json", headers=_SECURITY)

    return {
        "/": _file("page.html", "text/html"),
        "/status.json": status,
        "/openapi.json": _file("openapi.json", "application/json"),
        "/openapi.yaml": _file("openapi.json", "application/yaml"),  # JSON is YAML too
    }


@functools.cache
def _content(name: str) -> bytes:
    return (Path(__file__).parent / name).read_bytes()


def _file(name: str, kind: str) -> PageHandler:
    async def answer(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=_content(name), content_type=kind, charset="utf-8", headers=_SECURITY)

    return answer


def _number(text: str | None, default: int) -> int:
    digits = text is not None and len(text) <= 15 and text.isascii() and text.isdigit()  # noqa: PLR2004 - far enough
    return int(text or 0) if digits else default


def _counts(app: Application) -> dict[str, Any]:
    limits, clock, dialect = app.limits, app.clock, asdict(app.service.dialect)
    now = clock.now()
    return {
        "now": clock.utc().strftime("%Y-%m-%dT%H:%M:%SZ"),
        "rate": limits.rate(now),
        "per_second": limits.per_second,
        "used_today": limits.used_today(now),
        "per_day": limits.per_day,
        "resets_in": round(clock.until_midnight()),
        "enforced": limits.enforced,
        "accepted": limits.accepted,
        "rejected": limits.rejected,
        "busiest_second": limits.busiest_second(),
        "storm": now < app.faults.storm_until,
        "dialect": dialect,
        "dialect_turned": {name: value for name, value in dialect.items() if value != _DEFAULT[name]},
        "requests": [
            {
                "seconds_ago": round(max(0.0, now - request.at), 1),
                "method": request.method,
                "target": request.target[:200],
                "status": request.status,
            }
            for request in list(app.requests)[-8:][::-1]
        ],
    }


def _groups(app: Application, text: str, start: int, limit: int) -> dict[str, Any]:
    store = app.service.store
    if text:
        everything, _ = store.page(0, MAX_SEARCHED)
        ids = [group_id for group_id in everything if _matches(store.look(group_id), text.casefold())]
        matching = len(ids)
        ids = ids[start : start + limit]
    else:
        ids, matching = store.page(start, limit)
    return {
        "groups_total": len(store),
        "groups_matching": matching,
        "start": start,
        "search_cut": bool(text) and len(store) > MAX_SEARCHED,
        "groups": [_shown(_look(app, group_id)) for group_id in ids],
    }


def _look(app: Application, group_id: str) -> Group:
    """The group, without turning one that nobody has touched into one that has to be kept."""
    found = app.service.store.look(group_id)
    return found if isinstance(found, Group) else generated_group(group_id, app.service.store.generated_slots)


def _matches(found: Group | int | None, text: str) -> bool:
    # A generated group is called after its number; to make it only to see that would cost the most of a search.
    held = (found.id, found.key, found.name) if isinstance(found, Group) else (f"group-{found}", f"group {found}")
    return any(text in each.casefold() for each in held)


def _shown(group: Group) -> dict[str, Any]:
    return {
        "id": group.id,
        "key": group.key,
        "name": group.name,
        "mode": group.evaluation_mode,
        "deleted": group.deleted,
        "slots": [
            {
                "index": slot.index,
                "percentage": slot.percentage,
                "experiments": slot.experiments,
                "holdouts": slot.holdouts,
                "individuals": len(slot.individuals),
                "cohorts": len(slot.cohorts),
            }
            for slot in group.slots
        ],
    }
