"""The desired state: what people write in a file, and how it is read and checked.

A group is known by project and key. What a file does not mention is left alone, groups and fields alike. Every problem
of a file is told at once, each with its line and with the right form.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import msgspec
from msgspec import UNSET, UnsetType

from aiomutex._api.validation import MAX_SLOTS
from aiomutex.plan.document import DesiredFileError, Entry, Node, Problem, read_file
from aiomutex.plan.formats import FORMATS, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "LINT_CODES",
    "Desired",
    "DesiredGroup",
    "DesiredSlot",
    "Identity",
    "Thresholds",
    "identity_of",
    "load_desired",
    "parse_desired",
]

Identity = tuple[str, str]
"""Project id and key: what a group is known by in a file."""

_HINTS: Final = 100
"""Problems before no more hints are looked for, which is slow."""

LINT_CODES: Final = ("AM101", "AM102", "AM103", "AM104", "AM105", "AM106", "AM107", "AM108", "AM109")


class DesiredSlot(msgspec.Struct, frozen=True, kw_only=True):
    """A slot as a file wants it; each list that is given is the whole list."""

    percentage: int | float
    experiments: tuple[int, ...] | UnsetType = UNSET
    holdouts: tuple[int, ...] | UnsetType = UNSET
    individuals: tuple[str, ...] | UnsetType = UNSET
    cohorts: tuple[str | int, ...] | UnsetType = UNSET
    """Shown in a plan, never written: the service documents no way to."""
    line: int = 0


class DesiredGroup(msgspec.Struct, frozen=True, kw_only=True):
    """A group as a file wants it. What is not given is not compared and not written."""

    project_id: str
    key: str
    name: str | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    evaluation_mode: Literal["local", "remote"] | UnsetType = UNSET
    bucketing_key: str | UnsetType = UNSET
    bucketing_salt: str | UnsetType = UNSET
    archived: bool | UnsetType = UNSET
    """``True`` archives the group; ``False`` takes it out of the archive."""
    slots: tuple[DesiredSlot, ...] | UnsetType = UNSET
    ignore: tuple[str, ...] = ()
    """Codes of lint rules that are silent for this group."""
    line: int = 0

    @property
    def identity(self) -> Identity:
        """Project id and key."""
        return self.project_id, self.key


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """Above which share a change needs ``force``; ``None`` sets no bound."""

    removals: float | None = None
    """Members removed from slots, as a share of all members of the file's groups, 0 to 1."""
    updates: float | None = None
    """Groups changed, as a share of the file's groups that exist, 0 to 1."""


class Desired(msgspec.Struct, frozen=True, kw_only=True):
    """A desired state: the groups a file wants, and its settings."""

    groups: tuple[DesiredGroup, ...] = ()
    thresholds: Thresholds = Thresholds()
    ignore: tuple[str, ...] = ()
    """Codes of lint rules that are silent for the whole file."""
    file: str = ""


def identity_of(project_id: str, key: str) -> str:
    """A group's identity as messages show it."""
    return f"{key} (project {project_id})"


def load_desired(path: str | Path) -> Desired:
    """Read a desired state from a file ending in ``.yaml``, ``.yml``, ``.toml`` or ``.json``.

    Raises:
        DesiredFileError: The file breaks a rule; the message has a line for each problem.
        ConfigurationError: The package for YAML is not installed.
        OSError: The file cannot be read.
    """
    path = Path(path)
    format_ = FORMATS.get(path.suffix.lower())
    if format_ is None:
        raise DesiredFileError(str(path), [Problem(0, f"the name must end in one of {', '.join(FORMATS)}")])
    return parse_desired(read_file(path), format_=format_, file=str(path))


def parse_desired(data: str | bytes, *, format_: str = "yaml", file: str = "<text>") -> Desired:
    """Read a desired state from text.

    Args:
        data: The text.
        format_: ``yaml``, ``toml`` or ``json``.
        file: The name that messages use.

    Raises:
        DesiredFileError: The text breaks a rule; the message has a line for each problem.
        ConfigurationError: The package for YAML is not installed.

    Example:
        >>> parse_desired("groups: [{projectId: 1, key: checkout, name: Checkout}]").groups[0].name
        'Checkout'
    """
    root = parse(data.encode() if isinstance(data, str) else data, file=file, format_=format_)
    reader = _Reader()
    desired = reader.desired(root, file)
    if reader.problems:
        raise DesiredFileError(file, sorted(reader.problems))
    return desired


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:60] + "…"  # noqa: PLR2004  # what fits on a line


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class _Reader:
    """Checks a tree against the schema and collects every problem it meets."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def problem(self, line: int, text: str) -> None:
        self.problems.append(Problem(line, text))

    def wrong(self, node: Node, where: str, right: str) -> None:
        self.problem(node.line, f"{where} is {_shown(node.value)}; it must be {right}")

    # -- the schema

    def desired(self, root: Node, file: str) -> Desired:
        given = self.fields(root, "the file", ("version", "thresholds", "lint", "groups"))
        if "version" in given and given["version"].value != 1:
            self.wrong(given["version"], "version", "1, the only version there is")
        lint: Mapping[str, Node] = {}
        if "lint" in given:
            lint = self.fields(given["lint"], "lint", ("ignore",))
        groups = self.each(given.get("groups"), "groups", self.group, "group")
        first: dict[Identity, DesiredGroup] = {}
        for group in groups:
            earlier = first.setdefault(group.identity, group)
            if earlier is not group:
                name = identity_of(*group.identity)
                self.problem(group.line, f"group {name} stands here a second time; it was first in line {earlier.line}")
        return Desired(
            groups=groups,
            thresholds=self.thresholds(given["thresholds"]) if "thresholds" in given else Thresholds(),
            ignore=self.codes(lint.get("ignore"), "lint.ignore"),
            file=file,
        )

    def thresholds(self, node: Node) -> Thresholds:
        shares: dict[str, float] = {}
        for name, share in self.fields(node, "thresholds", ("removals", "updates")).items():
            if _is_number(share.value) and 0 <= cast("float", share.value) <= 1:
                shares[name] = cast("float", share.value)
            else:
                self.wrong(share, f"thresholds.{name}", "a share from 0 to 1, such as 0.3")
        return Thresholds(**shares)

    def group(self, node: Node, where: str) -> DesiredGroup | None:
        known = (
            *("projectId", "key", "name", "description", "evaluationMode", "bucketingKey", "bucketingSalt"),
            *("archived", "ignore", "slots"),
        )
        given = self.fields(node, where, known, required=("projectId", "key"))
        if "projectId" not in given or "key" not in given:
            return None
        project = given["projectId"].value
        if not (type(project) is int or (isinstance(project, str) and project.strip())):
            self.wrong(given["projectId"], f"{where}.projectId", "the project's id, a number or a text")
        key = given["key"].value
        if not (isinstance(key, str) and key and not any(c.isspace() or not c.isprintable() for c in key)):
            self.wrong(given["key"], f"{where}.key", "a text without white space; put it in quotes if it is a number")
        mode = given.get("evaluationMode")
        if mode is not None and mode.value not in ("local", "remote"):
            self.wrong(mode, f"{where}.evaluationMode", "local or remote")
        archived = given.get("archived")
        if archived is not None and not isinstance(archived.value, bool):
            self.wrong(archived, f"{where}.archived", "true or false")
        description = given.get("description")
        if description is not None and not isinstance(description.value, str | None):
            self.wrong(description, f"{where}.description", "a text, or null for none")
        texts = {
            name: self.text(given.get(name), f"{where}.{name}") for name in ("name", "bucketingKey", "bucketingSalt")
        }
        return DesiredGroup(
            project_id=str(project),
            key=str(key),
            name=texts["name"],
            description=UNSET if description is None else cast("str | None", description.value),
            evaluation_mode=UNSET if mode is None else cast("Any", mode.value),
            bucketing_key=texts["bucketingKey"],
            bucketing_salt=texts["bucketingSalt"],
            archived=UNSET if archived is None else bool(archived.value),
            slots=self.slots(given["slots"], f"{where}.slots") if "slots" in given else UNSET,
            ignore=self.codes(given.get("ignore"), f"{where}.ignore"),
            line=node.line,
        )

    def slots(self, node: Node, where: str) -> tuple[DesiredSlot, ...]:
        if isinstance(node.value, list) and not 1 <= len(node.value) <= MAX_SLOTS:
            self.problem(node.line, f"{where} has {len(node.value)} slots; a group has 1 to {MAX_SLOTS}")
        slots = self.each(node, where, self.slot, "slot")
        total = sum(slot.percentage for slot in slots)
        if total > 100.001:  # noqa: PLR2004  # percentages; a third may be written 33.3334
            parts = " + ".join(f"{slot.percentage:g}" for slot in slots)
            self.problem(node.line, f"{where} add up to {total:g} % ({parts}); a group has 100 to give")
        return slots

    def slot(self, node: Node, where: str) -> DesiredSlot | None:
        known = ("percentage", "experiments", "holdouts", "individuals", "cohorts")
        given = self.fields(node, where, known, required=("percentage",))
        percentage = given.get("percentage")
        if percentage is None:
            return None
        if not (_is_number(percentage.value) and 0 <= cast("float", percentage.value) <= 100):  # noqa: PLR2004
            self.wrong(percentage, f"{where}.percentage", "a number from 1 to 100")
            return None
        lists: dict[str, Any] = {}
        for name, right, good in (
            ("experiments", "an id, which is a whole number", _is_id),
            ("holdouts", "an id, which is a whole number", _is_id),
            ("individuals", "a user or device id, which is a text; put it in quotes if it is a number", _is_text),
            ("cohorts", "a cohort's id, a text or a number", _is_id_or_text),
        ):
            lists[name] = self.members(given.get(name), f"{where}.{name}", right, good)
        return DesiredSlot(percentage=cast("float", percentage.value), line=node.line, **lists)

    # -- its parts

    def fields(
        self, node: Node, where: str, known: tuple[str, ...], *, required: tuple[str, ...] = ()
    ) -> Mapping[str, Node]:
        if not isinstance(node.value, dict):
            self.wrong(node, where, f"a mapping with {', '.join(known)}")
            return {}
        entries: dict[str, Entry] = node.value
        for name, entry in entries.items():
            if name not in known:
                close = difflib.get_close_matches(name[:60], known, n=1) if len(self.problems) < _HINTS else []
                hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
                self.problem(entry.line, f"{where} has an unknown field {name[:60]!r}; {hint}")
        for name in required:
            if name not in entries:
                self.problem(node.line, f"{where} has no {name}; it needs {' and '.join(required)}")
        return {name: entry.node for name, entry in entries.items() if name in known}

    def each(self, node: Node | None, where: str, read: Callable[[Node, str], Any], noun: str) -> tuple[Any, ...]:
        if node is None:
            return ()
        if not isinstance(node.value, list):
            self.wrong(node, where, f"a list with a mapping for each {noun}")
            return ()
        items = (read(item, f"{where}[{place}]") for place, item in enumerate(node.value))
        return tuple(item for item in items if item is not None)

    def text(self, node: Node | None, where: str) -> str | UnsetType:
        if node is None:
            return UNSET
        if not (isinstance(node.value, str) and node.value.strip()):
            self.wrong(node, where, "a text that is not empty; put it in quotes if it is a number")
        return str(node.value)

    def members(
        self, node: Node | None, where: str, right: str, good: Callable[[object], bool]
    ) -> tuple[Any, ...] | UnsetType:
        if node is None:
            return UNSET
        if not isinstance(node.value, list):
            self.wrong(node, where, "a list; [] removes every member")
            return UNSET
        members: dict[Any, None] = {}
        for place, item in enumerate(node.value):
            if not good(item.value):
                self.wrong(item, f"{where}[{place}]", right)
            elif item.value in members:
                self.problem(item.line, f"{where}[{place}] is {_shown(item.value)}, which stands in the list already")
            else:
                members[item.value] = None
        return tuple(members)

    def codes(self, node: Node | None, where: str) -> tuple[str, ...]:
        right = f"the code of a lint rule, {LINT_CODES[0]} to {LINT_CODES[-1]}"
        codes = self.members(node, where, right, lambda value: value in LINT_CODES)
        return () if codes is UNSET else codes


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_id_or_text(value: object) -> bool:
    return _is_id(value) or _is_text(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
