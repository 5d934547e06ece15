"""What responses show about the unknowns: types and forms, never values that belong to someone.

Pure: responses in, findings out. If two responses contradict each other, the knob is reported as undetermined.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiomutex import Response
    from aiomutex.errors import APIError

    ResponseOrError = Response | APIError  # both have status, headers and body

Value = str | int | bool

REASONS: Final = msgspec.json.decode(Path(__file__).with_name("reasons.json").read_bytes(), type=dict[str, str])
"""Every knob of a dialect, and why it is undetermined as long as no response shows it."""

_BODY_CUT: Final = 4096
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,40}")


class ProbeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a probe found. It has no names, keys, IDs or salts.

    Attributes:
        kind: Always ``"aiomutex probe"``, to recognize the file by.
        requests: How many requests were sent.
        wrote: Whether a scratch group was created.
        dialect: The reading of each knob that could be determined.
        undetermined: The other knobs, and why they could not be determined.
        observed: What else was seen: statuses, names of fields and headers, content types.
    """

    kind: str = "aiomutex probe"
    requests: int
    wrote: bool
    dialect: dict[str, Value]
    undetermined: dict[str, str]
    observed: dict[str, Any]

    def to_json(self) -> str:
        """Return the report as indented JSON, which the emulator loads as a dialect."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2).decode()


class Findings:
    """What is known so far."""

    def __init__(self) -> None:
        self.notes: dict[str, str] = {}  # observations that no knob stands for
        self._readings: defaultdict[str, set[Value]] = defaultdict(set)
        self._statuses: dict[str, int] = {}
        self._names: defaultdict[str, set[str]] = defaultdict(set)

    def add(self, knob: str, value: Value | None) -> None:
        """Add one reading of a knob; ``None`` is no reading."""
        if value is not None:
            self._readings[knob].add(value)

    def add_verdict(self, knob: str, accepted: Value, response: ResponseOrError) -> None:
        """Add the reading ``accepted`` if the request succeeded, and ``rejected`` if it was rejected as invalid."""
        self.add(knob, accepted if succeeded(response) else "rejected" if response.status in (400, 422) else None)

    def add_response(self, call: str, response: ResponseOrError) -> None:
        """Add what any response shows."""
        status = response.status
        self._statuses[call] = status
        self._add_names("headers", (name.lower() for name in response.headers))
        content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if re.fullmatch(r"[a-z]+/[a-z0-9.+-]{1,60}", content_type):
            self._names["content_types"].add(f"{status // 100}xx {content_type}")
        self.add("request_ids", "absent" if response.request_id is None else "present")
        if status == 429:  # noqa: PLR2004  # too many requests
            wait = response.headers.get("retry-after", "").strip()
            self.add("retry_after", "none" if not wait else "seconds" if re.fullmatch("[0-9.]+", wait) else "date")
        elif 400 <= status <= 499:  # noqa: PLR2004  # HTTP's
            self.add("error_body", _form_of_error(response))
            self._add_names("error_fields", object_of(response))

    def add_page(self, response: ResponseOrError) -> list[dict[str, Any]]:
        """Add what a page of the listing shows, and return its groups; an error response has none."""
        page = object_of(response) if succeeded(response) else {}
        groups = objects(page.get("mutexes"))
        self._add_names("page_fields", page)
        for group in groups:
            self.add_group(group)
        if isinstance(page.get("mutexes"), list):
            if (cursor := next_cursor_of(response)) is not None:
                self.add("cursors", "string" if isinstance(cursor, str) else "number")
            elif page.get("nextCursor") is not None:
                self.add("last_cursor", "empty")
            else:
                self.add("last_cursor", "null" if "nextCursor" in page else "absent")
        return groups

    def add_group(self, group: dict[str, Any]) -> None:
        """Add what a group shows."""
        self._add_names("group_fields", group)
        self.add("ids", id_type(group.get("id")))
        self.add("project_ids", id_type(group.get("projectId")))
        if group.get("deleted") is True:
            self.add("archived", "flagged")
        for slot in objects(group.get("slots")):
            self._add_names("slot_fields", slot)
            self.add("cohorts", "present" if "cohorts" in slot else "absent")

    def report(self, *, requests: int, wrote: bool) -> ProbeReport:
        """Return everything found."""
        dialect: dict[str, Value] = {}
        undetermined: dict[str, str] = {}
        for knob, reason in REASONS.items():
            values = self._readings[knob]
            if len(values) == 1:
                (dialect[knob],) = values
            elif knob == "request_ids" and values:  # a gateway may send a 429 on its own
                dialect[knob] = "present"
            else:
                undetermined[knob] = f"seen as {' and as '.join(sorted(map(str, values)))}" if values else reason
        names = {category: sorted(seen) for category, seen in self._names.items()}
        observed = {"statuses": self._statuses, **names, **self.notes}
        return ProbeReport(
            requests=requests, wrote=wrote, dialect=dialect, undetermined=undetermined, observed=observed
        )

    def _add_names(self, category: str, names: Iterable[str]) -> None:
        # Only what looks like a field's or header's name: anything else may be private data.
        self._names[category].update(name for name in names if _NAME.fullmatch(name))


def succeeded(response: ResponseOrError) -> bool:
    """Whether the status is a success."""
    return 200 <= response.status <= 299  # noqa: PLR2004  # HTTP's


def object_of(response: ResponseOrError) -> dict[str, Any]:
    """The body as a JSON object; an empty one if it is something else."""
    document = _document_of(response)
    return cast("dict[str, Any]", document) if isinstance(document, dict) else {}


def objects(value: object) -> list[dict[str, Any]]:
    """The objects of a JSON list; none if it is not a list."""
    items = cast("list[object]", value) if isinstance(value, list) else []
    return [cast("dict[str, Any]", item) for item in items if isinstance(item, dict)]


def next_cursor_of(response: ResponseOrError) -> str | int | None:
    """The cursor of the next page; ``None`` at the end, in whatever form."""
    cursor = object_of(response).get("nextCursor")
    return cursor if isinstance(cursor, str | int) and cursor != "" else None


def id_type(value: object) -> str | None:
    """Whether an ID is sent as a number or a string. A string that is not a number shows nothing: it has no choice."""
    if type(value) is int:
        return "number"
    return "string" if isinstance(value, str) and re.fullmatch(r"0|[1-9][0-9]{0,17}", value) else None


def _document_of(response: ResponseOrError) -> Any:
    try:
        return msgspec.json.decode(response.body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _form_of_error(response: ResponseOrError) -> str | None:
    body = response.body.strip()
    if not body:
        return "empty"
    if body[:1] in ("<", b"<"):
        return "html"
    document = _document_of(response)
    if isinstance(document, dict | str):
        return "object" if isinstance(document, dict) else "string"
    # An error keeps the beginning of a long body only, which does not show what the whole body is.
    return None if len(response.body) >= _BODY_CUT else "text"
