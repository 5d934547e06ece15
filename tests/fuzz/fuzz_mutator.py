# The targets are private, and their inputs have no types.
# pyright: reportPrivateUsage=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownLambdaType=false
"""Mutations of inputs. If an input contains JSON, half of the mutations keep it valid JSON."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

ODD: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 5, 20, 21, 99, 100, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400),
    *(0.5, 33.3, -0.0, 1e16, 1e308, float("nan"), float("inf"), "", " ", "7", "1", "0", "007", "-1", "1.0", "true"),
    *("\ud800", "\x00", "a\nb", "\N{ARABIC-INDIC DIGIT FIVE}", "9" * 19, "9" * 5000, "../..", "%2f", "x" * 300),
    *([], [[]], {}, [None], [1, 1], ["a", 1], {"": 0}, {"slots": []}, {"id": 7, "slots": []}),
)


def json_mutator(
    words: tuple[str, ...], otherwise: Callable[[bytes, int], bytes]
) -> Callable[[bytes, int, int], bytes]:
    """Return a mutator for one format.

    Args:
        words: The keys of the format.
        otherwise: The fuzzer's own mutation of bytes.
    """
    keys = [*words, "id", ""]

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = Random(seed)
        if rng.random() < 0.5:
            start = min((place for mark in (b"{", b"[") if (place := data.find(mark)) >= 0), default=-1)
            if start >= 0:
                try:
                    tree, end = json.JSONDecoder().raw_decode(data[start:].decode("utf-8", "surrogatepass"))
                    for _ in range(rng.choice((1, 1, 2, 4))):
                        tree = _changed(tree, rng, keys)
                    tail = data[start:].decode("utf-8", "surrogatepass")[end:].encode("utf-8", "surrogatepass")
                    made = data[:start] + json.dumps(tree).encode() + tail
                except (ValueError, RecursionError):
                    pass
                else:
                    if len(made) <= max_size:
                        return made
        return otherwise(data, max_size)

    return mutate


def _changed(tree: Any, rng: Random, keys: list[str]) -> Any:
    """Change one random place of a JSON tree, and return the tree."""
    inside = isinstance(tree, dict | list) and len(tree) > 0
    if not inside or rng.random() < 0.15:
        return _other(tree, rng)
    if isinstance(tree, list):
        place: Any = rng.randrange(len(tree))
    else:
        place = rng.choice(list(tree))
    dice = rng.random()
    if dice < 0.7:
        tree[place] = _changed(tree[place], rng, keys)
    elif dice < 0.8:
        del tree[place]
    elif isinstance(tree, list):
        tree.insert(place, rng.choice((copy.deepcopy(tree[place]), _odd(rng))))
    else:
        tree[rng.choice(keys)] = rng.choice((copy.deepcopy(tree[place]), _odd(rng)))
    return tree


def _other(value: Any, rng: Random) -> Any:
    dice = rng.random()
    if dice < 0.1 and isinstance(value, int | float):
        return str(value)
    if dice < 0.2 and isinstance(value, int | float):
        return -value
    if dice < 0.3 and isinstance(value, str):
        return value + rng.choice(("\ud800", "9", " ", "\x7f", "é", value))
    if dice < 0.4:
        return [value]
    if dice < 0.43:
        for _ in range(rng.choice((10, 300, 2000))):
            value = [value]
        return value
    return _odd(rng)


def _odd(rng: Random) -> Any:
    return copy.deepcopy(rng.choice(ODD))
