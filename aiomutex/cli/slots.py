"""``aiomutex slots``: edit one slot, or many from a file; the latter can be resumed and undone."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

import aiomutex
from aiomutex._util.wording import counted
from aiomutex.cli.common import FilePath, call, call_on, complete_key, echo, exit_if_json, fail, is_given, json_option
from aiomutex.cli.run import Run
from aiomutex.cli.run_report import RunReport

if TYPE_CHECKING:
    from aiomutex.cli.edits_file import Line

_MAX_SHOWN: Final = 20
_OF_UNDO: Final = ("undo", "force", "dry_run", "report", "as_json")


@click.group()
def slots() -> None:
    """Edit the slots of mutex groups."""


def _texts(text: str) -> list[str]:
    return [item.strip() for item in text.split(",")] if text.strip() else []


def _numbers(text: str) -> list[int]:
    try:
        return [int(item) for item in _texts(text)]
    except ValueError:
        raise click.BadParameter(f"must be like 123,456 or empty, not {text!r}") from None


@slots.command()
@click.argument("group", shell_complete=complete_key)
@click.argument("slot_index", type=int)
@click.option("--experiments", type=_numbers, metavar="ID,…", help="Replace the experiments; '' for none.")
@click.option("--holdouts", type=_numbers, metavar="ID,…", help="Replace the holdouts; '' for none.")
@click.option("--individuals", type=_texts, metavar="ID,…", help="Replace the user or device IDs; '' for none.")
@click.option("--verify", is_flag=True, help="Read the slot afterwards and fail if it differs.")
def edit(group: str, slot_index: int, verify: bool, **lists: list[Any] | None) -> None:
    """Edit one slot of a group, given by its ID or key. Lists that are not given stay unchanged."""
    given: Any = {name: items for name, items in lists.items() if items is not None}

    async def work(session: aiomutex.MutexSession, group_id: str) -> None:
        if not verify:
            await session.edit_slot(group_id, slot_index, **given)
            return
        report = await session.edit_slots([aiomutex.SlotEdit(group_id, slot_index, **given)], verify=True)
        if error := report.outcomes[0].error or report.stopped_by:
            raise error

    call_on(group, work)
    echo(f"Edited slot {slot_index} of group {group}{' and verified it' if verify else ''}.")


@slots.command()
@click.argument("file", required=False, type=FilePath(exists=True, allow_dash=True))
@click.option("--format", "format_", type=click.Choice(["jsonl", "csv"]), help="By default from the name of FILE.")
@click.option("--journal", type=FilePath(), help="Keep the progress here, to resume or undo the run.")
@click.option("--verify", is_flag=True, help="Read the groups before and after their edits.")
@click.option("--skip-unchanged", is_flag=True, help="Do not send edits that change nothing.")
@click.option("--canary/--no-canary", default=True, help="Read the first change back before any other is sent.")
@click.option("--dry-run", is_flag=True, help="Show what the run or undo would change and cost. Writes nothing.")
@click.option("--offline", is_flag=True, help="With --dry-run: only check FILE, and send nothing.")
@click.option("--undo", type=FilePath(exists=True), help="Undo the run of this journal.")
@click.option("--force", is_flag=True, help="With --undo: overwrite slots that changed since the run.")
@click.option("--failures", type=FilePath(), help="Write failed edits here, as JSON Lines.")
@click.option("--report", type=FilePath(), help="Write a page on the run here, as HTML.")
@click.option("--concurrency", type=click.IntRange(1), help="Maximum number of edits in flight.")
@click.option("--stop-after", type=click.IntRange(1), metavar="N", help="Stop after N failed edits.")
@click.option("--on-budget", type=click.Choice(["stop", "wait"]), default="stop", help="At the end of a day's budget.")
@click.option("--reserve", type=click.IntRange(0), default=0, metavar="N", help="Leave N of today's requests unused.")
@click.option("--used-today", type=click.IntRange(0), metavar="N", help="Requests sent today, to correct the count.")
@json_option
def bulk(file: str | None, undo: str | None, force: bool, dry_run: bool, **options: Any) -> None:
    """Edit many slots from FILE, as JSON Lines or CSV. Use - for standard input."""
    if (file is None) == (undo is None):
        raise click.UsageError("give either FILE or --undo JOURNAL")
    for option in click.get_current_context().command.params if undo else ():
        if option.name not in _OF_UNDO and is_given(option.name or ""):
            raise click.UsageError(f"{option.opts[0]} needs a FILE; it cannot be combined with --undo")
    if force and not undo:
        raise click.UsageError("--force needs --undo")
    if (offline := options.pop("offline")) and not dry_run:
        raise click.UsageError("--offline needs --dry-run")
    format_ = options.pop("format_") or ("csv" if file and file.endswith(".csv") else "jsonl")
    if undo is not None and dry_run:
        _preview_undo(undo, force=force)
    elif undo is not None:
        _undo(undo, options["report"], force=force)
    elif file and dry_run:
        _preview(list(_valid_edits(file, format_)), options, offline=offline)
    elif file:
        _run(file, format_, **options)


def _valid_edits(file: str, format_: str) -> Generator[Line]:
    """Yield the edits of a file. If a line is invalid, report it, and exit at the end."""
    from aiomutex.cli.edits_file import read_file

    total = invalid = 0
    for item in read_file(file, format_):
        total += 1
        if item.edit is not None:
            yield item
        elif (invalid := invalid + 1) <= _MAX_SHOWN:
            echo(f"line {item.number}: {item.error}", err=True)
    if invalid:
        shown = f" (the first {_MAX_SHOWN} are shown)" if invalid > _MAX_SHOWN else ""
        fail(f"invalid lines: {invalid:,} of {total:,}{shown}; nothing was sent", 2)


def _preview(lines: list[Line], options: dict[str, Any], *, offline: bool) -> None:
    """Print what edits would change, or with ``offline`` only their number. Exit with 1 if one would fail."""
    if offline:
        exit_if_json({"edits": len(lines)})
        echo(f"{counted(len(lines), 'edit is', 'edits are')} valid. Nothing was sent.")
        return

    async def work(session: aiomutex.MutexSession) -> aiomutex.bulk.Preview:
        ids: dict[tuple[str, bool], list[str]] = {}
        edits: list[Any] = []
        for line in lines:
            known = await line.with_id(session, ids)
            if known.edit is None:
                fail(f"line {known.number}: {known.error}", 2)
            edits.append(known.edit)
        return await aiomutex.bulk.preview(session, edits, journal=bool(options["journal"]), verify=options["verify"])

    found = call(work, used_today=options["used_today"])
    fields: dict[str, Any] = {}
    for name, problems in (("impossible", found.impossible), ("contradictions", found.contradictions)):
        fields[name] = [{"line": lines[each.position].number, "reason": each.reason} for each in problems]
    exit_if_json(found, fields, code=bool(found.impossible))
    echo(found.describe(lambda problem: f"line {lines[problem.position].number}"))
    sys.exit(bool(found.impossible))


def _preview_undo(journal: str, *, force: bool) -> None:
    found = call(lambda session: aiomutex.bulk.undo(session, journal, preview=True, force=force))
    code = bool(found.impossible)
    exit_if_json(found, code=code)
    echo(found.describe(lambda problem: f"slot {problem.edit.slot_index} of group {problem.edit.group_id}"))
    sys.exit(code)


def _run(file: str, format_: str, *, failures: str | None, report: str | None, **options: Any) -> None:
    from aiomutex.bulk.canary import FEW
    from aiomutex.cli.edits_file import failures_file, read_file, read_in_thread

    # A pipe can be read only once, so its lines are checked during the run.
    total = sum(1 for _ in _valid_edits(file, format_)) if Path(file).is_file() else None
    options["canary"] &= total is None or total > FEW
    journal = options["journal"]
    lines: dict[int, Line] = {}  # those without an outcome, by the positions of their edits

    async def edits(session: aiomutex.MutexSession) -> AsyncGenerator[Any]:
        ids: dict[tuple[str, bool], list[str]] = {}
        positions = itertools.count()
        async with contextlib.aclosing(read_in_thread(read_file(file, format_))) as items:
            async for item in items:
                line = await item.with_id(session, ids)
                if line.edit is None:
                    run.fail(f"line {line.number}", "failed", line.error, line.fields)
                    continue
                lines[next(positions)] = line
                yield line.edit

    def on_outcome(outcome: aiomutex.SlotOutcome) -> None:
        line = lines.pop(outcome.position)
        run.record(f"line {line.number}", outcome, line.fields)

    async def work(session: aiomutex.MutexSession) -> aiomutex.OutcomeStream:
        async with session.stream_slot_edits(edits(session), on_outcome=on_outcome, **options) as run.stream:
            async for _ in run.stream:
                pass
        return run.stream

    with RunReport(report, title=f"Edits of {file}", journal=journal, failures_file=failures) as page:
        with failures_file(failures or os.devnull) as keep:
            run = Run("edits", total, keep if failures else None, page)
            run.execute(work, used_today=options.pop("used_today"))
        if not run.counts and not run.signals:
            echo(f"{file} has no edits.", err=True)
        resume = f"To resume, run the same command again: {journal} holds the progress."
        run.finish(resume if journal else "Not resumable: run with --journal next time.")


def _undo(journal: str, report: str | None, *, force: bool) -> None:
    from aiomutex.bulk.journal import Journal

    with Journal(journal, must_exist=True) as opened:
        total = len(opened.written_slots())

    def on_outcome(outcome: aiomutex.SlotOutcome) -> None:
        run.record(f"group {outcome.edit.group_id}, slot {outcome.edit.slot_index}", outcome)

    with RunReport(report, title=f"Undo of {journal}") as page:
        run = Run("slots", total, page=page)
        run.execute(lambda session: aiomutex.bulk.undo(session, journal, force=force, on_outcome=on_outcome))
        run.finish("To resume, run the same command again.")
