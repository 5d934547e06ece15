"""The order of a slot's members: the service documents none, so one is chosen for files, plans and fingerprints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["sort_key", "unique"]


def sort_key(member: str | int) -> tuple[bool, str | int]:
    """Numbers by size, then texts."""
    return isinstance(member, str), member


def unique(members: Iterable[Any]) -> tuple[Any, ...]:
    """Members in a stable order, each once: the service documents no order inside a list."""
    return tuple(sorted(set(members), key=sort_key))
