"""The commands ``aiomutex pull``, ``plan``, ``apply`` and ``lint``: mutex groups as code."""

from __future__ import annotations

import re
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import click

import aiomutex
from aiomutex._util.files import open_private
from aiomutex._util.wording import counted
from aiomutex.cli import common
from aiomutex.cli.common import FilePath, call, echo, exit_if_json, fail, json_option, live_groups, printable
from aiomutex.cli.run import Run

_BLOCKED, _CHANGES = 3, 4  # exit codes
_COLOURS = {"+": "green", "-": "red", "~": "yellow", "!": "bright_red", "?": "cyan", " ": None}

_check_running_option = click.option("--check-running", is_flag=True, help="Block if it affects a running experiment.")
_listed_option = click.option("--show-individuals", "listed", is_flag=True, help="List individuals, not their number.")
_allow_running_option = click.option("--allow-running", is_flag=True, help="Show running experiments without blocking.")
_no_split_option = click.option("--no-split", is_flag=True, help="Do not split slots of a group that replaces another.")


@click.command()
@click.argument("file", type=FilePath(), required=False)
@click.option("--project", "projects", multiple=True, help="Only groups of this project. Can be repeated.")
@click.option("--archived", is_flag=True, help="Include archived groups.")
@click.option("--overwrite", is_flag=True, help="Overwrite a file with comments, or a module that was not pulled.")
@click.option("--python", "module", type=FilePath(), help="Write keys, slots and experiments to this Python module.")
@click.option("--check", is_flag=True, help="Write nothing. Exit with 4 if the file differs from the live groups.")
def pull(file: str | None, projects: tuple[str, ...], module: str | None, **flags: bool) -> None:
    """Write the live groups to FILE (.yaml or .json), sorted, or to a Python module."""
    from aiomutex.plan.desired import identity_of
    from aiomutex.plan.dump import same_content
    from aiomutex.plan.formats import FORMATS

    if (file is None) is (module is None):
        raise click.UsageError("pass FILE or --python MODULE")
    path = Path(file or module or "")
    format_ = FORMATS.get(path.suffix.lower(), "")
    if file and not format_:
        fail(f"{path}: the name must end in one of {', '.join(FORMATS)}", 2)
    held = path.read_text("utf-8", errors="replace") if path.exists() else ""
    existing = aiomutex.plan.load_desired(path) if file and held else None
    known = {group.identity for group in existing.groups} if existing else set[tuple[str, str]]()
    groups = [
        group
        for group in live_groups()
        if (flags["archived"] or not group.deleted or identity_of(group.project_id, group.key) in known)
        and (not projects or group.project_id in projects)
    ]
    if unnamed := sum(not (group.key and group.project_id) for group in groups):
        echo(f"aiomutex: skipped {counted(unnamed, 'group')} without a key or project", err=True)
    desired = aiomutex.plan.desired_from(groups, settings=existing)
    count = counted(len(desired.groups), "live group")
    text = aiomutex.plan.dump_desired(desired, format_) if file else aiomutex.plan.dump_constants(groups)
    if same_content(existing, desired) if existing else held == text:
        echo(f"{path} already describes the {count}")
        return
    if flags["check"]:
        fail(f"{path} does not describe the {count}", _CHANGES)
    if module and held and not flags["overwrite"] and not held.startswith(text.partition("\n")[0]):
        fail(f"{path} was not written by this command; pass --overwrite to replace it", _BLOCKED)
    # A "#" inside a string counts as a comment, to be on the safe side.
    if existing and not flags["overwrite"] and format_ == "yaml" and re.search(r"(^|\s)#", held):
        fail(f"{path} has comments, which would be lost; pass --overwrite to lose them", _BLOCKED)
    with open_private(path) as opened:
        opened.write(text)
    echo(f"Wrote {count} to {path}")


def look(
    file: str | None,
    names: str = "",
    *,
    listed: bool = True,
    no_split: bool = False,
    check_running: bool = False,
    allow_running: bool = False,
) -> tuple[Any, aiomutex.plan.Plan, aiomutex.plan.Plan, aiomutex.plan.Review]:
    """The live groups, the plan of a file or a saved one, what is left to do of it, and what a reviewer should know."""
    from aiomutex.plan.experiments import experiments_in
    from aiomutex.plan.saved import is_saved_plan

    saved = aiomutex.plan.load_plan(file) if file and is_saved_plan(file) else None
    desired = aiomutex.plan.load_desired(file) if file and saved is None else aiomutex.plan.Desired()
    live = live_groups()
    changes = saved or aiomutex.plan.plan(desired, live, split=not no_split)
    left = aiomutex.plan.remaining(changes, live) if saved and not changes.errors else changes
    # Experiments of a group that is replaced may lose users, so they are always checked.
    check_running = check_running or any(each.awaited for each in left.groups)
    affected = left.experiments if check_running or names == "affected" else ()
    wanted = experiments_in(aiomutex.plan.after(left, live)) if names == "all" else affected
    experiments = call(lambda session: aiomutex.plan.read_experiments(session, wanted)) if wanted else dict[int, Any]()
    found = aiomutex.plan.check_running(left, experiments) if check_running else ()
    findings = aiomutex.plan.new_findings(left, desired, live)
    return live, changes, left, aiomutex.plan.Review(experiments, found, allow_running, findings, listed)


@click.command()
@click.argument("file", metavar="FILE_OR_PLAN", type=FilePath(exists=True))
@click.option("--out", type=FilePath(), help="Save the plan to this file, for 'aiomutex apply'.")
@click.option("--format", "format_", type=click.Choice(["text", "markdown", "json", "html"]), default="text")
@click.option("--json", "format_", flag_value="json", help="The same as --format json.")
@click.option("--names", is_flag=True, help="Show experiments with their names and states, which costs reads.")
@_listed_option
@_check_running_option
@_allow_running_option
@_no_split_option
def plan(file: str, out: str | None, format_: str, names: bool, listed: bool, **running: bool) -> None:
    """Show how the live groups would change to match FILE. Writes nothing."""
    read = "all" if format_ == "html" else "affected" if names else ""
    live, changes, left, review = look(file, read, listed=listed or format_ in ("text", "json"), **running)
    if out is not None:
        aiomutex.plan.save_plan(changes, out)
    echo(aiomutex.plan.report(live, left, review)) if format_ == "html" else _show(left, review, format_)
    sys.exit(_BLOCKED if review.blocked(left) else 0 if left.empty else _CHANGES)


@click.command()
@click.option("--out", type=FilePath(), required=True, help="The HTML file to write.")
@click.option("--plan", "file", type=FilePath(exists=True), help="Desired state or saved plan to show too.")
@_listed_option
def report(out: str, file: str | None, listed: bool) -> None:
    """Write one HTML page that shows the live groups, their capacity, traffic and findings, and a plan."""
    live, _, left, review = look(file, "all", listed=listed)
    with open_private(out) as opened:
        opened.write(aiomutex.plan.report(live, left, review))
    echo(f"Wrote a report on {counted(len(live), 'live group')} to {out}")


@click.command()
@click.argument("file", metavar="PLAN", type=FilePath(exists=True))
@json_option
def show(file: str) -> None:
    """Show a saved plan. Sends nothing."""
    _show(aiomutex.plan.load_plan(file), aiomutex.plan.Review(), "json" if common.is_given("as_json") else "text")


def _show(changes: aiomutex.plan.Plan, review: aiomutex.plan.Review, format_: str = "text") -> None:
    from aiomutex.plan.render import blocks

    if format_ == "json":
        common.print_json(aiomutex.plan.plan_json(changes, review))
    elif format_ == "markdown":
        echo(aiomutex.plan.markdown(changes, review).rstrip())
    else:
        for mark, text in chain.from_iterable(blocks(changes, review)):
            click.secho(printable(text, keep=""), fg=_COLOURS[mark])


@click.command()
@click.argument("file", metavar="FILE_OR_PLAN", type=FilePath(exists=True))
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--force", is_flag=True, help="Apply even if a threshold of the file is exceeded.")
@click.option("--journal", type=FilePath(), help="Record what each slot held before, for an undo.")
@click.option("--no-verify", is_flag=True, help="Do not read the groups back after writing.")
@_check_running_option
@_allow_running_option
@_no_split_option
@json_option
def apply(file: str, yes: bool, force: bool, journal: str | None, no_verify: bool, **running: bool) -> None:
    """Change the live groups to match a file, or apply a saved plan."""
    from msgspec import to_builtins
    from msgspec.structs import replace

    from aiomutex.plan.changes import edit_rounds

    _, changes, left, review = look(file, "", **running)
    if not common.is_given("as_json"):
        _show(left, review)
    allowed = replace(left, exceeded_thresholds=[]) if force else left
    if review.blocked(allowed):
        fail("the plan is blocked; nothing was written", _BLOCKED)
    if not left.changes:
        exit_if_json({"counts": {}, "requests": 0, "stopped_by": None, "interrupted": False, "steps": []})
        return
    common.confirm("Apply the plan?", yes=yes)
    edits = sum(map(len, edit_rounds(left.changes)))
    others = sum(bool(each.new) + bool(each.fields) + each.action.endswith("archive") for each in left.changes)
    run = Run("steps", edits + others)
    planned = {each.name: each for each in (*changes.changes, *left.changes)}
    steps: list[dict[str, Any]] = []

    def record(step: aiomutex.plan.Step) -> None:
        slot = f", slot {step.slot_index}" if step.slot_index is not None else ""
        status = run.record(f"{step.kind} {step.group}{slot}", step).replace(" ", "_")
        group = planned[step.group]
        lists = [each for each in group.lists if each.slot_index == step.slot_index]
        changes = {"create": group.new, "edit": group.fields, "slot": lists}.get(step.kind)
        outcome: dict[str, Any] = to_builtins(step, enc_hook=aiomutex.MutexError.to_dict)
        steps.append(outcome | {"status": status, "changes": changes})

    options: dict[str, Any] = {"force": force, "journal": journal, "verify": not no_verify}
    run.execute(lambda session: aiomutex.plan.apply(session, changes, on_step=record, **options))
    run.finish("To resume, run the same command again.", steps=steps)


@click.command()
@click.argument("file", type=FilePath(exists=True), required=False)
@json_option
@click.option("--strict", is_flag=True, help="Fail on warnings too.")
@click.option("--check-modes", is_flag=True, help="Read the experiments of FILE from the service (AM108, AM111 on).")
@click.option("--live", is_flag=True, help="Check the live groups and their experiments, as they will be with FILE.")
def lint(file: str | None, strict: bool, check_modes: bool, live: bool) -> None:
    """Check FILE for what is allowed but probably not intended. Without --live, this needs no key and no network."""
    from aiomutex.plan.experiments import experiments_in

    if file is None and not live:
        raise click.UsageError("pass FILE or --live")
    desired = aiomutex.plan.load_desired(file) if file else aiomutex.plan.Desired()
    groups = live_groups() if live else None
    wanted = experiments_in([*desired.groups, *(groups or ())]) if live or check_modes else ()
    experiments = call(lambda session: aiomutex.plan.read_experiments(session, wanted)) if wanted else None
    findings = aiomutex.plan.lint(desired, experiments=experiments, live=groups)
    errors = sum(finding.severity == "error" for finding in findings)
    code = int(errors > 0 or (strict and bool(findings)))
    exit_if_json(findings, code=code)
    for finding in findings:
        where = f"{file}:{finding.line}: " if finding.line else ""
        colour = _COLOURS["!" if finding.severity == "error" else "~"]
        click.secho(printable(f"{where}{finding}", keep=""), fg=colour)
    checked = f"{file}: {counted(len(desired.groups), 'group')}" if file else "live groups"
    echo(f"{checked}, {counted(errors, 'error')}, {counted(len(findings) - errors, 'warning')}")
    sys.exit(code)
