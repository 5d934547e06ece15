"""``aiomutex pull``, ``plan``, ``apply`` and ``lint``: mutex groups as code.

Exit codes here are 0 nothing to do or done, 1 an error (wrong usage too), 2 changes (or findings of ``lint``), and 3
blocked: something must be decided by a person first.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from aiomutex.cli.common import console, echo, fail, json_option, print_json, printable
from aiomutex.cli.desired import ExitOneCommand, live_groups, load, run_with_session

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from aiomutex import MutexSession
    from aiomutex.plan import ApplyReport, Desired, Plan, Step, TouchedExperiment
    from aiomutex.plan.render import Line

__all__ = ["apply", "lint", "plan", "pull"]

CHANGES = 2
BLOCKED = 3
_COLOURS = {"+": "green", "-": "red", "~": "yellow", "!": "bold red", "?": "cyan", " ": ""}
_FILE = click.argument("file", type=click.Path(exists=True, dir_okay=False))
_CHECK = click.option(
    "--check-running", is_flag=True, help="Read each experiment the plan touches, and block it if one runs."
)
_ALLOW = click.option("--allow-running", is_flag=True, help="Show running experiments, but do not block.")


def _leave(code: int) -> NoReturn:
    raise click.exceptions.Exit(code)


def _print_lines(lines: Iterable[Line]) -> None:
    from rich.text import Text

    screen = console()
    for mark, text in lines:
        safe = printable(text, keep="")
        if screen.is_terminal:
            # Names may hold what rich takes for markup, too.
            screen.print(Text(safe, style=_COLOURS[mark]), soft_wrap=True)
        else:
            echo(safe)


# ---------------------------------------------------------------------- pull


@click.command(cls=ExitOneCommand)
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--project", "projects", multiple=True, help="Only groups of this project; may be given several times.")
@click.option("--archived", is_flag=True, help="Write archived groups too.")
@click.option("--overwrite", is_flag=True, help="Write although comments in the file would be lost.")
def pull(file: str, projects: tuple[str, ...], archived: bool, overwrite: bool) -> None:
    """Write the live groups to FILE (.yaml or .json), sorted; a second pull changes nothing.

    Archived groups are written if FILE has them already, or with --archived. Thresholds and silenced lint rules of an
    existing FILE are kept. A FILE that describes the live groups already is left alone, comments and all.

    \b
    Examples:
      aiomutex pull groups.yaml
      aiomutex pull groups.json --project 1234
    """  # noqa: D301  # click's own escape
    from aiomutex.plan import desired_from, dump_desired
    from aiomutex.plan.dump import same_content
    from aiomutex.plan.formats import FORMATS

    path = Path(file)
    format_ = FORMATS.get(path.suffix.lower())
    if format_ is None:
        fail(f"{file}: the name must end in one of {', '.join(FORMATS)}")
    existing = load(file) if path.exists() and path.stat().st_size else None
    live = run_with_session(live_groups)
    known = {group.identity for group in existing.groups} if existing else set[tuple[str, str]]()
    groups = [
        group
        for group in live
        if (archived or not group.deleted or (group.project_id, group.key) in known)
        and (not projects or group.project_id in projects)
    ]
    unnamed = sum(not (group.key and group.project_id) for group in groups)
    if unnamed:
        echo(f"aiomutex: {unnamed:,} groups without a key or project cannot be written to a file", err=True)
    desired = desired_from(groups, settings=existing)
    if existing is not None and same_content(existing, desired):
        echo(f"{file} describes the {len(desired.groups):,} live groups already")
        return
    if existing is not None and not overwrite and _has_comments(path, format_):
        fail(f"{file} differs from the live groups, and its comments would be lost; give --overwrite to write it anew")
    path.write_text(dump_desired(desired, format_, sort=True), encoding="utf-8", newline="\n")
    echo(f"Wrote {len(desired.groups):,} groups to {file}")


def _has_comments(path: Path, format_: str) -> bool:
    """Whether a file may have comments. A "#" inside a string counts, to be on the safe side."""
    return format_ == "yaml" and re.search(r"(?:^|\s)#", path.read_text("utf-8"), re.MULTILINE) is not None


# ---------------------------------------------------------------------- plan


@click.command(cls=ExitOneCommand)
@_FILE
@click.option("--out", type=click.Path(dir_okay=False), help="Save the plan here, for 'aiomutex apply'.")
@json_option
@_CHECK
@_ALLOW
def plan(file: str, out: str | None, as_json: bool, check_running: bool, allow_running: bool) -> None:
    """Show what it takes to bring the live groups to FILE. Nothing is written.

    Exit codes: 0 nothing to do, 2 changes, 1 an error, 3 blocked (something immutable differs, a threshold is exceeded,
    or a running experiment is touched).

    \b
    Examples:
      aiomutex plan groups.yaml
      aiomutex plan groups.yaml --out changes.plan --check-running
      aiomutex plan groups.yaml --json | jq .counts
    """  # noqa: D301  # click's own escape
    from aiomutex.plan import plan as make_plan
    from aiomutex.plan import save_plan

    desired = load(file)

    async def work(session: MutexSession) -> tuple[Plan, list[TouchedExperiment]]:
        made = make_plan(desired, await live_groups(session))
        return made, await _touched(session, made) if check_running else []

    made, running = run_with_session(work)
    if out is not None:
        save_plan(made, out)
    _show(made, running, as_json=as_json)
    if made.errors or made.excesses or (running and not allow_running):
        _leave(BLOCKED)
    _leave(0 if made.empty else CHANGES)


async def _touched(session: MutexSession, made: Plan) -> list[TouchedExperiment]:
    from aiomutex.plan import check_running, experiment_reader

    return await check_running(made, experiment_reader(session))


def _show(made: Plan, running: Sequence[TouchedExperiment], *, as_json: bool = False) -> None:
    from aiomutex.plan.render import lines, plan_json, summary

    if as_json:
        print_json(plan_json(made, running=running))
        return
    _print_lines([*lines(made), *(("!", f"! {each}") for each in running), (" ", summary(made))])


# ---------------------------------------------------------------------- apply


@click.command(cls=ExitOneCommand)
@click.argument("file_or_plan", type=click.Path(exists=True, dir_okay=False))
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--force", is_flag=True, help="Apply although a threshold of the file is exceeded.")
@click.option("--journal", type=click.Path(dir_okay=False), help="Remember here what each slot held before, to undo.")
@click.option("--no-verify", is_flag=True, help="Do not read groups back after writing.")
@_CHECK
@_ALLOW
def apply(
    file_or_plan: str,
    yes: bool,
    force: bool,
    journal: str | None,
    no_verify: bool,
    check_running: bool,
    allow_running: bool,
) -> None:
    """Bring the live groups to a desired state, or carry out a saved plan.

    On a terminal it shows the plan and asks; elsewhere it wants --yes. A saved plan is refused if a group changed since
    it was made. An apply that broke off is simply run again, with the same journal if it had one: 'aiomutex slots bulk
    --undo' then takes back the slots of all its runs. The next apply wants a new journal.

    Exit codes: 0 done or nothing to do, 1 an error or a failed step, 3 blocked.

    \b
    Examples:
      aiomutex apply groups.yaml
      aiomutex apply changes.plan --yes --journal apply.db
      aiomutex slots bulk --undo apply.db
    """  # noqa: D301  # click's own escape
    from aiomutex.plan.saved import is_saved_plan

    saved = is_saved_plan(file_or_plan)
    desired = None if saved else load(file_or_plan)

    async def look(session: MutexSession) -> tuple[Plan, Plan, list[TouchedExperiment]]:
        from aiomutex.plan import load_plan, remaining
        from aiomutex.plan import plan as make_plan

        live = await live_groups(session)
        made = load_plan(file_or_plan) if desired is None else make_plan(desired, live)
        left = remaining(made, live) if saved and not made.errors else made
        return made, left, await _touched(session, left) if check_running else []

    made, left, running = run_with_session(look)
    _show(left, running)
    if made.errors or (running and not allow_running):
        fail("the plan is blocked; nothing was written", BLOCKED)
    if not left.changes:
        return
    if left.excesses and not force:
        fail("the plan exceeds a threshold; give --force to apply it all the same", BLOCKED)
    if not yes:
        if not sys.stdin.isatty():
            fail("there is no terminal to ask on; give --yes to apply the plan")
        click.confirm("Apply?", abort=True)

    async def work(session: MutexSession) -> ApplyReport:
        from aiomutex.plan import apply as carry_out

        return await carry_out(session, made, force=force, journal=journal, verify=not no_verify, on_step=_tell_failure)

    report = run_with_session(work)
    done = sum(step.status == "applied" for step in report.steps)
    echo(f"{done:,} of {len(report.steps):,} steps done")
    if not report.complete:
        fail(f"{len(report.failed):,} failed, {len(report.skipped):,} not sent; run it again when the cause is gone")


def _tell_failure(step: Step) -> None:
    if step.status != "applied":
        echo(f"aiomutex: {step}", err=True)


# ---------------------------------------------------------------------- lint


@click.command(cls=ExitOneCommand)
@_FILE
@json_option
@click.option("--strict", is_flag=True, help="Let warnings fail too.")
@click.option("--check-modes", is_flag=True, help="Read the experiments' evaluation modes from the service (AM108).")
def lint(file: str, as_json: bool, strict: bool, check_modes: bool) -> None:
    """Check FILE for what is allowed but seldom meant. Needs neither key nor network.

    Silence a rule for a group with 'ignore: [AM105]' beside its key, for the file under 'lint: {ignore: [AM105]}'.

    Exit codes: 0 fine (warnings may be shown), 1 the file cannot be read, 2 an error (with --strict: any finding).

    \b
    Example:
      aiomutex lint groups.yaml --strict
    """  # noqa: D301  # click's own escape
    from aiomutex.plan import lint as find

    desired = load(file)
    findings = find(desired, modes=_modes(desired) if check_modes else None)
    if as_json:
        print_json(
            [
                {"code": each.code, "severity": each.severity, "line": each.line, "group": each.group}
                | {"text": each.text, "why": each.why}
                for each in findings
            ]
        )
    else:
        _print_lines(
            (
                "!" if each.severity == "error" else "~",
                f"{file}:{each.line}: {each}" if each.line else f"{file}: {each}",
            )
            for each in findings
        )
        if not findings:
            echo(f"{file}: {len(desired.groups):,} groups, nothing to remark")
    if any(strict or each.severity == "error" for each in findings):
        _leave(CHANGES)


def _modes(desired: Desired) -> dict[int, str]:
    from aiomutex.plan.running_experiments import experiment_reader, read_experiments

    wanted = {
        experiment for group in desired.groups for slot in group.slots or () for experiment in slot.experiments or ()
    }

    async def work(session: MutexSession) -> dict[int, str]:
        read = await read_experiments(wanted, experiment_reader(session))
        modes = {number: told.get("evaluationMode") for number, told in read.items() if not isinstance(told, Exception)}
        return {number: mode for number, mode in modes.items() if isinstance(mode, str)}

    return run_with_session(work)
