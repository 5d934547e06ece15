"""``aiomutex slots bulk``: many edits from a file, with a progress bar; resumable, and undoable."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from aiomutex._util.wording import counted
from aiomutex.cli.common import FilePath, call, echo, fail, json_option, open_session, print_json

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator, Mapping

    from aiomutex import OutcomeStream, SlotOutcome
    from aiomutex.cli.edits_file import BadLine, LineEdit
    from aiomutex.cli.progress import RunProgress
    from aiomutex.events import Attempt

_MAX_SHOWN: Final = 20
_STATUSES: Final = ("applied", "failed", "unknown", "skipped")
_UNSUCCESSFUL: Final = ("failed", "unknown")


@click.command()
@click.argument("file", required=False, type=FilePath(exists=True, allow_dash=True))
@click.option("--format", "format_", type=click.Choice(["jsonl", "csv"]), help="By default from the name of FILE.")
@click.option("--journal", type=FilePath(), help="Keep the progress here, to resume or undo the run.")
@click.option("--verify", is_flag=True, help="Read each group before and after: two more requests per group.")
@click.option("--dry-run", is_flag=True, help="Show what FILE would change and cost. Writes nothing.")
@click.option("--offline", is_flag=True, help="With --dry-run: only check FILE, and send nothing.")
@click.option("--undo", type=FilePath(exists=True), help="Undo the run of this journal.")
@click.option("--force", is_flag=True, help="With --undo: overwrite slots that changed since the run.")
@click.option("--failures", type=FilePath(), help="Write failed edits here, as JSON Lines.")
@click.option("--concurrency", type=click.IntRange(1), help="Maximum number of edits in flight.")
@click.option("--stop-after", type=click.IntRange(1), metavar="N", help="Stop after N failed edits.")
@click.option(
    "--on-budget", type=click.Choice(["stop", "wait"]), default="stop", show_default=True,
    help="What to do when the day's 100,000 requests are used up.",
)  # fmt: skip
@click.option("--reserve", type=click.IntRange(0), default=0, metavar="N", help="Leave N of today's requests unused.")
@click.option(
    "--used-today", type=click.IntRange(0), metavar="N",
    help="Requests already sent today, if this machine's own count is wrong.",
)  # fmt: skip
@json_option
def bulk(
    file: str | None, undo: str | None, force: bool, dry_run: bool, offline: bool, as_json: bool, **options: Any
) -> None:
    """Edit many slots from FILE, as JSON Lines or CSV. Use - for standard input."""
    if (file is None) == (undo is None):
        raise click.UsageError("give either FILE or --undo JOURNAL")
    if dry_run and undo is not None:
        raise click.UsageError("--dry-run shows what a FILE would change; it cannot be combined with --undo")
    if offline and not dry_run:
        raise click.UsageError("--offline needs --dry-run")
    if undo is not None:
        _undo(undo, force=force, as_json=as_json)
    if file is None:
        return
    format_ = options.pop("format_") or ("csv" if file.endswith(".csv") else "jsonl")
    if dry_run:
        _preview(list(_valid_edits(file, format_)), options, offline=offline, as_json=as_json)
        return
    # A pipe can be read only once, so its lines are checked during the run.
    total = sum(1 for _ in _valid_edits(file, format_)) if Path(file).is_file() else None
    result = asyncio.run(_run(file, format_, total, **options))
    _summarize(result, options["journal"], as_json=as_json)


def _valid_edits(file: str, format_: str) -> Generator[LineEdit]:
    """Yield the edits of a file. If a line is invalid, report it, and exit at the end."""
    from aiomutex.cli.edits_file import BadLine

    total = invalid = 0
    for item in _read(file, format_):
        total += 1
        if not isinstance(item, BadLine):
            yield item
            continue
        invalid += 1
        if invalid <= _MAX_SHOWN:
            echo(f"line {item.line}: {item.problem}", err=True)
    if invalid:
        shown = f" (the first {_MAX_SHOWN} are shown)" if invalid > _MAX_SHOWN else ""
        fail(f"invalid lines: {invalid:,} of {total:,}{shown}; nothing was sent", 2)


def _preview(edits: list[LineEdit], options: dict[str, Any], *, offline: bool, as_json: bool) -> None:
    """Print what edits would change, or with ``offline`` only their number. Exit with 1 if one would fail."""
    from msgspec import to_builtins

    from aiomutex.bulk import preview

    if offline:
        count = counted(len(edits), "edit is", "edits are")
        print_json({"edits": len(edits)}) if as_json else echo(f"{count} valid. Nothing was sent.")
        return
    journal, verify = options["journal"] is not None, options["verify"]
    used_today = options["used_today"]
    found = call(lambda session: preview(session, edits, journal=journal, verify=verify), used_today=used_today)
    if as_json:
        fields: dict[str, Any] = to_builtins(found)
        for name, problems in (("impossible", found.impossible), ("contradictions", found.contradictions)):
            fields[name] = [{"line": edits[each.position].line, "reason": each.reason} for each in problems]
        print_json(fields)
    else:
        echo(found.describe(lambda problem: f"line {edits[problem.position].line}"))
    if found.impossible:
        sys.exit(1)


def _read(file: str, format_: str) -> Generator[LineEdit | BadLine]:
    from aiomutex._util.files import lines_of
    from aiomutex.cli.edits_file import read_edits

    with click.open_file(file, encoding="utf-8", errors="surrogateescape") as lines:
        yield from read_edits(lines_of(lines), format_)


async def _run(
    file: str, format_: str, total: int | None, *, failures: str | None, used_today: int | None, **options: Any
) -> dict[str, Any]:
    from aiomutex.cli.background_reader import read_in_thread
    from aiomutex.cli.edits_file import BadLine, FailuresFile, to_json_line
    from aiomutex.cli.progress import RunProgress

    invalid: Counter[str] = Counter()
    requests: Counter[str] = Counter()

    def count_request(attempt: Attempt) -> None:
        requests["sent"] += attempt.duration > 0  # without a permit, nothing was sent

    async with open_session(used_today=used_today, on_attempt=count_request) as session:
        with (
            contextlib.closing(FailuresFile(failures or os.devnull)) as failed,
            RunProgress(session.rate_limiter, total) as progress,
        ):

            async def edits() -> AsyncGenerator[LineEdit]:
                async with contextlib.aclosing(read_in_thread(_read(file, format_))) as items:
                    async for item in items:
                        if not isinstance(item, BadLine):
                            yield item
                            continue
                        invalid["failed"] += 1
                        progress.print_line(f"line {item.line}: {item.problem}")
                        if item.text:
                            failed.write(item.text)

            def on_outcome(outcome: SlotOutcome) -> None:
                if outcome.status in _UNSUCCESSFUL:
                    reason = outcome.error or outcome.note
                    progress.print_line(f"line {getattr(outcome.edit, 'line', '?')}: {outcome.status}: {reason}")
                    failed.write(to_json_line(outcome.edit))

            async with session.stream_slot_edits(edits(), on_outcome=on_outcome, **options) as stream:
                interrupts = _stop_on_interrupt(stream, progress)
                ticker = asyncio.create_task(_refresh(stream, progress))
                try:
                    async for outcome in stream:
                        progress.advance(stream, failed=outcome.status in _UNSUCCESSFUL)
                finally:
                    ticker.cancel()
                stopped_by = stream.stopped_by
            failed.discard_previous()
    return {
        "counts": dict(stream.counts + invalid),
        "requests": requests["sent"],
        "stopped_by": None if stopped_by is None else str(stopped_by),
        "interrupted": bool(interrupts),
    }


async def _refresh(stream: OutcomeStream, progress: RunProgress) -> None:
    while True:
        await asyncio.sleep(1)
        progress.refresh(stream)


def _stop_on_interrupt(stream: OutcomeStream, progress: RunProgress) -> list[int]:
    """Let the first Ctrl-C stop the stream and the second cancel this task. Return the list of signals received."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    received: list[int] = []

    def interrupt() -> None:
        received.append(signal.SIGINT)
        if len(received) == 1:
            progress.print_line("Stopping: waiting for requests in flight. Press Ctrl-C again to stop at once.")
            stream.stop()
        elif task is not None:
            task.cancel()

    with contextlib.suppress(NotImplementedError):  # event loops on Windows have no signal handlers
        loop.add_signal_handler(signal.SIGINT, interrupt)
    return received


def _counts_line(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{counts.get(status, 0):,} {status}" for status in _STATUSES)


def _summarize(result: dict[str, Any], journal: str | None, *, as_json: bool) -> None:
    counts: dict[str, int] = result["counts"]
    if as_json:
        print_json(result)
    else:
        echo(f"{_counts_line(counts)}; {counted(result['requests'], 'request')}")
        if result["stopped_by"]:
            echo(f"aiomutex: {result['stopped_by']}", err=True)
    if result["interrupted"] or result["stopped_by"]:
        resume = f"To resume, run the same command again: {journal} holds the progress."
        echo(resume if journal else "Not resumable: run with --journal next time.", err=True)
    if result["interrupted"]:
        sys.exit(130)
    if any(counts.get(status) for status in _UNSUCCESSFUL) or result["stopped_by"]:
        sys.exit(1)


def _undo(journal: str, *, force: bool, as_json: bool) -> None:
    from aiomutex.bulk import undo
    from aiomutex.bulk.undo import CHANGED_SINCE

    report = call(lambda session: undo(session, journal, force=force))
    changed = [outcome for outcome in report.skipped if outcome.note == CHANGED_SINCE]
    counts = Counter[str](outcome.status for outcome in report.outcomes)
    if as_json:
        print_json({status: counts[status] for status in _STATUSES} | {"changed_since": len(changed)})
    else:
        for outcome in [*report.failed, *report.unknown, *changed]:
            where = f"group {outcome.edit.group_id}, slot {outcome.edit.slot_index}"
            echo(f"{where}: {outcome.status}: {outcome.error or outcome.note}", err=True)
        echo(f"Undo: {_counts_line(counts)}")
        if report.stopped_by is not None:
            echo(f"aiomutex: {report.stopped_by}\nTo resume, run the same command again.", err=True)
    if report.failed or report.unknown or changed or report.stopped_by is not None:
        sys.exit(1)
