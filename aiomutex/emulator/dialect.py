"""The unknowns and contradictions of the documented service, each a named knob.

A dialect is one reading of the documentation. The default is the most plausible one; a client that is to be trusted
works under every other as well. This module knows no endpoint: others ask it how to behave.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, cast, get_args, get_type_hints

import msgspec

__all__ = ["Dialect"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One reading of what the documentation leaves open.

    Attributes:
        ids: How a group's ``id`` travels in the list and in details. Ids that are no numbers are always strings.
        created_id: How ``id`` travels in the answer to a create.
        project_ids: How ``projectId`` travels in the list and in details.
        last_cursor: What ``nextCursor`` is when there are no more pages.
        cursors: How ``nextCursor`` travels when there is a next page.
        end_of_list: ``known``: the last page says that it is the last. ``probed``: every full page carries a cursor,
            so a list that fills its last page ends with an empty one.
        over_limit: Whether a ``limit`` above 1000 is read as 1000 or answered with 400.
        archived: Whether archived groups are ``listed`` like others, ``hidden`` from the list, or ``flagged`` with
            ``deleted: true`` in the list and in details.
        offsets: When archived groups are hidden, whether a cursor counts only the groups ``listed`` or ``all`` of
            them; under ``all`` pages come out short, even empty with a cursor.
        cohorts: Whether slots carry ``cohorts`` at all.
        cohorts_on_edit: Whether a slot's cohorts survive an edit of that slot.
        patch_body: What a successful PATCH answers: nothing, ``OK`` as text, or the group as JSON.
        slot_patch: Whether a list in a slot edit replaces the slot's list or is merged into it.
        slot_writes: ``racy``: two edits of one group at the same time may undo each other, because each writes back
            all slots as it read them.
        empty_edit: Whether a PATCH that sets nothing is accepted or answered with 400.
        unknown_fields: Whether fields nobody documented are ignored or answered with 400.
        create_lists: ``typed``: experiments are numbers and individuals strings, as in the documented example.
            ``loose``: either may be either, as one table in the documentation says.
        create_name: Whether a create needs a ``name``; the documentation says so, its example leaves it out.
        taken_key: The status that answers a create whose key is in use.
        window: Whether the per-second limit counts in any second or in seconds of the clock.
        rejections: Whether requests answered with 429 count against the limits themselves.
        retry_after: The form of the ``Retry-After`` header of a 429.
        daily_hint: Whether the 429 of a spent day says so (in its message, and in ``Retry-After`` if there is one).
        error_body: The form of the body of an error.
        request_ids: Whether answers carry an ``X-Request-Id`` header.
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
    slot_writes: Literal["atomic", "racy"] = "atomic"
    empty_edit: Literal["accepted", "rejected"] = "accepted"
    unknown_fields: Literal["ignored", "rejected"] = "ignored"
    create_lists: Literal["typed", "loose"] = "typed"
    create_name: Literal["required", "optional"] = "required"
    taken_key: Literal[400, 409] = 400
    window: Literal["sliding", "fixed"] = "sliding"
    rejections: Literal["free", "counted"] = "free"
    retry_after: Literal["none", "seconds", "date"] = "none"
    daily_hint: bool = False
    error_body: Literal["object", "string", "text", "html", "empty"] = "object"
    request_ids: Literal["absent", "present"] = "absent"

    def __post_init__(self) -> None:
        """Refuse a value that its knob does not have."""
        for name, values in self.knobs().items():
            value = getattr(self, name)
            if not any(value is known or (type(value) is type(known) and value == known) for known in values):
                raise ValueError(f"{name} is {value!r}; it must be {_any_of(values)}")

    @classmethod
    def knobs(cls) -> dict[str, tuple[str | int | bool, ...]]:
        """Every knob with all its values, the default first."""
        found: dict[str, tuple[str | int | bool, ...]] = {}
        for name, hint in _hints(cls).items():
            values: tuple[str | int | bool, ...] = (False, True) if hint is bool else get_args(hint)
            found[name] = values
        return found

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read a dialect from JSON: an object of knobs, or one that holds them under ``dialect``.

        Knobs that are not given keep their defaults.

        Raises:
            ValueError: The text is no such object, or it names an unknown knob or value.
        """
        try:
            document = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"a dialect must be a JSON object: {error}") from None
        if isinstance(document, dict) and isinstance(cast("dict[str, Any]", document).get("dialect"), dict):
            document = cast("dict[str, Any]", document)["dialect"]
        if not isinstance(document, dict):
            # A file that holds the wrong thing is a wrong value, not a wrong type in the caller's code.
            raise ValueError(f"a dialect must be a JSON object, not {type(document).__name__}")  # noqa: TRY004
        given = cast("dict[str, Any]", document)
        names = {field.name for field in fields(cls)}
        for name in given:
            if name not in names:
                raise ValueError(f"{name!r} is no knob of a dialect; the knobs are {', '.join(sorted(names))}")
        return cls(**given)

    def to_json(self) -> str:
        """All knobs as JSON text that ``from_json`` reads."""
        return msgspec.json.format(msgspec.json.encode(asdict(self)), indent=2).decode()


_known_hints: dict[type[Dialect], dict[str, Any]] = {}


def _hints(cls: type[Dialect]) -> dict[str, Any]:
    # Resolving annotations costs 150 µs, and every dialect that is made asks for them.
    if cls not in _known_hints:
        _known_hints[cls] = get_type_hints(cls)
    return _known_hints[cls]


def _any_of(values: tuple[object, ...]) -> str:
    words = [repr(value) for value in values]
    return f"{', '.join(words[:-1])} or {words[-1]}"
