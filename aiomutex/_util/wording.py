"""Small helpers for sentences in messages."""

from __future__ import annotations

__all__ = ["counted"]


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """Return the count with its noun, with thousands separators.

    Args:
        count: How many there are.
        singular: The noun for one, with a verb if the sentence needs one (``"edit is"``).
        plural: The noun for any other count; ``singular`` and an "s" unless given.

    Example:
        >>> counted(1, "edit is", "edits are"), counted(1200, "group"), counted(0, "entry", "entries")
        ('1 edit is', '1,200 groups', '0 entries')
    """
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"
