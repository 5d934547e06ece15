"""Encode groups, pages and errors into response bodies, in the form that the dialect prescribes."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import msgspec

from aiomutex.emulator.state import Group, generated_group, json_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from aiomutex.emulator.dialect import Dialect

JSON = "application/json; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"

_PLACEHOLDER = 7_305_118_264_907  # a group number whose digits occur nowhere else in a generated group


@dataclass(slots=True)
class Response:
    """A response: status, body, content type and additional headers."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(slots=True)
class Encoder:
    """Encode responses in one dialect."""

    dialect: Dialect
    _template: tuple[int, list[bytes]] = (0, [])

    def generated(self, number: int, slots: int) -> bytes:
        """Return a generated group as JSON, from a template, which is much faster than generating the group."""
        template_slots, parts = self._template
        if template_slots != slots:
            parts = self.group(generated_group(_PLACEHOLDER, slots)).split(str(_PLACEHOLDER).encode())
            self._template = (slots, parts)
        return str(number).encode().join(parts)

    def page(self, groups: Iterable[bytes], next_cursor: int | None) -> bytes:
        """Return a page of the listing as JSON; ``next_cursor`` is None on the last page."""
        dialect = self.dialect
        fields: dict[str, Any] = {"mutexes": [msgspec.Raw(group) for group in groups]}
        if next_cursor is not None:
            fields["nextCursor"] = str(next_cursor) if dialect.cursors == "string" else next_cursor
        elif dialect.last_cursor != "absent":
            fields["nextCursor"] = None if dialect.last_cursor == "null" else ""
        return msgspec.json.encode(fields)

    def created(self, group: Group, base_url: str) -> Response:
        """Return the response to a create."""
        url = f"{base_url}/api/1/mutexes/{group.id}"
        group_id = json_id(group.id) if self.dialect.created_id == "number" else group.id
        return Response(200, msgspec.json.encode({"id": group_id, "url": url}))

    def changed(self, group: Group) -> Response:
        """Return the response to a successful PATCH."""
        if self.dialect.patch_body == "json":
            return Response(200, self.group(group))
        return Response(200, b"OK" if self.dialect.patch_body == "ok" else b"", TEXT)

    def error(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
        """Return an error response in the dialect's form."""
        form, headers = self.dialect.error_body, dict(headers or {})
        if form in ("object", "string"):
            content = message if form == "string" else {"status": status, "message": message}
            return Response(status, msgspec.json.encode(content), JSON, headers)
        if form == "html":
            page = f"<html><head><title>{status}</title></head><body><h1>{escape(message)}</h1></body></html>"
            return Response(status, page.encode(), HTML, headers)
        return Response(status, message.encode() if form == "text" else b"", TEXT, headers)

    def group(self, group: Group) -> bytes:
        """Return a group as JSON."""
        dialect = self.dialect
        fields = msgspec.to_builtins(group)
        for name, form in (("id", dialect.ids), ("projectId", dialect.project_ids)):
            fields[name] = json_id(fields[name]) if form == "number" else fields[name]
        if dialect.cohorts == "absent":
            for slot in fields["slots"]:
                del slot["cohorts"]
        if not (group.deleted and dialect.archived == "flagged"):
            del fields["deleted"]
        return msgspec.json.encode(fields)
