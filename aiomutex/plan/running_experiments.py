"""A guard for running experiments: changes that touch one damage its data.

The Management API's answer about an experiment is not part of what this library models, so it is read tolerantly: what
cannot be told to be at rest counts as running.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from aiomutex._api.requests import Request
from aiomutex._util.tasks import run_workers
from aiomutex.errors import APIError, AuthenticationError, NotFoundError, UnexpectedResponseError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from aiomutex.plan.diff import Plan
    from aiomutex.session import MutexSession

__all__ = [
    "ExperimentState",
    "TouchedExperiment",
    "check_running",
    "experiment_reader",
    "read_experiments",
    "verdict_of",
]

ExperimentState = Literal["running", "resting", "unknown"]

_CONCURRENCY: Final = 8
_RUNNING: Final = ("running", "active", "started", "live", "in-progress")
_RESTING: Final = (
    "planning",
    "draft",
    "decision-made",
    "rolled-out",
    "rolled-back",
    "completed",
    "stopped",
    "archived",
)


class TouchedExperiment(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An experiment that a plan touches and that is, or may be, running."""

    experiment: int
    verdict: ExperimentState
    groups: list[str]
    """The groups whose change touches it."""
    why: str

    def __str__(self) -> str:
        return f"experiment {self.experiment} {self.why}; touched by {', '.join(self.groups)}"


def verdict_of(experiment: Mapping[str, Any]) -> tuple[ExperimentState, str]:
    """Whether an experiment runs, and how one knows, from the service's description of it.

    A known ``state`` decides; without one, an experiment that is disabled, deleted or archived rests. Anything else is
    unknown.

    Example:
        >>> verdict_of({"state": "running"})[0], verdict_of({"enabled": False})[0], verdict_of({})[0]
        ('running', 'resting', 'unknown')
    """
    if experiment.get("deleted") is True or experiment.get("archived") is True:
        return "resting", "is archived"
    state = experiment.get("state")
    if isinstance(state, str):
        word = state.strip().lower().replace("_", "-").replace(" ", "-")
        if word in _RUNNING:
            return "running", f"is {word}"
        if word in _RESTING:
            return "resting", f"is {word}"
    if experiment.get("enabled") is False:
        return "resting", "is disabled"
    return "unknown", f"may be running (state {state!r})"


async def read_experiments(
    experiments: Iterable[int], read_experiment: Callable[[int], Awaitable[Mapping[str, Any]]]
) -> dict[int, Mapping[str, Any] | APIError]:
    """Read experiments side by side; an experiment that the service does not tell about comes with its error.

    Raises:
        MutexError: The service cannot be reached, or the key is refused.
    """
    read: dict[int, Mapping[str, Any] | APIError] = {}

    async def read_one(experiment: int) -> None:
        try:
            read[experiment] = await read_experiment(experiment)
        except AuthenticationError:
            raise
        except APIError as error:
            read[experiment] = error

    await run_workers(read_one, sorted(set(experiments)), _CONCURRENCY)
    return read


async def check_running(
    plan: Plan, read_experiment: Callable[[int], Awaitable[Mapping[str, Any]]]
) -> list[TouchedExperiment]:
    """The experiments a plan touches that run, or that cannot be told to rest.

    Costs one request for each experiment that joins or leaves a slot or is in a group to be archived.

    Args:
        plan: The plan.
        read_experiment: Reads one experiment, for example ``experiment_reader(session)``.
    """
    touched: dict[int, list[str]] = {}
    for group in plan.changes:
        for experiment in group.experiments:
            touched.setdefault(experiment, []).append(group.name)
    findings: list[TouchedExperiment] = []
    for experiment, told in sorted((await read_experiments(touched, read_experiment)).items()):
        verdict: ExperimentState
        if isinstance(told, NotFoundError):
            verdict, why = "unknown", "is not known to the service"
        elif isinstance(told, APIError):
            verdict, why = "unknown", f"could not be read ({told})"
        else:
            verdict, why = verdict_of(told)
        if verdict != "resting":
            findings.append(
                TouchedExperiment(experiment=experiment, verdict=verdict, groups=touched[experiment], why=why)
            )
    return findings


def _decode(body: bytes) -> Mapping[str, Any]:
    return msgspec.json.decode(body, type=dict[str, Any])


def experiment_reader(session: MutexSession) -> Callable[[int], Awaitable[Mapping[str, Any]]]:
    """A reader of experiments over a session's connections and limiter.

    Source: Experiment Management API, "Get experiment details".
    """

    async def read_experiment(experiment: int) -> Mapping[str, Any]:
        request = Request("GET", f"/api/1/experiments/{experiment:d}", _decode)
        try:
            return await session._send(request)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  # our own session
        except UnexpectedResponseError:
            return {}

    return read_experiment
