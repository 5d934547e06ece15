"""What the contract cannot say and schemathesis must be told, so that what it means to be right is right.

Percentages add up to 100, keys are unique, and a whole number is written as one: to JSON Schema 7.0 is an integer, to
not every service. Loaded by schemathesis through ``SCHEMATHESIS_HOOKS``.
"""

from __future__ import annotations

import itertools
import json
import uuid
from typing import Any, cast

import schemathesis

_numbers = itertools.count()
_run = uuid.uuid4().hex[:8]


def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Mend a body that was meant to be right; what was meant to be wrong stays as it is."""
    del context, kwargs
    given: object = case.body
    if case.meta is None or not case.meta.generation.mode.is_positive or not isinstance(given, dict):
        return
    body: dict[str, Any] = json.loads(json.dumps(given), parse_float=_number)
    case.body = body
    if case.method != "POST":
        return
    if "key" in body:
        body["key"] = f"{body['key']}-{_run}-{next(_numbers)}"
    slots: list[dict[str, Any]] = body["slots"]
    for slot, share in zip(slots, _shares(len(slots)), strict=True):
        slot["percentage"] = share


def _shares(slots: int) -> list[int]:
    share, rest = divmod(100, slots)
    return [share + 1] * rest + [share] * (slots - rest)


def _number(text: str) -> float:
    return int(float(text)) if float(text).is_integer() else float(text)


cast("Any", schemathesis).hook(before_call)
