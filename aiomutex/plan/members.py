"""The order of a slot's members in files, plans and fingerprints. The service documents none, so they are sorted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["sort_key", "unique"]


def sort_key(member: str | int) -> tuple[bool, str | int]:
    """Sort numbers before strings."""
    return isinstance(member, str), member


def unique(members: Iterable[Any]) -> tuple[Any, ...]:
    """Return the members sorted, without duplicates."""
    return tuple(sorted(set(members), key=sort_key))
