"""Reads a desired state from a file and checks it: field names, types, ranges and duplicates.

Every problem of a file is reported at once, each with its line, its field, the value, and what would be valid.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from msgspec import UNSET, UnsetType
from msgspec.structs import fields

from aiomutex._api.validation import MAX_SLOTS, PROJECT_ID, is_project_id
from aiomutex.plan.desired import Desired, DesiredGroup, DesiredSlot, Identity, Thresholds, group_name, identity_of
from aiomutex.plan.document import DesiredFileError, Node, Problem, read_file
from aiomutex.plan.formats import FORMATS, read
from aiomutex.plan.lint import RULES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["load_desired", "parse_desired"]

_MAX_HINTS: Final = 100
"""Problems after which no more similar field names are looked up, which is slow."""
_MAX_SHOWN: Final = 60
"""Characters of a value that a message shows."""


def load_desired(path: str | Path) -> Desired:
    """Read a desired state from a file whose name ends in ``.yaml``, ``.yml`` or ``.json``.

    Raises:
        DesiredFileError: The file is not valid; the message has a line for each problem.
        ConfigurationError: PyYAML is not installed, and the file is YAML.
        OSError: The file cannot be read.
    """
    path = Path(path)
    # A name may hold bytes that are not UTF-8, which a saved plan cannot hold.
    name = os.fsencode(path).decode(errors="backslashreplace")
    format_ = FORMATS.get(path.suffix.lower())
    if format_ is None:
        raise DesiredFileError(name, [Problem(0, f"the name must end in one of {', '.join(FORMATS)}")])
    return parse_desired(read_file(path), format_=format_, file=name)


def parse_desired(data: str | bytes, *, format_: str = "yaml", file: str = "<string>") -> Desired:
    """Read a desired state from a string.

    Args:
        data: The content of a file.
        format_: ``yaml`` or ``json``.
        file: The file's name, for messages.

    Raises:
        DesiredFileError: The content is not valid; the message has a line for each problem.
        ConfigurationError: PyYAML is not installed, and the format is YAML.

    Example:
        >>> parse_desired("groups: [{projectId: 1, key: checkout, name: Checkout}]").groups[0].name
        'Checkout'
    """
    root = read(data.encode() if isinstance(data, str) else data, file=file, format_=format_)
    reader = _Reader()
    desired = reader.desired(root, file)
    if reader.problems:
        raise DesiredFileError(file, sorted(reader.problems))
    return desired


def _is_number(value: object, most: int) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_string(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_key(value: object) -> bool:
    return isinstance(value, str) and value != "" and all(c.isprintable() and not c.isspace() for c in value)


_Rule: TypeAlias = "tuple[Callable[[object], bool], str]"
"""Whether a value is valid, and what a message calls a valid one."""

_NON_EMPTY: Final[_Rule] = (_is_string, "a non-empty string (in quotes if it is a number)")
_VERSION: Final[_Rule] = (lambda value: type(value) is int and value == 1, "1, the only version")
_SHARE: Final[_Rule] = (lambda value: _is_number(value, 1), "a share from 0 to 1, such as 0.3")
_CODE: Final[_Rule] = (lambda value: value in list(RULES), f"a lint rule, {min(RULES)} to {max(RULES)}")
_PERCENTAGE: Final[_Rule] = (lambda value: _is_number(value, 100), "a number from 1 to 100")
_ID: Final[_Rule] = (_is_id, "an integer ID")

_GROUP: Final[dict[str, _Rule]] = {
    "projectId": (is_project_id, f"the project's ID, {PROJECT_ID}"),
    "key": (_is_key, "a string without whitespace (in quotes if it is a number)"),
    "name": _NON_EMPTY,
    "description": (lambda value: isinstance(value, str | None), "a string, or null for none"),
    "evaluationMode": (lambda value: value in ("local", "remote"), "local or remote"),
    "bucketingKey": _NON_EMPTY,
    "bucketingSalt": _NON_EMPTY,
    "archived": (lambda value: isinstance(value, bool), "true or false"),
}
_FIELDS: Final = {field.encode_name: field.name for field in fields(DesiredGroup)}
_MEMBERS: Final[dict[str, _Rule]] = {
    "experiments": _ID,
    "holdouts": _ID,
    "individuals": (_is_string, "a user or device ID, a string (in quotes if it is a number)"),
    "cohorts": (lambda value: _is_id(value) or _is_string(value), "a cohort's ID, a string or an integer"),
}


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


class _Reader:
    """Reads a tree and collects every problem on the way. After a problem, what it returns is not to be used."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.defined: dict[Identity, tuple[str, int]] = {}
        """Where each group is defined: its path and line."""

    def problem(self, node: Node, text: str) -> None:
        self.problems.append(Problem(node.line, text))

    def invalid(self, node: Node, where: str, valid: str) -> None:
        self.problem(node, f"{where} must be {valid}, not {_shown(node.value)}")

    def desired(self, root: Node, file: str) -> Desired:
        given = self.fields(root, "the file", ("version", "thresholds", "lint", "groups"))
        self.value(given.get("version"), "version", _VERSION)
        lint = self.fields(given.get("lint"), "lint", ("ignore",))
        shares = self.fields(given.get("thresholds"), "thresholds", ("removals", "updates"))
        return Desired(
            groups=self.each(given.get("groups"), "groups", self.group, "group"),
            thresholds=Thresholds(**{name: self.value(shares[name], f"thresholds.{name}", _SHARE) for name in shares}),
            ignore=self.codes(lint.get("ignore"), "lint.ignore"),
            file=file,
        )

    def group(self, node: Node, where: str) -> DesiredGroup | None:
        given = self.fields(node, where, (*_GROUP, "ignore", "slots"), required=("projectId", "key"))
        if "projectId" not in given or "key" not in given:
            return None
        values = {name: self.value(given.get(name), f"{where}.{name}", rule) for name, rule in _GROUP.items()}
        project_id, key = str(values["projectId"]), str(values["key"])
        first, line = self.defined.setdefault(identity_of(project_id, key), (where, node.line))
        if first != where:
            name, place = group_name(project_id, key), f"line {line}" if line else first
            self.problem(node, f"{where}: group {name} is defined twice; the first is in {place}")
        values["projectId"] = project_id
        fields: dict[str, Any] = {_FIELDS[name]: value for name, value in values.items()}
        return DesiredGroup(
            **fields,
            slots=self.slots(given["slots"], f"{where}.slots") if "slots" in given else UNSET,
            ignore=self.codes(given.get("ignore"), f"{where}.ignore"),
            line=node.line,
        )

    def slots(self, node: Node, where: str) -> tuple[DesiredSlot, ...]:
        if isinstance(node.value, list) and not 1 <= len(node.value) <= MAX_SLOTS:
            self.problem(node, f"{where} must have 1 to {MAX_SLOTS} slots, not {len(node.value)}")
        slots = self.each(node, where, self.slot, "slot")
        total = sum(slot.percentage for slot in slots)
        if total > 100.001:  # noqa: PLR2004  # percentages; a third may be written 33.3334
            parts = " + ".join(f"{slot.percentage:g}" for slot in slots)
            self.problem(node, f"{where} must have percentages that add up to at most 100, not {total:g} ({parts})")
        return slots

    def slot(self, node: Node, where: str) -> DesiredSlot | None:
        given = self.fields(node, where, ("percentage", *_MEMBERS), required=("percentage",))
        percentage = self.value(given.get("percentage"), f"{where}.percentage", _PERCENTAGE)
        lists = {name: self.members(given.get(name), f"{where}.{name}", rule) for name, rule in _MEMBERS.items()}
        return DesiredSlot(percentage=percentage, line=node.line, **lists) if _PERCENTAGE[0](percentage) else None

    def value(self, node: Node | None, where: str, rule: _Rule) -> Any:
        """The value of a field, which is reported if it is not valid; UNSET if it is not given."""
        if node is None:
            return UNSET
        if not rule[0](node.value):
            self.invalid(node, where, rule[1])
        return node.value

    def fields(
        self, node: Node | None, where: str, known: tuple[str, ...], *, required: tuple[str, ...] = ()
    ) -> Mapping[str, Node]:
        """The known fields of a mapping; reports unknown and missing ones."""
        if node is None:
            return {}
        if not isinstance(node.value, dict):
            self.invalid(node, where, f"a mapping with {', '.join(known)}")
            return {}
        for name, entry in node.value.items():
            if name not in known:
                shown = name[:_MAX_SHOWN]
                close = difflib.get_close_matches(shown, known, n=1) if len(self.problems) < _MAX_HINTS else []
                hint = f"did you mean {close[0]!r}?" if close else f"known fields are {', '.join(known)}"
                self.problem(entry, f"{where} has an unknown field {shown!r}; {hint}")
        for name in required:
            if name not in node.value:
                self.problem(node, f"{where} has no {name}; required: {' and '.join(required)}")
        return {name: entry for name, entry in node.value.items() if name in known}

    def each(self, node: Node | None, where: str, read_item: Callable[[Node, str], Any], noun: str) -> tuple[Any, ...]:
        """The items of a list of mappings."""
        if node is None:
            return ()
        if not isinstance(node.value, list):
            self.invalid(node, where, f"a list with a mapping for each {noun}")
            return ()
        items = (read_item(item, f"{where}[{index}]") for index, item in enumerate(node.value))
        return tuple(item for item in items if item is not None)

    def members(self, node: Node | None, where: str, rule: _Rule) -> tuple[Any, ...] | UnsetType:
        """The members of a list of scalars, UNSET if it is not given; reports invalid members and duplicates."""
        if node is None:
            return UNSET
        if not isinstance(node.value, list):
            self.invalid(node, where, "a list ([] for an empty one)")
            return UNSET
        members: dict[Any, None] = {}
        for index, item in enumerate(node.value):
            value = self.value(item, f"{where}[{index}]", rule)
            if not rule[0](value):
                continue
            if value in members:
                self.problem(item, f"{where}[{index}] is {_shown(value)}, which is already in the list")
            members[value] = None
        return tuple(members)

    def codes(self, node: Node | None, where: str) -> tuple[str, ...]:
        return self.members(node, where, _CODE) or ()
