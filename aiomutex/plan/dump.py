"""From groups to a file: ``pull``. Sorted and stable, so that pulling twice writes the same text.

The writers know the one shape a desired state has, and quote whatever a reader could take for something else.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, cast

from msgspec import UNSET

from aiomutex.plan.desired import Desired, DesiredGroup, DesiredSlot, Identity
from aiomutex.plan.formats import yaml_scalar
from aiomutex.plan.members import unique

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from aiomutex.models import EvaluationMode, MutexGroup, Slot

__all__ = ["desired_from", "dump_desired", "same_content"]

_PLAIN: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.@+/-]*(?: [A-Za-z0-9_.@+/(-][A-Za-z0-9_.@+/()-]*)*")
_MODES: Final[dict[str, EvaluationMode]] = {"local": "local", "remote": "remote"}
_NUMBER_LIKE: Final = re.compile(r"[0-9]{1,18}")


def _group_order(group: DesiredGroup) -> tuple[tuple[int, str], str]:
    return (len(group.project_id) if group.project_id.isdigit() else 99, group.project_id), group.key


def _slot(slot: Slot) -> DesiredSlot:
    return DesiredSlot(
        percentage=slot.percentage,
        experiments=unique(slot.experiments),
        holdouts=unique(slot.holdouts),
        individuals=unique(slot.individuals),
        cohorts=unique(slot.cohorts) or UNSET,
    )


def desired_from(groups: Iterable[MutexGroup], *, settings: Desired | None = None) -> Desired:
    """The desired state that describes live groups as they are.

    Groups without a key or a project cannot be named in a file and are left out. Where an archived group and a live
    one share project and key, the live one is described.

    Args:
        groups: The groups as the service tells them.
        settings: Take over thresholds and silenced lint rules from this state.
    """
    settings = settings or Desired()
    ignored = {group.identity: group.ignore for group in settings.groups}
    found: dict[Identity, DesiredGroup] = {}
    for group in groups:
        identity = (group.project_id, group.key)
        if not all(identity) or (group.deleted and identity in found):
            continue
        found[identity] = DesiredGroup(
            project_id=group.project_id,
            key=group.key,
            name=group.name or UNSET,
            description=group.description,
            evaluation_mode=_MODES.get(group.evaluation_mode, UNSET),
            bucketing_key=group.bucketing_key or UNSET,
            bucketing_salt=group.bucketing_salt or UNSET,
            archived=True if group.deleted else UNSET,
            # A file cannot say that a group has no slots at all.
            slots=tuple(_slot(slot) for slot in sorted(group.slots, key=lambda slot: slot.index)) or UNSET,
            ignore=ignored.get(identity, ()),
        )
    return Desired(
        groups=tuple(sorted(found.values(), key=_group_order)),
        thresholds=settings.thresholds,
        ignore=settings.ignore,
    )


def same_content(one: Desired, other: Desired, format_: str = "json") -> bool:
    """Whether two states want the same as far as a format can tell, whatever their order and their comments."""
    return dump_desired(one, format_, sort=True) == dump_desired(other, format_, sort=True)


def dump_desired(desired: Desired, format_: str = "yaml", *, sort: bool = False) -> str:
    """The text of a desired state.

    TOML has no null, so a description of ``None`` is left out there.

    Args:
        desired: The state.
        format_: ``yaml``, ``toml`` or ``json``.
        sort: Put groups and members in the order ``pull`` writes them in.

    Example:
        >>> from aiomutex.plan import parse_desired
        >>> print(dump_desired(parse_desired("groups: [{key: a, projectId: 1, archived: true}]")), end="")
        version: 1
        groups:
          - projectId: 1
            key: a
            archived: true
    """
    groups = sorted(desired.groups, key=_group_order) if sort else desired.groups
    tree = {**_settings(desired), "groups": [_group_tree(group, sort=sort) for group in groups]}
    if format_ == "json":
        return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"
    return "\n".join(_yaml(tree) if format_ == "yaml" else _toml(tree)) + "\n"


# ---------------------------------------------------------------------- as plain values, in the order of the file


def _settings(desired: Desired) -> dict[str, Any]:
    tree: dict[str, Any] = {"version": 1}
    thresholds = {
        name: share for name in ("removals", "updates") if (share := getattr(desired.thresholds, name)) is not None
    }
    if thresholds:
        tree["thresholds"] = thresholds
    if desired.ignore:
        tree["lint"] = {"ignore": list(desired.ignore)}
    return tree


def _group_tree(group: DesiredGroup, *, sort: bool) -> dict[str, Any]:
    project = group.project_id
    number = _NUMBER_LIKE.fullmatch(project) and str(int(project)) == project
    tree: dict[str, Any] = {
        "projectId": int(project) if number else project,
        "key": group.key,
        "name": group.name,
        "description": group.description,
        "evaluationMode": group.evaluation_mode,
        "bucketingKey": group.bucketing_key,
        "bucketingSalt": group.bucketing_salt,
        "archived": group.archived,
        "ignore": list(group.ignore) or UNSET,
        "slots": UNSET if group.slots is UNSET else [_slot_tree(slot, sort=sort) for slot in group.slots],
    }
    return {name: value for name, value in tree.items() if value is not UNSET}


def _slot_tree(slot: DesiredSlot, *, sort: bool) -> dict[str, Any]:
    tree: dict[str, Any] = {"percentage": slot.percentage}
    for name in ("experiments", "holdouts", "individuals", "cohorts"):
        members: Any = getattr(slot, name)
        if members is not UNSET:
            tree[name] = list(unique(members) if sort else members)
    return tree


# ---------------------------------------------------------------------- as text


def _quoted(text: str, *, toml: bool) -> str:
    """A text in double quotes, with everything escaped that does not print."""
    parts: list[str] = []
    for character in text:
        if character in '"\\':
            parts.append("\\" + character)
        elif character == "\n":
            parts.append("\\n")
        elif character.isprintable():
            parts.append(character)
        else:
            parts.append(f"\\u{ord(character):04X}" if ord(character) < 1 << 16 else f"\\U{ord(character):08X}")
    quoted = f'"{"".join(parts)}"'
    return quoted if toml or not _PLAIN.fullmatch(text) or yaml_scalar(text) != text else text


def _scalar(value: Any, *, toml: bool) -> str:
    if isinstance(value, str):
        return _quoted(value, toml=toml)
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _list(members: Sequence[Any], *, toml: bool) -> str:
    # Inside brackets YAML takes commas and brackets for its own, so texts are always quoted there.
    return "[" + ", ".join(_scalar(member, toml=toml or isinstance(member, str)) for member in members) + "]"


def _value(value: Any, *, toml: bool) -> str:
    if isinstance(value, list):
        return _list(cast("list[Any]", value), toml=toml)  # type: ignore[redundant-cast]  # pyright needs it
    return _scalar(value, toml=toml)


def _yaml(tree: dict[str, Any], indent: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from _yaml(value, indent + "  ")  # pyright: ignore[reportUnknownArgumentType]  # of our own making
        elif name in ("groups", "slots") and value:
            yield f"{indent}{name}:"
            for item in value:
                lines = _yaml(item, indent + "    ")
                yield f"{indent}  - {next(lines).lstrip()}"
                yield from lines
        else:
            yield f"{indent}{name}: {_value(value, toml=False)}"


def _toml(tree: dict[str, Any]) -> Iterator[str]:
    yield f"version = {tree['version']}"
    if not tree["groups"]:
        yield "groups = []"
    for name in ("thresholds", "lint"):
        if name in tree:
            yield f"\n[{name}]"
            for key, value in tree[name].items():
                yield f"{key} = {_value(value, toml=True)}"
    for group in tree["groups"]:
        yield "\n[[groups]]"
        yield from _toml_fields(group)
        for slot in group.get("slots", ()):
            yield "\n  [[groups.slots]]"
            yield from _toml_fields(slot, "  ")


def _toml_fields(tree: dict[str, Any], indent: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if value is not None and (name != "slots" or not value):
            yield f"{indent}{name} = {_value(value, toml=True)}"
