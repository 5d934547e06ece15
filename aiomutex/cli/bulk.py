"""``aiomutex slots bulk``: many edits from a file, resumable and undoable, with a progress bar."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aiomutex.cli.common import INTERRUPTED, echo, fail, json_option, open_session, print_json, run

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

    from aiomutex import BulkReport, OutcomeStream, SlotOutcome
    from aiomutex.cli.edits_file import BadLine, LineEdit
    from aiomutex.cli.progress import RunProgress

__all__ = ["bulk"]

_SHOWN = 20
_NEEDS_A_LOOK = ("failed", "unknown")


@click.command()
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--format", "format_", type=click.Choice(["jsonl", "csv"]), help="By the file's name if not given.")
@click.option("--journal", type=click.Path(dir_okay=False), help="Remember progress here: resume and undo need it.")
@click.option("--verify", is_flag=True, help="Read each group before and after; costs two reads a group.")
@click.option("--dry-run", is_flag=True, help="Check the file and send nothing.")
@click.option("--undo", type=click.Path(exists=True, dir_okay=False), help="Take back the run of this journal.")
@click.option("--force", is_flag=True, help="With --undo: overwrite what others changed since.")
@click.option("--failures", type=click.Path(dir_okay=False), help="Write what failed here, as JSON Lines.")
@click.option("--concurrency", type=click.IntRange(1), help="Edits in flight at the most.")
@click.option("--stop-after", type=click.IntRange(1), metavar="N", help="Stop after N failed edits.")
@click.option(
    "--on-budget", type=click.Choice(["stop", "wait"]), default="stop", show_default=True,
    help="What to do when the day's 100,000 requests are used up.",
)  # fmt: skip
@click.option(
    "--reserve", type=click.IntRange(0), default=0, metavar="N", help="Leave N requests of the day to others."
)
@click.option("--used-today", type=click.IntRange(0), default=0, metavar="N", help="Requests of the day already used.")
@json_option
def bulk(
    file: str | None, undo: str | None, force: bool, dry_run: bool, used_today: int, as_json: bool, **options: Any
) -> None:
    """Write many slots from FILE: JSON Lines or CSV, - for standard input.

    \b
    {"group_id": "7", "slot_index": 1, "experiments": [123, 456]}
    {"group_id": "7", "slot_index": 2, "individuals": []}

    A file is checked as a whole before anything is sent; what comes through a pipe is taken line by line. What failed
    can be run again from the file of --failures; a wrong line from a pipe stands there, too, to be put right first.

    Ctrl-C once ends the run cleanly, twice at once.

    Example: aiomutex slots bulk edits.jsonl --journal run.db --verify
    """  # noqa: D301  # \b is click's mark for lines that are not to be filled
    if (file is None) == (undo is None):
        raise click.UsageError("give either FILE or --undo JOURNAL")
    if undo is not None:
        _undo(undo, force=force, as_json=as_json)
        return
    assert file is not None  # noqa: S101  # checked above
    _refuse_to_overwrite(file, **options)
    format_ = options.pop("format_") or ("csv" if file.endswith(".csv") else "jsonl")
    # What comes through a pipe comes once.
    total = _checked(file, format_) if Path(file).is_file() else None
    if dry_run:
        total = _checked(file, format_) if total is None else total
        echo(f"{total:,} edits are right. Nothing was sent.")
        return
    counts = run(lambda: _run(file, format_, total, used_today, **options))
    _summarize(counts, options["journal"], as_json=as_json)


def _refuse_to_overwrite(file: str, *, failures: str | None, journal: str | None, **_: Any) -> None:
    from aiomutex.cli.failures import is_one_file

    if failures is None:
        return
    if is_one_file(failures, 0 if file == "-" else file):
        raise click.UsageError(f"--failures {failures} is the file that is read; give another name")
    if journal is not None and is_one_file(failures, journal):
        raise click.UsageError(f"--failures {failures} is the journal; give another name")


def _checked(file: str, format_: str) -> int:
    """How many edits a file holds; it is refused as a whole if a line of it is wrong."""
    good, bad = 0, 0
    for item in _read(file, format_):
        if hasattr(item, "problem"):
            bad += 1
            if bad <= _SHOWN:
                _report_bad(item)  # type: ignore[arg-type]  # only a bad line has a problem
        else:
            good += 1
    if bad:
        more = f" (the first {_SHOWN} are shown)" if bad > _SHOWN else ""
        fail(f"{bad:,} of {good + bad:,} lines are wrong{more}; nothing was sent", 2)
    return good


def _read(file: str, format_: str) -> Generator[LineEdit | BadLine]:
    from aiomutex._util.files import lines_of
    from aiomutex.cli.edits_file import read_edits

    with click.open_file(file, encoding="utf-8", errors="surrogateescape") as lines:
        yield from read_edits(lines_of(lines), format_)


def _report_bad(item: BadLine) -> None:
    echo(f"line {item.line}: {item.problem}", err=True)


async def _run(
    file: str, format_: str, total: int | None, used_today: int, *, failures: str | None, **options: Any
) -> dict[str, Any]:
    from aiomutex import LocalRateLimiter, MutexSession
    from aiomutex.cli.background_reader import read_apart
    from aiomutex.cli.edits_file import BadLine, as_json_line
    from aiomutex.cli.failures import FailuresFile
    from aiomutex.cli.progress import RunProgress

    limiter = LocalRateLimiter(used_today=used_today)
    bad: Counter[str] = Counter()
    with contextlib.ExitStack() as stack:
        failed = stack.enter_context(FailuresFile(failures)) if failures else None
        progress = stack.enter_context(RunProgress(limiter, total))

        async def edits() -> AsyncGenerator[LineEdit]:
            async with contextlib.aclosing(read_apart(_read(file, format_))) as items:
                async for item in items:
                    if isinstance(item, BadLine):
                        bad["failed"] += 1
                        progress.say(f"line {item.line}: {item.problem}")
                        if failed is not None and item.text:
                            failed.write(item.text)
                    else:
                        yield item

        def note(outcome: SlotOutcome) -> None:
            if outcome.status in _NEEDS_A_LOOK:
                reason = outcome.error or outcome.note
                progress.say(f"line {getattr(outcome.edit, 'line', '?')}: {outcome.status}: {reason}")
                if failed is not None:
                    failed.write(as_json_line(outcome.edit))

        async with MutexSession(rate_limiter=limiter) as session:
            stream = session.stream_slot_edits(edits(), on_outcome=note, **options)
            async with stream:
                interrupted = _stop_on_interrupt(stream, progress)
                ticker = asyncio.create_task(_tick(stream, progress))
                try:
                    async for outcome in stream:
                        progress.advance(stream, failed=outcome.status in _NEEDS_A_LOOK)
                finally:
                    ticker.cancel()
                stopped_by = stream.stopped_by
        if failed is not None:
            failed.drop_earlier()
    return {
        "counts": dict(stream.counts + bad),
        "requests": limiter.state().used_today - used_today,
        "stopped_by": None if stopped_by is None else str(stopped_by),
        "interrupted": bool(interrupted),
    }


async def _tick(stream: OutcomeStream, progress: RunProgress) -> None:
    while True:
        await asyncio.sleep(1)
        progress.look(stream)


def _stop_on_interrupt(stream: OutcomeStream, progress: RunProgress) -> list[int]:
    """Let the first Ctrl-C end the run gently, and the second at once. The list holds those that came."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    came: list[int] = []

    def interrupt() -> None:
        came.append(signal.SIGINT)
        if len(came) == 1:
            progress.say("Stopping: what is in flight is waited for. Ctrl-C again leaves at once.")
            stream.stop()
        elif task is not None:
            task.cancel()

    with contextlib.suppress(NotImplementedError):  # no signal handlers on Windows' loops
        loop.add_signal_handler(signal.SIGINT, interrupt)
    return came


def _summarize(result: dict[str, Any], journal: str | None, *, as_json: bool) -> None:
    counts: dict[str, int] = result["counts"]
    if as_json:
        print_json(result)
    else:
        told = ", ".join(
            f"{counts.get(status, 0):,} {status}" for status in ("applied", "failed", "unknown", "skipped")
        )
        echo(f"{told}; {result['requests']:,} requests")
        if result["stopped_by"]:
            echo(f"stopped: {result['stopped_by']}", err=True)
    if result["interrupted"] or result["stopped_by"]:
        hint = (
            f"the same command goes on from {journal}" if journal else "give --journal to be able to resume next time"
        )
        echo(f"To resume: {hint}.", err=True)
    if result["interrupted"]:
        sys.exit(INTERRUPTED)
    if any(counts.get(status) for status in _NEEDS_A_LOOK) or result["stopped_by"]:
        sys.exit(1)


def _undo(journal: str, *, force: bool, as_json: bool) -> None:
    from aiomutex.bulk import undo as take_back

    async def work() -> BulkReport:
        async with open_session() as session:
            return await take_back(session, journal, force=force)

    report = run(work)
    left = [outcome for outcome in report.skipped if "somebody" in outcome.note]
    if as_json:
        print_json({"applied": len(report.applied), "failed": len(report.failed), "unknown": len(report.unknown),
                    "skipped": len(report.skipped), "changed_since": len(left)})  # fmt: skip
    else:
        for outcome in [*report.failed, *report.unknown, *left]:
            where = f"group {outcome.edit.group_id}, slot {outcome.edit.slot_index}"
            echo(f"{where}: {outcome.error or outcome.note}", err=True)
        echo(f"Undo: {report}")
    if report.failed or report.unknown or left:
        sys.exit(1)
