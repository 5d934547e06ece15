"""Reads a desired state from a file and checks it: field names, types, ranges and duplicates.

Every problem of a file is reported at once, each with its line, its field, the value, and what would be valid.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET

from aiomutex._api.validation import is_project_id
from aiomutex.plan.desired import Desired, Identity, group_name, identity_of
from aiomutex.plan.formats import FORMATS, DesiredFileError, Node, Problem, read, read_file
from aiomutex.plan.lint import RULES

if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_HINTS: Final = 100  # problems after which no more similar field names are looked up, which is slow
_MAX_SHOWN: Final = 60  # characters of a value that a message shows


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
    if (format_ := FORMATS.get(path.suffix.lower())) is None:
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
    tree = reader.read(root, _SCHEMA, "the file")
    if reader.problems:
        raise DesiredFileError(file, sorted(reader.problems))
    return msgspec.convert(tree | tree.get("lint", {}), Desired)


_SCHEMA: Final[dict[str, Any]] = msgspec.json.decode(Path(__file__).with_name("desired.schema.json").read_bytes())
"""What a file may say, as JSON Schema. A message calls a valid value what the schema's ``description`` calls it."""
_TYPES: Final[dict[object, str]] = {
    dict: "object", list: "array", str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"
}  # fmt: skip
_FORMATS: Final[dict[str, Callable[[Any], bool]]] = {
    "project-id": is_project_id,
    "key": lambda value: value != "" and value.isprintable() and not re.search(r"\s", value),
    "text": lambda value: not isinstance(value, str) or value.strip() != "",
    "rule": lambda value: value in RULES,
}


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "…"


def _is_valid(value: Any, schema: dict[str, Any]) -> bool:
    if _TYPES[type(value)] not in schema["type"]:
        return False
    if isinstance(value, int | float) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        return False
    is_formatted = _FORMATS.get(schema.get("format", ""), lambda _: True)
    return value in schema.get("enum", [value]) and is_formatted(value)


class _Reader:
    """Reads a tree by a schema and collects every problem. After a problem, what it returns is not to be used."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.defined: dict[Identity, tuple[str, int]] = {}

    def problem(self, node: Node, text: str) -> None:
        self.problems.append(Problem(node.line, text))

    def read(self, node: Node, schema: dict[str, Any], where: str) -> Any:
        """The plain value of a node; UNSET if it is not valid."""
        schema = _SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        if not _is_valid(node.value, schema):
            self.problem(node, f"{where} must be {schema['description']}, not {_shown(node.value)}")
            return UNSET
        if isinstance(node.value, dict):
            return self.read_mapping(node, node.value, schema, where)
        return self.read_list(node, node.value, schema, where) if isinstance(node.value, list) else node.value

    def read_mapping(self, node: Node, entries: dict[str, Node], schema: dict[str, Any], where: str) -> dict[str, Any]:
        known, required = schema["properties"], schema.get("required", [])
        values: dict[str, Any] = {"line": node.line}
        for name, entry in entries.items():
            if name in known:
                values[name] = self.read(entry, known[name], name if schema is _SCHEMA else f"{where}.{name}")
                continue
            shown = name[:_MAX_SHOWN]
            close = difflib.get_close_matches(shown, list(known), n=1) if len(self.problems) < _MAX_HINTS else []
            hint = f"did you mean {close[0]!r}?" if close else f"known fields are {', '.join(known)}"
            self.problem(entry, f"{where} has an unknown field {shown!r}; {hint}")
        for name in set(required) - entries.keys():
            self.problem(node, f"{where} has no {name}; required: {' and '.join(required)}")
        if schema.get("format") == "group" and UNSET not in (values.get(name, UNSET) for name in required):
            values["projectId"] = project_id = str(values["projectId"])
            key = values["key"]
            first, line = self.defined.setdefault(identity_of(project_id, key), (where, node.line))
            if first != where:
                name, place = group_name(project_id, key), f"line {line}" if line else first
                self.problem(node, f"{where}: group {name} is defined twice; the first is in {place}")
        return values

    def read_list(self, node: Node, nodes: list[Node], schema: dict[str, Any], where: str) -> list[Any]:
        if not schema.get("minItems", 0) <= len(nodes) <= schema.get("maxItems", len(nodes)):
            self.problem(node, f"{where} must have 1 to {schema['maxItems']} slots, not {len(nodes)}")
        values = [self.read(item, schema["items"], f"{where}[{index}]") for index, item in enumerate(nodes)]
        if schema.get("uniqueItems"):
            seen: set[Any] = set()
            for index, value in enumerate(values):
                if value in seen and value is not UNSET:
                    self.problem(nodes[index], f"{where}[{index}] is {_shown(value)}, which is already in the list")
                seen.add(value)
        if schema.get("format") == "slots":
            shares = [slot["percentage"] for slot in values if slot and slot.get("percentage", UNSET) is not UNSET]
            if (total := sum(shares)) > 100.001:  # noqa: PLR2004  # percentages; a third may be written 33.3334
                parts = " + ".join(f"{share:g}" for share in shares)
                self.problem(node, f"{where} must have percentages that add up to at most 100, not {total:g} ({parts})")
        return values
