"""From a file's text to a tree: YAML, TOML and JSON.

Reading is strict where leniency could surprise: no YAML tags or aliases, no duplicate keys, and plain words such as
``on`` and ``no`` stay texts, as YAML 1.2 has it. Nothing here knows what the tree means.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

from aiomutex.errors import ConfigurationError
from aiomutex.plan.document import MAX_BYTES, MAX_DEPTH, MAX_NODES, DesiredFileError, Entry, Node, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiomutex.plan.document import Scalar

__all__ = ["FORMATS", "parse"]

FORMATS: Final = {".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}

_TOO_DEEP: Final = f"values are nested more than {MAX_DEPTH} deep; a desired state needs no more than 5"
_MAX_TOML_VALUES: Final = 500_000
_MAX_DIRECTIVES: Final = 100
_TOO_MANY: Final = f"there are more than {MAX_NODES:,} values; split the file"


class _BadTextError(Exception):
    """One problem that ends the reading."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.problem = Problem(line, text)


def parse(data: bytes, *, file: str, format_: str) -> Node:
    """The tree of a file.

    Args:
        data: What the file holds.
        file: Its name, for messages.
        format_: ``yaml``, ``toml`` or ``json``.

    Raises:
        DesiredFileError: The text is no such format, or breaks a bound.
        ConfigurationError: The package for YAML is not installed.
    """
    try:
        return {"yaml": _yaml, "toml": _toml, "json": _json}[format_](_text(data))
    except _BadTextError as error:
        raise DesiredFileError(file, [error.problem]) from None


def _text(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise _BadTextError(0, f"the file has {len(data):,} bytes; at most {MAX_BYTES:,} are read")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _BadTextError(data.count(b"\n", 0, error.start) + 1, "the file is not UTF-8 text") from None


def _add(entries: dict[str, Entry], key: str, entry: Entry) -> None:
    if key in entries:
        raise _BadTextError(
            entry.line, f"{key!r} stands here a second time; it was first given in line {entries[key].line}"
        )
    entries[key] = entry


# ---------------------------------------------------------------------- YAML

_YAML_INT: Final = re.compile(r"[-+]?[0-9]{1,19}")
_YAML_FLOAT: Final = re.compile(r"[-+]?(?:[0-9]{1,19}\.[0-9]{0,19}|\.[0-9]{1,19})")
_YAML_WORDS: Final[dict[str, Scalar]] = {
    "": None,
    "~": None,
    **dict.fromkeys(("null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def yaml_scalar(text: str) -> Scalar:
    """What an unquoted YAML word means: YAML 1.2's core schema without octal, hexadecimal and exponents."""
    if text in _YAML_WORDS:
        return _YAML_WORDS[text]
    if _YAML_INT.fullmatch(text):
        return int(text)
    return float(text) if _YAML_FLOAT.fullmatch(text) else text


def _yaml(text: str) -> Node:
    try:
        import yaml  # noqa: PLC0415  # an optional package
    except ImportError:
        raise ConfigurationError(
            "YAML needs the package 'PyYAML', which is not installed: pip install 'aiomutex[plan]'; "
            "TOML and JSON files need nothing"
        ) from None
    if text.count("\n%") > _MAX_DIRECTIVES:
        # libyaml compares each with all before.
        raise _BadTextError(0, f"there are more than {_MAX_DIRECTIVES} YAML directives; a desired state needs none")
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _YamlReader(yaml.parse(text, Loader=loader)).document()
    except yaml.MarkedYAMLError as error:
        mark, problem = error.problem_mark or error.context_mark, str(error.problem or error.context)
        # Newer libyaml has a bound of its own on depth, which it may meet while it looks ahead of the first event.
        told = _TOO_DEEP if "nesting depth" in problem else f"no YAML: {problem}"
        raise _BadTextError(mark.line + 1 if mark else 0, told) from None
    except (yaml.YAMLError, ValueError) as error:
        raise _BadTextError(0, f"no YAML: {str(error).splitlines()[0]}") from None


class _YamlReader:
    """Builds the tree from the parser's events as they come, so that a hostile file ends at its first excess."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._nodes = 0

    def document(self) -> Node:
        event = self._next()
        while type(event).__name__ in ("StreamStartEvent", "DocumentStartEvent"):
            event = self._next()
        if type(event).__name__ == "StreamEndEvent":
            return Node(1, None)
        root = self._node(event, 1)
        self._next()
        event = self._next()
        if type(event).__name__ != "StreamEndEvent":
            raise _BadTextError(
                event.start_mark.line + 1, "a second YAML document starts here; give one document a file"
            )
        return root

    def _next(self) -> Any:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _BadTextError(0, _TOO_MANY)
        return next(self._events)

    def _node(self, event: Any, depth: int) -> Node:
        line, kind = event.start_mark.line + 1, type(event).__name__
        if kind == "AliasEvent" or event.anchor is not None:
            raise _BadTextError(line, f"anchors and aliases (&{event.anchor}) are not read; write the values out")
        if event.tag is not None:
            raise _BadTextError(
                line, f"YAML tags ({event.tag}) are not read; write plain texts, numbers, lists and mappings"
            )
        if kind == "ScalarEvent":
            # Only plain words have a meaning of their own; libyaml's name for their style is an empty text.
            return Node(line, event.value if event.style else yaml_scalar(event.value))
        if depth > MAX_DEPTH:
            raise _BadTextError(line, _TOO_DEEP)
        if kind == "SequenceStartEvent":
            items: list[Node] = []
            while type(event := self._next()).__name__ != "SequenceEndEvent":
                items.append(self._node(event, depth + 1))
            return Node(line, items)
        entries: dict[str, Entry] = {}
        while type(event := self._next()).__name__ != "MappingEndEvent":
            key_line = event.start_mark.line + 1
            if type(event).__name__ != "ScalarEvent":
                raise _BadTextError(key_line, "the key of a mapping must be a text")
            if event.value == "<<":
                raise _BadTextError(key_line, "merge keys (<<) are not read; write the values out")
            _add(entries, event.value, Entry(key_line, self._node(self._next(), depth + 1)))
        return Node(line, entries)


# ---------------------------------------------------------------------- JSON

_JSON_TOKEN: Final = re.compile(
    # Possessive, because each step back that is kept costs memory.
    r'[ \t\r\n]*+(?:(?P<text>"(?:[^"\\\x00-\x1f]++|\\.)*+")|(?P<mark>[\[\]{},:])'
    r"|(?P<number>-?(?:0|[1-9][0-9]{0,18})(?:\.[0-9]{1,19})?(?![0-9.eE]))|(?P<word>true|false|null)|(?P<end>$))"
)
_JSON_WORDS: Final[dict[str, Scalar]] = {"true": True, "false": False, "null": None}


def _json(text: str) -> Node:
    return _JsonReader(text).document()


class _JsonReader:
    """JSON with lines; the standard decoder forgets them."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line = 1
        self._nodes = 0
        self._kind = self._word = ""

    def document(self) -> Node:
        self._advance()
        root = self._node(1)
        if self._kind != "end":
            self._fail("the end of the file")
        return root

    def _advance(self) -> None:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise _BadTextError(self._line, _TOO_MANY)
        match = _JSON_TOKEN.match(self._text, self._at)
        if match is None or match.lastgroup is None:
            blank = re.compile(r"[ \t\r\n]*").match(self._text, self._at)
            self._line += blank.group().count("\n") if blank else 0
            raise _BadTextError(self._line, "no JSON: there is something here that JSON does not know")
        self._kind, self._word = match.lastgroup, match.group(match.lastgroup)
        self._line += self._text.count("\n", self._at, match.end())
        self._at = match.end()

    def _fail(self, wanted: str) -> NoReturn:
        raise _BadTextError(
            self._line, f"no JSON: {wanted} must stand here, not {self._word[:40] or 'the end of the file'!r}"
        )

    def _string(self) -> str:
        try:
            text = cast("str", json.loads(self._word))
            text.encode()  # half of a surrogate pair is no text
        except ValueError:
            raise _BadTextError(self._line, "no JSON: a text has a bad escape") from None
        return text

    def _node(self, depth: int) -> Node:
        line, kind, word = self._line, self._kind, self._word
        if kind == "text":
            value: Scalar = self._string()
        elif kind == "word":
            value = _JSON_WORDS[word]
        elif kind == "number":
            value = float(word) if "." in word else int(word)
        elif word in ("[", "{"):
            if depth > MAX_DEPTH:
                raise _BadTextError(line, _TOO_DEEP)
            self._advance()
            return Node(line, self._items(depth) if word == "[" else self._entries(depth))
        else:
            self._fail("a value")
        self._advance()
        return Node(line, value)

    def _items(self, depth: int) -> list[Node]:
        items: list[Node] = []
        while self._more("]", first=not items):
            items.append(self._node(depth + 1))
        return items

    def _entries(self, depth: int) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        while self._more("}", first=not entries):
            if self._kind != "text":
                self._fail("a key in double quotes")
            line, key = self._line, self._string()
            self._advance()
            if self._word != ":":
                self._fail("':'")
            self._advance()
            _add(entries, key, Entry(line, self._node(depth + 1)))
        return entries

    def _more(self, closing: str, *, first: bool) -> bool:
        """Whether another element follows; past the comma or the closing bracket afterwards."""
        if self._word == closing:
            self._advance()
            return False
        if not first:
            if self._word != ",":
                self._fail(f"',' or {closing!r}")
            self._advance()
        return True


# ---------------------------------------------------------------------- TOML

_TOML_HEADER: Final = re.compile(r"\s*+(\[\[?)([A-Za-z0-9_.\"'\s-]++)\]\]?\s*+(?:#.*)?")
_TOML_KEY: Final = re.compile(r"\s*([A-Za-z0-9_-]+)\s*=")
_TOML_DEEP: Final = re.compile(
    rf"(?:[\[{{]\s*+){{{MAX_DEPTH + 1}}}"  # lists in lists
    rf"|(?<![\w\"'-])(?:(?:[\w-]++|\"[^\"]*+\"|'[^']*+')\s*+\.\s*+){{{MAX_DEPTH + 1}}}"  # a.key.of.many.parts
)
_TOML_ERROR: Final = re.compile(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)")


def _toml(text: str) -> Node:
    import tomllib  # noqa: PLC0415  # only for TOML files

    # Excess is found before the parser meets it, which is slow, and recursive.
    if sum(map(text.count, ",=[")) > _MAX_TOML_VALUES:
        raise _BadTextError(0, f"there are more than {_MAX_TOML_VALUES:,} values; split the file, or write it as YAML")
    for number, row in enumerate(text.splitlines(), 1):
        if _TOML_DEEP.search(row):
            raise _BadTextError(number, _TOO_DEEP)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        match = _TOML_ERROR.fullmatch(str(error))
        line = int(match.group(2) or text.count("\n") + 1) if match else 0
        raise _BadTextError(line, f"no TOML: {match.group(1) if match else error}") from None
    except RecursionError:
        raise _BadTextError(0, _TOO_DEEP) from None
    except ValueError as error:
        raise _BadTextError(0, f"no TOML: {error}") from None
    lines = _toml_lines(text)
    return _toml_node(tree, (), 1, lines, 1)


def _toml_lines(text: str) -> dict[tuple[str | int, ...], int]:
    """The line of each table and of each plain key, as far as one can tell without parsing."""
    lines: dict[tuple[str | int, ...], int] = {}
    counts: dict[tuple[str | int, ...], int] = {}
    table: tuple[str | int, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _TOML_HEADER.fullmatch(line):
            names = [name.strip().strip("\"'") for name in header.group(2).split(".")]
            table = ()
            for name in names[:-1]:
                table = (*table, name)
                if table in counts:
                    table = (*table, counts[table] - 1)
            table = (*table, names[-1])
            if header.group(1) == "[[":
                lines.setdefault(table, number)
                counts[table] = counts.get(table, 0) + 1
                table = (*table, counts[table] - 1)
            lines.setdefault(table, number)
        elif key := _TOML_KEY.match(line):
            lines.setdefault((*table, key.group(1)), number)
    return lines


def _toml_node(
    value: Any, path: tuple[str | int, ...], line: int, lines: dict[tuple[str | int, ...], int], depth: int
) -> Node:
    line = lines.get(path, line)
    if depth > MAX_DEPTH:
        raise _BadTextError(line, _TOO_DEEP)
    if isinstance(value, dict):
        entries: dict[str, Entry] = {}
        for key, item in cast("dict[str, Any]", value).items():
            node = _toml_node(item, (*path, key), line, lines, depth + 1)
            entries[key] = Entry(node.line, node)
        return Node(line, entries)
    if isinstance(value, list):
        items = enumerate(cast("list[Any]", value))  # type: ignore[redundant-cast]  # pyright needs it
        return Node(line, [_toml_node(item, (*path, place), line, lines, depth + 1) for place, item in items])
    if isinstance(value, int) and value.bit_length() >= 64:  # noqa: PLR2004  # TOML's
        raise _BadTextError(line, "a number is larger than 64 bits can hold")
    if isinstance(value, str | int | float):
        return Node(line, value)
    raise _BadTextError(line, "dates and times have no place in a desired state; put the text in quotes")
