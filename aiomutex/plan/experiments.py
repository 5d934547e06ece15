"""Reads the experiments of groups by the cheaper way, and finds the running ones that a plan affects.

This library does not model experiments, so their description is read tolerantly: an experiment that is not clearly
stopped counts as possibly running.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast
from urllib.parse import quote

import msgspec

from aiomutex._util.tasks import results_of
from aiomutex.errors import APIError, AuthenticationError, NotFoundError, UnexpectedResponseError

if TYPE_CHECKING:
    from aiomutex.models import MutexGroup
    from aiomutex.plan.changes import Plan
    from aiomutex.plan.desired import DesiredGroup
    from aiomutex.session import MutexSession

Experiments: TypeAlias = Mapping[int, Mapping[str, Any] | APIError]
"""By ID, the descriptions of experiments, or the errors with which the service rejected a read."""
ExperimentState = Literal["running", "stopped", "unknown"]

_PATH: Final = "/api/1/experiments"
_FEW: Final = 20  # experiments that are always read one by one
_RUNNING = {"running", "active", "started", "live", "in-progress"}
_FINISHED = {"decision-made", "rolled-out", "rolled-back", "completed", "archived"}
_STOPPED = {"planning", "draft", "stopped"} | _FINISHED


class AffectedExperiment(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """An experiment that a plan affects and that is running, or may be."""

    experiment: int
    state: ExperimentState
    groups: list[str]
    """The groups whose changes affect it."""
    reason: str

    def __str__(self) -> str:
        return f"experiment {self.experiment} {self.reason}; affected by {', '.join(self.groups)}"


def state_of(experiment: Mapping[str, Any] | APIError) -> tuple[ExperimentState, str]:
    """Decide whether an experiment is running, and say why, as the end of a sentence.

    A known ``state`` decides. Without one, an experiment is stopped if it is disabled, deleted or archived.

    Example:
        >>> state_of({"state": "running"})[0], state_of({"enabled": False})[0], state_of({})[0]
        ('running', 'stopped', 'unknown')
    """
    if isinstance(experiment, NotFoundError):
        return "unknown", "does not exist, as far as the service says"
    if isinstance(experiment, APIError):
        return "unknown", f"could not be read ({experiment})"
    if is_archived(experiment):
        return "stopped", "is archived"
    if (word := state_word(experiment)) in _RUNNING | _STOPPED:
        return "running" if word in _RUNNING else "stopped", f"is {word}"
    if experiment.get("enabled") is False:
        return "stopped", "is disabled"
    return "unknown", f"may be running (state {experiment.get('state')!r})"


def state_word(experiment: Mapping[str, Any]) -> str:
    """The state as the service's documentation spells it, such as ``decision-made``."""
    return str(experiment.get("state")).strip().lower().replace("_", "-").replace(" ", "-")


def is_archived(experiment: Mapping[str, Any]) -> bool:
    """Whether the service says that an experiment is archived."""
    return experiment.get("deleted") is True or experiment.get("archived") is True


def is_finished(experiment: Mapping[str, Any]) -> bool:
    """Whether an experiment is archived or decided."""
    return is_archived(experiment) or bool(experiment.get("decision")) or state_word(experiment) in _FINISHED


def dependencies_of(experiment: Mapping[str, Any]) -> dict[str, list[str]]:
    """The variants that an experiment depends on, by the ID of their flag, which may be a group."""
    flags = describe(describe(experiment.get("parentDependencies")).get("flags"))
    return {flag: list(map(str, _list(variants))) for flag, variants in flags.items()}


def experiments_in(groups: Iterable[MutexGroup | DesiredGroup]) -> set[int]:
    """The experiments in groups; those of archived groups only if a file describes them."""
    live = (group for group in groups if not getattr(group, "deleted", None))
    return {each for group in live for slot in group.slots or () for each in slot.experiments or ()}


async def read_experiments(session: MutexSession, experiments: Iterable[int]) -> Experiments:
    """Read experiments: up to 20 one by one, more from the listing, which has 1,000 a page.

    The listing is read while its pages are fewer than the experiments that are missing; those are then read one by one.
    So this costs at most about twice the requests of the cheaper way.

    Returns:
        By ID, the description of each experiment, or the error with which the service rejected the read.

    Raises:
        MutexError: The service cannot be reached, or it rejects the key.

    Source: Experiment Management API, "List experiments" and "Get experiment details".
    """
    results: dict[int, Mapping[str, Any] | APIError] = {}
    wanted = set(experiments)
    numbers = {str(number): number for number in wanted}
    cursor, pages, more = "", 0, len(wanted) > _FEW
    while more and pages < len(wanted) - len(results):
        page = describe(await _get(session, f"{_PATH}?limit=1000&includeArchived=true{cursor}"))
        pages += 1
        for each in map(describe, _list(page.get("experiments"))):
            # What is listed without its state is read singly.
            if (number := numbers.get(str(each.get("id")))) is not None and "state" in each:
                results[number] = each
        following = page.get("nextCursor")
        before, cursor = cursor, f"&cursor={quote(str(following), safe='')}"
        more = following not in (None, "") and cursor != before
    missing = sorted(wanted - results.keys())
    return results | await results_of(lambda each: _get(session, f"{_PATH}/{each:d}"), missing, concurrency=8)


async def _get(session: MutexSession, path: str) -> Mapping[str, Any] | APIError:
    try:
        return describe((await session.request("GET", path)).json())
    except UnexpectedResponseError:
        return {}
    except AuthenticationError:
        raise
    except APIError as error:
        return error


def check_running(plan: Plan, experiments: Experiments) -> list[AffectedExperiment]:
    """Find the experiments affected by a plan that are running, or not clearly stopped, sorted by ID.

    ``experiments`` is what ``read_experiments(session, plan.experiments)`` returned.
    """
    affected: dict[int, list[str]] = {}
    for change in plan.changes:
        for experiment in change.experiments:
            affected.setdefault(experiment, []).append(change.name)
    findings: list[AffectedExperiment] = []
    for experiment, groups in sorted(affected.items()):
        state, reason = state_of(experiments.get(experiment, {}))
        if state != "stopped":
            findings.append(AffectedExperiment(experiment=experiment, state=state, groups=groups, reason=reason))
    return findings


def describe(value: object) -> Mapping[str, Any]:
    """Return a description if ``value`` is one; empty for an error, or for anything else."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []
