"""Reads of one group: processor time per call in each client."""

from __future__ import annotations

from benchmarks.calls import compare, row_of
from benchmarks.harness import Goal, Result, Size, median_ratio

__all__ = ["run"]

GOAL = 0.75

HELD = (
    "when last profiled, a quarter of the time was the send() system call, as in any client (py-spy), and 19 % of the "
    "instructions ClientSession.request (callgrind); 'instructions' measures a ratio that does not depend on load"
)


def run(size: Size) -> Result:
    """Compare the clients. The goal is for 64 calls in flight."""
    result = compare("get", size)
    ratio = median_ratio(*row_of(result, size.of(64, 64, 4)))
    what = "CPU per get_group beside plain aiohttp with .json(), 64 in flight"
    result.goals.append(Goal(what, f"≤ {GOAL:.2f}", f"{ratio:.2f}", ratio <= GOAL, "" if ratio <= GOAL else HELD))
    return result
