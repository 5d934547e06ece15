"""The commands ``aiomutex pull``, ``plan``, ``apply`` and ``lint``: mutex groups as code."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aiomutex._util.files import open_private
from aiomutex._util.wording import counted
from aiomutex.cli.common import (
    BLOCKED,
    CHANGES,
    FilePath,
    call,
    confirm,
    echo,
    fail,
    json_option,
    print_json,
    printable,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aiomutex import MutexSession
    from aiomutex.plan import AffectedExperiment, Plan, Step
    from aiomutex.plan.render import Line

_COLOURS = {"+": "green", "-": "red", "~": "yellow", "!": "bright_red", "?": "cyan", " ": None}

_file_argument = click.argument("file", type=FilePath(exists=True))
_check_running_option = click.option("--check-running", is_flag=True, help="Block if it affects a running experiment.")
_allow_running_option = click.option("--allow-running", is_flag=True, help="Show running experiments without blocking.")


def _print_lines(lines: Iterable[Line]) -> None:
    for mark, text in lines:
        click.secho(printable(text, keep=""), fg=_COLOURS[mark])


@click.command()
@click.argument("file", type=FilePath())
@click.option("--project", "projects", multiple=True, help="Only groups of this project. Can be repeated.")
@click.option("--archived", is_flag=True, help="Include archived groups.")
@click.option("--overwrite", is_flag=True, help="Overwrite FILE even if it has comments, which are lost.")
def pull(file: str, projects: tuple[str, ...], archived: bool, overwrite: bool) -> None:
    """Write the live groups to FILE (.yaml or .json), sorted."""
    from aiomutex.plan import desired_from, dump_desired, load_desired
    from aiomutex.plan.desired import identity_of
    from aiomutex.plan.dump import same_content
    from aiomutex.plan.formats import FORMATS

    path = Path(file)
    format_ = FORMATS.get(path.suffix.lower())
    if format_ is None:
        fail(f"{file}: the name must end in one of {', '.join(FORMATS)}", 2)
    existing = load_desired(file) if path.exists() and path.stat().st_size else None
    known = {group.identity for group in existing.groups} if existing else set[tuple[str, str]]()
    groups = [
        group
        for group in call(lambda session: session.list_groups().collect())
        if (archived or not group.deleted or identity_of(group.project_id, group.key) in known)
        and (not projects or group.project_id in projects)
    ]
    if unnamed := sum(not (group.key and group.project_id) for group in groups):
        echo(f"aiomutex: skipped {counted(unnamed, 'group')} without a key or project", err=True)
    desired = desired_from(groups, settings=existing)
    count = counted(len(desired.groups), "live group")
    if existing is not None and same_content(existing, desired):
        echo(f"{file} already describes the {count}")
        return
    if existing is not None and not overwrite and _has_comments(path, format_):
        problem = "differs from the live groups and has comments, which would be lost; pass --overwrite to lose them"
        fail(f"{file} {problem}", BLOCKED)
    text = dump_desired(desired, format_, sort=True)
    with open_private(path) as opened:
        opened.write(text)
    echo(f"Wrote {count} to {file}")


def _has_comments(path: Path, format_: str) -> bool:
    """Whether a file may have comments. A "#" inside a string counts, to be on the safe side."""
    return format_ == "yaml" and re.search(r"(?:^|\s)#", path.read_text("utf-8"), re.MULTILINE) is not None


@click.command()
@_file_argument
@click.option("--out", type=FilePath(), help="Save the plan to this file, for 'aiomutex apply'.")
@json_option
@_check_running_option
@_allow_running_option
def plan(file: str, out: str | None, as_json: bool, check_running: bool, allow_running: bool) -> None:
    """Show how the live groups would change to match FILE. Writes nothing."""
    from aiomutex.plan import load_desired, save_plan
    from aiomutex.plan import plan as make_plan

    desired = load_desired(file)

    async def work(session: MutexSession) -> tuple[Plan, list[AffectedExperiment]]:
        changes = make_plan(desired, await session.list_groups().collect())
        return changes, await _running(session, changes) if check_running else []

    changes, running = call(work)
    if out is not None:
        save_plan(changes, out)
    _show(changes, running, as_json=as_json)
    if changes.errors or changes.exceeded_thresholds or (running and not allow_running):
        sys.exit(BLOCKED)
    sys.exit(0 if changes.empty else CHANGES)


async def _running(session: MutexSession, changes: Plan) -> list[AffectedExperiment]:
    from aiomutex.plan import check_running, read_experiments

    return check_running(changes, await read_experiments(session, changes.experiments))


def _show(changes: Plan, running: Sequence[AffectedExperiment], *, as_json: bool = False) -> None:
    from aiomutex.plan.render import lines, plan_json, summary

    if as_json:
        print_json(plan_json(changes, running=running))
    else:
        _print_lines([*lines(changes), *(("!", f"! {each}") for each in running), (" ", summary(changes))])


@click.command()
@click.argument("file", metavar="FILE_OR_PLAN", type=FilePath(exists=True))
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--force", is_flag=True, help="Apply even if a threshold of the file is exceeded.")
@click.option("--journal", type=FilePath(), help="Record what each slot held before, for an undo.")
@click.option("--no-verify", is_flag=True, help="Do not read the groups back after writing.")
@_check_running_option
@_allow_running_option
def apply(
    file: str, yes: bool, force: bool, journal: str | None, no_verify: bool, check_running: bool, allow_running: bool
) -> None:
    """Change the live groups to match a file, or apply a saved plan."""
    from aiomutex.plan import apply as apply_plan
    from aiomutex.plan import load_desired, load_plan, remaining
    from aiomutex.plan import plan as make_plan
    from aiomutex.plan.saved import is_saved_plan

    saved = is_saved_plan(file)
    desired = None if saved else load_desired(file)

    async def look(session: MutexSession) -> tuple[Plan, Plan, list[AffectedExperiment]]:
        live = await session.list_groups().collect()
        changes = load_plan(file) if desired is None else make_plan(desired, live)
        left = remaining(changes, live) if saved and not changes.errors else changes
        return changes, left, await _running(session, left) if check_running else []

    changes, left, running = call(look)
    _show(left, running)
    if changes.errors or (running and not allow_running):
        fail("the plan is blocked; nothing was written", BLOCKED)
    if not left.changes:
        return
    if left.exceeded_thresholds and not force:
        fail("the plan exceeds a threshold; pass --force to apply it anyway", BLOCKED)
    if not yes:
        confirm("Apply?", without_terminal="no terminal to ask for confirmation; pass --yes to apply the plan")

    options: dict[str, Any] = {"force": force, "journal": journal, "verify": not no_verify}
    report = call(lambda session: apply_plan(session, changes, on_step=_report_failure, **options))
    applied = sum(step.status == "applied" for step in report.steps)
    echo(f"{applied:,} of {counted(len(report.steps), 'step')} applied")
    if not report.complete:
        fail(f"{len(report.failed):,} failed, {len(report.skipped):,} not sent; run the command again to resume")


def _report_failure(step: Step) -> None:
    if step.status != "applied":
        echo(f"aiomutex: {step}", err=True)


@click.command()
@_file_argument
@json_option
@click.option("--strict", is_flag=True, help="Fail on warnings too.")
@click.option("--check-modes", is_flag=True, help="Read the experiments' evaluation modes from the service (AM108).")
def lint(file: str, as_json: bool, strict: bool, check_modes: bool) -> None:
    """Check FILE for what is allowed but probably not intended. Needs no key and no network."""
    from aiomutex.plan import lint as check
    from aiomutex.plan import load_desired, read_experiments

    desired = load_desired(file)
    numbers = {number for group in desired.groups for slot in group.slots or () for number in slot.experiments or ()}
    experiments = call(lambda session: read_experiments(session, numbers)) if check_modes else None
    findings = check(desired, experiments=experiments)
    if as_json:
        fields = ("code", "severity", "line", "group", "message", "reason")
        print_json([{name: getattr(finding, name) for name in fields} for finding in findings])
    else:
        for finding in findings:
            line = f":{finding.line}" if finding.line else ""
            _print_lines([("!" if finding.severity == "error" else "~", f"{file}{line}: {finding}")])
        if not findings:
            echo(f"{file}: {counted(len(desired.groups), 'group')}, no findings")
    if any(strict or finding.severity == "error" for finding in findings):
        sys.exit(1)
