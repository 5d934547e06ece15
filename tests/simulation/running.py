"""Runs a scenario and judges it, and reduces a failing one by deletion."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from .checks import Violation, violations
from .world import simulate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .scenario import Scenario

__all__ = ["Result", "command_of", "run_scenario", "shrink"]

_OPTIONAL: Final = ("verify", "stream", "slow", "concurrency", "stop_after", "leave", "cancel", "on_budget", "source")
"""Arguments of a call that go back to their defaults."""


class Result(NamedTuple):
    """What came of a run."""

    violations: list[Violation]
    lines: list[str]
    """The trace, if it was asked for."""
    requests: int


def run_scenario(scenario: Scenario, *, tracing: bool = False, only: str | None = None) -> Result:
    """Run a scenario and check every invariant, or one of them."""
    world = simulate(scenario, tracing=tracing)
    found = [each for each in violations(world) if only in (None, each.invariant)]
    return Result(found, world.lines, len(world.network.sent))


def command_of(seed: int) -> str:
    """The command that runs a seed again."""
    return f"python -m tests.simulation --seed {seed} --trace"


def shrink(scenario: Scenario, invariant: str) -> Scenario:
    """Delete from a scenario what is not needed to break an invariant."""
    smaller = True
    while smaller:
        smaller = False
        for candidate in _smaller(scenario):
            if any(each.invariant == invariant for each in run_scenario(candidate).violations):
                scenario, smaller = candidate, True
                break
    return scenario


def _smaller(scenario: Scenario) -> Iterator[Scenario]:
    """Scenarios with one part less, the larger parts first."""
    for index in range(len(scenario.phases)):
        if len(scenario.phases) > 1:
            yield _without(scenario, ["phases"], index)
    for phase in range(len(scenario.phases)):
        for name in ("faults", "events", "calls"):
            items = getattr(scenario.phases[phase], name)
            if len(items) > 3:
                half = copy.deepcopy(scenario)
                del getattr(half.phases[phase], name)[len(items) // 2 :]
                yield half
            for index in range(len(items)):
                if name != "calls" or len(items) > 1:
                    yield _without(scenario, ["phases", phase, name], index)
    # An edit goes from every run at once, as the runs of one journal need the same edits.
    count = max((len(call.edits) for phase in scenario.phases for call in phase.calls), default=0)
    for index in reversed(range(count)):
        fewer = copy.deepcopy(scenario)
        changed = False
        for each in fewer.phases:
            for call in each.calls:
                if len(call.edits) > max(1, index):
                    del call.edits[index]
                    changed = True
        if changed:
            yield fewer
    for phase in range(len(scenario.phases)):
        for number in range(len(scenario.phases[phase].calls)):
            for name in _OPTIONAL:
                plainer = copy.deepcopy(scenario)
                target = plainer.phases[phase].calls[number]
                default: Any = next(each.default for each in msgspec.structs.fields(target) if each.name == name)
                if getattr(target, name) != default:
                    setattr(target, name, default)
                    yield plainer


def _without(scenario: Scenario, path: list[Any], index: int) -> Scenario:
    copied = copy.deepcopy(scenario)
    target: Any = copied
    for step in path:
        target = target[step] if isinstance(step, int) else getattr(target, step)
    del target[index]
    return copied
