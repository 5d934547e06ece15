"""From live groups to a file or to Python code: sorted and stable, so that a second pull changes nothing."""

from __future__ import annotations

import keyword
import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Final
from unicodedata import normalize

from msgspec import UNSET, to_builtins
from msgspec.structs import replace

from aiomutex.models import SLOT_LISTS, MutexGroup, Slot
from aiomutex.plan.changes import by_index, current_groups
from aiomutex.plan.desired import GROUP_FIELDS, Desired, DesiredGroup, DesiredSlot, project_number, unique
from aiomutex.plan.formats import write

if TYPE_CHECKING:
    from collections.abc import Iterable

_HEAD: Final = '"""Mutex groups. Written by ``aiomutex pull --python``; do not edit."""\n# fmt: off\n\nimport typing\n'


def _group_order(group: DesiredGroup) -> tuple[tuple[int, str], str]:
    return (len(group.project_id) if group.project_id.isdigit() else 99, group.project_id), group.key


def desired_from(groups: Iterable[MutexGroup], *, settings: Desired | None = None) -> Desired:
    """Describe live groups as a desired state.

    Groups without a key or a project are left out, because a file cannot identify them. If an archived group and a live
    one share project and key, the live one is described.

    Args:
        groups: The live groups.
        settings: A desired state whose thresholds and disabled lint rules are kept.

    Returns:
        A desired state, sorted, for which a plan has no changes.
    """
    settings = settings or Desired()
    ignored = {group.identity: group.ignore for group in settings.groups}
    named = {identity: group for identity, group in current_groups(groups).items() if all(identity)}
    found = [replace(_group_from(group), ignore=ignored.get(identity, ())) for identity, group in named.items()]
    return replace(settings, groups=tuple(sorted(found, key=_group_order)))


def _group_from(group: MutexGroup) -> DesiredGroup:
    fields: dict[str, Any] = {name: getattr(group, name) or UNSET for name in GROUP_FIELDS}
    fields |= {"description": group.description, "archived": group.deleted or UNSET}
    if group.evaluation_mode not in ("local", "remote"):
        fields["evaluation_mode"] = UNSET
    # A file cannot say that a group has no slots at all.
    slots = tuple(map(_slot_from, by_index(group))) or UNSET
    return DesiredGroup(project_id=group.project_id, key=group.key, slots=slots, **fields)


def _slot_from(slot: Slot) -> DesiredSlot:
    lists: dict[str, Any] = {name: unique(getattr(slot, name)) for name in SLOT_LISTS}
    return DesiredSlot(percentage=slot.percentage, **lists, cohorts=unique(slot.cohorts) or UNSET)


def same_content(one: Desired, other: Desired) -> bool:
    """Whether two desired states say the same, in whatever order."""
    return _tree(one, sort=True) == _tree(other, sort=True)


def dump_desired(desired: Desired, format_: str = "yaml") -> str:
    """Write a desired state as YAML or JSON.

    Args:
        desired: The desired state.
        format_: ``yaml`` or ``json``.

    Raises:
        ConfigurationError: PyYAML is not installed, and the format is YAML.

    Example:
        >>> from aiomutex.plan import parse_desired
        >>> dump_desired(parse_desired("groups: [{key: a, projectId: 1}]")).splitlines()
        ['version: 1', 'groups:', '- projectId: 1', '  key: a']
    """
    return write(_tree(desired), format_)


def _tree(desired: Desired, *, sort: bool = False) -> dict[str, Any]:
    groups = sorted(desired.groups, key=_group_order) if sort else desired.groups
    lint = {"ignore": list(desired.ignore)} if desired.ignore else {}
    settings = {"version": 1, "thresholds": to_builtins(desired.thresholds), "lint": lint}
    trees = [to_builtins(group) | {"projectId": project_number(group.project_id)} for group in groups]
    slots = [slot for tree in trees for slot in tree.get("slots", ())]
    for part in (*trees, *slots):
        part.pop("line", None)
    for slot in slots if sort else ():
        slot.update({name: list(unique(members)) for name, members in slot.items() if name != "percentage"})
    return {name: value for name, value in settings.items() if value} | {"groups": trees}


def dump_constants(groups: Iterable[MutexGroup]) -> str:
    """Write a Python module with a class for each group that has a key and is not archived."""
    named = sorted((group for group in groups if group.key and not group.deleted), key=lambda each: (each.key, each.id))
    names = Counter(_class_name(group.key) for group in named)
    text = _HEAD
    for group in named:
        name = _class_name(group.key)
        unique_name = name if names[name] == 1 else re.sub(r"\W", "_", f"{name}_{group.id}")
        text += f"\n\nclass {unique_name}:\n"
        for field, value in (("KEY", group.key), ("ID", group.id), ("PROJECT_ID", group.project_id)):
            text += f"    {field}: typing.Final = {value!a}\n"
        for slot in by_index(group):
            text += f"    SLOT_{slot.index}: typing.Final = {slot.variant_key or f'slot-{slot.index}'!a}\n"
            text += f"    SLOT_{slot.index}_EXPERIMENTS: typing.Final[tuple[int, ...]] = {unique(slot.experiments)}\n"
    return text


def _class_name(key: str) -> str:
    name = normalize("NFKC", "".join(part.capitalize() for part in re.split(r"[\W_]+", key)))
    name = "".join(character for character in name if f"a{character}".isidentifier())
    return name if name.isidentifier() and not keyword.iskeyword(name) else f"Group{name}"
