"""Checks a desired state for what is allowed but probably not intended. Each rule has a code and a reason.

Disable a rule for a group with ``ignore: [AM105]``, and for a file with ``lint: {ignore: [AM105]}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from unicodedata import is_normalized, normalize

import msgspec
from msgspec import UNSET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiomutex.plan.desired import Desired, DesiredGroup
    from aiomutex.plan.experiments import Experiments

    _Violations: TypeAlias = Iterator[tuple[DesiredGroup, str, str, int]]
    """The group, code, message and line of each violation."""

__all__ = ["RULES", "Finding", "Severity", "lint"]

Severity = Literal["error", "warning"]

RULES: Final[dict[str, tuple[Severity, str]]] = {
    "AM101": ("warning", "Percentages below 100 leave users without a slot. The API cannot create such a group."),
    "AM102": ("error", "A slot of 0 % gets no users except its individuals. The service accepts 1 to 100."),
    "AM103": (
        "warning",
        "Local evaluation mostly lacks amplitude_id, so users get no slot. Use device_id or user_id.",
    ),
    "AM104": ("warning", "An individual in two slots gets the first one; the second has no effect."),
    "AM105": ("warning", "A slot without members takes traffic from the others. It may be a reserve."),
    "AM106": ("warning", "An experiment's traffic shares in several groups multiply: half of a half is a quarter."),
    "AM107": ("warning", "Keys that differ only in case, or that are used in two projects, are easily confused."),
    "AM108": ("error", "An experiment with local evaluation can only join groups with local evaluation."),
    "AM109": ("warning", "Cohorts are compared and never written, because the service does not document a way."),
    "AM110": ("warning", "Plans compare keys in Unicode normal form C; other tools may see two keys that look alike."),
}
"""By code, the severity of each rule and the reason for it."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A violation of a rule."""

    code: str
    line: int
    """The line in the file; 0 if it is unknown."""
    group: str
    message: str
    """What is wrong."""

    @property
    def severity(self) -> Severity:
        """``error`` for what cannot work, ``warning`` for what may be intended."""
        return RULES[self.code][0]

    @property
    def reason(self) -> str:
        """The reason for the rule."""
        return RULES[self.code][1]

    def __str__(self) -> str:
        return f"{self.code} {self.severity}: {self.group}: {self.message}. {self.reason}"


def lint(desired: Desired, *, experiments: Experiments | None = None) -> list[Finding]:
    """Check a desired state.

    Args:
        desired: The desired state.
        experiments: What ``read_experiments`` returned. AM108 checks only these experiments.

    Returns:
        The violations of rules that are not disabled, in the order of the file.

    Example:
        >>> from aiomutex.plan import parse_desired
        >>> text = "groups: [{projectId: 1, key: a, slots: [{percentage: 100}]}]"
        >>> [finding.code for finding in lint(parse_desired(text))]
        ['AM105']
    """
    groups = [group for group in desired.groups if group.archived is not True]
    violations = [violation for group in groups for violation in _check_group(group, experiments or {})]
    violations += _check_shared_experiments(groups)
    violations += _check_similar_keys(groups)
    order = {group.identity: position for position, group in enumerate(groups)}
    violations.sort(key=lambda each: (order[each[0].identity], each[3], each[1]))
    return [
        Finding(code=code, line=line, group=group.key, message=message)
        for group, code, message, line in violations
        if code not in (*group.ignore, *desired.ignore)
    ]


def _check_group(group: DesiredGroup, experiments: Experiments) -> _Violations:
    if not is_normalized("NFC", group.key):
        yield group, "AM110", "the key is not in Unicode normal form C", group.line
    bucketing_key = "amplitude_id" if group.bucketing_key is UNSET else group.bucketing_key
    if group.evaluation_mode == "local" and bucketing_key == "amplitude_id":
        default = " (the default)" if group.bucketing_key is UNSET else ""
        message = f"evaluationMode is local and bucketingKey is amplitude_id{default}"
        yield group, "AM103", message, group.line
    if group.slots is UNSET:
        return
    total = sum(slot.percentage for slot in group.slots)
    if total < 99.999:  # noqa: PLR2004  # three thirds may be written 33.333
        message = f"the slots add up to {total:g} %, so {100 - total:g} % of the users get no slot"
        yield group, "AM101", message, group.line
    first: dict[str, int] = {}
    for index, slot in enumerate(group.slots, 1):
        if slot.percentage == 0:
            yield group, "AM102", f"slot {index} has 0 %", slot.line
        for individual in slot.individuals or ():
            if first.setdefault(individual, index) != index:
                message = f"individual {individual!r} is in slot {first[individual]} and again in slot {index}"
                yield group, "AM104", message, slot.line
        if not (slot.experiments or slot.holdouts or slot.individuals):
            yield group, "AM105", f"slot {index} has no members", slot.line
        if slot.cohorts:
            yield group, "AM109", f"slot {index} has cohorts", slot.line
        for experiment in slot.experiments or ():
            found = experiments.get(experiment, {})
            if (
                isinstance(found, Mapping)
                and found.get("evaluationMode") == "local"
                and group.evaluation_mode != "local"
            ):
                mode = "remote" if group.evaluation_mode is UNSET else group.evaluation_mode
                message = f"experiment {experiment} has local evaluation, but the group has {mode} evaluation"
                yield group, "AM108", message, slot.line


def _check_shared_experiments(groups: list[DesiredGroup]) -> _Violations:
    first: dict[int, DesiredGroup] = {}
    for group in groups:
        for experiment in sorted({each for slot in group.slots or () for each in slot.experiments or ()}):
            other = first.setdefault(experiment, group)
            if other is not group:
                yield group, "AM106", f"experiment {experiment} is also in {other.key}", group.line


def _check_similar_keys(groups: list[DesiredGroup]) -> _Violations:
    first: dict[str, DesiredGroup] = {}
    for group in groups:
        other = first.setdefault(normalize("NFC", group.key).casefold(), group)
        if other is not group:
            message = f"project {other.project_id} has a group with the key {other.key}"
            yield group, "AM107", message, group.line
