"""Stretches of a run: how much it writes before it reads back what it wrote. Pure."""

from __future__ import annotations

from typing import Final

_FIRST: Final = 200
_LONGEST: Final = 5_000
_PER_PAGE: Final = 20
_MAX_TIME: Final = 60.0


class Stretch:
    """The present stretch. It ends after 60 s, or after 200 writes or 20 for each page, twice as many each time."""

    def __init__(self) -> None:
        self.number = 0
        self.writes = 0  # the number of writes in it
        self._length = _FIRST
        self._began = 0.0

    def begin(self, now: float) -> None:
        """Begin the next stretch, twice as long if anything was written in this one."""
        self._length *= 2 if self.writes else 1
        self.number, self.writes, self._began = self.number + 1, 0, now

    def resize(self, pages: int) -> None:
        """Bound the length, when a pass has shown how many pages the listing has."""
        self._length = min(max(self._length, _PER_PAGE * pages), _LONGEST)

    def is_over(self, now: float) -> bool:
        """Whether it is long enough."""
        return self.writes >= self._length or now > self._began + _MAX_TIME


def count_stretches(writes: int, pages: int) -> int:
    """The number of stretches in which a run makes so many writes, if it is limited by nothing else."""
    count, length = 0, max(_FIRST, _PER_PAGE * pages)
    while writes > 0:
        count, writes, length = count + 1, writes - min(length, _LONGEST), 2 * length
    return count
