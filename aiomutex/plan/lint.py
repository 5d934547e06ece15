"""Checks a desired state for what is allowed but probably not intended. Each rule has a code and a reason.

Disable a rule for a group with ``ignore: [AM105]``, and for a file with ``lint: {ignore: [AM105]}``.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias
from unicodedata import is_normalized, normalize

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from aiomutex._util.wording import counted
from aiomutex.errors import APIError, NotFoundError
from aiomutex.plan.changes import Plan, after
from aiomutex.plan.desired import Desired, DesiredGroup, Identity, identity_of
from aiomutex.plan.diff import plan
from aiomutex.plan.dump import desired_from
from aiomutex.plan.experiments import Experiments, dependencies_of, describe, experiments_in, is_archived, is_finished

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from aiomutex.models import MutexGroup

    _Violations: TypeAlias = Iterator[tuple[DesiredGroup, str, str, int]]
    """The group, code, message and line of each violation."""

Severity = Literal["error", "warning"]

_RULES: Final = Path(__file__).with_name("rules.json").read_bytes()
RULES: Final = msgspec.json.decode(_RULES, type=dict[str, tuple[Severity, str]])
"""By code, the severity of each rule and the reason for it."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A violation of a rule."""

    code: str
    severity: Severity
    """``error`` for what cannot work, ``warning`` for what may be intended."""
    line: int
    """The line in the file; 0 if it is unknown."""
    group: str
    message: str
    reason: str

    def __str__(self) -> str:
        return f"{self.code} {self.severity}: {self.group}: {self.message}. {self.reason}"


def lint(
    desired: Desired, *, experiments: Experiments | None = None, live: Iterable[MutexGroup] | None = None
) -> list[Finding]:
    """Check a desired state, or the live groups as they will be once it is applied.

    Args:
        desired: The desired state.
        experiments: What ``read_experiments`` returned. AM108 and the rules from AM111 on check only these experiments.
        live: All live groups. They are checked too, with the changes that the desired state makes.

    Returns:
        The violations of rules that are not disabled, in the order of the file, or by project and key with ``live``.

    Example:
        >>> from aiomutex.plan import parse_desired
        >>> text = "groups: [{projectId: 1, key: a, slots: [{percentage: 100, experiments: []}]}]"
        >>> [finding.code for finding in lint(parse_desired(text))]
        ['AM105']
    """
    found, current = experiments or {}, list(live or ())
    if live is not None:
        lines = {group.identity: group.line for group in desired.groups}
        state = desired_from(after(plan(desired, current), current), settings=desired)
        desired = replace(state, groups=tuple(replace(each, line=lines.get(each.identity, 0)) for each in state.groups))
    groups = {group.identity: group for group in desired.groups if group.archived is not True}
    violations = [(group, *each) for group in groups.values() for each in _check_group(group, found)]
    violations += _check_repetitions(groups.values())
    violations += _check_dependencies(groups, current, found)
    order = {identity: position for position, identity in enumerate(groups)}
    violations.sort(key=lambda each: (order[each[0].identity], each[3], each[1]))
    return [
        Finding(code=code, line=line, group=group.key, message=message, severity=RULES[code][0], reason=RULES[code][1])
        for group, code, message, line in violations
        if code not in (*group.ignore, *desired.ignore)
    ]


def new_findings(changes: Plan, desired: Desired, live: list[MutexGroup]) -> list[Finding]:
    """The findings on all live groups that a plan would add to those that there are without it."""
    known = set(lint(desired_from(live, settings=desired)))
    return [each for each in lint(desired_from(after(changes, live), settings=desired)) if each not in known]


def _check_group(group: DesiredGroup, experiments: Experiments) -> Iterator[tuple[str, str, int]]:
    if not is_normalized("NFC", group.key):
        yield "AM110", "the key is not in Unicode normal form C", group.line
    if group.evaluation_mode == "local" and group.bucketing_key in (UNSET, "amplitude_id"):
        default = " (the default)" if group.bucketing_key is UNSET else ""
        yield "AM103", f"evaluationMode is local and bucketingKey is amplitude_id{default}", group.line
    if group.slots is UNSET:
        return
    total = sum(slot.percentage for slot in group.slots)
    if total < 99.999:  # noqa: PLR2004  # three thirds may be written 33.333
        yield "AM101", f"the slots add up to {total:g} %, so {100 - total:g} % of the users get no slot", group.line
    first: dict[str, int] = {}
    for index, slot in enumerate(group.slots, 1):
        if slot.percentage == 0:
            yield "AM102", f"slot {index} has 0 %", slot.line or group.line
        for individual in slot.individuals or ():
            if first.setdefault(individual, index) != index:
                message = f"individual {individual!r} is in slot {first[individual]} and again in slot {index}"
                yield "AM104", message, slot.line or group.line
        if slot.experiments == () and not (slot.holdouts or slot.individuals):
            yield "AM105", f"slot {index} has no members", slot.line or group.line
        if slot.cohorts:
            yield "AM109", f"slot {index} has cohorts", slot.line or group.line
        for experiment in slot.experiments or ():
            for code, problem in _check_experiment(experiments.get(experiment, {}), group):
                yield code, f"experiment {experiment} {problem}", slot.line or group.line
    local = sum(describe(experiments.get(each)).get("evaluationMode") == "local" for each in experiments_in([group]))
    if group.evaluation_mode == "local" and local:
        yield "AM118", f"{counted(local, 'experiment is', 'experiments are')} evaluated locally", group.line


def _check_experiment(result: Mapping[str, Any] | APIError, group: DesiredGroup) -> Iterator[tuple[str, str]]:
    if isinstance(result, NotFoundError):
        yield "AM111", "does not exist, as far as the service says"
    experiment = describe(result)
    project, end = str(experiment.get("projectId") or group.project_id), str(experiment.get("endDate"))[:10]
    if is_finished(experiment):
        yield ("AM112", "is archived") if is_archived(experiment) else ("AM113", "is decided")
    elif re.fullmatch(r"\d{4}-\d\d-\d\d", end) and end < datetime.now(UTC).date().isoformat():
        yield "AM114", f"ended on {end}"
    if project != group.project_id:
        yield "AM115", f"belongs to project {project}, and the group to project {group.project_id}"
    if experiment.get("evaluationMode") == "local" and group.evaluation_mode != "local":
        mode = "remote" if group.evaluation_mode is UNSET else group.evaluation_mode
        yield "AM108", f"has local evaluation, but the group has {mode} evaluation"
    if len(parents := dependencies_of(experiment)) > 1:
        yield "AM117", f"depends on {len(parents)} flags or groups ({', '.join(parents)})"


def _check_dependencies(
    groups: Mapping[Identity, DesiredGroup], live: list[MutexGroup], experiments: Experiments
) -> _Violations:
    known = {number: each for number, each in experiments.items() if "parentDependencies" in describe(each)}
    slots: dict[tuple[str, int], tuple[set[str], set[str]]] = {}
    for group in live:
        for slot in group.slots:
            for number in known.keys() & set(slot.experiments):
                slots.setdefault((group.id, number), (set(), set()))[0].add(slot.variant_key or f"slot-{slot.index}")
    for number, experiment in known.items():
        for parent, variants in dependencies_of(describe(experiment)).items():
            slots.setdefault((parent, number), (set(), set()))[1].update(variants)
    by_id = {group.id: groups.get(identity_of(group.project_id, group.key)) for group in live if not group.deleted}
    for (parent, number), sides in sorted(slots.items()):
        if (checked := by_id.get(parent)) is not None and sides[0] != sides[1]:
            actual, expected = (" and ".join(sorted(side)) or "no slot" for side in sides)
            message = f"experiment {number} is in {actual}, and depends on {expected} of the group"
            yield checked, "AM116", message, checked.line


def _check_repetitions(groups: Iterable[DesiredGroup]) -> _Violations:
    first: dict[object, DesiredGroup] = {}
    for group in groups:
        split = [(group.bucketing_salt, group.bucketing_key)] if group.bucketing_salt else []
        for trait in (*sorted(experiments_in([group])), *split, normalize("NFC", group.key).casefold()):
            if (other := first.setdefault(trait, group)) is group:
                continue
            if isinstance(trait, int) and split != [(other.bucketing_salt, other.bucketing_key)]:
                yield group, "AM106", f"experiment {trait} is also in {other.key}", group.line
            elif isinstance(trait, str):
                yield group, "AM107", f"project {other.project_id} has a group with the key {other.key}", group.line
            elif isinstance(trait, tuple):
                yield group, "AM119", f"the bucketing salt and key are those of {other.key}", group.line
