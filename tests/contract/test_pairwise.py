"""The client keeps its promises under every reading of the documentation, any two of them at a time.

``pytest -s`` prints the table. The deep test takes any three readings at a time.
"""

from __future__ import annotations

import asyncio
from itertools import combinations
from typing import TYPE_CHECKING

import pytest

from aiomutex.emulator import Dialect

from .pairwise import describe, dialects, row_of, settings_of
from .scenarios import SCENARIOS, run_all

if TYPE_CHECKING:
    from collections.abc import Sequence

ALONGSIDE = 8
"""Dialects at a time: most of a scenario is waiting for a second to pass."""


def test_every_two_values_of_any_two_knobs_meet_in_some_dialect() -> None:
    knobs = Dialect.knobs()
    met = {pair for dialect in dialects() for pair in settings_of(row_of(dialect), 2)}
    assert met == {
        frozenset(((one, a), (two, b))) for one, two in combinations(knobs, 2) for a in knobs[one] for b in knobs[two]
    }


async def test_the_client_keeps_its_promises_under_any_two_values_of_any_two_knobs() -> None:
    await keep_promises(dialects())


@pytest.mark.deep
async def test_the_client_keeps_its_promises_under_any_three_values_of_any_three_knobs() -> None:
    await keep_promises(dialects(3))


async def keep_promises(readings: Sequence[Dialect]) -> None:
    turn = asyncio.Semaphore(ALONGSIDE)
    failures: list[Exception] = []

    async def row(dialect: Dialect) -> dict[str, str]:
        async with turn:
            seen = await run_all(dialect)
        for name, result in seen.items():
            if isinstance(result, Exception):
                result.add_note(f"{name} under {describe(dialect)}")
                failures.append(result)
        return {name: result if isinstance(result, str) else "FAILED" for name, result in seen.items()}

    table = await asyncio.gather(*(row(dialect) for dialect in readings))
    print_table(readings, table)
    if failures:
        raise ExceptionGroup("promises that do not hold", failures)
    # Not only do the promises hold: those that cannot be kept were met, and said so.
    assert {seen["removing"] for seen in table} == {"ok", "says not removed"}
    assert {seen["adding"] for seen in table} == {"ok", "says cohorts lost"}


def print_table(readings: Sequence[Dialect], table: list[dict[str, str]]) -> None:
    """One line a dialect, one column a promise; for CI's log."""
    widths = {name: max(len(name), *(len(seen[name]) for seen in table)) for name in SCENARIOS}
    print(f"\n{len(table)} dialects, {len(SCENARIOS)} promises each\n")
    print("    " + "  ".join(name.ljust(width) for name, width in widths.items()))
    for number, seen in enumerate(table):
        print(f"{number:3} " + "  ".join(seen[name].ljust(width) for name, width in widths.items()))
    print()
    for number, dialect in enumerate(readings):
        print(f"{number:3} {describe(dialect)}")
