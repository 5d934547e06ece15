"""Reads YAML and JSON as a tree of values with their lines, and writes plain values in both formats.

Reading is strict where leniency could surprise: no YAML tags or aliases, no duplicate keys, and plain words such as
``on`` and ``no`` stay strings, as in YAML 1.2. The limits are for files under review, by authors who are not trusted.
"""

from __future__ import annotations

import json
import re
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn, TypeAlias, cast

from aiomutex._util.checks import describe
from aiomutex.errors import ConfigurationError, InvalidRequestError, MutexError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MAX_BYTES: Final = 16 * 1024 * 1024
MAX_DEPTH: Final = 12
MAX_NODES: Final = 2_000_000
_SHOWN_PROBLEMS: Final = 20

Scalar: TypeAlias = str | int | float | bool | None
FORMATS: Final = {".yaml": "yaml", ".yml": "yaml", ".json": "json"}
"""The format of a file by its suffix."""

_MAX_DIRECTIVES: Final = 100
_MAX_KEY_SHOWN: Final = 60
_INT: Final = re.compile(r"[-+]?[0-9]{1,19}\Z")
_FLOAT: Final = re.compile(r"[-+]?(?:[0-9]{1,19}\.[0-9]{0,19}|\.[0-9]{1,19})(?:[eE][-+]?[0-9]{1,3})?\Z")
_WORDS: Final[dict[str, Scalar]] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_TOO_DEEP: Final = f"values are nested more than {MAX_DEPTH} deep; a desired state needs no more than 5"


class Node(NamedTuple):
    """One value and the line that it or its key is in, from 1; 0 if the line is unknown."""

    line: int
    value: Scalar | list[Node] | dict[str, Node]


class Problem(NamedTuple):
    """One problem of a file, with its line; 0 if the line is unknown."""

    line: int
    text: str


def read_file(path: Path) -> bytes:
    """Read a regular file of at most ``MAX_BYTES`` bytes; anything else is a ``DesiredFileError``."""
    if path.exists() and not path.is_file():
        raise DesiredFileError(str(path), [Problem(0, "not a regular file")])
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise DesiredFileError(str(path), [Problem(0, f"the file has more than {MAX_BYTES:,} bytes")])
    return data


class DesiredFileError(MutexError, ValueError):
    """A file is not a valid desired state or saved plan. Nothing was sent. The message has a line for each problem.

    Attributes:
        file: The file's name.
        problems: The problems, each with its line (0 if the line is unknown).
    """

    def __init__(self, file: str, problems: Sequence[Problem]) -> None:
        shown = [f"{file}:{line}: {text}" if line else f"{file}: {text}" for line, text in problems[:_SHOWN_PROBLEMS]]
        if len(problems) > _SHOWN_PROBLEMS:
            shown.append(f"{file}: and {len(problems) - _SHOWN_PROBLEMS:,} more problems")
        super().__init__("\n".join(shown))
        self.file, self.problems = file, tuple(problems)


class _InvalidError(Exception):
    """The one problem that ends reading, as its line and text."""


def _check_format(format_: str) -> None:
    if format_ not in FORMATS.values():
        raise InvalidRequestError(f"format_ must be 'yaml' or 'json', not {describe(format_)}")


def read(data: bytes, *, file: str, format_: str) -> Node:
    """Read the content of a file: the root of its tree. Values of a JSON file do not know their line."""
    _check_format(format_)
    if len(data) > MAX_BYTES:
        problem = f"the file has {len(data):,} bytes, more than the maximum of {MAX_BYTES:,}"
        raise DesiredFileError(file, [Problem(0, problem)])
    try:
        text = data.decode("utf-8-sig")
        return _read_json(text) if format_ == "json" else _read_yaml(text)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DesiredFileError(file, [Problem(line, "the file is not valid UTF-8")]) from None
    except _InvalidError as error:
        raise DesiredFileError(file, [Problem(*error.args)]) from None


def write(tree: dict[str, Any], format_: str) -> str:
    """Write plain values, in the order given; YAML without PyYAML is a ``ConfigurationError``."""
    _check_format(format_)
    text = _dump(tree, format_, ascii_only=False)
    # An invisible character, such as one that reverses the direction of writing, must show in a review.
    return text if text.replace("\n", "").isprintable() else _dump(tree, format_, ascii_only=True)


def _check_string(value: str, line: int) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _InvalidError(line, "a string contains half of a surrogate pair") from None
    return value


def _read_json(text: str) -> Node:
    if sum(map(text.count, ",[{")) > MAX_NODES:
        raise _InvalidError(0, f"the file has more than {MAX_NODES:,} values; split it")
    try:
        return _json_node(json.loads(text, object_pairs_hook=tuple, parse_constant=_reject_constant), "")
    except json.JSONDecodeError as error:
        raise _InvalidError(error.lineno, f"invalid JSON: {error.msg} (column {error.colno})") from None
    except RecursionError:
        raise _InvalidError(0, _TOO_DEEP) from None
    except ValueError as error:
        raise _InvalidError(0, f"invalid JSON: {error}") from None


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _json_node(value: Any, path: str, depth: int = 0) -> Node:
    """The node of a decoded value, in which each object is a tuple of its pairs, so that duplicate keys are seen."""
    if isinstance(value, list | tuple) and depth >= MAX_DEPTH:
        raise _InvalidError(0, _TOO_DEEP)
    if isinstance(value, list):
        items = enumerate(cast("list[Any]", value))  # type: ignore[redundant-cast]  # pyright needs it
        return Node(0, [_json_node(item, f"{path}[{index}]", depth + 1) for index, item in items])
    if isinstance(value, tuple):
        entries: dict[str, Node] = {}
        for key, item in cast("tuple[tuple[str, Any], ...]", value):
            where = f"{path}.{_check_string(key, 0)[:_MAX_KEY_SHOWN]}".removeprefix(".")
            if key in entries:
                raise _InvalidError(0, f"{where} is defined twice")
            entries[key] = _json_node(item, where, depth + 1)
        return Node(0, entries)
    return Node(0, _check_string(value, 0) if isinstance(value, str) else value)


def _import_yaml() -> Any:
    try:
        import yaml  # noqa: PLC0415  # an optional package
    except ImportError:
        hint = "pip install 'aiomutex[cli]'. JSON files do not need it"
        raise ConfigurationError(f"YAML files need PyYAML, which is not installed: {hint}") from None
    return yaml


def _read_yaml(text: str) -> Node:
    yaml = _import_yaml()
    if text.count("\n%") > _MAX_DIRECTIVES:  # libyaml compares each one with all others
        raise _InvalidError(0, f"the file has more than {_MAX_DIRECTIVES} YAML directives; a desired state needs none")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    # Events, not composed nodes: libyaml's composer is recursive, and a hostile file is to end at its first violation.
    events = islice(yaml.parse(text, Loader=loader), MAX_NODES)
    try:
        next(events)
        if isinstance(next(events), yaml.StreamEndEvent):
            return Node(1, None)
        root = _yaml_node(yaml, events, next(events), 1)
        next(events)
        if not isinstance(event := next(events), yaml.StreamEndEvent):
            raise _InvalidError(event.start_mark.line + 1, "a second YAML document starts here; use one file for each")
    except StopIteration:
        raise _InvalidError(0, f"the file has more than {MAX_NODES:,} values; split it") from None
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark or error.context_mark, str(error.problem or error.context)
        # Newer versions of libyaml limit the depth themselves, and reach their limit while they look ahead.
        message = _TOO_DEEP if "nesting depth" in problem else f"invalid YAML: {problem}"
        raise _InvalidError(mark.line + 1 if mark else 0, message) from None
    except (yaml.YAMLError, ValueError) as error:
        raise _InvalidError(0, f"invalid YAML: {str(error).splitlines()[0]}") from None
    return root


def _yaml_node(yaml: Any, events: Iterator[Any], event: Any, depth: int) -> Node:
    line = event.start_mark.line + 1
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        raise _InvalidError(line, f"anchors and aliases (&{event.anchor}) are not supported; repeat the value")
    if event.tag is not None:
        raise _InvalidError(line, f"YAML tags ({event.tag}) are not supported; remove the tag")
    if isinstance(event, yaml.ScalarEvent):
        word = _check_string(event.value, line)
        # Only a plain scalar may be something else than a string; libyaml reports its style as an empty string.
        if event.style:
            return Node(line, word)
        # YAML 1.2's core schema without octal, hexadecimal, 1e3 and .inf.
        number = int if _INT.match(word) else float if _FLOAT.match(word) else None
        return Node(line, number(word) if number else _WORDS.get(word, word))
    if depth > MAX_DEPTH:
        raise _InvalidError(line, _TOO_DEEP)
    if isinstance(event, yaml.SequenceStartEvent):
        items = takewhile(lambda item: not isinstance(item, yaml.SequenceEndEvent), events)
        return Node(line, [_yaml_node(yaml, events, item, depth + 1) for item in items])
    entries: dict[str, Node] = {}
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        key_line = event.start_mark.line + 1
        if not isinstance(event, yaml.ScalarEvent):
            raise _InvalidError(key_line, "the key of a mapping must be a string")
        key = _check_string(event.value, key_line)
        if key == "<<":
            raise _InvalidError(key_line, "merge keys (<<) are not supported; repeat the values")
        if key in entries:
            first = entries[key].line
            raise _InvalidError(key_line, f"{key[:_MAX_KEY_SHOWN]!r} is defined twice; the first is in line {first}")
        # A value is reported in the line of its key.
        entries[key] = _yaml_node(yaml, events, next(events), depth + 1)._replace(line=key_line)
    return Node(line, entries)


def _dump(tree: dict[str, Any], format_: str, *, ascii_only: bool) -> str:
    if format_ == "json":
        return json.dumps(tree, indent=2, ensure_ascii=ascii_only) + "\n"
    yaml = _import_yaml()
    # libyaml's dumper is faster, but escapes emoji, and the text must be the same on every machine.
    # The resolvers quote those strings that this module reads as numbers; the dumper itself knows YAML 1.1's only.
    dumper: Any = type("Dumper", (yaml.SafeDumper,), {})
    dumper.add_implicit_resolver("tag:yaml.org,2002:int", _INT, None)
    dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, None)
    return cast("str", yaml.dump(tree, Dumper=dumper, sort_keys=False, allow_unicode=not ascii_only))
