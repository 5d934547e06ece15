"""An independent implementation of bucketing: the evaluation engine of ``amplitude-experiment`` from PyPI."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from amplitude_experiment.evaluation import engine, types  # type: ignore[import-untyped]  # it ships no types

if TYPE_CHECKING:
    from aiomutex import MutexGroup

WHOLE = 42_949_673


def flag_of(group: MutexGroup) -> Any:
    """Return a flag with one variant per slot, with ranges as the service writes them.

    In captured configurations a range starts at the floor and ends at the ceiling of its bounds, so neighbours overlap
    by one value and the first wins: 1 % and 99 % are ``[0, 429497]`` and ``[429496, 42949673]``.
    """
    any_types: Any = types
    slots = sorted(group.slots, key=lambda slot: slot.index)
    distributions: list[Any] = []
    total = 0.0
    for slot in slots:
        start, total = total, total + slot.percentage
        bounds = [math.floor(WHOLE * start / 100), math.ceil(WHOLE * total / 100)]
        distributions.append(any_types.EvaluationDistribution(variant=str(slot.index), range=bounds))
    selector = ["context", "user", group.bucketing_key]
    allocation = any_types.EvaluationAllocation(range=[0, 100], distributions=distributions)
    bucket = any_types.EvaluationBucket(selector=selector, salt=group.bucketing_salt, allocations=[allocation])
    segments = [
        any_types.EvaluationSegment(
            conditions=[[any_types.EvaluationCondition(selector=selector, op="is", values=list(slot.individuals))]],
            variant=str(slot.index),
        )
        for slot in slots
        if slot.individuals
    ]
    segments.append(any_types.EvaluationSegment(bucket=bucket, variant="off"))
    variants = {str(slot.index): any_types.EvaluationVariant(key=str(slot.index)) for slot in slots}
    variants["off"] = any_types.EvaluationVariant(key="off", metadata={"default": True})
    return any_types.EvaluationFlag(key=group.key, variants=variants, segments=segments)


class Oracle:
    """Finds the slot of a value with the engine."""

    def __init__(self, group: MutexGroup) -> None:
        any_engine: Any = engine
        self._engine = any_engine.EvaluationEngine()
        self._flag = flag_of(group)
        self._bucketing_key = group.bucketing_key

    def slot(self, value: str) -> int | None:
        result = self._engine.evaluate({"user": {self._bucketing_key: value}}, [self._flag])
        key = result[self._flag.key].key
        return None if key == "off" else int(key)
