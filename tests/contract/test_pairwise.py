"""The client keeps its promises under dialects that combine every two values of any two knobs.

``pytest -s`` prints the table. The deep test combines any three knobs.
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

MAX_CONCURRENT_DIALECTS = 8
"""More than there are cores, because scenarios mostly wait."""


def test_the_dialects_combine_every_two_values_of_any_two_knobs() -> None:
    knobs = Dialect.knobs()
    combined = {pair for dialect in dialects() for pair in settings_of(row_of(dialect), 2)}
    assert combined == {
        frozenset(((one, a), (two, b))) for one, two in combinations(knobs, 2) for a in knobs[one] for b in knobs[two]
    }


async def test_the_client_keeps_its_promises_under_pairs_of_knobs() -> None:
    # No pair requires cohorts that are visibly lost in the slot that the edit addresses.
    await check_promises((*dialects(), Dialect(cohorts_on_edit="dropped")))


@pytest.mark.deep
async def test_the_client_keeps_its_promises_under_triples_of_knobs() -> None:
    await check_promises(dialects(3))


async def check_promises(readings: Sequence[Dialect]) -> None:
    semaphore = asyncio.Semaphore(MAX_CONCURRENT_DIALECTS)
    failures: list[Exception] = []

    async def row(dialect: Dialect) -> dict[str, str]:
        async with semaphore:
            results = await run_all(dialect)
        for name, result in results.items():
            if isinstance(result, Exception):
                result.add_note(f"{name} under {describe(dialect)}")
                failures.append(result)
        return {name: result if isinstance(result, str) else "FAILED" for name, result in results.items()}

    table = await asyncio.gather(*(row(dialect) for dialect in readings))
    print_table(readings, table)
    if failures:
        raise ExceptionGroup("promises that do not hold", failures)
    # Every outcome occurred: the promise held, or an error said that it does not.
    assert {results["removing"] for results in table} == {"ok", "says not removed"}
    assert {results["adding"] for results in table} == {"ok", "says cohorts lost", "says not written"}


def print_table(readings: Sequence[Dialect], table: list[dict[str, str]]) -> None:
    """Print a row for each dialect and a column for each promise."""
    widths = {name: max(len(name), *(len(results[name]) for results in table)) for name in SCENARIOS}
    print(f"\n{len(table)} dialects, {len(SCENARIOS)} promises each\n")
    print("    " + "  ".join(name.ljust(width) for name, width in widths.items()))
    for number, results in enumerate(table):
        print(f"{number:3} " + "  ".join(results[name].ljust(width) for name, width in widths.items()))
    print()
    for number, dialect in enumerate(readings):
        print(f"{number:3} {describe(dialect)}")
