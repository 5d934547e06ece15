"""Groups as they were before recent changes, for reads that lag behind the writes."""

from __future__ import annotations

from collections import deque
from copy import deepcopy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiomutex.emulator.clock import Clock
    from aiomutex.emulator.state import Group

__all__ = ["History"]


class History:
    """Remember each changed group as it was, for as long as the longest lag."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changes: deque[tuple[float, str, Group | None]] = deque()

    def add(self, group_id: str, before: Group | None, lag: float) -> None:
        """Remember a group that is about to change for ``lag`` seconds; None if it is about to be created."""
        now = self._clock.now()
        while self._changes and self._changes[0][0] <= now - lag:
            self._changes.popleft()
        self._changes.append((now, group_id, deepcopy(before)))

    def changed_since(self, lag: float) -> dict[str, Group | None]:
        """Return the groups that changed in the last ``lag`` seconds, as they were before; None was not there."""
        changed: dict[str, Group | None] = {}
        start = self._clock.now() - lag
        for at, group_id, before in reversed(self._changes):
            if at <= start:
                break
            changed[group_id] = before
        return changed

    def clear(self) -> None:
        """Forget everything."""
        self._changes.clear()
