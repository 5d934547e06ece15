"""What the service's documentation leaves open or contradicts, each as a named knob.

A dialect is one reading of the documentation. The default is the most plausible; a reliable client works under all.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, fields
from math import inf
from typing import TYPE_CHECKING, Any, Literal, Self, get_args, get_type_hints

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One reading of what the documentation leaves open.

    Attributes:
        ids, project_ids: The JSON types of ``id`` and ``projectId`` in groups. IDs that are not integers are strings.
        created_id: The JSON type of ``id`` in the response to a create.
        last_cursor: What ``nextCursor`` is on the last page: null, absent or an empty string.
        cursors: The JSON type of ``nextCursor`` on the other pages.
        end_of_list: With ``known`` the last page has no cursor. With ``probed`` every full page has one, so a listing
            whose last page is full ends with an empty page.
        over_limit: Whether a ``limit`` above 1000 is treated as 1000 or rejected with 400.
        archived: Archived groups are ``flagged`` (``deleted: true``), ``listed`` like others or ``hidden`` in listings.
        offsets: If archived groups are hidden, whether a cursor counts only ``listed`` groups or ``all`` groups. With
            ``all``, pages may be short, or empty and have a cursor.
        cohorts: Whether slots have a field ``cohorts``.
        cohorts_on_edit: Whether a slot keeps its cohorts when it is edited.
        patch_body: The body of a successful PATCH: the text ``OK``, nothing, or the group as JSON.
        slot_patch: Whether a list in a slot edit replaces the slot's list or is merged into it.
        slot_numbers: Whether the path of a slot edit counts slots ``from 1``, as the responses do, or ``from 0``.
        slot_writes: With ``racy``, an edit writes back all slots as it read them, and may undo a concurrent edit.
        empty_edit: Whether a PATCH that sets nothing is accepted or rejected with 400.
        unknown_fields: Whether undocumented fields are ignored or rejected with 400.
        create_lists: Whether a create takes experiments as numbers and individuals as strings only, or both as either.
        create_name: Whether a create requires ``name``. The documentation says so, but its example omits it.
        key_scope: Whether a key is unique ``everywhere``, or only among the groups of its ``project``.
        taken_key: The status of a create whose key is already in use.
        window: Whether the limit per second holds for any second or for each second of the clock.
        rejections: Whether requests rejected with 429 are ``free`` or ``counted`` against the limits.
        retry_after: The format of the ``Retry-After`` header of a 429, if it has one.
        daily_hint: Whether a 429 for the daily limit says so in its message, and in ``Retry-After`` if it has one.
        error_body: The format of an error's body.
        request_ids: Whether responses have a header ``X-Request-Id``.
        read_lag: The details of a group show it as it was that many seconds ago, by the emulator's clock; a group
            created since is a 404. Direct changes, and those before the lag was set, are seen at once.
        list_lag: The same for the listing.

    Raises:
        ValueError: A knob has no such value.

    Example:
        >>> Dialect(slot_patch="merge").slot_patch
        'merge'
        >>> Dialect.knobs()["error_body"]
        ('object', 'string', 'text', 'html', 'empty')
    """

    ids: Literal["number", "string"] = "number"
    created_id: Literal["string", "number"] = "string"
    project_ids: Literal["number", "string"] = "number"
    last_cursor: Literal["null", "absent", "empty"] = "null"
    cursors: Literal["number", "string"] = "number"
    end_of_list: Literal["known", "probed"] = "known"
    over_limit: Literal["capped", "rejected"] = "capped"
    archived: Literal["flagged", "listed", "hidden"] = "flagged"
    offsets: Literal["listed", "all"] = "listed"
    cohorts: Literal["present", "absent"] = "present"
    cohorts_on_edit: Literal["kept", "dropped"] = "kept"
    patch_body: Literal["ok", "empty", "json"] = "ok"
    slot_patch: Literal["replace", "merge"] = "replace"
    slot_numbers: Literal["from 1", "from 0"] = "from 1"
    slot_writes: Literal["atomic", "racy"] = "atomic"
    empty_edit: Literal["accepted", "rejected"] = "accepted"
    unknown_fields: Literal["ignored", "rejected"] = "ignored"
    create_lists: Literal["typed", "loose"] = "typed"
    create_name: Literal["required", "optional"] = "required"
    key_scope: Literal["everywhere", "project"] = "everywhere"
    taken_key: Literal[400, 409] = 400
    window: Literal["sliding", "fixed"] = "sliding"
    rejections: Literal["free", "counted"] = "free"
    retry_after: Literal["none", "seconds", "date"] = "none"
    daily_hint: bool = False
    error_body: Literal["object", "string", "text", "html", "empty"] = "object"
    request_ids: Literal["absent", "present"] = "absent"
    read_lag: float = 0.0
    list_lag: float = 0.0

    def __post_init__(self) -> None:
        for name, values in self.knobs().items():
            value = getattr(self, name)
            if not any(value is known or (type(value) is type(known) and value == known) for known in values):
                choices = f"{', '.join(map(repr, values[:-1]))} or {values[-1]!r}"
                raise ValueError(f"{name} must be {choices}, not {value!r} ({type(value).__name__})")
        for name in ("read_lag", "list_lag"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < inf:
                raise ValueError(f"{name} must be 0 or more seconds, not {value!r} ({type(value).__name__})")

    @classmethod
    @functools.cache  # resolving annotations takes long compared with creating a dialect, which checks its values
    def knobs(cls) -> Mapping[str, tuple[str | int | bool, ...]]:
        """Return the values of every knob that has a choice of values, which the lags have not; the default first."""
        hints = get_type_hints(cls).items()
        return {name: (False, True) if hint is bool else get_args(hint) for name, hint in hints if hint is not float}

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a dialect from a JSON object of knobs, or from a report of ``aiomutex probe``, which has one.

        Raises:
            ValueError: ``text`` is not such an object, or a knob or its value is unknown.

        Example:
            >>> Dialect.from_json('{"ids": "string"}').ids
            'string'
        """
        try:
            document = msgspec.json.decode(text, type=dict[str, Any])
            given = msgspec.convert(document.get("dialect", document), dict[str, Any])
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"a dialect must be a JSON object: {error}") from None
        names = {field.name for field in fields(cls)}
        if unknown := given.keys() - names:
            raise ValueError(f"a dialect has no knob {min(unknown)!r}; its knobs are {', '.join(sorted(names))}")
        return cls(**given)

    def to_json(self) -> str:
        """Return all knobs as JSON, which ``from_json`` reads."""
        return msgspec.json.format(msgspec.json.encode(asdict(self)), indent=2).decode()
