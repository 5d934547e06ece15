"""What answers tell about the unknowns: kinds and forms, never values that belong to somebody.

Pure: an answer in, a finding out. A finding that a later one contradicts is withdrawn.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiomutex._api.responses import Response

__all__ = ["Findings", "ProbeReport", "canonical_kind", "document_of", "next_cursor_of", "object_of", "succeeded"]

Value = str | int | bool

_NO_READ = "no read can tell; --write-scratch can"
_NO_TEST = "no harmless call can tell"
UNREAD: Final = {
    "ids": "no group with a number as its id was seen",
    "created_id": _NO_READ,
    "project_ids": "no group was seen",
    "last_cursor": "the last page was not seen",
    "cursors": "no page but the last was seen; that takes two groups",
    "end_of_list": "no last page that is exactly full could be asked for; that takes 1 to 999 groups",
    "over_limit": "the answer was neither a page nor a refusal",
    "archived": "no archived group was seen to be one; --write-scratch archives one of its own",
    "offsets": _NO_TEST,
    "cohorts": "no slot was seen",
    "cohorts_on_edit": "no call can give a slot a cohort, and no slot in use shall be edited",
    "patch_body": _NO_READ,
    "slot_patch": _NO_READ,
    "slot_writes": "to see no lost write proves nothing",
    "empty_edit": _NO_READ,
    "unknown_fields": _NO_READ,
    "create_lists": _NO_TEST,
    "create_name": _NO_TEST,
    "taken_key": _NO_READ,
    "window": _NO_TEST,
    "refused": _NO_TEST,
    "retry_after": "no request was answered with 429, and none is provoked",
    "daily_hint": _NO_TEST,
    "error_body": "no request was refused",
    "request_ids": "no request was answered",
}
"""Every knob, and why it is unread as long as nothing tells."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,40}")


class ProbeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe has found. It holds no name, key, id or salt."""

    kind: str = "aiomutex probe"
    requests: int
    """How many requests were sent."""
    wrote: bool
    """Whether a scratch group was written to."""
    dialect: dict[str, Value]
    """The reading of each knob that could be told."""
    unread: dict[str, str]
    """The other knobs, and why they could not be told."""
    seen: dict[str, Any]
    """What else was seen: statuses, names of fields and headers, content types."""

    def to_json(self) -> str:
        """The report as JSON text, which the emulator reads as a dialect."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode()


class Findings:
    """What is known so far."""

    def __init__(self) -> None:
        self._told: dict[str, set[Value]] = {}
        self._statuses: dict[str, int] = {}
        self._names: dict[str, set[str]] = {}
        self._notes: dict[str, Any] = {}

    def tell(self, knob: str, value: Value | None) -> None:
        """Note one reading of a knob; ``None`` tells nothing."""
        if value is not None:
            self._told.setdefault(knob, set()).add(value)

    def note(self, name: str, value: Any) -> None:
        """Note something that no knob stands for."""
        self._notes[name] = value

    def answered(self, call: str, answer: Response) -> None:
        """Note what every answer tells."""
        self._statuses[call] = answer.status
        self._name("headers", (name.lower() for name in answer.headers))
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if re.fullmatch(r"[a-z]+/[a-z0-9.+-]{1,60}", kind):
            self._names.setdefault("content_types", set()).add(f"{answer.status // 100}xx {kind}")
        if answer.request_id is not None:
            self.tell("request_ids", "present")
        elif answer.status != 429:  # noqa: PLR2004  # which a gateway may answer on its own
            self._told.setdefault("request_ids", {"absent"})
        if answer.status == 429:  # noqa: PLR2004  # too many requests
            self.tell("retry_after", _form_of_wait(answer.headers.get("Retry-After", "")))
        elif 400 <= answer.status <= 499:  # noqa: PLR2004  # HTTP's
            self.tell("error_body", _form_of_error(answer))
            self._name("error_fields", object_of(answer) or {})

    def page(self, answer: Response) -> list[dict[str, Any]]:
        """Note what a page of the listing tells, and give its groups; a refusal is no page and has none."""
        page = (object_of(answer) if succeeded(answer) else None) or {}
        listed = page.get("mutexes")
        groups = _objects(listed)
        self._name("page_fields", page)
        for group in groups:
            self.group(group)
        if isinstance(listed, list):
            following = next_cursor_of(page)
            if following is None:
                absent = "nextCursor" not in page
                self.tell("last_cursor", "absent" if absent else "null" if page["nextCursor"] is None else "empty")
            else:
                self.tell("cursors", "string" if isinstance(following, str) else "number")
        return groups

    def group(self, group: dict[str, Any]) -> None:
        """Note what a group tells."""
        self._name("group_fields", group)
        self.tell("ids", canonical_kind(group.get("id")))
        self.tell("project_ids", canonical_kind(group.get("projectId")))
        if group.get("deleted") is True:
            self.tell("archived", "flagged")
        for slot in _objects(group.get("slots")):
            self._name("slot_fields", slot)
            self.tell("cohorts", "present" if "cohorts" in slot else "absent")

    def report(self, *, requests: int, wrote: bool) -> ProbeReport:
        """All of it."""
        settled = {knob: next(iter(values)) for knob, values in self._told.items() if len(values) == 1}
        if self._told.get("request_ids", set()) == {"absent", "present"}:
            settled["request_ids"] = "present"
        unread: dict[str, str] = {}
        for knob, reason in UNREAD.items():
            if knob not in settled:
                values = self._told.get(knob)
                unread[knob] = f"seen as {' and as '.join(sorted(map(str, values)))}" if values else reason
        return ProbeReport(
            requests=requests,
            wrote=wrote,
            dialect={knob: settled[knob] for knob in UNREAD if knob in settled},
            unread=unread,
            seen={
                "statuses": self._statuses,
                **{name: sorted(self._names[name]) for name in self._names},
                **self._notes,
            },
        )

    def _name(self, kind: str, names: Iterable[str]) -> None:
        # The service's own words only: what does not look like one may belong to somebody.
        self._names.setdefault(kind, set()).update(name for name in names if _NAME.fullmatch(name))


def succeeded(answer: Response) -> bool:
    """Whether the service did as it was told."""
    return 200 <= answer.status <= 299  # noqa: PLR2004  # HTTP's


def document_of(answer: Response) -> Any:
    """The body as JSON; ``None`` if it is none."""
    try:
        return msgspec.json.decode(answer.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def object_of(answer: Response) -> dict[str, Any] | None:
    """The body as a JSON object; ``None`` if it is none."""
    document = document_of(answer)
    return cast("dict[str, Any]", document) if isinstance(document, dict) else None


def _objects(value: object) -> list[dict[str, Any]]:
    items = cast("list[object]", value) if isinstance(value, list) else []
    return [cast("dict[str, Any]", item) for item in items if isinstance(item, dict)]


def next_cursor_of(page: dict[str, Any]) -> str | int | None:
    """The cursor of the next page; ``None`` at the end, however that is written."""
    cursor = page.get("nextCursor")
    return cursor if isinstance(cursor, str | int) and cursor != "" else None


def canonical_kind(value: object) -> str | None:
    """How a number travels. A text that is no number has no other way to travel, and so tells nothing."""
    if type(value) is int:
        return "number"
    plain = isinstance(value, str) and re.fullmatch(r"0|[1-9][0-9]{0,17}", value)
    return "string" if plain else None


def _form_of_error(answer: Response) -> str:
    if not answer.body.strip():
        return "empty"
    document = document_of(answer)
    if isinstance(document, dict):
        return "object"
    if isinstance(document, str):
        return "string"
    return "html" if answer.body.lstrip()[:1] == b"<" else "text"


def _form_of_wait(header: str) -> str:
    if not header.strip():
        return "none"
    return "seconds" if re.fullmatch(r"[0-9.]+", header.strip()) else "date"
