"""Slot edits: processor time per call in each client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.calls import compare, goals

if TYPE_CHECKING:
    from benchmarks.harness import Result, Size

__all__ = ["run"]


def run(size: Size) -> Result:
    """Compare the clients. The goal is for 64 calls in flight."""
    result = compare("edit", size)
    result.goals += goals(result, "CPU per slot edit beside plain aiohttp", 0.80, size.of(64, 64, 4))
    return result
