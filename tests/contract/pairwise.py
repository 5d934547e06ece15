"""A small set of dialects that combine every two values of any two knobs."""

from __future__ import annotations

import functools
from itertools import combinations, product
from typing import TYPE_CHECKING, Any

from aiomutex.emulator import Dialect

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Value = str | int | bool
Setting = tuple[str, Value]
Row = dict[str, Value]


def covering(knobs: Mapping[str, Sequence[Value]], strength: int = 2) -> list[Row]:
    """Rows that together contain every combination of values of any ``strength`` knobs; the first has the defaults.

    Greedy: a row starts with a missing combination, and each other knob takes the value that adds the most.
    """
    names = sorted(knobs, key=lambda name: (-len(knobs[name]), name))
    # A dict is ordered, unlike a set, so that every run gives the same rows.
    missing = dict.fromkeys(
        frozenset(zip(chosen, values, strict=True))
        for chosen in combinations(names, strength)
        for values in product(*(knobs[name] for name in chosen))
    )
    rows: list[Row] = [{name: values[0] for name, values in knobs.items()}]
    while True:
        for covered in settings_of(rows[-1], strength):
            missing.pop(covered, None)
        if not missing:
            return rows
        row: Row = dict(next(iter(missing)))
        for name in names:
            if name not in row:
                others = list(combinations(row.items(), strength - 1))
                gains = {
                    value: sum(frozenset(((name, value), *other)) in missing for other in others)
                    for value in knobs[name]
                }
                row[name] = max(gains, key=lambda value: gains[value])
        rows.append({name: row[name] for name in knobs})


def settings_of(row: Row, strength: int) -> Iterable[frozenset[Setting]]:
    """Every combination of ``strength`` settings in a row."""
    return map(frozenset, combinations(row.items(), strength))


@functools.cache
def dialects(strength: int = 2) -> tuple[Dialect, ...]:
    """The default dialect, then others that combine every value of any ``strength`` knobs."""
    rows: list[Any] = covering(Dialect.knobs(), strength)
    return tuple(Dialect(**row) for row in rows)


def row_of(dialect: Dialect) -> Row:
    return {name: getattr(dialect, name) for name in Dialect.knobs()}


def describe(dialect: Dialect) -> str:
    """The knobs that are not at their default."""
    changed = [f"{name}={value}" for name, value in row_of(dialect).items() if value != getattr(Dialect(), name)]
    return " ".join(changed) or "the default"
