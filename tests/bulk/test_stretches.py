"""How much a run writes before it reads back what it wrote."""

from __future__ import annotations

import pytest

from aiomutex.bulk.stretches import Stretch, count_stretches


@pytest.mark.parametrize(
    ("writes", "pages", "count"),
    [(0, 1, 0), (1, 1, 1), (200, 1, 1), (201, 1, 2), (600, 1, 2), (601, 1, 3), (10_000, 1, 6), (10_000, 100, 3)],
)
def test_stretches_double_up_to_five_thousand_writes(writes: int, pages: int, count: int) -> None:
    assert count_stretches(writes, pages) == count
    stretch = Stretch()
    stretch.begin(0.0)
    stretch.resize(pages)
    lengths = [0]
    for _ in range(writes):
        if stretch.is_over(1.0):
            stretch.begin(1.0)
            stretch.resize(pages)
            lengths.append(0)
        stretch.writes += 1
        lengths[-1] += 1
    assert (len(lengths) if writes else 0) == count


def test_a_stretch_ends_after_a_minute_and_without_writes_the_next_is_as_long() -> None:
    stretch = Stretch()
    stretch.begin(0.0)
    assert not stretch.is_over(60.0)
    assert stretch.is_over(60.1)
    stretch.begin(60.1)
    stretch.writes = 199
    assert not stretch.is_over(61.0)
    stretch.writes = 200
    assert stretch.is_over(61.0)
