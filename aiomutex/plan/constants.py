"""Writes live groups as a Python module of typed constants, so that code and groups stay in step."""

from __future__ import annotations

import keyword
import re
from collections import Counter
from typing import TYPE_CHECKING, Final
from unicodedata import normalize

from aiomutex.plan.desired import unique
from aiomutex.plan.groups import by_index

if TYPE_CHECKING:
    from collections.abc import Iterable

    from aiomutex.models import MutexGroup

_HEAD: Final = '"""Mutex groups. Written by ``aiomutex pull --python``; do not edit."""\n# fmt: off\n\nimport typing\n'


def dump_constants(groups: Iterable[MutexGroup]) -> str:
    """Write a Python module with a class for each group that has a key and is not archived.

    Example:
        >>> dump_constants([await session.get_group(1)]).splitlines()[6:8]
        ['class Group1:', "    KEY: typing.Final = 'group-1'"]
    """
    named = sorted((group for group in groups if group.key and not group.deleted), key=lambda each: (each.key, each.id))
    names = Counter(_class_name(group.key) for group in named)
    parts = [_HEAD]
    for group in named:
        name = _class_name(group.key)
        unique_name = name if names[name] == 1 else re.sub(r"\W", "_", f"{name}_{group.id}")
        part = f"\n\nclass {unique_name}:\n"
        for field, value in (("KEY", group.key), ("ID", group.id), ("PROJECT_ID", group.project_id)):
            part += f"    {field}: typing.Final = {value!a}\n"
        for slot in by_index(group):
            part += f"    SLOT_{slot.index}: typing.Final = {slot.variant_key or f'slot-{slot.index}'!a}\n"
            part += f"    SLOT_{slot.index}_EXPERIMENTS: typing.Final[tuple[int, ...]] = {unique(slot.experiments)}\n"
        parts.append(part)
    return "".join(parts)


def _class_name(key: str) -> str:
    name = normalize("NFKC", "".join(part.capitalize() for part in re.split(r"[\W_]+", key)))
    name = "".join(character for character in name if f"a{character}".isidentifier())
    return name if name.isidentifier() and not keyword.iskeyword(name) else f"Group{name}"
