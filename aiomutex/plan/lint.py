"""Rules that a desired state should keep although nothing enforces them: each has a code and a reason.

Silence a rule for a group with ``ignore: [AM105]`` beside its key, for a file under ``lint: {ignore: [...]}``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
from msgspec import UNSET

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from aiomutex.plan.desired import Desired, DesiredGroup

__all__ = ["RULES", "Finding", "Severity", "lint"]

Severity = Literal["error", "warning"]

RULES: Final[dict[str, tuple[Severity, str]]] = {
    "AM101": (
        "warning",
        "Percentages below 100 leave users in no slot; such a group can be described, but not created.",
    ),
    "AM102": ("error", "A slot of 0 % gets no users but its individuals; the service accepts 1 to 100."),
    "AM103": (
        "warning",
        "Local evaluation usually cannot see amplitude_id, so nobody would land in a slot; use device_id or user_id.",
    ),
    "AM104": ("warning", "An individual listed in two slots lands in the first; the second listing has no effect."),
    "AM105": ("warning", "A slot without members takes traffic and gives it to nobody; it may be a reserve."),
    "AM106": (
        "warning",
        "An experiment in several groups gets the product of its shares: a half of a half is a quarter.",
    ),
    "AM107": (
        "warning",
        "Keys that differ only in case, or that two projects share, are easily taken for one another.",
    ),
    "AM108": ("error", "An experiment with local evaluation can only join groups with local evaluation."),
    "AM109": ("warning", "Cohorts are shown in a plan and never written, because the service documents no way to."),
}
"""Severity and reason of each rule, by code."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One place where a rule is not kept."""

    code: str
    line: int
    """In the file; 0 where it is not known."""
    group: str
    text: str
    """What was found."""

    @property
    def severity(self) -> Severity:
        """``error`` for what cannot work, ``warning`` for what may be meant."""
        return RULES[self.code][0]

    @property
    def why(self) -> str:
        """The reason for the rule."""
        return RULES[self.code][1]

    def __str__(self) -> str:
        return f"{self.code} {self.severity}: {self.group}: {self.text}. {self.why}"


def lint(desired: Desired, *, modes: Mapping[int, str] | None = None) -> list[Finding]:
    """Every place of a desired state where a rule is not kept and not silenced, in the order of the file.

    Args:
        desired: The state.
        modes: The evaluation mode of experiments by id, where known; without it AM108 has nothing to say.

    Example:
        >>> from aiomutex.plan import parse_desired
        >>> text = "groups: [{projectId: 1, key: a, slots: [{percentage: 100}]}]"
        >>> [finding.code for finding in lint(parse_desired(text))]
        ['AM105']
    """
    live = [group for group in desired.groups if group.archived is not True]
    findings = [
        finding
        for group in live
        for finding in _group(group, modes or {})
        if finding.code not in (*group.ignore, *desired.ignore)
    ]
    findings += [
        finding
        for group, finding in (*_several_groups(live), *_clashes(live))
        if finding.code not in (*group.ignore, *desired.ignore)
    ]
    return sorted(findings, key=lambda finding: (finding.line, finding.code))


def _members(given: Any) -> tuple[Any, ...]:
    return () if given is UNSET else given


def _group(group: DesiredGroup, modes: Mapping[int, str]) -> Iterator[Finding]:
    def found(code: str, text: str, line: int = 0) -> Finding:
        return Finding(code=code, line=line or group.line, group=group.key, text=text)

    bucketing_key = "amplitude_id" if group.bucketing_key is UNSET else group.bucketing_key
    if group.evaluation_mode == "local" and bucketing_key == "amplitude_id":
        given = "by default" if group.bucketing_key is UNSET else "as written"
        yield found("AM103", f"evaluationMode is local and bucketingKey is amplitude_id {given}")
    if group.slots is UNSET:
        return
    total = sum(slot.percentage for slot in group.slots)
    if total < 99.999:  # noqa: PLR2004  # three thirds may be written 33.333
        yield found("AM101", f"the slots add up to {total:g} %, so {100 - total:g} % of the users are in no slot")
    first: dict[str, int] = {}
    for index, slot in enumerate(group.slots, 1):
        if slot.percentage == 0:
            yield found("AM102", f"slot {index} has 0 %", slot.line)
        for individual in _members(slot.individuals):
            if first.setdefault(individual, index) != index:
                text = f"individual {individual!r} is listed in slot {index} and in slot {first[individual]} before it"
                yield found("AM104", text, slot.line)
        if not any(_members(each) for each in (slot.experiments, slot.holdouts, slot.individuals)):
            yield found("AM105", f"slot {index} has no members", slot.line)
        if _members(slot.cohorts):
            yield found("AM109", f"slot {index} lists cohorts", slot.line)
        for experiment in _members(slot.experiments):
            if modes.get(experiment) == "local" and group.evaluation_mode != "local":
                mode = "remote" if group.evaluation_mode is UNSET else group.evaluation_mode
                yield found("AM108", f"experiment {experiment} is local, the group is {mode}", slot.line)


def _several_groups(groups: list[DesiredGroup]) -> Iterator[tuple[DesiredGroup, Finding]]:
    homes: dict[int, list[DesiredGroup]] = {}
    for group in groups:
        slots = () if group.slots is UNSET else group.slots
        for experiment in sorted({each for slot in slots for each in _members(slot.experiments)}):
            homes.setdefault(experiment, []).append(group)
    for experiment, home in homes.items():
        for group in home[1:]:
            text = f"experiment {experiment} is in {home[0].key} too"
            yield group, Finding(code="AM106", line=group.line, group=group.key, text=text)


def _clashes(groups: list[DesiredGroup]) -> Iterator[tuple[DesiredGroup, Finding]]:
    first: dict[str, DesiredGroup] = {}
    for group in groups:
        other = first.setdefault(group.key.casefold(), group)
        if other is not group:
            text = f"there is {other.key} in project {other.project_id} too"
            yield group, Finding(code="AM107", line=group.line, group=group.key, text=text)
