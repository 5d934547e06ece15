from __future__ import annotations

import pytest

from aiomutex._util.wording import counted


@pytest.mark.parametrize(
    ("count", "nouns", "expected"),
    [
        (1, ("edit",), "1 edit"),
        (0, ("edit",), "0 edits"),
        (1_200, ("group",), "1,200 groups"),
        (1, ("entry is", "entries are"), "1 entry is"),
        (2, ("entry is", "entries are"), "2 entries are"),
    ],
)
def test_a_count_has_the_right_noun_and_thousands_separators(count: int, nouns: tuple[str, ...], expected: str) -> None:
    assert counted(count, *nouns) == expected
