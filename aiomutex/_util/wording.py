"""Small helpers for sentences in messages."""

from __future__ import annotations


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """Return the count with its noun, with thousands separators. The nouns may have a verb.

    Example:
        >>> counted(1, "edit is", "edits are"), counted(1200, "group"), counted(0, "entry", "entries")
        ('1 edit is', '1,200 groups', '0 entries')
    """
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"
