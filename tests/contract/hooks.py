"""Rules of valid bodies that the contract cannot express; schemathesis loads them through ``SCHEMATHESIS_HOOKS``.

Percentages add up to 100, keys are unique, and integers have no decimal point: to JSON Schema 7.0 is an integer, too.
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
    """Make a body that is meant to be valid follow these rules; leave an invalid one unchanged."""
    del context, kwargs
    original: object = case.body
    if case.meta is None or not case.meta.generation.mode.is_positive or not isinstance(original, dict):
        return
    body: dict[str, Any] = json.loads(json.dumps(original), parse_float=_number)
    case.body = body
    if case.method != "POST":
        return
    if "key" in body:
        body["key"] = f"{body['key']}-{_run}-{next(_numbers)}"
    slots: list[dict[str, Any]] = body["slots"]
    for slot, percentage in zip(slots, _percentages(len(slots)), strict=True):
        slot["percentage"] = percentage


def _percentages(slots: int) -> list[int]:
    share, rest = divmod(100, slots)
    return [share + 1] * rest + [share] * (slots - rest)


def _number(text: str) -> float:
    return int(float(text)) if float(text).is_integer() else float(text)


cast("Any", schemathesis).hook(before_call)
