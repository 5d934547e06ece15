"""A journaled run or its undo, to be killed and started again: ``URL JOURNAL COUNT`` or ``undo URL JOURNAL``."""

from __future__ import annotations

import asyncio
import json
import sys

from bulk_support import edits_for, session_for

from aiomutex import JournalError
from aiomutex.bulk import undo


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


async def main(arguments: list[str]) -> None:
    say(ready=True)
    try:
        if arguments[0] == "undo":
            async with session_for(arguments[1]) as session:
                report = await undo(session, arguments[2], concurrency=CONCURRENCY)
        else:
            url, journal, count = arguments
            edits = edits_for(int(count), groups=30, start=100_000)
            async with session_for(url) as session:
                report = await session.edit_slots(edits, journal=journal, concurrency=CONCURRENCY)
    except JournalError as error:
        say(error=str(error))
    else:
        say(applied=len(report.applied), skipped=len(report.skipped), total=len(report.outcomes))


CONCURRENCY = 8

if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
