"""Finds the running experiments that a plan affects, because changing their groups damages their data.

This library does not model experiments, so their description is read tolerantly: an experiment that is not clearly
stopped counts as possibly running.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

import msgspec

from aiomutex._util.tasks import run_workers
from aiomutex.errors import APIError, AuthenticationError, NotFoundError, UnexpectedResponseError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from aiomutex._api.responses import Response
    from aiomutex.plan.changes import Plan
    from aiomutex.session import MutexSession

    _Reader: TypeAlias = Callable[[int], Awaitable[Mapping[str, Any]]]

__all__ = ["AffectedExperiment", "check_running", "experiment_reader", "read_experiments", "state_of"]

ExperimentState = Literal["running", "stopped", "unknown"]

_CONCURRENCY: Final = 8
_RUNNING = {"running", "active", "started", "live", "in-progress"}
_STOPPED = {"planning", "draft", "decision-made", "rolled-out", "rolled-back", "completed", "stopped", "archived"}


class AffectedExperiment(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An experiment that a plan affects and that is running, or may be."""

    experiment: int
    state: ExperimentState
    groups: list[str]
    """The groups whose changes affect it."""
    reason: str
    """What is known of its state."""

    def __str__(self) -> str:
        return f"experiment {self.experiment} {self.reason}; affected by {', '.join(self.groups)}"


def state_of(experiment: Mapping[str, Any]) -> tuple[ExperimentState, str]:
    """Decide from its description whether an experiment is running, and say why, as the end of a sentence.

    A known ``state`` decides. Without one, an experiment is stopped if it is disabled, deleted or archived.

    Example:
        >>> state_of({"state": "running"})[0], state_of({"enabled": False})[0], state_of({})[0]
        ('running', 'stopped', 'unknown')
    """
    if experiment.get("deleted") is True or experiment.get("archived") is True:
        return "stopped", "is archived"
    state = experiment.get("state")
    word = str(state).strip().lower().replace("_", "-").replace(" ", "-")
    if word in _RUNNING:
        return "running", f"is {word}"
    if word in _STOPPED:
        return "stopped", f"is {word}"
    if experiment.get("enabled") is False:
        return "stopped", "is disabled"
    return "unknown", f"may be running (state {state!r})"


async def read_experiments(
    experiments: Iterable[int], read_experiment: _Reader
) -> dict[int, Mapping[str, Any] | APIError]:
    """By ID, the descriptions of experiments, or the errors with which the service rejected a read."""
    results: dict[int, Mapping[str, Any] | APIError] = {}

    async def read_one(experiment: int) -> None:
        try:
            results[experiment] = await read_experiment(experiment)
        except AuthenticationError:
            raise
        except APIError as error:
            results[experiment] = error

    await run_workers(read_one, sorted(set(experiments)), _CONCURRENCY)
    return results


async def check_running(plan: Plan, read_experiment: _Reader) -> list[AffectedExperiment]:
    """Find the experiments affected by a plan that are running, or not clearly stopped, sorted by ID.

    Costs one request for each experiment that joins or leaves a slot, or is in a group to be archived.

    Args:
        plan: The plan.
        read_experiment: Reads one experiment, for example ``experiment_reader(session)``.

    Raises:
        MutexError: The service cannot be reached, or it rejects the key.
    """
    affected: dict[int, list[str]] = {}
    for change in plan.changes:
        for experiment in change.experiments:
            affected.setdefault(experiment, []).append(change.name)
    findings: list[AffectedExperiment] = []
    for experiment, result in sorted((await read_experiments(affected, read_experiment)).items()):
        state: ExperimentState
        if isinstance(result, NotFoundError):
            state, reason = "unknown", "does not exist, as far as the service says"
        elif isinstance(result, APIError):
            state, reason = "unknown", f"could not be read ({result})"
        else:
            state, reason = state_of(result)
        if state != "stopped":
            groups = affected[experiment]
            findings.append(AffectedExperiment(experiment=experiment, state=state, groups=groups, reason=reason))
    return findings


def experiment_reader(session: MutexSession) -> _Reader:
    """Make a reader of experiments that uses the connections and the limiter of a session.

    Source: Experiment Management API, "Get experiment details".
    """

    async def read_experiment(experiment: int) -> Mapping[str, Any]:
        return describe_experiment(await session.request("GET", f"/api/1/experiments/{experiment:d}"))

    return read_experiment


def describe_experiment(response: Response) -> Mapping[str, Any]:
    """Decode a description of an experiment; empty if the body is not a JSON object."""
    try:
        decoded = response.json()
    except UnexpectedResponseError:
        return {}
    return cast("dict[str, Any]", decoded) if isinstance(decoded, dict) else {}
