"""Renders plans as text, JSON, Markdown and HTML. The command line adds colours; the page itself is ``report.html``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import to_builtins
from msgspec.structs import replace

from aiomutex._util.files import fill_page
from aiomutex._util.wording import counted
from aiomutex.models import SLOT_LISTS, MutexGroup
from aiomutex.plan.changes import GroupPlan, Moves, Plan, after, by_index
from aiomutex.plan.desired import Desired
from aiomutex.plan.experiments import AffectedExperiment, Experiments, describe, is_finished, state_of, state_word
from aiomutex.plan.lint import Finding, lint
from aiomutex.plan.successor import passages

Line = tuple[str, str]
"""A mark and a text. The mark is "+", "-" or "~" for a change, "!" for an error, "?" for a note, or " "."""

_MARKS: Final = {"create": "+", "update": "~", "archive": "-", "unarchive": "+", "none": " "}
_DIFF_MARKS: Final = {"~": "!", "?": "#"}
_MAX_MEMBERS: Final = 12
_MAX_MARKDOWN: Final = 60_000  # characters of the blocks; a comment on GitHub may have 65,536
_MAX_LINE: Final = 1_000


class Review(msgspec.Struct, frozen=True):
    """What a reviewer should know beside the plan, and what others should not see."""

    experiments: Experiments = {}
    """Experiments, which are shown with name and state."""
    running: Sequence[AffectedExperiment] = ()
    allow_running: bool = False
    findings: Sequence[Finding] = ()
    """Lint findings that the plan would add."""
    show_individuals: bool = True
    """Whether individuals are listed; otherwise they are counted."""

    def blocked(self, plan: Plan) -> list[str]:
        """Why the plan is blocked, each with the option of ``apply`` that lets it through."""
        running = 0 if self.allow_running else len(self.running)
        reasons = (
            (len(plan.errors), "error", "no option lets them through; change the file"),
            (len(plan.exceeded_thresholds), "exceeded threshold", "--force lets it through"),
            (running, "running experiment", "--allow-running lets it through"),
        )
        return [f"blocked by {counted(count, noun)}: {option}" for count, noun, option in reasons if count]


def render(plan: Plan, review: Review | None = None) -> str:
    """Render a plan as text, with a line of counts at the end.

    Example:
        >>> from aiomutex.plan import parse_desired, plan
        >>> text = "groups: [{projectId: 1, key: a, name: A, slots: [{percentage: 100, experiments: [7]}]}]"
        >>> print(render(plan(parse_desired(text), [])))
        + a (project 1): create
            slot 1: 100 %, experiments 7
        1 to create, 0 to update, 0 to archive; 1 member added, 0 removed
    """
    return "\n".join(text for block in blocks(plan, review or Review()) for _, text in block)


def blocks(plan: Plan, review: Review) -> list[list[Line]]:
    """Render a plan as lines: a block for each group, one for remarks on the whole plan, one for its outcome."""
    hidden = "" if review.show_individuals else "AM104"  # its messages name individuals
    texts = [(each, each.reason if each.code == hidden else each.message) for each in review.findings]
    remarks: list[Line] = [("?", f"? {each.group}: {each.code} {text}") for each, text in texts]
    remarks += [("!", f"! {each}") for each in (*review.running, *plan.exceeded_thresholds)]
    end: list[Line] = [*(("!", f"! {each}") for each in review.blocked(plan)), (" ", summary(plan))]
    moves = plan.moves
    return [*(list(_group(group, review, moves)) for group in plan.groups), remarks, end]


def summary(plan: Plan) -> str:
    """Render the counts of a plan in one line."""
    counts = plan.counts
    parts = f"{counts.creates:,} to create, {counts.updates:,} to update, {counts.archives:,} to archive"
    parts += f", {counts.unarchives:,} to unarchive" if counts.unarchives else ""
    parts += f"; {counted(counts.added, 'member')} added, {counts.removed:,} removed"
    parts += f", {counts.moved:,} moved" if counts.moved else ""
    parts += f"; {counted(counts.errors, 'error')}" if counts.errors else ""
    unmentioned = counted(plan.unmentioned, "live group is", "live groups are")
    return ("no changes" if plan.empty else parts) + (f"; {unmentioned} not in the file" if plan.unmentioned else "")


def plan_json(plan: Plan, review: Review | None = None) -> dict[str, Any]:
    """Render a plan as plain values."""
    review = review or Review()
    known = {each: describe(review.experiments[each]) for each in plan.experiments if each in review.experiments}
    return {
        "groups": to_builtins(plan.groups),
        "counts": to_builtins(plan.counts),
        "unmentioned": plan.unmentioned,
        "errors": plan.errors,
        "exceededThresholds": plan.exceeded_thresholds,
        "running": to_builtins(review.running),
        "findings": to_builtins(review.findings),
        "blocked": review.blocked(plan),
        "experiments": {str(each): [found.get("name"), found.get("state")] for each, found in known.items()},
        "successors": [_succession(each) for each in plan.groups if each.awaited],
        "empty": plan.empty,
    }


def _group(group: GroupPlan, review: Review, all_moves: Moves) -> Iterator[Line]:
    touched = [(each, member) for each in group.all_lists for member in (*each.removed, *each.added)]
    keys: set[Any] = {(group.project_id, each.field, member) for each, member in touched} & all_moves.keys()
    moves = sorted(((key[1], key[2], *all_moves[key]) for key in keys), key=itemgetter(0, 2, 3, 1))
    mark = _MARKS[group.action] if not group.errors else "!"
    title: str = "blocked" if group.errors else "no change" if group.action == "none" else group.action
    if group.action == "archive":
        leaving = group.members - sum(len(left) for _, _, left, _ in moves)
        title += f" ({counted(leaving, 'member leaves its slot', 'members leave their slots')} permanently)"
    yield mark, f"{mark} {group.name}: {title}".lstrip()
    for error in group.errors:
        yield "!", f"    ! {error}"
    for index, slot in enumerate(group.new.slots if group.new is not None else (), 1):
        lists = [(name, getattr(slot, name)) for name in SLOT_LISTS]
        parts = [f"{slot.percentage} %", *(f"{name} {_members(name, each, review)}" for name, each in lists if each)]
        yield "+", f"    slot {index}: {', '.join(parts)}"
    for field in group.fields:
        old, new = ("none" if each is None else repr(each) for each in (field.before, field.after))
        yield "~", f"    {field.field}: {old} → {new}"
    paths: dict[tuple[str, str], list[int | str]] = {}
    for list_name, member, *sides in moves if not (group.new or group.awaited) else ():
        places = ([f"{key if key != group.key else ''} slot {n}".lstrip() for key, n in side] for side in sides)
        paths.setdefault((list_name, " → ".join(map(" and ".join, places))), []).append(member)
    for (name, path), members in paths.items():
        noun = name if len(members) > 1 else name.removesuffix("s")
        yield "~", f"    {noun} {_members(name, members, review)}: {path}"
    for change in group.lists:
        for sign, members in (("+", change.added), ("-", change.removed)):
            if rest := [each for each in members if (group.project_id, change.field, each) not in keys]:
                shown = _members(change.field, rest, review)
                yield sign, f"    slot {change.slot_index} {change.field}: {sign} {shown}"
    if group.awaited:
        found = _succession(group)
        yield "~", f"    replaced by {found['successor']}: {found['moved']:g} % of the users move"
        for each in found["slots"]:
            path = " → ".join(f"slot {index}" if index else "no slot" for index in (each["before"], each["after"]))
            mark, word = ("~", "move") if each["moves"] else (" ", "stay")
            yield mark, f"    {path}: {each['percentage']:g} % {word}"
    for note in group.notes:
        yield "?", f"    ? {note}"


def _succession(group: GroupPlan) -> dict[str, Any]:
    pair = [each for each in (group.old, group.successor) if each is not None]
    slots = passages(*map(by_index, pair))
    moved = round(sum(each["percentage"] for each in slots if each["moves"]), 6)
    return {"group": group.name, "successor": pair[1].key, "moved": moved, "slots": slots}


def _members(name: str, members: Sequence[int | str], review: Review) -> str:
    if name == "individuals" and not review.show_individuals:
        return f"({len(members):,})"
    known: Mapping[Any, Any] = review.experiments if name == "experiments" else {}
    named = ((member, describe(known.get(member))) for member in members[:_MAX_MEMBERS])
    shown = [f"{each} {info['name']!r} ({state_word(info)})" if info.get("name") else str(each) for each, info in named]
    more = len(members) - _MAX_MEMBERS
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")


def markdown(plan: Plan, review: Review | None = None) -> str:
    """Render a plan as Markdown of less than 65,000 characters, for a comment on a pull request.

    Each group is folded. The first line is an invisible marker, by which a later run finds its comment.
    """
    *groups, remarks, (*blocked, _) = blocks(plan, review or Review(show_individuals=False))
    parts = ["<!-- aiomutex-plan -->", f"### Mutex groups: {summary(plan)}"]
    if blocked or remarks:
        parts.append(_fenced(blocked + remarks))
    left = _MAX_MARKDOWN - sum(map(len, parts))
    for number, (title, *lines) in enumerate(groups):
        summary_ = f"<summary><code>{escape(' '.join(title[1].split()))}</code></summary>"
        part = f"<details>{summary_}\n\n{_fenced(lines)}\n\n</details>"
        if (left := left - len(part) - 2) < 0:
            parts.append(f"… and {counted(len(groups) - number, 'more group')}, which do not fit here.")
            break
        parts.append(part)
    return "\n\n".join(parts) + "\n"


def _fenced(lines: list[Line]) -> str:
    parts = ((mark, " ".join(line.split()).removeprefix(f"{mark} ")) for mark, line in lines)
    marked = (f"{_DIFF_MARKS.get(mark, mark)} {part[:_MAX_LINE]}" for mark, part in parts)
    text = "\n".join(marked)[: _MAX_MARKDOWN // 2]
    fence = "`" * (max([2, *map(len, re.findall("`+", text))]) + 1)
    return f"{fence}diff\n{text}\n{fence}"


def report(live: list[MutexGroup], plan: Plan, review: Review | None = None) -> str:
    """Render live groups, and a plan for them unless it is empty, as one HTML page that needs no network.

    The experiments of ``review`` have the names that the page shows, and the states that decide which slots are free.
    """
    review = review or Review(show_individuals=False)
    findings = lint(Desired(), experiments=review.experiments, live=live)
    before, later = ([_masked(each, review) for each in groups] for groups in (live, after(plan, live)))
    known = {group.id: group for group in before}
    data = {
        "time": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "groups": before,
        "after": {group.id: group for group in later if group != known.get(group.id)},
        "plan": [] if plan.empty else blocks(plan, review),
        "findings": [each for each in findings if review.show_individuals or each.code != "AM104"],
        "experiments": {
            number: (each.get("name"), state_word(each), state_of(review.experiments[number])[0], is_finished(each))
            for number, each in ((number, describe(found)) for number, found in review.experiments.items())
        },
        "showsIndividuals": review.show_individuals,
    }
    return fill_page(Path(__file__).with_name("report.html"), msgspec.json.encode(data))


def _masked(group: MutexGroup, review: Review) -> MutexGroup:
    if review.show_individuals:
        return group
    return replace(group, slots=[replace(slot, individuals=[""] * len(slot.individuals)) for slot in group.slots])
